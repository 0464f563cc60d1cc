/**
 * What holds for every aggregator: the weighted mean of what arrived, whoever is lost on the way; a sum begun anew; nothing left behind.
 */
import test from 'ava';
import { PROTOCOL } from '../../src/fl/protocol.ts';
import type { Aggregator } from '../../src/fl/server/aggregate.ts';
import type { Ask } from '../../src/fl/server/ask.ts';
import { askWithin } from '../../src/fl/server/ask.ts';
import type { Client } from '../../src/fl/site/client.ts';
import type { Weights } from '../../src/fl/strategy.ts';
import type { Reply } from '../../src/fl/transport.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { encodeVector } from '../../src/fl/wire/codec.ts';
import { alive, fakeVector } from '../support/fake-vector.ts';
import { near } from '../support/near.ts';

const LENGTH = 5;
const values: Record<string, number[]> = { a: [1, -2, 0.5, 0, 3], b: [0.25, 0.25, -1, 2, 0], c: [-1, 1, 1, -1, 0.125] };
const weights: Weights = [
  { client: 'a', weight: 0.5 },
  { client: 'b', weight: 0.2 },
  { client: 'c', weight: 0.3 },
];

/** Clients that answer nothing but `upload`, with the values above. */
function uploader(id: string): Client {
  return {
    hello: { protocol: PROTOCOL, id, examples: 1, capabilities: [] },
    async answer() {
      const vector = fakeVector(LENGTH);
      vector.values.set(values[id]!);
      const { head, blob } = await encodeVector(vector);
      vector.dispose();
      return { head, blobs: [blob] };
    },
  };
}

export type AggregatorCase = {
  make(): Aggregator;
  /** The client's half. @default nothing */
  wrap?(client: Client): Client;
  /** How exact the mean is. */
  tolerance: number;
};

/** One sum with everybody's update but that of `lost`, as a round makes it. */
async function sumOf(aggregator: Aggregator, ask: Ask, attempt: number, lost?: string) {
  const manifest = await aggregator.begin(weights, { round: 1, attempt, length: LENGTH });
  const weightOf = new Map(weights.map(({ client, weight }) => [client, weight]));
  for await (const outcome of ask(['a', 'b', 'c'], ({ id }) => ({ kind: 'upload', head: { weight: weightOf.get(id)!, manifest } }))) {
    const { client, head, blobs } = outcome as Reply;
    if (client !== lost) await aggregator.add({ client, round: 1, weight: weightOf.get(client)!, head, blobs });
  }
  return aggregator.finish(ask);
}

export function aggregatorContract(name: string, { make, wrap = (client) => client, tolerance }: AggregatorCase): void {
  const clients = ['a', 'b', 'c'].map((id) => wrap(uploader(id)));
  const ask = askWithin(memoryTransport(clients), { round: 1 });
  const expected = (lost?: string) => {
    const left = weights.filter(({ client }) => client !== lost);
    const total = left.reduce((sum, { weight }) => sum + weight, 0);
    return Array.from(
      { length: LENGTH },
      (_, i) => left.reduce((sum, { client, weight }) => sum + weight * values[client]![i]!, 0) / total,
    );
  };

  for (const lost of [undefined, 'a', 'c']) {
    test.serial(`${name}: the weighted mean of what arrives, ${lost ?? 'nobody'} lost, and again in a second attempt`, async (t) => {
      const before = alive.now;
      const aggregator = make();
      await aggregator.invite?.(['a', 'b', 'c'], ask);
      for (const attempt of [1, 2]) {
        const sum = await sumOf(aggregator, ask, attempt, lost);
        if ('again' in sum) return t.fail(sum.again);
        near(t, new Float32Array((await sum.mean.toBytes(0, LENGTH)).slice().buffer), expected(lost), tolerance);
        t.deepEqual(
          [...sum.shares.keys()],
          ['a', 'b', 'c'].filter((id) => id !== lost),
        );
        near(
          t,
          [...sum.shares.values()].reduce((a, b) => a + b),
          1,
          1e-12,
        );
        t.is(sum.norms.size > 0, aggregator.shows.singleUpdates);
        sum.mean.dispose();
      }
      await aggregator.dispose();
      t.is(alive.now, before, 'all vectors are freed');
    });
  }

  test.serial(`${name}: a sum that is given up leaves nothing behind; an update that does not fit is refused`, async (t) => {
    const before = alive.now;
    const aggregator = make();
    await aggregator.invite?.(['a', 'b', 'c'], ask);
    await aggregator.begin(weights, { round: 1, attempt: 1, length: LENGTH });
    for (const head of [{}, { blob: 'sha256:', codec: 'float32', count: LENGTH + 1 }])
      await t.throwsAsync(aggregator.add({ client: 'a', round: 1, weight: 0.5, head, blobs: [] }), { code: 'ERR_PHOENIX_MESSAGE' });
    await aggregator.dispose();
    t.is(alive.now, before);
  });
}
