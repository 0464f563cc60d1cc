import test from 'ava';
import type { Vector } from '../../src/bindings/vector.ts';
import { atStart, emaDecayAt } from '../../src/ddpm/fit.ts';
import { trainLocal } from '../../src/ddpm/train.ts';
import { PhoenixError } from '../../src/errors.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import { selectClients } from '../../src/fl/server/select.ts';
import {
  applyServerStep,
  extrapolation,
  rateOfRound,
  type ServerStep,
  type ServerStepKind,
  serverSteps,
  startMoments,
} from '../../src/fl/server/server-step.ts';
import { type Answer, type ClientOptions, createClient } from '../../src/fl/site/client.ts';
import type { FederationState } from '../../src/fl/state.ts';
import { memoryStore, type Store } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import type { Blob, Message, Transport } from '../../src/fl/transport.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { encodeHead, message } from '../../src/fl/wire/message.ts';
import { streamKey } from '../../src/rng.ts';
import { changed, type FakeFederation, fakeFederation, range } from '../support/fake-federation.ts';
import { fakeImages, fakeSession } from '../support/fake-session.ts';
import { alive, fakeVector } from '../support/fake-vector.ts';
import { near } from '../support/near.ts';
import { testFit, testHyper } from '../support/plain-fit.ts';

const P = 6;
const images = fakeImages(1000);
const fit = testFit({ epochs: 2 }, { lr: 0.05 });

const ground = { parameters: P, images: images.count, sizes: [10, 15, 20], heldOut: 3, options: { fit } };
type World = FakeFederation & { dataOf?(client: number): Int32Array; stream?: ClientOptions['stream'] };
const world = ({ dataOf, stream, ...rest }: World = {}) =>
  fakeFederation(ground, { client: (i) => ({ stream, ...(dataOf && { train: dataOf(i) }) }), ...rest });

const numbers = async (vector: Vector) => [...new Float32Array((await vector.toBytes(0, vector.length)).buffer)];
const bytes = (vector: Vector) => vector.toBytes(0, vector.length);

test('one client for one round is local training', async (t) => {
  const w = await world({ sizes: [10] });
  const alone = fakeSession({ length: P });
  await alone.init(streamKey(3, 'init'));
  const trained = await trainLocal({
    session: alone,
    images,
    indices: range(0, 10),
    key: streamKey(3, 'train', 'a', 1),
    ...fit,
    position: atStart,
  });
  const state = await w.run(1);
  near(t, await numbers(state.params), await numbers(alone.params), { norm: 1e-6 });
  t.is(state.globalStep, trained.steps);
  t.is(w.records[0]!.loss, trained.loss);
});

test('clients with the same data and stream are one client', async (t) => {
  const stream = (_id: string, round: number) => streamKey(9, 'shared', round);
  const one = await world({ sizes: [10], stream });
  const many = await world({ sizes: [10, 10, 10, 10, 10], stream, dataOf: () => range(0, 10) });
  const [a, b] = [await one.run(4), await many.run(4)];
  near(t, await numbers(b.params), await numbers(a.params), { norm: 1e-6 });
  t.is(a.globalStep, b.globalStep);
});

test('equal seeds give equal bytes, other seeds others', async (t) => {
  const runs = await Promise.all([3, 3, 4].map(async (seed) => (await world({ seed })).run(3, { fraction: 0.67 })));
  const [a, b, c] = await Promise.all(runs.map(async (state) => [await bytes(state.params), await bytes(state.ema)]));
  t.deepEqual(a, b);
  t.notDeepEqual(a, c);
});

test('rounds may be run in pieces: the state is all that the next round depends on', async (t) => {
  const keep = { fit: { ...fit, optimizer: 'keep' as const } };
  const whole = await world();
  const end = await whole.run(5, keep);

  const first = await world();
  const middle = await first.run(2, keep);
  const second = await world({ store: first.store });
  const plain = JSON.parse(JSON.stringify({ ...middle, params: undefined, ema: undefined }));
  const carried: FederationState = { ...plain, params: second.state.params, ema: second.state.ema };
  await carried.params.fromBytes(await bytes(middle.params), 0);
  await carried.ema.fromBytes(await bytes(middle.ema), 0);
  const resumed = await second.run(5, keep, carried);
  t.deepEqual(await bytes(resumed.params), await bytes(end.params));
  t.deepEqual(await bytes(resumed.ema), await bytes(end.ema));
  t.deepEqual([resumed.round, resumed.globalStep, resumed.images], [end.round, end.globalStep, end.images]);
  t.deepEqual(
    second.records.map((record) => record.round),
    [3, 4, 5],
  );
});

