/** The border between JavaScript and native code: what goes wrong is a typed error, never a crash; what is freed is free. */
import { Worker } from 'node:worker_threads';
import test, { type ExecutionContext } from 'ava';
import { addon } from '../../src/bindings/load.ts';
import type { NativeTrain } from '../../src/bindings/native.ts';
import { createImages, type Images, type Session } from '../../src/bindings/session.ts';
import { createVector } from '../../src/bindings/vector.ts';
import { atStart } from '../../src/ddpm/fit.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { makeTable } from '../../src/ddpm/schedulers/index.ts';
import { createSession } from '../../src/ddpm/session.ts';
import { PhoenixError, type PhoenixErrorCode } from '../../src/errors.ts';
import { testHyper } from '../support/plain-fit.ts';

const unet = unetConfig({
  height: 8,
  width: 8,
  inChannels: 1,
  blockOutChannels: [8, 16],
  layersPerBlock: 1,
  attention: [false, true],
  normGroups: 4,
  dropout: 0.1,
});

const COUNT = 32;
const images = (): Promise<Images> =>
  createImages({
    pixels: Uint8Array.from({ length: COUNT * 64 }, (_, i) => (i * 37) % 256),
    count: COUNT,
    height: 8,
    width: 8,
    channels: 1,
  });

const fit = (steps: number, batch = 4): NativeTrain => ({
  indices: Int32Array.from({ length: steps * batch }, (_, i) => i % COUNT),
  steps,
  hyper: testHyper({ batch, emaDecay: 0.9999 }),
  key: 7n,
  ...atStart,
});

const ready = async (threads = 1): Promise<Session> => {
  const session = createSession({ model: unetModel(unet), threads });
  await session.init(1n);
  return session;
};

const drawing = (session: Session, count: number, batch: number, steps = 10) => ({
  count,
  batch,
  table: makeTable('ddpm', noise(), steps, {}),
  clip: true,
  key: 3n,
  firstImage: 0,
  weights: session.params,
});

const coded = async (t: ExecutionContext, code: PhoenixErrorCode, call: () => unknown): Promise<PhoenixError> => {
  const error = await t.throwsAsync(async () => await call(), { instanceOf: PhoenixError });
  t.is(error?.code, code);
  return error as PhoenixError;
};

const bytesOf = async (session: Session, which: 'params' | 'ema' | 'adamM' | 'adamV' = 'params'): Promise<Buffer> =>
  Buffer.from(await session[which].toBytes(0, session.parameterCount));

test('training lowers the loss on one batch, and equal seeds give equal bytes whatever the threads and the cut into calls', async (t) => {
  const set = await images();
  const runs = await Promise.all(
    [1, 2, 3].map(async (threads) => {
      const session = await ready(threads);
      const { losses, gradNorms } = await session.train(set, fit(12));
      t.is(losses.length, 12);
      t.true(gradNorms.every((g) => g > 0 && Number.isFinite(g)));
      return session;
    }),
  );
  const cut = await ready(2);
  const whole = fit(12);
  for (const [first, steps] of [
    [0, 1],
    [1, 5],
    [6, 6],
  ] as const)
    await cut.train(set, {
      ...whole,
      steps,
      indices: whole.indices.subarray(first * 4, (first + steps) * 4),
      firstStep: first,
      globalStep: first,
      adamStep: first,
    });
  const [one, ...others] = await Promise.all(
    [...runs, cut].map(async (session) =>
      Buffer.concat([await bytesOf(session), await bytesOf(session, 'ema'), await bytesOf(session, 'adamV')]),
    ),
  );
  for (const other of others) t.true(one?.equals(other));
  const draws = await Promise.all(runs.map((session, i) => session.sample(drawing(session, 5, i + 1))));
  t.deepEqual(draws[0], draws[1], 'samples do not depend on threads or batch');
  t.deepEqual(draws[0], draws[2]);
});

