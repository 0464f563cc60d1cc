/**
 * A program for chapter 78: starts two training steps, of which the second is recorded, and two rows of the sampler of a preset at its real size, on a device
 * that runs nothing (PHOENIX_SIMT_LAUNCHES). Arguments: the preset, side, channels and batch.
 */
import { createRequire } from 'node:module';
import type { Addon } from '../../src/bindings/native.ts';
import { createImages, sessionOn } from '../../src/bindings/session.ts';
import { presets, toNative } from '../../src/ddpm/model/unet.ts';
import { noise as noiseOf } from '../../src/ddpm/noise.ts';
import { makeTable } from '../../src/ddpm/schedulers/index.ts';
import { PhoenixError } from '../../src/errors.ts';

const [path, preset, ...numbers] = process.argv.slice(2) as [string, keyof typeof presets, ...string[]];
const [side, channels, batch] = numbers.map(Number) as [number, number, number];
const addon: Addon = createRequire(import.meta.url)(path);
addon.setErrorClass(PhoenixError);

const noise = noiseOf();
const size = { height: side, width: side, channels };
using session = sessionOn(addon, { unet: toNative(presets[preset].unet(size)), noise, precision: 'bf16' });
using images = await createImages({ pixels: new Uint8Array(batch * side * side * channels), count: batch, ...size }, addon);
await session.init(1n);
const indices = new Int32Array(2 * batch);
const data = { indices, steps: 2, batch, flip: true, minSnrGamma: 0, key: 2n, firstStep: 0, globalStep: 0, adamStep: 0 };
await session.train(images, {
  ...data,
  ...{ lr: 2e-4, warmup: 0, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, clip: 1, emaDecay: 0.9999, mu: 0 },
});
const table = makeTable('ddim', noise, 2);
await session.sample({ count: batch, batch, table, clip: true, key: 3n, firstImage: 0, weights: session.params });