test('FedAvg weighs by examples, and params move by the weighted mean of the deltas', async (t) => {
  const w = await world();
  const before = await numbers(w.state.params);
  const deltas: number[][] = [];
  for (const client of ['a', 'b', 'c']) {
    const i = client.charCodeAt(0) - 97;
    const alone = fakeSession({ length: P });
    await alone.init(streamKey(3, 'init'));
    await trainLocal({
      session: alone,
      images,
      indices: range(50 * i, 10 + 5 * i),
      key: streamKey(3, 'train', client, 1),
      ...fit,
      position: atStart,
    });
    deltas.push((await numbers(alone.params)).map((p, j) => p - before[j]!));
  }
  const state = await w.run(1);
  const expected = before.map((p, j) => p + (10 * deltas[0]![j]! + 15 * deltas[1]![j]! + 20 * deltas[2]![j]!) / 45);
  near(t, await numbers(state.params), expected, { norm: 1e-6 });
  const [record] = w.records;
  t.deepEqual(
    record!.clients.map(({ client, weight }) => [client, weight]),
    [
      ['a', 10 / 45],
      ['b', 15 / 45],
      ['c', 20 / 45],
    ],
  );
});

test('a record adds up what the clients reported', async (t) => {
  const w = await world();
  await w.run(1);
  const { clients, loss, images: drawn, evalLoss, evalLossLocal, failures } = w.records[0]!;
  t.deepEqual(
    clients.map((client) => [client.steps, client.images]),
    [
      [6, 24],
      [8, 32],
      [10, 40],
    ],
  );
  t.is(drawn, 96);
  t.is(loss, clients.reduce((sum, client) => sum + client.loss! * client.images, 0) / 96);
  near(t, evalLoss, clients.reduce((sum, client) => sum + client.evalLoss!, 0) / 3, 1e-12);
  t.true(evalLossLocal! < evalLoss!, 'local training lowers the loss of the data held out');
  t.true(clients.every((client) => client.evalImages === 3 && client.deltaNorm! > 0));
  t.deepEqual(failures, []);
});

test('evalLoss is that of the global model: it falls over rounds', async (t) => {
  const w = await world();
  await w.run(8);
  t.true(w.records.at(-1)!.evalLoss! < w.records[0]!.evalLoss!);
});

test('a client that dies after its report is left out, its weight too, and the round closes', async (t) => {
  const dead = await world({ failures: [{ client: 'b', round: 1, stage: 'upload' }] });
  const state = await dead.run(1);
  const [record] = dead.records;
  t.deepEqual(
    record!.clients.map(({ client, weight }) => [client, Math.round(weight * 1e9) / 1e9]),
    [
      ['a', Math.round(1e9 / 3) / 1e9],
      ['b', 0],
      ['c', Math.round(2e9 / 3) / 1e9],
    ],
  );
  t.like(record!.failures, [{ client: 'b', round: 1, stage: 'upload' }]);

  const never = await world({ failures: [{ client: 'b', round: 1, stage: 'train' }] });
  const other = await never.run(1);
  near(t, await numbers(state.params), await numbers(other.params), { norm: 1e-6 }, 'as if it had not answered at all');
  t.deepEqual(
    never.records[0]!.clients.map((client) => client.client),
    ['a', 'c'],
  );
  t.like(never.records[0]!.failures, [{ client: 'b', stage: 'train' }]);
});

test('a round that no client finishes is an error, and the state stays as it was', async (t) => {
  for (const stage of ['train', 'upload'] as const) {
    const w = await world({ sizes: [10, 15], failures: ['a', 'b'].map((client) => ({ client, round: 2, stage })) });
    const one = await w.run(1);
    const before = [await bytes(one.params), await bytes(one.ema)];
    const error = await t.throwsAsync(w.run(2, {}, one), { code: 'ERR_PHOENIX_ROUND' });
    t.regex(error!.message, new RegExp(`round 2.*a \\(${stage}\\)`));
    t.deepEqual([await bytes(one.params), await bytes(one.ema)], before);
    t.is(one.round, 1);
  }
});