test('an image does not depend on how many are drawn with it', async (t) => {
  // 12 pixels per side and 32 channels: every way of the convolution, and tiles that stick out.
  const wide = { height: 12, width: 12, inChannels: 3, blockOutChannels: [32, 64], layersPerBlock: 1, attention: [false, true] };
  using session = createSession({ model: unetModel(unetConfig(wide)), threads: 2 });
  await session.init(1n);
  const weights = Float32Array.from({ length: session.parameterCount }, (_, i) => 0.05 * Math.sin(13 * i) + 0.01);
  await session.params.fromBytes(new Uint8Array(weights.buffer), 0);
  const alone = await session.sample(drawing(session, 7, 1, 3));
  for (const batch of [2, 5, 7]) t.deepEqual(await session.sample(drawing(session, 7, batch, 3)), alone, `batch ${batch}`);
});

test('overfits one batch', async (t) => {
  const session = await ready(2);
  const set = await images();
  const one = { ...fit(300), indices: new Int32Array(300 * 4).map((_, i) => i % 4), hyper: testHyper({ emaDecay: 0.9999, lr: 3e-3 }) };
  const { losses } = await session.train(set, one);
  const mean = (part: Float64Array) => part.reduce((a, b) => a + b, 0) / part.length;
  t.true(
    mean(losses.subarray(-50)) < 0.6 * mean(losses.subarray(0, 20)),
    `${mean(losses.subarray(0, 20))} → ${mean(losses.subarray(-50))}`,
  );
});

test('a second use while a call runs is ERR_PHOENIX_BUSY, and the call itself goes on', async (t) => {
  const session = await ready();
  const set = await images();
  const running = session.train(set, fit(30));
  const busy = await coded(t, 'ERR_PHOENIX_BUSY', () => session.train(set, fit(1)));
  t.regex(busy.message, /await/);
  await coded(t, 'ERR_PHOENIX_BUSY', () => session.params.toBytes(0, 1));
  await coded(t, 'ERR_PHOENIX_BUSY', () => session.params.fill(0));
  t.is((await running).losses.length, 30);
  t.is((await session.train(set, fit(1))).losses.length, 1, 'free again');
});

test('an abort stops a call within one op, with the signal’s own reason, and the Session stays usable', async (t) => {
  const session = await ready();
  const set = await images();
  const controller = new AbortController();
  const reason = new Error('enough');
  const running = session.train(set, fit(100_000), controller.signal);
  setTimeout(() => controller.abort(reason), 30);
  t.is(await t.throwsAsync(running), reason);
  t.is(await t.throwsAsync(session.train(set, fit(1), controller.signal)), reason, 'an aborted signal starts nothing');
  t.is((await session.train(set, fit(2))).losses.length, 2);
  const drawn = new AbortController();
  let calls = 0;
  const sampling = session.sample(
    { ...drawing(session, 64, 8, 1000), onProgress: () => ++calls === 3 && drawn.abort(reason) },
    drawn.signal,
  );
  t.is(await t.throwsAsync(sampling), reason);
});

test('a progress callback that throws rejects the call with its error', async (t) => {
  const session = await ready();
  const boom = new Error('boom');
  const sampling = session.sample(
    {
      ...drawing(session, 4, 2),
      onProgress: () => {
        throw boom;
      },
    },
    new AbortController().signal,
  );
  t.is(await t.throwsAsync(sampling), boom);
  let calls = 0;
  const long = session.sample({
    ...drawing(session, 512, 4, 1000),
    onProgress: () => {
      calls++;
      throw boom;
    },
  });
  t.is(await t.throwsAsync(long), boom);
  t.true(calls < 64_000, 'it stops the drawing too');
});

test('use after dispose is an error; dispose while busy lets the running call end', async (t) => {
  const session = await ready();
  const set = await images();
  const params = session.params;
  const running = session.train(set, fit(5));
  session.dispose();
  session.dispose();
  set.dispose();
  t.is((await running).losses.length, 5);
  await coded(t, 'ERR_PHOENIX_DISPOSED', () => session.train(set, fit(1)));
  await coded(t, 'ERR_PHOENIX_DISPOSED', () => session.params);
  params.dispose();
  await coded(t, 'ERR_PHOENIX_DISPOSED', () => params.scale(2));
  await coded(t, 'ERR_PHOENIX_DISPOSED', async () => (await ready()).train(set, fit(1)));
});

