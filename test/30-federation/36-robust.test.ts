/** Robust rules against worked vectors, and in rounds with hostile clients. */
import test from 'ava';
import { type CreateVector, createVector, getBytes, setBytes, type Vector } from '../../src/bindings/vector.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import { collectUpdates } from '../../src/fl/server/updates.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { memoryStore } from '../../src/fl/store.ts';
import { strategies } from '../../src/fl/strategies/index.ts';
import { geometricMedian, krum, krumScores, median, multiKrum, trimmedMean } from '../../src/fl/strategies/robust.ts';
import type { Strategy } from '../../src/fl/strategy.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { encodeVector } from '../../src/fl/wire/codec.ts';
import { rng } from '../../src/rng.ts';
import { changed } from '../support/fake-federation.ts';
import { fakeImages, fakeSession } from '../support/fake-session.ts';
import { fakeVector } from '../support/fake-vector.ts';
import { near } from '../support/near.ts';
import { testFit } from '../support/plain-fit.ts';

const numbers = async (vector: Vector) => [...new Float32Array((await getBytes(vector)).buffer)];

async function vectorOf(values: number[], make: CreateVector = createVector): Promise<Vector> {
  const vector = make(values.length);
  await setBytes(new Uint8Array(Float32Array.from(values).buffer), vector);
  return vector;
}

/** The updates `rows` as a round would collect them. `most` decides how small the pieces are. */
async function collected(rows: number[][], most = rows.length, store = memoryStore()) {
  const updates = collectUpdates(rows[0]!.length, most, store, createVector);
  for (const [i, row] of rows.entries()) await updates.add(`c${i}`, 1 / rows.length, await vectorOf(row));
  return updates;
}

async function combined(strategy: Strategy<null>, rows: number[][], most?: number): Promise<number[]> {
  const updates = await collected(rows, most);
  const answer = await strategy.combine!(updates);
  return numbers('mean' in answer ? answer.mean : await updates.weightedMean(answer.weights));
}

const close = { relative: 1e-6, absolute: 1e-6 };

const X = [
  [1, 2, 3],
  [1.1, 2.1, 2.9],
  [0.9, 1.9, 3.1],
  [1.2, 2, 3],
  [10, -10, 10],
];

test('median and trimmed mean', async (t) => {
  t.deepEqual(await combined(median(), [[0.2], [1], [0.5]]), [0.5]);
  near(t, await combined(median(), X), [1.1, 2, 3], close);
  t.deepEqual(await combined(median(), [[1], [2], [4], [100]]), [3], 'an even number: the mean of the middle two');
  near(t, await combined(trimmedMean({ hostile: 1 }), X), [1.1, 1.966667, 3.033333], close);
  t.deepEqual(await combined(trimmedMean({ hostile: 1 }), [[0.5], [1], [2], [100]]), [1.5]);
  const four = [
    [0.5, 0.5, 0.5, 0.5],
    [1, 0.2, 0.5, 1],
    [0.2, 0.5, 1, 0.2],
    [0.5, 1, 0.2, 0.5],
  ];
  near(t, await combined(trimmedMean({ hostile: 1 }), four), [0.5, 0.5, 0.5, 0.5], close);
  t.deepEqual(await combined(trimmedMean({ hostile: 9 }), [[3], [5]]), [4], 'no more than the round can do without');
  t.deepEqual(await combined(median(), [[7, 8]]), [7, 8], 'one client');
});

test('Krum and Multi-Krum', async (t) => {
  near(
    t,
    await combined(
      krum({ hostile: 1 }),
      [0.2, 0.7, 1].map((x) => [x, x, x, x]),
    ),
    [0.7, 0.7, 0.7, 0.7],
    close,
  );
  const scores = krumScores(await (await collected(X)).squaredDistances(), 5, 1);
  near(t, scores, [0.06, 0.06, 0.14, 0.07, 542.47], { relative: 1e-5, absolute: 1e-5 });
  near(t, await combined(multiKrum({ hostile: 1 }), X), [1.1, 2.033333, 2.966667], close);
  t.deepEqual(await combined(krum(), [[7, 8]]), [7, 8], 'one client');
  t.deepEqual(await combined(multiKrum(), [[6], [8]]), [6], 'two clients: n - f - 1 = 1, of equal scores the first');
});

test('the geometric median', async (t) => {
  near(t, await combined(geometricMedian(), X), [1.063356, 1.98158, 3.00931], { relative: 1e-5, absolute: 1e-5 });
  near(
    t,
    await combined(geometricMedian(), [[0], [1], [10]]),
    [1],
    { relative: 1e-4, absolute: 1e-4 },
    'on a line it is the median, a data point',
  );
  t.deepEqual(
    await combined(geometricMedian(), [
      [2, 3],
      [2, 3],
      [2, 3],
    ]),
    [2, 3],
    'equal updates',
  );
});

test('piece by piece gives what the whole gives', async (t) => {
  const draw = rng(1, 'rows');
  const rows = Array.from({ length: 5 }, () => Array.from({ length: 5000 }, () => Math.fround(draw.normal())));
  for (const make of [median, trimmedMean, krum, multiKrum, geometricMedian]) {
    const whole = await combined(make(), rows);
    near(t, await combined(make(), rows, 2 ** 14), whole, close, make.name);
  }
  const sorted = rows[0]!.map((_, j) => rows.map((row) => row[j]!).sort((a, b) => a - b)[2]!);
  t.deepEqual(await combined(median(), rows, 2 ** 14), sorted);
});

