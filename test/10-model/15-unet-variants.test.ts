/**
 * The whole U-Net in the shapes that the golden model does not have: sides that do not halve evenly, several heads, classes, both paddings,
 * two channels at the ends. The definition's gradient against differences of its loss, the fast backend against the definition.
 */
import test from 'ava';
import { addon } from '../../src/bindings/load.ts';
import { createImages, type Session, sessionOn } from '../../src/bindings/session.ts';
import { atStart } from '../../src/ddpm/fit.ts';
import { type UNetConfig, unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';
import { testHyper } from '../support/plain-fit.ts';

const base = { inChannels: 1, layersPerBlock: 1, dropout: 0, normGroups: 4 };
const variants: Record<string, UNetConfig> = {
  'sides 10 and 7 in three levels': unetConfig({
    ...base,
    height: 10,
    width: 7,
    blockOutChannels: [8, 12, 20],
    attention: [false, false, true],
  }),
  'two heads, classes, the other conventions of diffusers': unetConfig({
    ...base,
    height: 8,
    width: 8,
    blockOutChannels: [16, 24],
    attention: [true, true],
    attentionHeadDim: 8,
    numClasses: 5,
    flipSinToCos: true,
    freqShift: 0,
    downsamplePadding: 1,
    normEps: 1e-5,
  }),
  'two channels, one level, two blocks': unetConfig({
    ...base,
    height: 5,
    width: 6,
    inChannels: 2,
    layersPerBlock: 2,
    blockOutChannels: [12],
    attention: [false],
  }),
};

const BATCH = 3;

const bytes = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

for (const [name, unet] of Object.entries(variants)) {
  const random = rng(7, name);
  const normals = (count: number) => Float64Array.from({ length: count }, () => Math.fround(random.normal()));
  const open = async (backend: 'cpu' | 'ref', weights: Float32Array): Promise<Session> => {
    const session = sessionOn(addon(backend), { model: unetModel(unet), noise: noise(), threads: 2 });
    await session.params.fromBytes(bytes(weights), 0);
    return session;
  };
  const pixels = BATCH * unet.height * unet.width * unet.inChannels;
  const x = normals(pixels);
  const target = normals(pixels);
  const t = Float64Array.of(3, 500, 999);
  const classes = unet.numClasses > 0 ? Int32Array.of(0, 4, 2) : undefined;

  test(`${name}: the definition's gradient is the slope of its loss; the fast backend follows the definition`, async (test) => {
    const count = sessionOn(addon('ref'), { model: unetModel(unet), noise: noise(), threads: 1 }).parameterCount;
    const weights = Float32Array.from(normals(count), (v) => 0.15 * v);
    using ref = await open('ref', weights);
    using fast = await open('cpu', weights);
    const exact = await ref.gradient(x, t, target, ref.params, classes);
    const lossAt = async (direction: typeof ref.params, step: number): Promise<number> => {
      const moved = addon('ref').createVector(count);
      await moved.copy(ref.params, 0, count);
      await moved.axpy(direction, step);
      return (await ref.gradient(x, t, target, moved, classes)).loss;
    };
    for (let i = 0; i < 3; i++) {
      const direction = addon('ref').createVector(count);
      await direction.fromBytes(bytes(Float32Array.from(normals(count))), 0);
      const step = 1e-5;
      const slope = ((await lossAt(direction, step)) - (await lossAt(direction, -step))) / (2 * step);
      const predicted = await exact.gradient.dot(direction);
      near(test, slope, predicted, { relative: 1e-6 }, `slope along direction ${i}`);
    }
    const quick = await fast.gradient(x, t, target, fast.params, classes);
    near(test, quick.output, exact.output, { norm: 1e-5 }, 'output');
    const values = async (session: Session, vector: typeof fast.params) =>
      new Float32Array((await vector.toBytes(0, session.parameterCount)).buffer);
    near(test, await values(fast, quick.gradient), await values(ref, exact.gradient), { norm: 1e-5 }, 'gradient');
  });
}

test('three training steps of the fast backend follow those of the definition', async (t) => {
  const unet = variants['two heads, classes, the other conventions of diffusers'] as UNetConfig;
  const set = { pixels: Uint8Array.from({ length: 16 * 64 }, (_, i) => (i * 53) % 256), count: 16, height: 8, width: 8, channels: 1 };
  const run = async (backend: 'cpu' | 'ref') => {
    using session = sessionOn(addon(backend), {
      model: unetModel({ ...unet, dropout: 0.2 }),
      noise: noise({ prediction: 'v' }),
      threads: 1,
    });
    await session.init(3n);
    using images = await createImages(set, addon(backend));
    const { losses, gradNorms } = await session.train(images, {
      indices: Int32Array.from({ length: 12 }, (_, i) => i),
      classes: Int32Array.from({ length: 16 }, (_, i) => i % 5),
      steps: 3,
      hyper: testHyper({ flip: true, minSnrGamma: 5, warmupSteps: 2, weightDecay: 0.01, clip: 0.5, emaDecay: 0.999 }),
      key: 11n,
      ...atStart,
      firstStep: 2,
    });
    const ema = new Float32Array((await session.ema.toBytes(0, session.parameterCount)).buffer);
    return { losses, gradNorms, ema };
  };
  const [fast, exact] = [await run('cpu'), await run('ref')];
  near(t, fast.losses, exact.losses, { norm: 1e-5 }, 'losses');
  near(t, fast.gradNorms, exact.gradNorms, { norm: 1e-4 }, 'norms of gradients');
  // Adam's first steps are ±lr whatever the gradient's size, so where a gradient is zero in theory rounding decides the sign: few values,
  // small steps.
  near(t, fast.ema, exact.ema, { norm: 2e-3 }, 'EMA');
});