test('a client that fails in training is a Failure with its reason', async (t) => {
  const w = await world({
    wrap: (client) => (client.hello.id === 'c' ? changed(client, 'train', () => Promise.reject(new Error('no power'))) : client),
  });
  await w.run(2);
  t.deepEqual(
    w.records.map((record) => record.failures),
    [1, 2].map((round) => [{ client: 'c', round, stage: 'train', reason: 'no power' }]),
  );
});

/** The blob of an answer in place of its own. */
const withBytes = (answer: Answer, bytes: Uint8Array): Answer => {
  const [{ name }] = answer.blobs as [Blob];
  return { ...answer, blobs: [{ name, length: bytes.length, read: async () => bytes }] };
};
const read = async (answer: Answer) => {
  const [blob] = answer.blobs;
  return blob!.vector ? blob!.vector.toBytes(0, P) : blob!.read();
};

test('updates that are damaged or not finite are left out', async (t) => {
  const spoil: Record<string, (answer: Answer) => Answer | Promise<Answer>> = {
    truncated: async (answer) => withBytes(answer, (await read(answer)).slice(0, -4)),
    'too long': async (answer) => withBytes(answer, Uint8Array.of(...(await read(answer)), 0, 0, 0, 0)),
    empty: (answer) => withBytes(answer, new Uint8Array(0)),
    'no blob': (answer) => ({ ...answer, blobs: [] }),
    'not as long as it says': (answer) => ({ ...answer, blobs: [{ ...answer.blobs[0]!, read: async () => new Uint8Array(3) } as Blob] }),
    'another blob': (answer) => ({ ...answer, head: { ...answer.head, blob: `sha256:${'0'.repeat(64)}` } }),
    'another size': (answer) => ({ ...answer, head: { ...answer.head, count: P + 1 } }),
    'another codec': (answer) => ({ ...answer, head: { ...answer.head, codec: 'int8' } }),
    'no codec': (answer) => ({ ...answer, head: { ...answer.head, codec: 'constructor' } }),
    'no head': (answer) => ({ ...answer, head: {} }),
    NaN: async (answer) => withBytes(answer, Uint8Array.from(await read(answer)).fill(0xff, -4)),
  };
  for (const [name, damage] of Object.entries(spoil)) {
    const w = await world({ wrap: (client) => (client.hello.id === 'a' ? changed(client, 'upload', damage) : client) });
    const state = await w.run(1);
    t.like(w.records[0]!.failures, [{ client: 'a', stage: 'upload' }], name);
    t.is(w.records[0]!.failures.length, 1, name);
    t.true(await state.params.isFinite());
  }
});

test('so are updates handed over as vectors', async (t) => {
  const withVector = (answer: Answer, length: number, last = 0): Answer => {
    const vector = fakeVector(length);
    vector.values[length - 1] = last;
    return { ...answer, blobs: [{ ...answer.blobs[0]!, vector } as Blob] };
  };
  const spoil: Record<string, (answer: Answer) => Answer> = {
    none: (answer) => answer,
    'too short': (answer) => withVector(answer, P - 1),
    'too short, and says so': (answer) => ({ ...withVector(answer, P - 1), head: { ...answer.head, count: P - 1 } }),
    'of a codec for bytes': (answer) => ({ ...answer, head: { ...answer.head, codec: 'int8' } }),
    NaN: (answer) => withVector(answer, P, Number.NaN),
  };
  for (const [name, damage] of Object.entries(spoil)) {
    const w = await world({
      carriesVectors: true,
      wrap: (client) => (client.hello.id === 'a' ? changed(client, 'upload', damage) : client),
    });
    const state = await w.run(1);
    const failed = w.records[0]!.failures.map(({ client, stage }) => ({ client, stage }));
    t.deepEqual(failed, name === 'none' ? [] : [{ client: 'a', stage: 'upload' }], name);
    t.true(await state.params.isFinite());
  }
});

test('an update of another norm than was reported is left out; without a report of it none is', async (t) => {
  const report = (change: (norm: number) => number | undefined) =>
    world({
      wrap: (client) =>
        client.hello.id !== 'a'
          ? client
          : changed(client, 'train', (answer) => ({
              ...answer,
              head: { ...answer.head, deltaNorm: change((answer.head as { deltaNorm: number }).deltaNorm) },
            })),
    });
  for (const change of [(norm: number) => norm * 1.001, (norm: number) => norm * 0.999, () => 0]) {
    const lied = await report(change);
    await lied.run(1);
    t.regex(lied.records[0]!.failures[0]!.reason, /update of client a in round 1 has the norm .*, but its report says/);
  }
  for (const change of [(norm: number) => norm * 1.00001, () => undefined]) {
    const fair = await report(change);
    await fair.run(1);
    t.deepEqual(fair.records[0]!.failures, []);
  }
});

