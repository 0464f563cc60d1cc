/**
 * A Session on CUDA, on the emulator or a GPU: training, evaluation and sampling against the definitions,
 * replayed steps against ordinary ones, models that go from the CPU to the GPU and back, vectors, memory that does not suffice, a federated
 * round. Skipped aloud where phoenix-cuda is not built or finds no device.
 */
import test from 'ava';
import { addon } from '../../src/bindings/load.ts';
import type { Addon, NativeTrain, NativeVector } from '../../src/bindings/native.ts';
import { createImages, type Precision, type Session, sessionOn } from '../../src/bindings/session.ts';
import { type Hyper, hyperSchema } from '../../src/ddpm/fit.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { makeTable } from '../../src/ddpm/schedulers/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { initialState } from '../../src/fl/federation.ts';
import { runRound } from '../../src/fl/round.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { memoryStore } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { rng } from '../../src/rng.ts';
import { cuda, device, usable } from '../support/cuda.ts';
import { setEnvironment } from '../support/environment.ts';
import { near } from '../support/near.ts';
import { testFit, testHyper } from '../support/plain-fit.ts';

const withDevice = usable ? test.serial : test.serial.skip;
const gpu = cuda as Addon;

test('where Sessions on CUDA run', (t) => {
  t.log(usable ? device : `no CUDA: Sessions not checked (${device})`);
  t.pass();
});

// As small as a model with every op of the network can be: the emulator is slow.
const SIDE = 4;
const BATCH = 2;
const unet = unetConfig({
  height: SIDE,
  width: SIDE,
  inChannels: 1,
  blockOutChannels: [8, 8],
  layersPerBlock: 1,
  attention: [false, true],
  attentionHeadDim: 4,
  normGroups: 4,
  numClasses: 5,
  dropout: 0.2,
});
const COUNT = 16;
const set = {
  pixels: Uint8Array.from({ length: COUNT * SIDE ** 2 }, (_, i) => (i * 53) % 256),
  count: COUNT,
  height: SIDE,
  width: SIDE,
  channels: 1,
};
const classes = Int32Array.from({ length: COUNT }, (_, i) => i % 5);
const open = (native: Addon, precision: Precision = 'fp32') =>
  sessionOn(native, { model: unetModel(unet), noise: noise({ prediction: 'v' }), threads: 1, precision });

const hyper = testHyper({
  batch: BATCH,
  flip: true,
  minSnrGamma: 5,
  warmupSteps: 2,
  weightDecay: 0.01,
  clip: 0.5,
  emaDecay: 0.999,
});

const fit = (steps: number, first = 0): NativeTrain => ({
  indices: Int32Array.from({ length: BATCH * steps }, (_, i) => ((BATCH * first + i) * 7) % COUNT),
  classes,
  steps,
  hyper,
  key: 11n,
  firstStep: first,
  globalStep: first,
  adamStep: first,
});

const drawing = (session: Session, count: number, batch: number) => ({
  count,
  batch,
  table: makeTable('ddpm', noise(), 3, {}),
  clip: true,
  key: 3n,
  firstImage: 0,
  classes: Int32Array.from({ length: count }, (_, i) => i % 5),
  weights: session.ema,
});

const bytes = async (vector: NativeVector) => Buffer.from(await vector.toBytes(0, vector.length));
const floats = async (vector: NativeVector) => new Float32Array((await vector.toBytes(0, vector.length)).slice().buffer);
const state = async ({ params, ema, adamM, adamV }: Session) => Buffer.concat(await Promise.all([params, ema, adamM, adamV].map(bytes)));

withDevice('three steps, an evaluation and samples follow the definitions', async (t) => {
  const run = async (native: Addon) => {
    using session = open(native);
    await session.init(3n);
    using images = await createImages(set, native);
    const { losses, gradNorms } = await session.train(images, fit(3));
    const evaluation = { indices: Int32Array.of(1, 5, 9), classes, batch: 2, key: 9n, weights: session.params };
    const loss = await session.evalLoss(images, evaluation);
    return { losses, gradNorms, loss, ema: await floats(session.ema), samples: await session.sample(drawing(session, 2, 2)) };
  };
  const [fast, exact] = [await run(gpu), await run(addon('ref'))];
  near(t, fast.losses, exact.losses, { norm: 1e-5 }, 'losses');
  near(t, fast.gradNorms, exact.gradNorms, { norm: 1e-4 }, 'norms of gradients');
  // Adam's first steps are ±lr whatever the gradient's size, so where a gradient is zero in theory rounding decides the sign.
  near(t, fast.ema, exact.ema, { norm: 2e-3 }, 'EMA');
  near(t, fast.loss, exact.loss, { relative: 1e-3 }, 'evaluation');
  near(t, fast.samples, exact.samples, { norm: 1e-2 }, 'samples');
});