test('wrong shapes, values and kinds are typed errors', async (t) => {
  const session = await ready();
  const set = await images();
  await coded(t, 'ERR_PHOENIX_SHAPE', () => session.train(set, { ...fit(2), steps: 3 }));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => session.train(set, { ...fit(1), indices: Int32Array.of(0, 1, 2, COUNT) }));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => session.train(set, { ...fit(1), indices: Int32Array.of(0, 1, 2, -1) }));
  await coded(t, 'ERR_PHOENIX_ARGUMENT', () => session.train(set, { ...fit(1), hyper: testHyper({ lr: Number.NaN }) }));
  await coded(t, 'ERR_PHOENIX_ARGUMENT', () => session.train(set, { ...fit(1), hyper: testHyper({ batch: 2.5 }) }));
  await coded(t, 'ERR_PHOENIX_ARGUMENT', () => session.train({} as Images, fit(1)));
  await coded(t, 'ERR_PHOENIX_ARGUMENT', () => session.train(set, { ...fit(1), hyper: testHyper({ mu: 1 }) }));
  const small = await createImages({ pixels: new Uint8Array(49), count: 1, height: 7, width: 7, channels: 1 });
  const shape = await coded(t, 'ERR_PHOENIX_SHAPE', () => session.train(small, { ...fit(1), indices: new Int32Array(4) }));
  t.regex(shape.message, /8x8x1.*7x7x1/);
  const a = createVector(10);
  await coded(t, 'ERR_PHOENIX_SHAPE', () => a.axpy(createVector(11), 1));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => a.toBytes(5, 6));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => a.fromBytes(new Uint8Array(8), 9));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => a.importTensors(new Uint8Array(12), 'F32', Float64Array.of(0, 4, 0, 2, 2, 1)));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => a.importTensors(new Uint8Array(16), 'F32', Float64Array.of(0, 4, 0, 2, 3, 1)));
  await coded(t, 'ERR_PHOENIX_ARGUMENT', () => a.importTensors(new Uint8Array(16), 'F32', Float64Array.of(0, 4, -4, 2, 2, 1)));
  await coded(t, 'ERR_PHOENIX_MEMORY', () => createVector(1e12));
  await coded(t, 'ERR_PHOENIX_ARGUMENT', () => createVector(1.5));
  await coded(t, 'ERR_PHOENIX_MEMORY', () => addon().createImages(2 ** 30, 65536, 65536, 64));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => session.forward(new Float64Array(64), Float64Array.of(1), a));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => session.gradient(new Float64Array(64), Float64Array.of(1), new Float64Array(64), a));
  const { lr: _, ...lacking } = testHyper();
  await coded(t, 'ERR_PHOENIX_ARGUMENT', () => session.train(set, { ...fit(1), hyper: lacking }));
  await coded(t, 'ERR_PHOENIX_ARGUMENT', () => session.train(set, { ...fit(1), hyper: { ...testHyper(), momentum: 0 } }));
  await coded(t, 'ERR_PHOENIX_SHAPE', () => session.sample({ ...drawing(session, 1, 1), table: new Float64Array(6) }));
});

test('NaN parameters are ERR_PHOENIX_NOT_FINITE and nothing is applied', async (t) => {
  const session = await ready();
  const set = await images();
  await session.params.fromBytes(new Uint8Array(Float32Array.of(Number.NaN).buffer), 100);
  t.false(await session.params.isFinite());
  const before = await bytesOf(session);
  await coded(t, 'ERR_PHOENIX_NOT_FINITE', () => session.train(set, fit(2)));
  t.true(before.equals(await bytesOf(session)));
  await coded(t, 'ERR_PHOENIX_NOT_FINITE', () => session.sample(drawing(session, 1, 1)));
});