test('handed over as vectors, a federation is the same, but for the Store; without room they go there as bytes', async (t) => {
  const run = async (carriesVectors: boolean, room: number) => {
    let made = 0;
    const createVector = (length: number) => {
      if (made === room) throw new PhoenixError('ERR_PHOENIX_MEMORY', 'no room');
      made++;
      const vector = fakeVector(length);
      let left = 1;
      const dispose = () => {
        made -= left;
        left = 0;
        vector.dispose();
      };
      return { ...vector, dispose };
    };
    const stored = new Set<string>();
    const full = memoryStore();
    const store: Store = { ...full, set: (key, value) => full.set(key, value).then(() => void stored.add(key)) };
    let reports = 0; // bytes; they vary with the seconds in them
    const w = await world({
      carriesVectors,
      createVector,
      store,
      failures: [{ client: 'b', round: 2, stage: 'upload' }],
      wrap: (client) =>
        changed(client, 'train', (answer, request) => {
          reports += encodeHead(message('train', request.round, answer.head)).length;
          return answer;
        }),
    });
    const { params, ema } = await w.run(3, { createVector });
    t.is(made, 0, 'all vectors are freed');
    t.deepEqual(await store.keys(), []);
    const { bytesUp, bytesDown } = w.transport.traffic();
    const records = w.records.map((record) => ({
      ...record,
      bytesUp: 0,
      bytesDown: 0,
      seconds: 0,
      clients: record.clients.map((client) => ({ ...client, seconds: 0 })),
    }));
    return {
      same: { params: await bytes(params), ema: await bytes(ema), records },
      up: bytesUp - reports,
      down: bytesDown,
      stored: [...stored],
    };
  };
  const plain = await run(false, Infinity);
  const free = await run(true, Infinity);
  const narrow = await run(true, 6);
  t.deepEqual(free.same, plain.same);
  t.deepEqual(narrow.same, plain.same);
  const updates = ({ stored }: { stored: string[] }) => stored.filter((key) => key.endsWith('/update'));
  t.deepEqual([plain, free, narrow].map(updates), [['a/update', 'b/update', 'c/update'], [], ['c/update']]);
  // Names of vectors are shorter than hashes; the bytes of the blobs are counted alike.
  const names = 'sha256:'.length + 64 - 'local:1'.length;
  near(t, plain.up - free.up, 8 * 2 * names, 8 * 2 * 4);
  near(t, plain.down - free.down, 9 * 2 * names, 9 * 2 * 4);
});

test('trouble of the host ends the round instead of leaving clients out', async (t) => {
  const full = memoryStore();
  const store: Store = {
    ...full,
    set: (key, value) =>
      key.startsWith('b/') ? Promise.reject(new PhoenixError('ERR_PHOENIX_IO', 'the disk is full')) : full.set(key, value),
  };
  const w = await world({ store });
  await t.throwsAsync(w.run(1), { code: 'ERR_PHOENIX_IO' });
  t.is(w.records.length, 0);
});

test('an abort rejects with its reason, between and in rounds, and leaves the state of the last whole round', async (t) => {
  const w = await world();
  const controller = new AbortController();
  const reason = new Error('stop');
  let snapshot: Uint8Array[] = [];
  const running = w.run(9, {
    signal: controller.signal,
    onRound: async (state) => {
      snapshot = [await bytes(state.params), await bytes(state.ema)];
    },
    onStep: ({ round, client }) => round === 2 && client === 'b' && controller.abort(reason),
  });
  t.is(await t.throwsAsync(running), reason);
  t.deepEqual([await bytes(w.state.params), await bytes(w.state.ema)], snapshot);
  t.is(await t.throwsAsync(w.run(9, { signal: controller.signal })), reason);
});

test('steps name client and round', async (t) => {
  const w = await world();
  const seen = new Set<string>();
  await w.run(2, { onStep: ({ client, round }) => seen.add(`${client}${round}`) });
  t.deepEqual([...seen], ['a1', 'b1', 'c1', 'a2', 'b2', 'c2']);
});