// Once in fp32, and on both capabilities in bf16. The ordinary ones do all in order, without gradients of weights beside the rest.
for (const precision of process.env.PHOENIX_SIMT_CAPABILITY === '8.0' ? (['bf16'] as const) : (['fp32', 'bf16'] as const))
  withDevice(`${precision}: replayed steps give the bits of ordinary ones, however they are cut into calls`, async (t) => {
    const run = async (graphs: boolean, cuts: number[]) => {
      using _ = setEnvironment({ PHOENIX_CUDA_GRAPHS: graphs ? '1' : '0', PHOENIX_CUDA_BESIDE: graphs ? '1' : '0' });
      const before = gpu.info().replays;
      using session = open(gpu, precision);
      await session.init(3n);
      using images = await createImages(set, gpu);
      const losses: number[] = [];
      for (const steps of cuts) losses.push(...(await session.train(images, fit(steps, losses.length))).losses);
      // A larger batch moves the memory that recorded steps use.
      const larger = { ...fit(1, losses.length), hyper: { ...hyper, batch: 5 }, indices: Int32Array.of(1, 5, 9, 2, 7) };
      losses.push(...(await session.train(images, larger)).losses);
      losses.push(...(await session.train(images, fit(1, losses.length))).losses);
      const samples = await session.sample(drawing(session, 2, 2));
      return { losses, samples, state: await state(session), replays: gpu.info().replays - before };
    };
    const plain = await run(false, [3]);
    t.is(plain.replays, 0);
    const replayed = await run(true, [2, 1]);
    t.is(replayed.replays, 2 + 2, 'the first run of a step is an ordinary one, and that after a move of memory');
    t.deepEqual(replayed.losses, plain.losses);
    t.deepEqual(replayed.samples, plain.samples);
    t.true(replayed.state.equals(plain.state));
  });

withDevice('a hyper-parameter that changes between two replays acts as it does where nothing is recorded', async (t) => {
  // The smallest network there is, and values at which half of each makes a difference in one step.
  const tiny = { height: 2, width: 2, inChannels: 1, blockOutChannels: [8], layersPerBlock: 1, attention: [false], normGroups: 4 };
  const openTiny = () => sessionOn(gpu, { model: unetModel(unetConfig(tiny)), noise: noise(), threads: 1, precision: 'fp32' });
  const usual = {
    ...hyper,
    lr: 1e-2,
    warmupSteps: 8,
    adamEps: 1e-3,
    weightDecay: 0.1,
    mu: 0.2,
    emaDecay: 0.1,
    clip: 0.01,
    minSnrGamma: 0.02,
  };
  const changes = (Object.keys(hyperSchema.shape) as (keyof Hyper)[]).map((name) => {
    const value = usual[name];
    return { name, changed: { ...usual, [name]: typeof value === 'boolean' ? !value : value / 2 } };
  });
  using images = await createImages({ pixels: set.pixels, count: 4 * COUNT, height: 2, width: 2, channels: 1 }, gpu);
  using anchorOf = openTiny();
  const train = async (session: Session, steps: number, given: Hyper, first: number) => {
    const indices = Int32Array.from({ length: steps * given.batch }, (_, i) => ((first + i) * 7) % COUNT);
    await session.train(images, { ...fit(steps, first), classes: undefined, indices, hyper: given, anchor: anchorOf.params });
    return state(session);
  };
  const from = async (session: Session, middle: Buffer) => {
    const length = 4 * session.parameterCount;
    for (const [i, which] of (['params', 'ema', 'adamM', 'adamV'] as const).entries())
      await session[which].fromBytes(middle.subarray(i * length, (i + 1) * length), 0);
  };

  using _ = setEnvironment({ PHOENIX_CUDA_GRAPHS: '0' });
  using plain = openTiny();
  await plain.init(3n);
  const middle = await train(plain, 2, usual, 0);
  const unchanged = await train(plain, 1, usual, 2);
  const expected = new Map<string, Buffer>();
  for (const { name, changed } of changes) {
    await from(plain, middle);
    expected.set(name, await train(plain, 1, changed, 2));
    t.false(expected.get(name)!.equals(unchanged), `half of ${name} changes nothing: give it another value above`);
  }

  using _recording = setEnvironment({ PHOENIX_CUDA_GRAPHS: '1' });
  using recorded = openTiny();
  await recorded.init(3n);
  t.true((await train(recorded, 2, usual, 0)).equals(middle));
  for (const { name, changed } of changes) {
    await from(recorded, middle);
    t.true((await train(recorded, 1, changed, 2)).equals(expected.get(name)!), name);
    const before = gpu.info().replays;
    await from(recorded, middle);
    t.true((await train(recorded, 1, usual, 2)).equals(unchanged), `back from another ${name}`);
    t.is(gpu.info().replays, before + 1, `the step before and after the change of ${name} is a replay`);
  }
});