test.serial('memory is known to the garbage collector, and freed by dispose', async (t) => {
  const before = process.memoryUsage().rss;
  const vector = createVector(15_000_000);
  t.true(process.memoryUsage().rss - before < 30e6, 'zeros take room when they are written to');
  await vector.fill(1);
  t.true(process.memoryUsage().rss - before > 50e6);
  vector.dispose();
  t.true(process.memoryUsage().rss - before < 30e6);
  // 4.8 GB in all: without the collector's knowledge of their size, these handles would be left lying.
  for (let i = 0; i < 300; i++) {
    await createVector(4_000_000).fill(1);
    if (i % 10 === 0) await new Promise(setImmediate);
  }
  t.true(
    process.memoryUsage().rss - before < 2e9,
    `${(process.memoryUsage().rss - before) >> 20} MiB more after 300 vectors that nobody holds`,
  );
  const session = await ready();
  const set = await images();
  await session.train(set, fit(1));
  const memory = session.memory();
  t.is(memory.parameters, session.parameterCount * 4);
  t.is(memory.optimizer, session.parameterCount * 4 * 4);
  t.true(memory.activations > 0);

  const external = () => process.memoryUsage().external;
  const held = external();
  const handles = Array.from({ length: 1000 }, () => session.params);
  t.true(external() - held < 100 * memory.parameters, `${external() - held} bytes more for ${handles.length} handles of one vector`);
});

test.serial('resident memory stays level over many Sessions', async (t) => {
  const set = await images();
  const use = async (times: number) => {
    for (let i = 0; i < times; i++) {
      using session = await ready();
      await session.train(set, fit(1));
    }
    return process.memoryUsage().rss;
  };
  const warm = await use(50);
  const after = await use(200);
  t.true(after - warm < 32 << 20, `${(after - warm) >> 20} MiB more after 200 Sessions`);
});

test('eight Sessions of two threads each, on however few cores, all finish and give the bytes of one thread alone', async (t) => {
  const set = await images();
  const alone = await ready(1);
  await alone.train(set, fit(20));
  const expected = await bytesOf(alone);
  const sessions = await Promise.all(Array.from({ length: 8 }, () => ready(2)));
  await Promise.all(sessions.map((session) => session.train(set, fit(20))));
  for (const session of sessions) t.true(expected.equals(await bytesOf(session)));
  const draws = await Promise.all(sessions.map((session) => session.sample(drawing(session, 3, 3))));
  for (const drawn of draws) t.deepEqual(drawn, draws[0]);
});

test('several Sessions at once, and worker threads that are ended in the middle of a call', async (t) => {
  const set = await images();
  const sessions = await Promise.all([1, 2, 1, 2].map(ready));
  const results = await Promise.all(sessions.map((session) => session.train(set, fit(20))));
  for (const result of results) t.deepEqual(result.losses, results[0]?.losses);

  const source = `
    const { parentPort, workerData } = require('node:worker_threads');
    const native = require(workerData.path);
    native.setErrorClass(class extends Error { constructor(code, message) { super(message); this.code = code; } });
    const session = native.createSession(workerData.model, workerData.noise, { threads: 2 });
    const images = native.createImages(${COUNT}, 8, 8, 1);
    session.init(1n).then(() => { session.train(images, workerData.fit); parentPort.postMessage('training'); });
  `;
  const { unetModel } = await import('../../src/ddpm/model/unet.ts');
  const path = Object.keys((await import('node:module')).createRequire(import.meta.url).cache).find((file) =>
    file.endsWith('phoenix-cpu.node'),
  );
  t.truthy(path, 'the addon that this process has loaded');
  for (let round = 0; round < 3; round++) {
    const workers = Array.from(
      { length: 4 },
      () =>
        new Worker(source, {
          eval: true,
          workerData: { path, model: unetModel(unet), noise: { prediction: 'eps', alphaBar: noise().alphaBar }, fit: fit(100_000) },
        }),
    );
    await Promise.all(workers.map((worker) => new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))));
    const codes = await Promise.all(workers.map((worker) => worker.terminate()));
    t.deepEqual(codes, [1, 1, 1, 1]);
  }
  t.is((await sessions[0]?.train(set, fit(1)))?.losses.length, 1, 'this thread goes on');
});

test('the addon says what it is', (t) => {
  const info = addon().info();
  t.is(info.backend, 'cpu');
  t.is(info.real, 'float32');
  t.true(info.isas.includes(info.isa));
});