test('partial participation: max(1, round(fraction·n)), reproducible, different from round to round', async (t) => {
  const infos = Array.from({ length: 10 }, (_, i) => ({ id: `c${i}`, examples: 1 }));
  const ids = (fraction: number, round: number, seed = 1) => selectClients(infos, fraction, seed, round).map((info) => info.id);
  t.is(ids(1, 1).length, 10);
  t.is(ids(0.25, 1).length, 3);
  t.is(ids(0.001, 1).length, 1);
  t.deepEqual(ids(0.5, 4), ids(0.5, 4));
  t.true(new Set(Array.from({ length: 20 }, (_, round) => ids(0.3, round).join())).size > 10);
  t.is(new Set(Array.from({ length: 40 }, (_, round) => ids(0.3, round)).flat()).size, 10, 'everybody gets a turn');
  for (const fraction of [0, -1, 1.1, NaN]) t.throws(() => ids(fraction, 1), { code: 'ERR_PHOENIX_ARGUMENT' });

  const w = await world({ sizes: [10, 11, 12, 13] });
  await w.run(4, { fraction: 0.5 });
  const again = await world({ sizes: [10, 11, 12, 13] });
  await again.run(4, { fraction: 0.5 });
  const who = (records: RoundRecord[]) => records.map((record) => record.clients.map((client) => client.client));
  t.deepEqual(who(w.records), who(again.records));
  t.true(who(w.records).every((clients) => clients.length === 2));
});

test('optimizer reset starts each round at zero moments, keep goes on with those of the client', async (t) => {
  const moments = async (optimizer: 'reset' | 'keep') => {
    const w = await world({ sizes: [10, 10], store: memoryStore() });
    await w.run(2, { fit: { ...fit, optimizer } });
    return {
      ...w,
      adamSteps: w.session.calls.filter((call) => call.firstStep === 0).map((call) => call.adamStep),
      keys: await w.store.keys(),
    };
  };
  const reset = await moments('reset');
  const keep = await moments('keep');
  t.deepEqual(reset.adamSteps, [0, 0, 0, 0]);
  t.deepEqual(keep.adamSteps, [0, 0, 6, 6]);
  t.deepEqual(reset.keys, [], 'nothing is left behind');
  t.deepEqual(keep.keys.sort(), ['a/adam-m-2', 'a/adam-v-2', 'a/kept', 'b/adam-m-2', 'b/adam-v-2', 'b/kept']);
  t.notDeepEqual(await bytes(reset.state.params), await bytes(keep.state.params));

  await keep.store.set('a/adam-m-2', new Uint8Array(5));
  await t.throwsAsync(keep.run(3, { fit: { ...fit, optimizer: 'keep' } }, { ...keep.state, round: 2 }), { code: 'ERR_PHOENIX_RUN' });
});

test("moments that were kept are a client's own: one client kept over rounds is one long training", async (t) => {
  const stream = () => 5n;
  const w = await world({ sizes: [8], stream });
  await w.run(3, { fit: { ...fit, optimizer: 'keep' } });
  const alone = fakeSession({ length: P });
  await alone.init(streamKey(3, 'init'));
  let adamStep = 0;
  for (let round = 0; round < 3; round++)
    ({ adamStep } = await trainLocal({
      session: alone,
      images,
      indices: range(0, 8),
      key: 5n,
      ...fit,
      position: { globalStep: 4 * round, adamStep, firstStep: 0 },
    }));
  near(t, await numbers(w.state.params), await numbers(alone.params), { norm: 1e-6 });
});

test('FedProx pulls towards the parameters received', async (t) => {
  const plain = await world({ sizes: [10] });
  const prox = await world({ sizes: [10] });
  await plain.run(1);
  await prox.run(1, { fit: { ...fit, hyper: testHyper({ lr: 0.05, mu: 5 }) } });
  t.true(prox.records[0]!.clients[0]!.deltaNorm! < plain.records[0]!.clients[0]!.deltaNorm!);
  t.true(prox.session.calls.every((call) => call.hyper.mu === 5 && call.anchor !== undefined));
  t.true(plain.session.calls.every((call) => call.anchor === undefined));
});

test('warm-up counts global steps: the mean over the clients, summed over rounds', async (t) => {
  const w = await world();
  const state = await w.run(2, { fit: { ...fit, hyper: testHyper({ lr: 0.05, warmupSteps: 100 }) } });
  const perRound = Math.round((10 * 6 + 15 * 8 + 20 * 10) / 45);
  t.is(state.globalStep, 2 * perRound);
  const starts = w.session.calls.filter((call) => call.firstStep === 0).map((call) => call.globalStep);
  t.deepEqual(starts, [0, 0, 0, perRound, perRound, perRound]);
});