withDevice('a model goes from the CPU to the GPU and back, and trains on', async (t) => {
  const move = async (from: Session, to: Session) => {
    for (const which of ['params', 'ema', 'adamM', 'adamV'] as const) await to[which].fromBytes(await bytes(from[which]), 0);
  };
  const natives = [addon('cpu'), gpu, addon('cpu')];
  using _ = setEnvironment({ PHOENIX_CUDA_GRAPHS: '1' });
  const losses: number[] = [];
  let last: Session | undefined;
  for (const native of natives) {
    const session = open(native);
    if (last) {
      await move(last, session);
      t.true((await state(session)).equals(await state(last)), 'nothing is lost on the way');
      last.dispose();
    } else await session.init(3n);
    using images = await createImages(set, native);
    losses.push(...(await session.train(images, fit(1, losses.length))).losses);
    last = session;
  }
  using stay = open(addon('cpu'));
  await stay.init(3n);
  using images = await createImages(set, addon('cpu'));
  const expected = (await stay.train(images, fit(3))).losses;
  near(t, losses, expected, { norm: 1e-4 }, 'losses');
  near(t, await floats(last!.params), await floats(stay.params), { norm: 5e-3 }, 'parameters');
  last!.dispose();
});

withDevice('a step that is not finite is not applied, nor are those after it; those before it are', async (t) => {
  const train = async (steps: number, lr: number) => {
    const session = open(gpu);
    await session.init(3n);
    using images = await createImages(set, gpu);
    const error = await session.train(images, { ...fit(steps), hyper: { ...hyper, lr, warmupSteps: 0, clip: 0 } }).catch((e) => e);
    const result = { error, params: await floats(session.params) };
    session.dispose();
    return result;
  };
  // A rate that overflows the second step.
  const broken = await train(3, 1e30);
  t.true(broken.error instanceof PhoenixError && broken.error.code === 'ERR_PHOENIX_NOT_FINITE', `${broken.error}`);
  t.regex(broken.error.message, /of step 1 is not finite/);
  t.deepEqual(broken.params, (await train(1, 1e30)).params);
});

withDevice('an op that cannot be recorded is an error when it is timed, and the device goes on', (t) => {
  const whole = { data: Float64Array.from({ length: 100 }, (_, i) => i), shape: [1, 1, 1, 100] as [number, number, number, number] };
  t.throws(() => gpu.timeOp('dot', { a: whole, b: whole }, {}, 1, 1));
  t.is(gpu.op('dot', { a: whole, b: whole }, {}).tensors.result!.data[0], 328350);
});

withDevice('vectors compute on the device what they compute on the CPU', async (t) => {
  const length = 5000;
  const r = rng(5, 'vectors');
  const values = () => Float32Array.from({ length }, () => r.normal());
  const [a, b] = [values(), values()];
  const run = async (native: Addon) => {
    const make = async (from?: Float32Array, size = length) => {
      const vector = native.createVector(size);
      if (from) await vector.fromBytes(new Uint8Array(from.buffer), 0);
      return vector;
    };
    const [x, y] = [await make(a), await make(b)];
    const results: Buffer[] = [await bytes(await make())];
    const keep = async (vector: NativeVector) => results.push(await bytes(vector));
    results.push(Buffer.from(await x.encode('bf16', 3, 4000)), Buffer.from(await x.encode('int8', 1024, 3000)));
    const largest = await x.encodeLargest(100);
    results.push(Buffer.from(largest));
    const decoded = await make();
    await decoded.decode('bf16', await x.encode('bf16', 0, 1000), 10, 1000);
    await keep(decoded);
    await decoded.decodeLargest(largest);
    await keep(decoded);
    const few = await make(undefined, 30);
    await few.gather(x, Float64Array.of(5, 10, 400, 20));
    await keep(few);
    await y.scatter(few, Float64Array.of(0, 20, 4990, 10));
    await keep(y);
    const mean = await make(undefined, 1000);
    await mean.trimmedMean(x, { rows: 5, columns: 1000, trim: 1, offset: 0 });
    await keep(mean);
    await y.roundToBf16(x);
    await keep(y);
    await y.copy(x, 100, 200);
    await y.fill(0.5);
    await keep(y);
    await t.throwsAsync(y.decode('int8', new Uint8Array(1028).fill(0xff), 0, 1024), { message: /scale|127/ });
    return { results, distances: await x.rowDistances(5, 1000), dot: await x.dot(x), finite: await x.isFinite() };
  };
  const [onGpu, onCpu] = [await run(gpu), await run(addon('cpu'))];
  for (const [i, result] of onGpu.results.entries()) t.true(result.equals(onCpu.results[i]!), `result ${i}`);
  t.deepEqual(onGpu.distances, onCpu.distances);
  near(t, onGpu.dot, onCpu.dot, { relative: 1e-9 }, 'dot');
  t.true(onGpu.finite);
});

