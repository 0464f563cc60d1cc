/** Chapter 73 on compute capability 8.0, where the emulator runs it; a GPU has but one, so there this repeats it. */
process.env.PHOENIX_SIMT_CAPABILITY = '8.0';
process.env.PHOENIX_SIMT_CHECK ??= '0'; // what is checked on 9.0 need not be checked twice: half the time
await import('./73-cuda-session.test.ts');
