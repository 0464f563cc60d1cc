/**
 * A program for chapter 43: four training steps of a small network on the emulator, of which three are recorded ones played again, in both
 * precisions. Prints losses, gradient norms and the hashes of all vectors as JSON.
 */
import { createImages, createSession, noise, unetConfig, unetModel, type Vector } from '../../src/index.ts';
import { cuda, device, emulated } from './cuda.ts';
import { hashOf } from './golden-runs.ts';

if (!cuda || !emulated) throw new Error(`This program needs the emulator that npm test builds, and finds: ${device}.`);

const SIDE = 4;
const BATCH = 2;
const STEPS = 4;
const COUNT = 16;
const unet = unetConfig({
  height: SIDE,
  width: SIDE,
  inChannels: 1,
  blockOutChannels: [8, 8],
  layersPerBlock: 1,
  attention: [false, true],
  attentionHeadDim: 4,
  normGroups: 4,
  normEps: 1e-6,
  dropout: 0.2,
  numClasses: 5,
  flipSinToCos: false,
  freqShift: 1,
  downsamplePadding: 0,
});
const pixels = Uint8Array.from({ length: COUNT * SIDE ** 2 }, (_, i) => (i * 53) % 256);
const classes = Int32Array.from({ length: COUNT }, (_, i) => i % 5);
const indices = Int32Array.from({ length: BATCH * STEPS }, (_, i) => (i * 7) % COUNT);

const projection: Record<string, unknown> = {};
const tensors: Record<string, string> = {};
for (const precision of ['fp32', 'bf16'] as const) {
  const before = cuda.info().replays;
  using session = createSession({ model: unetModel(unet), noise: noise({ prediction: 'v' }), device: 'cuda', precision, threads: 1 });
  await session.init(3n);
  await session.ema.copy(session.params, 0, session.parameterCount);
  const anchor = session.createVector(session.parameterCount);
  await anchor.copy(session.params, 0, session.parameterCount);
  using images = await createImages({ pixels, count: COUNT, height: SIDE, width: SIDE, channels: 1 }, session);
  const { losses, gradNorms } = await session.train(images, {
    indices,
    classes,
    steps: STEPS,
    hyper: {
      batch: BATCH,
      lr: 1e-3,
      warmupSteps: 2,
      beta1: 0.9,
      beta2: 0.999,
      adamEps: 1e-8,
      weightDecay: 0.01,
      clip: 0.5,
      flip: true,
      minSnrGamma: 5,
      mu: 0.1,
      emaDecay: 0.999,
    },
    key: 11n,
    firstStep: 0,
    globalStep: 0,
    adamStep: 0,
    anchor,
  });
  projection[precision] = { losses: [...losses], gradNorms: [...gradNorms], replays: cuda.info().replays - before };
  const bytesOf = async (vector: Vector) => vector.toBytes(0, session.parameterCount);
  const [params, ema] = [await bytesOf(session.params), await bytesOf(session.ema)];
  for (const { name, offset, count } of session.parameters) {
    const [of, averaged] = [params, ema].map((bytes) => hashOf(bytes.subarray(4 * offset, 4 * (offset + count))));
    tensors[`${precision} ${name}`] = `ema ${averaged} raw ${of}`;
  }
  for (const which of ['adamM', 'adamV'] as const) tensors[`${precision} ${which}`] = hashOf(await bytesOf(session[which]));
  anchor.dispose();
}
process.stdout.write(JSON.stringify({ projection, tensors }));
