/**
 * `node --import=tsx bench/threads.ts`: a training step on two threads against one, for networks around the size below which Phoenix takes
 * one by itself (src/bindings/threads.ts). Nine pairs each, in turn; the median of their ratios.
 */
import { createImages } from '../src/bindings/session.ts';
import { plainHyper } from '../src/ddpm/fit.ts';
import { presets } from '../src/ddpm/model/presets.ts';
import { unetModel } from '../src/ddpm/model/unet.ts';
import { createSession } from '../src/ddpm/session.ts';
import { streamKey } from '../src/rng.ts';
import { table } from './table.ts';

const IMAGES = 256;
const PAIRS = 9;
/** Milliseconds of one timed call, about. */
const CALL = 200;

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;

async function compare(name: 'tiny' | 'small', side: number, channels: number, batch: number): Promise<string[]> {
  const unet = presets[name].unet({ height: side, width: side, channels });
  const pixels = Uint8Array.from({ length: IMAGES * side * side * channels }, (_, i) => Math.imul(i, 0x9e3779b1) >>> 24);
  using images = await createImages({ pixels, count: IMAGES, height: side, width: side, channels });
  using one = createSession({ model: unetModel(unet), device: 'cpu', threads: 1 });
  using two = createSession({ model: unetModel(unet), device: 'cpu', threads: 2 });
  let steps = 2;
  const time = async (session: typeof one) => {
    const indices = Int32Array.from({ length: steps * batch }, (_, i) => i % IMAGES);
    const started = performance.now();
    await session.train(images, {
      indices,
      steps,
      hyper: { ...plainHyper, batch, lr: 2e-4, clip: 1 },
      key: 1n,
      firstStep: 0,
      globalStep: 0,
      adamStep: 0,
    });
    return (performance.now() - started) / steps;
  };
  for (const session of [one, two]) await session.init(streamKey(0, 'threads'));
  await time(two);
  steps = Math.max(2, Math.round(CALL / (await time(one))));
  const [ones, ratios]: [number[], number[]] = [[], []];
  for (let i = 0; i < PAIRS; i++) {
    const [a, b] = [await time(one), await time(two)];
    ones.push(a);
    ratios.push(a / b);
  }
  const size = side * side * unet.blockOutChannels[0]! ** 2;
  return [name, `${side}×${side}`, `${size}`, `${batch}`, median(ones).toFixed(1), median(ratios).toFixed(2)];
}

const sizes = [
  ['tiny', 8, 3],
  ['tiny', 16, 3],
  ['small', 8, 3],
  ['tiny', 28, 1],
  ['tiny', 32, 3],
  ['small', 16, 3],
  ['small', 28, 1],
] as const;
const rows: string[][] = [];
for (const [name, side, channels] of sizes) for (const batch of [8, 32]) rows.push(await compare(name, side, channels, batch));
console.log(table(['preset', 'images', '>height·width·channels²', '>batch', '>ms on one', '>two threads are'], rows));