test('what a round collected is dropped', async (t) => {
  const store = memoryStore();
  const updates = await collected(X, 5, store);
  t.is((await store.keys()).length, 5);
  await updates.drop();
  t.deepEqual(await store.keys(), []);
});

const fit = testFit({ epochs: 2 }, { lr: 0.05 });

/** Seven clients with almost the same data; `lie` changes what c0 and c1 upload. */
async function attacked(strategy: Strategy, lie: ((delta: number[]) => number[]) | undefined, change: { normBound?: number } = {}) {
  const session = fakeSession({ length: 6 });
  const store = memoryStore();
  const clients = Array.from({ length: 7 }, (_, i) => {
    const train = Int32Array.from({ length: 12 }, (_, n) => i + n);
    const client = createClient({
      id: `c${i}`,
      session,
      images: fakeImages(100),
      train,
      heldOut: new Int32Array(0),
      store,
      seed: 3,
      createVector: fakeVector,
    });
    if (i > 1 || !lie) return client;
    const lying = lie(Array(6).fill(0.3));
    const norm = Math.hypot(...lying);
    const reporting = changed(client, 'train', (answer) => ({
      ...answer,
      head: { ...answer.head, deltaNorm: Number.isFinite(norm) ? norm : undefined },
    }));
    return changed(reporting, 'upload', async () => {
      const { head, blob } = await encodeVector(await vectorOf(lying, fakeVector));
      return { head, blobs: [blob] };
    });
  });
  const state = await initialState({ session, seed: 3, strategy, createVector: fakeVector });
  const records: RoundRecord[] = [];
  const end = await runFederation(state, {
    transport: memoryTransport(clients),
    strategy,
    fit,
    rounds: 3,
    seed: 3,
    store,
    createVector: fakeVector,
    onRound: (_, record) => void records.push(record),
    ...change,
  });
  return { params: await numbers(end.params), records, keys: await store.keys() };
}

const off = (a: number[], b: number[]) => Math.hypot(...a.map((x, i) => x - b[i]!));

for (const [name, make] of Object.entries(strategies)) {
  // Those that weigh by probes are run in chapter 39.
  if (make().needs) continue;
  const isRobust = make().combine !== undefined;
  test(`two of seven clients that send a thousandfold update: ${name} ${isRobust ? 'stands it' : 'does not'}`, async (t) => {
    const lie = (delta: number[]) => delta.map((d) => -1000 * d);
    const honest = await attacked(make({ hostile: 2 }) as Strategy, undefined);
    const under = await attacked(make({ hostile: 2 }) as Strategy, lie);
    t.is(off(under.params, honest.params) < 0.5, isRobust);
    t.deepEqual(under.keys, []);
    for (const { clients } of under.records)
      near(
        t,
        clients.reduce((sum, { weight }) => sum + weight, 0),
        1,
        1e-9,
      );
  });

  test(`${name}: an update of NaN is refused with its reason, and the rest counts`, async (t) => {
    const { params, records } = await attacked(make() as Strategy, (delta) => delta.map(() => NaN));
    t.true(params.every(Number.isFinite));
    t.deepEqual(
      records[0]!.failures.map(({ client, stage }) => [client, stage]),
      [
        ['c0', 'upload'],
        ['c1', 'upload'],
      ],
    );
    t.regex(records[0]!.failures[0]!.reason, /NaN or infinite/);
  });
}

test('an update of a norm above the bound is refused with its reason', async (t) => {
  const lie = (delta: number[]) => delta.map((d) => 1000 * d);
  const { records } = await attacked(strategies.fedavg() as Strategy, lie, { normBound: 50 });
  t.regex(records[0]!.failures[0]!.reason, /c0.*norm 734\.8, of at most 50/);
  t.is(records[0]!.clients.find(({ client }) => client === 'c0')!.weight, 0);
  await t.throwsAsync(attacked(strategies.median() as Strategy, undefined, { normBound: 1e-6 }), { code: 'ERR_PHOENIX_ROUND' });
  for (const normBound of [0, -1, NaN]) {
    await t.throwsAsync(attacked(strategies.median() as Strategy, undefined, { normBound }), { code: 'ERR_PHOENIX_ARGUMENT' });
  }
});

test('a rule of one own is checked: its weights too', async (t) => {
  const own = (weights: number[]): Strategy => ({ ...(median() as Strategy), name: 'own', combine: async () => ({ weights }) });
  const last = await attacked(own([0, 0, 0, 0, 0, 0, 1]), undefined);
  t.is(last.records[0]!.clients.at(-1)!.weight, 1);
  for (const bad of [[1], [1, 1, 0, 0, 0, 0, 0], [2, -1, 0, 0, 0, 0, 0], [NaN, 0, 0, 0, 0, 0, 0]]) {
    await t.throwsAsync(attacked(own(bad), undefined), { code: 'ERR_PHOENIX_ARGUMENT', message: /own/ });
  }
});
