/** Averaging per local step (FedNova), by cases worked out by hand and by what the paper's formula says; local work that is cut short. */
import test from 'ava';
import type { Vector } from '../../src/bindings/vector.ts';
import { parseOptions } from '../../src/commands/options/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import type { Fit, Report } from '../../src/fl/protocol.ts';
import { limitWork } from '../../src/fl/server/local-work.ts';
import { askedSteps, normaliseMean, normaliseWeights } from '../../src/fl/server/normalise.ts';
import { strategies } from '../../src/fl/strategies/index.ts';
import { rng } from '../../src/rng.ts';
import { changed, fakeFederation, type Ground } from '../support/fake-federation.ts';
import { near } from '../support/near.ts';
import { testFit } from '../support/plain-fit.ts';

const fit = testFit({ epochs: 1 }, { batch: 4 });
const ground: Ground = { parameters: 40, images: 300, sizes: [8, 8, 16], heldOut: 0, options: { fit } };
const numbersOf = async (vector: Vector) => Array.from(new Float32Array(new Uint8Array(await vector.toBytes(0, vector.length)).buffer));

test('by hand: two clients of equal weight, one with three times the steps', (t) => {
  // τ = 1, 3; p = 1/2, 1/2. τ_eff = 2. δ = 2·(1/2·δ1/1 + 1/2·δ2/3) = δ1 + δ2/3: the shares 3/4, 1/4 times 4/3.
  const steps = new Map([
    ['a', 1],
    ['b', 3],
  ]);
  const weights = normaliseWeights(
    [
      { client: 'a', weight: 0.5 },
      { client: 'b', weight: 0.5 },
    ],
    steps,
  );
  t.deepEqual(
    weights.map(({ weight }) => weight),
    [0.75, 0.25],
  );
  const { scale, effectiveSteps } = normaliseMean(new Map(weights.map(({ client, weight }) => [client, weight])), steps);
  t.true(Math.abs(scale - 4 / 3) < 1e-15);
  t.is(effectiveSteps, 2);
});

test('the shares and the scale are the formula of the paper, also over those that arrived', (t) => {
  const draw = rng(4, 'normalise');
  for (let round = 0; round < 50; round++) {
    const clients = Array.from({ length: 2 + draw.int(8) }, (_, i) => ({ client: `c${i}`, part: draw.gamma(1), made: 1 + draw.int(200) }));
    const steps = new Map(clients.map(({ client, made }) => [client, made]));
    const total = clients.reduce((sum, { part }) => sum + part, 0);
    const shares = normaliseWeights(
      clients.map(({ client, part }) => ({ client, weight: part / total })),
      steps,
    );
    const arrived = round % 2 === 0 ? clients : clients.slice(1);
    const left = shares.filter(({ client }) => arrived.some((one) => one.client === client));
    const sum = left.reduce((all, { weight }) => all + weight, 0);
    const { scale, effectiveSteps } = normaliseMean(new Map(left.map(({ client, weight }) => [client, weight / sum])), steps);
    // x ← x + τ_eff · Σ p_i · δ_i/τ_i, with p over those that arrived.
    const whole = arrived.reduce((all, { part }) => all + part, 0);
    const effective = arrived.reduce((all, { part, made }) => all + (part / whole) * made, 0);
    t.true(Math.abs(effectiveSteps - effective) < 1e-9 * effective);
    for (const { client, part, made } of arrived) {
      const expected = (effective * part) / whole / made;
      const mine = (scale * left.find((one) => one.client === client)!.weight) / sum;
      t.true(Math.abs(mine - expected) < 1e-12 * Math.max(1, expected), `${mine} ${expected}`);
    }
  }
});

test('equal work gives the bytes of FedAvg, and unequal work others', async (t) => {
  const run = async (normalise: boolean, sizes: number[]) => {
    const federation = await fakeFederation({ ...ground, options: { fit, normalise } }, { sizes });
    const state = await federation.run(3);
    return { bytes: Buffer.from(await state.params.toBytes(0, state.params.length)), state };
  };
  const [plain, normal] = [await run(false, [8, 7, 8]), await run(true, [8, 7, 8])];
  t.true(plain.bytes.equals(normal.bytes));
  t.is(plain.state.globalStep, normal.state.globalStep);
  t.false((await run(false, [8, 40])).bytes.equals((await run(true, [8, 40])).bytes));
});

