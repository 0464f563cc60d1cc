/**
 * The federated layer on the real engine: a small class-conditional U-Net over 8×8 images. The rules of a round are tested in chapter 31.
 */
import test from 'ava';
import { createImages, createNativeSession } from '../../src/bindings/session.ts';
import { createVector, type Vector } from '../../src/bindings/vector.ts';
import { atStart } from '../../src/ddpm/fit.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { drawSamples } from '../../src/ddpm/sample.ts';
import { trainLocal } from '../../src/ddpm/train.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import { applyServerStep, type ServerStep, startMoments } from '../../src/fl/server/server-step.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { memoryStore } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { decodeVector, encodeVector } from '../../src/fl/wire/codec.ts';
import { rng, streamKey } from '../../src/rng.ts';
import { near } from '../support/near.ts';
import { testFit } from '../support/plain-fit.ts';

const schedule = noise();
const unet = unetConfig({
  height: 8,
  width: 8,
  inChannels: 1,
  blockOutChannels: [8, 16],
  layersPerBlock: 1,
  attention: [false, true],
  normGroups: 4,
  numClasses: 2,
});
const count = 60;
const draw = rng(1, 'pixels');
const pixels = Uint8Array.from({ length: count * 64 }, () => draw.int(256));
const classes = Int32Array.from({ length: count }, (_, i) => i % 2);
const images = await createImages({ pixels, count, height: 8, width: 8, channels: 1 });

const fit = testFit({ epochs: 1 }, { flip: true });

const range = (from: number, n: number) => Int32Array.from({ length: n }, (_, i) => from + i);
const newSession = (threads = 2) => createNativeSession({ model: unetModel(unet), noise: schedule, threads });
const numbers = async (vector: Vector) => new Float32Array((await vector.toBytes(0, vector.length)).slice().buffer);

type World = { dataOf: Int32Array[]; rounds?: number; threads?: number; stream?(id: string, round: number): bigint };

async function federate({ dataOf, rounds = 1, threads, stream }: World) {
  const session = newSession(threads);
  const store = memoryStore();
  const clients = dataOf.map((train, i) =>
    createClient({ id: `c${i}`, session, images, train, heldOut: range(50, 5), classes, store, seed: 3, stream }),
  );
  const strategy = fedavg();
  const state = await initialState({ session, seed: 3, strategy });
  const records: RoundRecord[] = [];
  const end = await runFederation(state, {
    transport: memoryTransport(clients),
    strategy,
    fit,
    rounds,
    seed: 3,
    createVector: session.createVector,
    onRound: (_, record) => void records.push(record),
  });
  return { session, state: end, records };
}

test('one client for one round is local training', async (t) => {
  const { state, records } = await federate({ dataOf: [range(0, 10)] });
  using alone = newSession();
  await alone.init(streamKey(3, 'init'));
  const key = streamKey(3, 'train', 'c0', 1);
  const trained = await trainLocal({ session: alone, images, classes, indices: range(0, 10), key, ...fit, position: atStart });
  near(t, records[0]!.loss!, trained.loss, { relative: 1e-6 }, 'loss');
  near(t, await numbers(state.params), await numbers(alone.params), { norm: 1e-6 }, 'parameters');
});

test('clients with the same data and stream are one client', async (t) => {
  const stream = (_id: string, round: number) => streamKey(9, 'shared', round);
  const one = await federate({ dataOf: [range(0, 10)], stream });
  const many = await federate({ dataOf: Array(4).fill(range(0, 10)), stream });
  near(t, await numbers(many.state.params), await numbers(one.state.params), { norm: 1e-6 });
});

test('equal seeds give equal bytes, whatever the number of threads; the data held out is judged', async (t) => {
  const dataOf = [range(0, 10), range(10, 15), range(25, 20)];
  const [a, b] = [await federate({ dataOf, rounds: 2, threads: 1 }), await federate({ dataOf, rounds: 2, threads: 2 })];
  t.deepEqual(await numbers(a.state.params), await numbers(b.state.params));
  t.deepEqual(await numbers(a.state.ema), await numbers(b.state.ema));
  t.deepEqual(
    a.records.map(({ loss, evalLoss, evalLossLocal }) => [loss, evalLoss, evalLossLocal]),
    b.records.map(({ loss, evalLoss, evalLossLocal }) => [loss, evalLoss, evalLossLocal]),
  );
  t.true(a.records.every(({ loss, evalLoss }) => loss! > 0 && evalLoss! > 0));
});