test('the server EMA decays by the product over the steps of the round', async (t) => {
  const w = await world();
  const start = await numbers(w.state.ema);
  const state = await w.run(1, { emaDecay: 0.8 });
  let decay = 1;
  for (let n = 0; n < state.globalStep; n++) decay *= emaDecayAt(n, 0.8);
  const params = await numbers(state.params);
  const expected = start.map((e, j) => decay * e + (1 - decay) * params[j]!);
  near(t, await numbers(state.ema), expected, { norm: 1e-6 });

  const off = await world();
  const same = await off.run(2, { emaDecay: 0 });
  near(t, await numbers(same.ema), await numbers(same.params), { norm: 1e-6 });
});

/** Two server steps by hand, for one parameter that starts at 1 and mean deltas 0.5, then -0.25. */
type Numbers = ServerStep & { lr: number };
const byHand: Record<ServerStepKind, (step: Numbers) => number> = {
  add: ({ lr }) => 1 + lr * 0.5 + lr * -0.25,
  momentum: ({ lr, beta1 }) => 1 + lr * 0.5 + lr * (beta1 * 0.5 - 0.25),
  lookahead: ({ lr, beta1 }) => 1 + lr * 0.5 + lr * (beta1 * 0.5 - 0.25),
  adam({ lr, beta1, beta2, tau }) {
    const m1 = (1 - beta1) * 0.5;
    const v1 = beta2 * tau * tau + (1 - beta2) * 0.25;
    const m2 = beta1 * m1 + (1 - beta1) * -0.25;
    const v2 = beta2 * v1 + (1 - beta2) * 0.0625;
    return 1 + (lr * m1) / (Math.sqrt(v1) + tau) + (lr * m2) / (Math.sqrt(v2) + tau);
  },
  yogi({ lr, beta1, beta2, tau }) {
    const m1 = (1 - beta1) * 0.5;
    const v1 = tau * tau + (1 - beta2) * 0.25; // δ² > v, so v grows
    const m2 = beta1 * m1 + (1 - beta1) * -0.25;
    const v2 = v1 + (1 - beta2) * 0.0625; // 0.0625 > v1 as well
    return 1 + (lr * m1) / (Math.sqrt(v1) + tau) + (lr * m2) / (Math.sqrt(v2) + tau);
  },
};

for (const kind of Object.keys(byHand) as ServerStepKind[]) {
  test(`server step ${kind} against values worked out by hand`, async (t) => {
    const step: Numbers = { kind, lr: 0.3, beta1: 0.9, beta2: 0.99, tau: 0.01 };
    const [params, delta] = [fakeVector(1), fakeVector(1)];
    await params.fill(1);
    const moments = await startMoments(step, 1, fakeVector);
    for (const value of [0.5, -0.25]) {
      await delta.fill(value);
      await applyServerStep(step, step.lr, params, delta, moments);
    }
    const expected = byHand[kind](step);
    near(t, await numbers(params), [expected], { relative: 1e-6 });

    const w = await world({ serverStep: step });
    const before = await bytes(w.state.params);
    await w.run(2);
    t.notDeepEqual(await bytes(w.state.params), before);
  });
}

test('FedExP extrapolates where updates disagree: by hand', (t) => {
  const updates = (...norms: number[]) => norms.map((norm) => ({ weight: 1 / norms.length, norm }));
  // Two orthogonal updates of norm 2: the mean has 4·(1/4 + 1/4) = 2 for its square, so 4/(2·2) = 1.
  near(t, extrapolation(updates(2, 2), Math.SQRT2), 1, 1e-12);
  // Ten of norm 1 with a mean cosine of 0.1: 1/(2·(0.1 + 0.9·0.1)).
  near(t, extrapolation(updates(...Array<number>(10).fill(1)), Math.sqrt(0.19)), 1 / 0.38, 1e-12);
  t.is(extrapolation(updates(1, 1, 1), 1), 1, 'updates that agree');
  t.is(extrapolation(updates(5, 5), 0.1), 3, 'never more than 3');
  t.is(extrapolation([], 1), 1);
  t.is(extrapolation(updates(0, 0), 0), 1);
  t.is(rateOfRound({ ...serverSteps.momentum, lr: 'fedexp', beta1: 0.6 }, updates(5, 5), 0.1), 0.4 * 3);
  t.is(rateOfRound({ ...serverSteps.add, lr: 0.7 }, updates(5, 5), 0.1), 0.7);
});