withDevice('too little memory is an error that names the bytes wanted and free, and the Session goes on', async (t) => {
  using session = open(gpu);
  await session.init(3n);
  using images = await createImages(set, gpu);
  const { losses } = await session.train(images, fit(1));
  const wanted = 4e12;
  const error = t.throws(() => gpu.createVector(wanted / 4), { instanceOf: PhoenixError });
  t.is(error?.code, 'ERR_PHOENIX_MEMORY');
  t.regex(error!.message, new RegExp(`${wanted} bytes wanted, \\d+ of \\d+ free`));
  // hundreds of GB: more than any card has
  const big = { ...fit(1), hyper: { ...hyper, batch: 1 << 24 }, indices: new Int32Array(1 << 24) };
  const failed = await t.throwsAsync(session.train(images, { ...big, firstStep: 1, globalStep: 1, adamStep: 1 }), {
    instanceOf: PhoenixError,
  });
  t.is(failed?.code, 'ERR_PHOENIX_MEMORY');
  const { losses: next } = await session.train(images, fit(1, 1));
  t.true([...losses, ...next].every(Number.isFinite));
});

type Federation = { carriesVectors?: boolean; compress?: 'none' | 'bf16'; mu?: number; trainOn?: number };

/** Two rounds of two clients; `copied`: bytes between the host and the device meanwhile. */
async function federate(native: Addon, { carriesVectors = false, compress = 'none', mu = 0, trainOn = 2 }: Federation) {
  using session = open(native);
  using images = await createImages(set, native);
  const createVector = (length: number) => native.createVector(length);
  const store = memoryStore();
  const clients = [0, 1].map((i) =>
    createClient({
      id: `c${i}`,
      session,
      images,
      train: Int32Array.from({ length: trainOn }, (_, j) => trainOn * i + j),
      heldOut: new Int32Array(0),
      classes,
      store,
      seed: 3,
      createVector,
    }),
  );
  const strategy = fedavg();
  const fitOptions = { ...testFit({ epochs: 1 }, { batch: BATCH, flip: true, mu }), compress };
  const io = {
    transport: memoryTransport(clients, { carriesVectors }),
    strategy,
    fit: fitOptions,
    taskCodec: compress === 'bf16' ? ('bf16' as const) : ('float32' as const),
    seed: 3,
    createVector,
  };
  let state = await initialState({ session, seed: 3, strategy, createVector });
  const before = native.info();
  let steps = 0;
  for (let round = 0; round < 2; round++) {
    const done = await runRound(state, io);
    state = done.state;
    await done.finish();
    steps += done.record.clients.reduce((sum, client) => sum + client.steps, 0);
  }
  const { replays, copied } = native.info();
  return { params: await floats(state.params), steps, replays: replays - before.replays, copied: copied - before.copied };
}

withDevice('a federated round on the device is that of the CPU, and a change of client records nothing anew', async (t) => {
  const way = { mu: 0.1, trainOn: 3 };
  const [onGpu, onCpu] = [await federate(gpu, { ...way, carriesVectors: true }), await federate(addon('cpu'), way)];
  t.is(onGpu.replays, onGpu.steps - 1, 'one step ran, all others replayed it');
  near(t, onGpu.params, onCpu.params, { norm: 1e-3 }, 'parameters');
});

withDevice('handed over on the device, no vector is copied to the host or back, and the bits are those of messages in bytes', async (t) => {
  const bytesOf = ({ params }: { params: Float32Array }) => 4 * params.length;
  const plain = await federate(gpu, { carriesVectors: true });
  t.true(plain.copied < bytesOf(plain), `${plain.copied} bytes were copied, a vector has ${bytesOf(plain)}`);
  const encoded = await federate(gpu, {});
  t.deepEqual(plain.params, encoded.params);
  // Two rounds with two clients: the model to the host once a round, and from there to each client; each update to the host and back.
  t.is(Math.floor(encoded.copied / bytesOf(plain)), 14, `${encoded.copied} bytes`);

  // What a lossy compression leaves out goes to the Store, for the next round: of two clients in the first round, and in the second there
  // and back.
  const rounded = await federate(gpu, { carriesVectors: true, compress: 'bf16' });
  t.is(Math.floor(rounded.copied / bytesOf(plain)), 6, `${rounded.copied} bytes`);
  t.deepEqual(rounded.params, (await federate(gpu, { compress: 'bf16' })).params);
});
