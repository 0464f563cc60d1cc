/** The aggregators: the contract over each, and whole rounds with one that exchanges messages. */
import test from 'ava';
import { aggregatorFor } from '../../src/fl/server/aggregate.ts';
import { memoryStore } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import { strategies } from '../../src/fl/strategies/index.ts';
import type { Strategy } from '../../src/fl/strategy.ts';
import { aggregatorContract } from '../contracts/aggregator.ts';
import { dying, fakeFederation } from '../support/fake-federation.ts';
import { fakeImages } from '../support/fake-session.ts';
import { fakeVector } from '../support/fake-vector.ts';
import { maskedAggregator, maskedClient } from '../support/masked-aggregator.ts';
import { near } from '../support/near.ts';
import { testFit } from '../support/plain-fit.ts';

const own = (strategy: Strategy) => () => aggregatorFor({ strategy, normBound: Infinity, store: memoryStore(), createVector: fakeVector });
const weighing: Strategy<null> = {
  ...fedavg(),
  name: 'weighing',
  combine: async ({ weights }) => {
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { weights: weights.map((weight) => weight / total) };
  },
};

aggregatorContract('running sum', { make: own(fedavg()), tolerance: 1e-6 });
aggregatorContract('collected', { make: own(weighing), tolerance: 1e-6 });
aggregatorContract('masked', {
  make: () => maskedAggregator({ createVector: fakeVector }),
  wrap: (client) => maskedClient(client),
  tolerance: 1e-6,
});

const ground = {
  parameters: 6,
  images: fakeImages(1000).count,
  sizes: [10, 15, 20],
  heldOut: 3,
  options: { fit: testFit({ epochs: 2 }, { lr: 0.05 }) },
};
const numbers = async (vector: { length: number; toBytes(offset: number, count: number): Promise<Uint8Array> }) =>
  new Float32Array((await vector.toBytes(0, vector.length)).slice().buffer);

test('a round under masks is the plain round, with a client lost after it was counted on, and in a second attempt', async (t) => {
  for (const [again, lost] of [
    [0, false],
    [0, true],
    [1, false],
    [1, true],
  ] as const) {
    const failures = lost ? [{ client: 'b', round: 2, stage: 'upload' as const }] : [];
    const plain = await fakeFederation(ground, { failures });
    const log: string[] = [];
    const masked = await fakeFederation(ground, { wrap: (client) => dying(maskedClient(client, log), failures) });
    const [a, b] = [await plain.run(3), await masked.run(3, { aggregator: (options) => maskedAggregator({ ...options, again }) })];
    near(t, await numbers(b.params), await numbers(a.params), 1e-5);
    const { weight } = masked.records[1]!.clients[1]!;
    t.is(weight === 0, lost);
    t.deepEqual(
      masked.records.map(({ clients }) => clients.map((client) => client.client)),
      plain.records.map(({ clients }) => clients.map((client) => client.client)),
    );
    near(t, masked.records[0]!.coherence!, plain.records[0]!.coherence!, 1e-4);
    const asked = (kind: string) => log.filter((line) => line.startsWith(kind)).length;
    t.is(asked('keys'), 9);
    t.is(asked('unmask'), lost && again === 0 ? 2 : 0, 'in a second attempt nobody counts on who was lost in the first');
  }
});

test('an aggregator that is never content ends the round', async (t) => {
  const w = await fakeFederation(ground, { wrap: (client) => maskedClient(client) });
  const error = await t.throwsAsync(w.run(1, { aggregator: (options) => maskedAggregator({ ...options, again: 9 }) }), {
    code: 'ERR_PHOENIX_ROUND',
  });
  t.regex(error!.message, /5 attempts: it wants another attempt/);
});

test('what needs single updates, or their norms as the server sees them, is refused where they are hidden; before anything is asked', async (t) => {
  for (const [options, message] of [
    [{ strategy: strategies.krum() }, /Strategy krum needs every single update, which the aggregation does not show/],
    [{ localWork: { target: 0.1, least: 0.5, most: 2 } }, /Local work by drift needs the norms of updates/],
  ] as const) {
    const w = await fakeFederation(ground, { wrap: (client) => maskedClient(client) });
    const error = await t.throwsAsync(w.run(1, { ...options, aggregator: (made) => maskedAggregator({ ...made, norms: false }) }), {
      code: 'ERR_PHOENIX_CONFIG',
    });
    t.regex(error!.message, message);
    t.is(w.session.calls.length, 0);
  }
});

test('nobody is asked for what they lack', async (t) => {
  const log: string[] = [];
  const w = await fakeFederation(ground, {
    wrap: (client) => {
      const masked = maskedClient(client, log);
      return client.hello.id === 'b' ? { ...masked, hello: client.hello } : masked;
    },
  });
  await w.run(1, { aggregator: (options) => maskedAggregator(options) }).catch(() => {});
  t.false(log.includes('keys b'));
  t.true(log.includes('keys a'));
});