test('with FedExP a round moves the model by its extrapolated mean; adam and yogi refuse it', async (t) => {
  const plain = await world();
  const start = await numbers(plain.state.params);
  const mean = (await numbers((await plain.run(1)).params)).map((p, i) => p - start[i]!);
  const { clients } = plain.records[0]!;
  const squares = clients.reduce((sum, { weight, deltaNorm }) => sum + weight * deltaNorm! ** 2, 0);
  const factor = Math.min(3, Math.max(1, squares / (2 * mean.reduce((sum, value) => sum + value * value, 0))));
  for (const [kind, share] of [
    ['add', 1],
    ['momentum', 0.4],
  ] as const) {
    const w = await world({ serverStep: { ...serverSteps[kind], lr: 'fedexp', ...(kind === 'momentum' && { beta1: 0.6 }) } });
    const moved = (await numbers((await w.run(1)).params)).map((p, i) => p - start[i]!);
    near(
      t,
      moved,
      mean.map((value) => share * factor * value),
      { norm: 1e-5 },
    );
  }
  const w = await world();
  await t.throwsAsync(w.run(1, { serverStep: { ...serverSteps.adam, lr: 'fedexp' } }), { message: /adam takes a number for lr/ });
});

test('with lookahead clients begin where the momentum leads', async (t) => {
  const serverStep: ServerStep = { ...serverSteps.lookahead, lr: 0.5, beta1: 0.8 };
  const w = await world({ sizes: [10], serverStep });
  const [p0] = [await numbers(w.state.params)];
  const first = await w.run(1);
  const p1 = await numbers(first.params);
  // m = δ and p1 = p0 + lr·m, so the second round begins at p1 + 0.8·(p1 - p0).
  const ahead = p1.map((value, i) => value + 0.8 * (value - p0[i]!));
  const alone = fakeSession({ length: P });
  await alone.params.fromBytes(new Uint8Array(Float32Array.from(ahead).buffer), 0);
  const { globalStep } = first;
  await trainLocal({
    session: alone,
    images,
    indices: range(0, 10),
    key: streamKey(3, 'train', 'a', 2),
    ...fit,
    position: { ...atStart, globalStep },
  });
  const delta = (await numbers(alone.params)).map((value, i) => value - ahead[i]!);
  const expected = p1.map((value, i) => value + 0.8 * (value - p0[i]!) + 0.5 * delta[i]!);
  near(t, await numbers((await w.run(2, {}, first)).params), expected, { norm: 1e-5 });
});

test('a server step out of range, or with the moments of another kind, is refused before anything is done', async (t) => {
  const w = await world();
  const good: ServerStep = { kind: 'adam', lr: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3 };
  for (const serverStep of [
    good,
    { ...good, kind: 'add' as const, lr: 0 },
    { ...good, kind: 'add' as const, beta1: 1 },
    { ...good, kind: 'sgd' as ServerStepKind },
  ]) {
    await t.throwsAsync(w.run(1, { serverStep }), { code: 'ERR_PHOENIX_ARGUMENT' });
  }
  t.is(w.session.calls.length, 0);
});

test('bytes are what a network would carry', async (t) => {
  const sent: { down: Message[]; up: Message[] } = { down: [], up: [] };
  const w = await world({
    failures: [{ client: 'c', round: 2, stage: 'upload' }],
    wrap: (client) => ({
      ...client,
      async answer(request, options) {
        sent.down.push(request);
        const answer = await client.answer(request, options);
        sent.up.push(message(request.kind, request.round, answer.head, answer.blobs));
        return answer;
      },
    }),
  });
  await w.run(2);
  const of = (kind: string, way: Message[]) => way.filter((one) => one.kind === kind);
  t.deepEqual(
    ['train', 'upload', 'finish'].map((kind) => [of(kind, sent.down).length, of(kind, sent.up).length]),
    [
      [6, 6],
      [5, 5],
      [6, 6],
    ],
  );
  const length = ({ blobs }: Message) => blobs.reduce((sum, blob) => sum + blob.length, 0);
  t.deepEqual(of('train', sent.down).map(length), Array(6).fill(4 * P));
  t.deepEqual(of('upload', sent.up).map(length), Array(5).fill(4 * P));
  t.is(new Set(of('train', sent.down).map(({ blobs }) => blobs[0]!.name)).size, 2, 'one model for all clients of a round');
  const total = (way: Message[]) => way.reduce((sum, one) => sum + encodeHead(one).length + length(one), 0);
  const lost = encodeHead(message('upload', 2, { weight: 20 / 45, manifest: {} })).length;
  t.is(w.transport.traffic().bytesUp, total(sent.up));
  t.is(w.transport.traffic().bytesDown, total(sent.down) + lost, 'what never arrives was sent all the same');
  const finish = (way: 'down' | 'up') => total(of('finish', sent[way]));
  const sum = (key: 'bytesUp' | 'bytesDown') => w.records.reduce((all, record) => all + record[key], 0);
  t.is(sum('bytesUp'), total(sent.up) - finish('up'), 'a line of the log has the bytes of its round up to its commit');
  t.is(sum('bytesDown'), total(sent.down) + lost - finish('down'));
});