test('training in two loops is training in one', async (t) => {
  using whole = newSession();
  using halves = newSession();
  const key = 5n;
  const indices = range(0, 12);
  await whole.init(1n);
  await halves.init(1n);
  const common = { images, classes, indices, key, hyper: { ...fit.hyper, emaDecay: 0.99 } };
  await trainLocal({ session: whole, ...common, length: { epochs: 2 }, position: atStart });
  await trainLocal({ session: halves, ...common, length: { epochs: 1 }, position: atStart });
  const middle = { globalStep: 3, adamStep: 3, firstStep: 3 };
  await trainLocal({ session: halves, ...common, length: { epochs: 1 }, position: middle });
  t.deepEqual(await numbers(halves.params), await numbers(whole.params));
  t.deepEqual(await numbers(halves.ema), await numbers(whole.ema));
});

test('samples are images that do not depend on the batch', async (t) => {
  using session = newSession();
  await session.init(1n);
  const options = { session, noise: schedule, count: 3, steps: 4, key: 2n, classes: Int32Array.of(0, 1, 0) };
  const together = await drawSamples(options);
  t.is(together.length, 3 * 64);
  t.true(together.every((value) => value >= -1 && value <= 1));
  const alone = await drawSamples({ ...options, batch: 1 });
  near(t, together, alone, 1e-4);
  await t.throwsAsync(drawSamples({ ...options, count: 0 }), { code: 'ERR_PHOENIX_ARGUMENT' });
  await t.throwsAsync(drawSamples({ ...options, classes: Int32Array.of(0) }), { code: 'ERR_PHOENIX_ARGUMENT' });
});

test('server steps of native vectors against values worked out by hand', async (t) => {
  const [lr, beta1, beta2, tau] = [0.3, 0.9, 0.99, 0.01];
  const v1 = { adam: beta2 * tau ** 2 + (1 - beta2) * 0.25, yogi: tau ** 2 + (1 - beta2) * 0.25 };
  const v2 = { adam: beta2 * v1.adam + (1 - beta2) * 0.0625, yogi: v1.yogi + (1 - beta2) * 0.0625 };
  const m1 = (1 - beta1) * 0.5;
  const m2 = beta1 * m1 + (1 - beta1) * -0.25;
  const adaptive = (kind: 'adam' | 'yogi') => 1 + (lr * m1) / (Math.sqrt(v1[kind]) + tau) + (lr * m2) / (Math.sqrt(v2[kind]) + tau);
  const expected = { add: 1 + lr * 0.25, momentum: 1 + lr * (0.5 + beta1 * 0.5 - 0.25), adam: adaptive('adam'), yogi: adaptive('yogi') };
  for (const kind of ['add', 'momentum', 'adam', 'yogi'] as const) {
    const step: ServerStep = { kind, lr, beta1, beta2, tau };
    const [params, delta] = [createVector(40_000), createVector(40_000)];
    await params.fill(1);
    const moments = await startMoments(step, params.length, createVector);
    for (const value of [0.5, -0.25]) {
      await delta.fill(value);
      await applyServerStep(step, lr, params, delta, moments);
    }
    near(t, await numbers(params), new Float64Array(params.length).fill(expected[kind]), 1e-5, kind);
  }
});

test('an update of native vectors arrives exactly', async (t) => {
  const [delta, into] = [createVector(3), createVector(3)];
  await delta.fromBytes(new Uint8Array(Float32Array.of(1.5, -0, 3e-40).buffer), 0);
  const { head, blob } = await encodeVector(delta);
  await decodeVector(head, [blob], into);
  t.deepEqual(await numbers(into), await numbers(delta));
});
