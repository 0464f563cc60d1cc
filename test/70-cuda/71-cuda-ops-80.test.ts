/** Chapter 71 on compute capability 8.0, where the emulator runs it; a GPU has but one, so there this repeats it. */
process.env.PHOENIX_SIMT_CAPABILITY = '8.0';
await import('./71-cuda-ops.test.ts');