// Serial, since all tests count the same vectors.
test.serial('vectors alive do not grow with the number of clients, and all but the state are freed', async (t) => {
  const most = async (count: number) => {
    const w = await world({ sizes: Array(count).fill(10) });
    const before = alive.now;
    alive.most = before;
    await w.run(2);
    t.is(alive.now, before);
    return alive.most - before;
  };
  const few = await most(2);
  t.is(await most(20), few);
  t.true(few <= 2);
});

test('reports that come in another order give the same bytes', async (t) => {
  const plain = await world();
  const shuffled = await world();
  const transport: Transport = {
    ...shuffled.transport,
    async *ask(ids, request, options) {
      const outcomes = [];
      for await (const outcome of shuffled.transport.ask(ids, request, options)) outcomes.push(outcome);
      yield* outcomes.reverse();
    },
  };
  const [a, b] = [await plain.run(2), await shuffled.run(2, { transport })];
  t.deepEqual(await bytes(a.params), await bytes(b.params));
  t.deepEqual(
    shuffled.records.map((record) => record.clients.map((client) => client.client)),
    [
      ['a', 'b', 'c'],
      ['a', 'b', 'c'],
    ],
  );
});

test('clients that cannot be are refused', (t) => {
  const options = {
    session: fakeSession(),
    images,
    train: range(0, 5),
    heldOut: range(5, 2),
    store: memoryStore(),
    seed: 1,
    createVector: fakeVector,
  };
  for (const id of ['', '../x', 'a/b', '.hidden', 'x'.repeat(129)])
    t.throws(() => createClient({ ...options, id }), { code: 'ERR_PHOENIX_ARGUMENT' }, id);
  t.throws(() => createClient({ ...options, id: 'a', train: range(0, 0) }), { code: 'ERR_PHOENIX_ARGUMENT', message: /no images/ });
  const twins = [createClient({ ...options, id: 'a' }), createClient({ ...options, id: 'a' })];
  t.throws(() => memoryTransport(twins), { code: 'ERR_PHOENIX_ARGUMENT' });
});

test('at most 128 held-out images are judged by, spread over all; without any there is no evalLoss', async (t) => {
  const session = fakeSession({ length: P });
  const judged: Int32Array[] = [];
  const evalLoss = session.evalLoss;
  session.evalLoss = (set, options, signal) => {
    judged.push(options.indices);
    return evalLoss(set, options, signal);
  };
  const client = (id: string, heldOut: Int32Array) =>
    createClient({ id, session, images, train: range(0, 5), heldOut, store: memoryStore(), seed: 1, createVector: fakeVector });
  const transport = memoryTransport([client('many', range(0, 512)), client('none', range(0, 0))]);
  const strategy = fedavg();
  const state = await initialState({ session, seed: 1, strategy, createVector: fakeVector });
  await runFederation(state, {
    transport,
    strategy,
    fit,
    rounds: 1,
    seed: 1,
    createVector: fakeVector,
    onRound: (_, { clients, evalLoss: mean }) => {
      t.is(clients[0]!.evalImages, 128);
      t.is(mean, clients[0]!.evalLoss!);
      t.is(clients[1]!.evalImages, 0);
      t.is(clients[1]!.evalLoss, undefined);
    },
  });
  t.deepEqual(
    judged.map((indices) => [...indices]),
    Array(2).fill(Array.from({ length: 128 }, (_, i) => 4 * i)),
  );
});

test('an upload of a round that the client did not train in is refused', async (t) => {
  const w = await world({ sizes: [10] });
  await w.run(1);
  const upload = message('upload', 1, { weight: 1, manifest: {} });
  await t.throwsAsync(w.clients[0]!.answer(upload), { code: 'ERR_PHOENIX_MESSAGE', message: /has none/ });
});
