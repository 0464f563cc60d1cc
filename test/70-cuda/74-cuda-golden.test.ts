/**
 * The tiny U-Net on CUDA in fp32 against the golden vectors of another framework, on the emulator (without its checks, which chapters 71
 * and 73 have: it takes half the time) or a GPU. Skipped aloud where phoenix-cuda is not built or finds no device.
 */
import test from 'ava';

process.env.PHOENIX_SIMT_CHECK ??= '0';
const { cuda, device, usable } = await import('../support/cuda.ts');
const { checkGolden } = await import('../support/golden-unet.ts');

if (cuda && usable) test('the tiny U-Net equals the golden vectors on CUDA', (t) => checkGolden(t, cuda));
else test.skip(`no CUDA: golden vectors not checked (${device})`, () => {});
