/**
 * Training on a real GPU (PHOENIX_TEST_GPU=1, as `npm run gpu:verify` sets it; the emulator would take days): bf16 follows fp32, and equal
 * seeds give equal bits. The CIFAR-10 U-Net on synthetic images, batch 16. Skipped aloud elsewhere.
 */
import test from 'ava';
import { createImages, type Precision, sessionOn } from '../../src/bindings/session.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { atStart } from '../../src/ddpm/fit.ts';
import { presets } from '../../src/ddpm/model/presets.ts';
import { unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { rng } from '../../src/rng.ts';
import { cuda, device, emulated, usable } from '../support/cuda.ts';
import { near } from '../support/near.ts';
import { testHyper } from '../support/plain-fit.ts';

const real = process.env.PHOENIX_TEST_GPU === '1' && usable && !emulated;
const withGpu = real ? test.serial : test.serial.skip;
const BATCH = 16;

test('whether training is checked on a GPU', (t) => {
  t.log(real ? device : `no GPU asked for: training in bf16 against fp32 NOT checked (${device})`);
  t.pass();
});

/** Losses of a training from a fixed start, and the parameters after it. */
async function train(precision: Precision, steps: number) {
  const dataset = await openDataset('synthetic:1024', { size: 32, channels: 3 });
  using session = sessionOn(cuda!, { model: unetModel(presets.cifar.unet(dataset)), noise: noise(), precision });
  using images = await createImages(dataset, cuda!);
  await session.init(1n);
  const r = rng(1, 'training');
  const indices = Int32Array.from({ length: steps * BATCH }, () => r.int(dataset.count));
  const hyper = testHyper({ batch: BATCH, lr: 2e-4, warmupSteps: 50, flip: true, emaDecay: 0.9999 });
  const { losses } = await session.train(images, { indices, steps, hyper, key: 2n, ...atStart });
  return { losses, params: Buffer.from(await session.params.toBytes(0, session.parameterCount)) };
}

withGpu('300 steps in bf16 follow those in fp32: the mean loss of the last 50 within 2 %', async (t) => {
  const means: number[] = [];
  for (const precision of ['fp32', 'bf16'] as const) {
    const { losses } = await train(precision, 300);
    means.push(losses.subarray(250).reduce((sum, loss) => sum + loss, 0) / 50);
  }
  const [fp32, bf16] = means as [number, number];
  t.log(`mean loss of the last 50 of 300 steps: fp32 ${fp32}, bf16 ${bf16}`);
  t.true(fp32 < 0.5, `fp32 has not learnt: ${fp32}`);
  near(t, bf16, fp32, { relative: 0.02 });
});

withGpu('equal seeds give equal bits', async (t) => {
  const [a, b] = [await train('bf16', 20), await train('bf16', 20)];
  t.deepEqual(a.losses, b.losses);
  t.true(a.params.equals(b.params));
});