test('a round with unequal work moves the parameters as the formula says', async (t) => {
  const begun = await fakeFederation(ground, {});
  const before = await numbersOf(begun.state.params);
  const stream = (i: number) => (_: string, round: number) => BigInt(100 * i + round);
  // What each client's update is: a federation of it alone.
  const updates: number[][] = [];
  for (const [i, size] of ground.sizes.entries()) {
    const train = Int32Array.from({ length: size }, (_, k) => 50 * i + k);
    const alone = await fakeFederation({ ...ground, sizes: [size] }, { client: () => ({ train, stream: stream(i) }) });
    const after = await numbersOf((await alone.run(1)).params);
    updates.push(after.map((value, k) => value - before[k]!));
  }
  const together = await fakeFederation({ ...ground, options: { fit, normalise: true } }, { client: (i) => ({ stream: stream(i) }) });
  const state = await together.run(1);
  // n = 8, 8, 16 in batches of 4: τ = 2, 2, 4; p = 1/4, 1/4, 1/2; τ_eff = 3.
  const expected = before.map((value, k) => value + 3 * (updates[0]![k]! / 8 + updates[1]![k]! / 8 + updates[2]![k]! / 8));
  near(t, await numbersOf(state.params), expected, { norm: 1e-5 });
  t.is(state.globalStep, 3);
});

test('who reports other steps than asked is left out, and nobody counts for more by it', async (t) => {
  const lie = (made: number) =>
    fakeFederation(
      { ...ground, options: { fit, normalise: true } },
      {
        wrap: (client) =>
          client.hello.id === 'c' ? changed(client, 'train', (answer) => ({ ...answer, head: { ...answer.head, steps: made } })) : client,
      },
    );
  for (const made of [1, 1e9]) {
    const federation = await lie(made);
    await federation.run(1);
    const [record] = federation.records;
    t.deepEqual(
      record!.failures.map(({ client, reason }) => [client, reason]),
      [['c', `it reports ${made} steps, but 4 were asked for`]],
    );
    t.deepEqual(
      record!.clients.map(({ client }) => client),
      ['a', 'b'],
    );
  }
  const reports = [{ client: 'a', round: 1, examples: 9, images: 12, steps: 3, evalImages: 0 }] satisfies Report[];
  t.deepEqual([...askedSteps(reports, new Map([['a', fit as Fit]])).steps], [['a', 3]]);
});

test('local work that is cut short: full batches, at least one, never more than planned', (t) => {
  const whole = { ...fit, globalStep: 0 } as Fit;
  const cut = (examples: number, most: number | undefined) => limitWork(whole, { examples }, most).length;
  t.deepEqual(cut(16, undefined), { epochs: 1 });
  t.deepEqual(cut(16, 16), { epochs: 1 });
  t.deepEqual(cut(16, 15), { localImages: 12 });
  t.deepEqual(cut(16, 1), { localImages: 4 });
});

test('a federation in which one client is cut short takes its steps as it made them', async (t) => {
  const mostImages = ({ id }: { id: string }) => (id === 'c' ? 4 : undefined);
  const federation = await fakeFederation({ ...ground, options: { fit, normalise: true, mostImages } }, {});
  await federation.run(2);
  for (const { clients, failures } of federation.records) {
    t.deepEqual(failures, []);
    t.deepEqual(
      clients.map(({ client, steps }) => [client, steps]),
      [
        ['a', 2],
        ['b', 2],
        ['c', 1],
      ],
    );
    // q ∝ p/τ: 1/8, 1/8, 1/2.
    t.deepEqual(
      clients.map(({ weight }) => weight),
      [1 / 6, 1 / 6, 2 / 3],
    );
  }
});

test('rules that combine updates themselves are refused, by the options and by the round', async (t) => {
  t.throws(() => parseOptions('federate', { data: 'x', strategy: 'median', normalise: true }), {
    instanceOf: PhoenixError,
    message: /normalise \(--normalise, --round-seconds\) needs a weighted mean of the updates: take a strategy that computes weights/,
  });
  t.notThrows(() => parseOptions('federate', { data: 'x', strategy: 'diversity', normalise: true }));
  const federation = await fakeFederation({ ...ground, options: { fit, normalise: true } }, { strategy: strategies.median({}) });
  await t.throwsAsync(federation.run(1), { code: 'ERR_PHOENIX_CONFIG' });
});
