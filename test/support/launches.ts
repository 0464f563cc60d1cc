/**
 * A program for chapter 78: starts two training steps, of which the second is recorded, and two rows of the sampler of a preset at its real
 * size, on a device that runs nothing (PHOENIX_SIMT_LAUNCHES). Arguments: the preset, side, channels and batch.
 */
import { createRequire } from 'node:module';
import type { Addon } from '../../src/bindings/native.ts';
import { createImages, sessionOn } from '../../src/bindings/session.ts';
import { atStart } from '../../src/ddpm/fit.ts';
import { presets } from '../../src/ddpm/model/presets.ts';
import { unetModel } from '../../src/ddpm/model/unet.ts';
import { noise as noiseOf } from '../../src/ddpm/noise.ts';
import { makeTable } from '../../src/ddpm/schedulers/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { testHyper } from './plain-fit.ts';

const [path, preset, ...numbers] = process.argv.slice(2) as [string, keyof typeof presets, ...string[]];
const [side, channels, batch] = numbers.map(Number) as [number, number, number];
const addon: Addon = createRequire(import.meta.url)(path);
addon.setErrorClass(PhoenixError);

const noise = noiseOf();
const size = { height: side, width: side, channels };
using session = sessionOn(addon, { model: unetModel(presets[preset].unet(size)), noise, precision: 'bf16' });
using images = await createImages({ pixels: new Uint8Array(batch * side * side * channels), count: batch, ...size }, addon);
await session.init(1n);
const indices = new Int32Array(2 * batch);
const hyper = testHyper({ batch, lr: 2e-4, flip: true, emaDecay: 0.9999 });
await session.train(images, { indices, steps: 2, hyper, key: 2n, ...atStart });
const table = makeTable('ddim', noise, 2);
await session.sample({ count: batch, batch, table, clip: true, key: 3n, firstImage: 0, weights: session.params });
