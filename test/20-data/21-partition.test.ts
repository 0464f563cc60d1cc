import test from 'ava';
import {
  classHistogram,
  holdOut,
  type PartitionInput,
  parsePartition,
  partitionChoices,
  partitioner,
  partitions,
} from '../../src/fl/partition/index.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';

/** Ten classes of unequal size in random order, five sites of which number 3 has no images. */
function images(count: number, seed = 1): PartitionInput & { labels: Int32Array; sites: Int32Array } {
  const random = rng(seed, 'images');
  const labels = Int32Array.from({ length: count }, (_, i) => (i < 10 ? i : Math.min(random.int(10), random.int(10))));
  const sites = Int32Array.from({ length: count }, (_, i) => [0, 1, 2, 4][i < 4 ? i : random.int(4)]!);
  return { count, labels, sites, seed };
}

/** A text for every member, extremes of the parameters included. */
const texts = Object.entries(partitions).flatMap(([name, member]) => {
  if (!('parameter' in member)) return [name];
  const { example, min, max } = member.parameter;
  const plain = (name === 'shards' ? [example, min, 10] : [example, min, max, 0.01]).map((parameter) => `${name}:${parameter}`);
  return member.zipf ? [...plain, `${name}:${example},zipf:1`, `${name}:${example},zipf:10`] : plain;
});

const clientsOf = (text: string, clients: number) => (text === 'site' ? undefined : clients);
const sizes = (parts: Int32Array[]) => parts.map((part) => part.length);

for (const text of texts) {
  test(`${text}: disjoint, complete, ascending, nobody empty, fixed by the seed`, (t) => {
    for (const [count, clients, seed] of [
      [1000, 10, 1],
      [997, 7, 2],
      [137, 1, 3],
      [400, 40, 4],
    ] as const) {
      const input = { ...images(count, seed), clients: clientsOf(text, clients), seed };
      const parts = partitioner(text).split(input);
      t.is(parts.length, text === 'site' ? 4 : clients);
      t.deepEqual(
        Int32Array.from(parts.flatMap((part) => [...part])).sort(),
        Int32Array.from({ length: count }, (_, i) => i),
      );
      for (const part of parts) {
        t.true(part.length >= 1);
        t.deepEqual(part, part.slice().sort());
      }
      t.deepEqual(partitioner(text).split(input), parts);
      if (text !== 'site' && clients > 1) t.notDeepEqual(partitioner(text).split({ ...input, seed: seed + 100 }), parts);
    }
  });
}

test('as many clients as images: one image each', (t) => {
  for (const text of ['iid', 'dirichlet:0.000001', 'dirichlet:1', 'shards:1', 'quantity:3']) {
    t.deepEqual(sizes(partitioner(text).split({ ...images(30), clients: 30 })), new Array(30).fill(1), text);
  }
});

test('iid: sizes differ by at most one, and every client has about the mix of the whole', (t) => {
  const input = { ...images(10_003), clients: 10 };
  const parts = partitioner('iid').split(input);
  t.deepEqual(new Set(sizes(parts)), new Set([1000, 1001]));
  const whole = classHistogram(
    Int32Array.from({ length: input.count }, (_, i) => i),
    input.labels,
    10,
  );
  for (const part of parts) {
    const own = classHistogram(part, input.labels, 10);
    for (const [label, count] of own.entries()) near(t, count, whole[label]! / 10, 5 * Math.sqrt(whole[label]! / 10) + 1, `class ${label}`);
  }
});

/** Mean over clients of the share of a client's largest class. */
function skew(parts: Int32Array[], labels: Int32Array): number {
  return parts.reduce((sum, part) => sum + Math.max(...classHistogram(part, labels, 10)) / part.length, 0) / parts.length;
}

test('dirichlet: a smaller alpha is more skewed, a large one is close to the whole', (t) => {
  const input = { ...images(5000), clients: 10 };
  const [tiny, small, large] = ['0.01', '0.5', '10000'].map((alpha) => skew(partitioner(`dirichlet:${alpha}`).split(input), input.labels));
  t.true(tiny! > small! && small! > large!, `${tiny} ${small} ${large}`);
  t.true(large! < 0.25);
});

test('dirichlet: with tiny alpha nearly every class has one owner, and nothing is lost', (t) => {
  const input = { ...images(1000), clients: 20 };
  const parts = partitioner('dirichlet:0.000001').split(input);
  for (let label = 0; label < 10; label++) {
    const held = parts.map((part) => classHistogram(part, input.labels, 10)[label]!);
    const total = held.reduce((a, b) => a + b);
    t.true(Math.max(...held) >= total - 20, `class ${label}: ${held}`);
  }
});

test('shards with Zipf: sizes fall with the rank by the exponent, classes stay few; exponent 0 is without', (t) => {
  const labels = Int32Array.from({ length: 6000 }, (_, i) => i % 10);
  const input = { count: 6000, labels, clients: 10, seed: 3 };
  const parts = partitioner('shards:2,zipf:1').split(input);
  const harmonic = Array.from({ length: 10 }, (_, r) => 1 / (r + 1)).reduce((a, b) => a + b);
  // In each of the two stretches everybody has one image beforehand, and less than one is lost by rounding down.
  for (const [r, size] of sizes(parts).entries()) {
    const share = 1 / (r + 1) / harmonic;
    near(t, size, 6000 * share, 2 * (1 + 10 * share), `client ${r + 1}`);
  }
  for (const part of parts)
    t.true(classHistogram(part, labels, 10).filter((images) => images > 0).length <= 6, String(classHistogram(part, labels, 10)));
  t.deepEqual(partitioner('shards:2,zipf:0').split(input), partitioner('shards:2').split(input));
});

test('shards: equal sizes, few classes per client', (t) => {
  const labels = Int32Array.from({ length: 1000 }, (_, i) => i % 10);
  for (const perClient of [1, 2, 5]) {
    const parts = partitioner(`shards:${perClient}`).split({ count: 1000, labels, clients: 10, seed: 3 });
    t.deepEqual(sizes(parts), new Array(10).fill(100));
    for (const part of parts) t.true(classHistogram(part, labels, 10).filter((n) => n > 0).length <= perClient);
  }
  const uneven = partitioner('shards:3').split({ ...images(1001), clients: 7 });
  t.true(
    sizes(uneven).every((size) => size >= 3 * 47 && size <= 3 * 48),
    `${sizes(uneven)}`,
  );
});

test('quantity: sizes follow the exponent, the mix does not', (t) => {
  const input = { ...images(11_000), clients: 10 };
  const parts = partitioner('quantity:1').split(input);
  const harmonic = Array.from({ length: 10 }, (_, i) => 1 / (i + 1)).reduce((a, b) => a + b);
  for (const [i, size] of sizes(parts).entries()) near(t, size, 11_000 / (i + 1) / harmonic, 2, `client ${i}`);
  t.deepEqual(sizes(partitioner('quantity:0').split({ ...input, count: 1000, clients: 10 })), new Array(10).fill(100));
  const steep = sizes(partitioner('quantity:10').split({ count: 100, clients: 5, seed: 1 }));
  t.true(steep[0]! > 90 && steep.at(-1) === 1);
  t.true(skew(parts, input.labels) < 0.3);
});

test('site: one client for each site with images, in order', (t) => {
  const input = images(500);
  const parts = partitioner('site').split(input);
  t.deepEqual(
    parts.map((part) => [...new Set(Array.from(part, (i) => input.sites[i]))]),
    [[0], [1], [2], [4]],
  );
  t.deepEqual(partitioner('site').split({ ...input, clients: 4 }), parts);
});

test('what images, labels or clients do not allow is an error', (t) => {
  const refused = (text: string, input: Partial<PartitionInput>, message: RegExp) =>
    t.throws(() => partitioner(text).split({ ...images(100), clients: 10, ...input }), { code: 'ERR_PHOENIX_CONFIG', message }, text);
  for (const text of ['iid', 'dirichlet:1', 'shards:2', 'quantity:1']) {
    refused(text, { clients: 101 }, /101 clients cannot share 100 images/);
    refused(text, { clients: 0 }, /at least 1, not 0/);
    refused(text, { clients: 2.5 }, /not 2.5/);
    refused(text, { clients: undefined }, /not undefined/);
  }
  for (const text of ['dirichlet:1', 'shards:2']) {
    refused(text, { labels: undefined }, /these images have none/);
    refused(text, { labels: new Int32Array(99) }, /99 labels for 100 images/);
  }
  refused('shards:11', {}, /more classes per client than the 10/);
  refused('shards:3', { labels: new Int32Array(100).map((_, i) => i % 2) }, /than the 2 that there are/);
  refused('shards:5', { clients: 30 }, /30 clients with 5 shards each need 150 images, there are 100/);
  refused('site', { sites: undefined }, /have none/);
  refused('site', { clients: 5 }, /4 sites have images, but 5 clients/);
});

test('parsePartition reads names and parameters, and names the valid ones otherwise', (t) => {
  t.deepEqual(parsePartition('iid'), { name: 'iid' });
  t.deepEqual(parsePartition('dirichlet:0.5'), { name: 'dirichlet', parameter: 0.5 });
  t.deepEqual(parsePartition('dirichlet:1e-3'), { name: 'dirichlet', parameter: 0.001 });
  t.deepEqual(parsePartition('shards:2'), { name: 'shards', parameter: 2 });
  t.deepEqual(parsePartition('shards:2,zipf:1.5'), { name: 'shards', parameter: 2, zipf: 1.5 });
  const refused = (text: string, reason: RegExp) => {
    const error = t.throws(() => parsePartition(text), { code: 'ERR_PHOENIX_ARGUMENT', message: reason }, text);
    t.true(error.message.includes(partitionChoices()));
  };
  for (const text of ['', 'IID', 'zipf:1', 'toString', '__proto__', 'shards:2:3', ' iid']) refused(text, /is unknown/);
  for (const text of ['shards:2,zipf:11', 'shards:2,zipf:', 'shards:2,quantity:1']) refused(text, /other than zipf:EXPONENT/);
  refused('dirichlet:1,zipf:1', /takes one parameter/);
  refused('iid,zipf:1', /takes no parameter/);
  for (const text of ['iid:1', 'site:']) refused(text, /takes no parameter/);
  refused('shards', /needs a parameter/);
  for (const text of [
    'shards:0',
    'shards:1.5',
    'shards:',
    'shards:two',
    'shards:0x2',
    'dirichlet:0',
    'dirichlet:-1',
    'dirichlet:Infinity',
    'quantity:11',
    'quantity:.',
  ]) {
    refused(text, /out of its range/);
  }
  for (const name of Object.keys(partitions)) t.true(partitionChoices().includes(name));
});

test('holdOut splits off a tenth, by seed and client', (t) => {
  const indices = Int32Array.from({ length: 59 }, (_, i) => 3 * i);
  const { train, heldOut } = holdOut(indices, 1, 'client-3');
  t.is(heldOut.length, 5);
  t.deepEqual(Int32Array.from([...train, ...heldOut]).sort(), indices);
  t.deepEqual([train, heldOut], [train.slice().sort(), heldOut.slice().sort()]);
  t.deepEqual(holdOut(indices, 1, 'client-3'), { train, heldOut });
  t.notDeepEqual(holdOut(indices, 2, 'client-3').heldOut, heldOut);
  t.notDeepEqual(holdOut(indices, 1, 'client-4').heldOut, heldOut);
  t.is(holdOut(indices.slice(0, 9), 1, 0).heldOut.length, 0);
  t.deepEqual(holdOut(indices.slice(0, 9), 1, 0).train, indices.slice(0, 9));
  t.is(holdOut(indices.slice(0, 10), 1, 0).heldOut.length, 1);
});

test('classHistogram counts, and refuses what is no class', (t) => {
  const labels = Int32Array.of(0, 2, 2, 1, 2);
  t.deepEqual(classHistogram(Int32Array.of(0, 1, 4), labels, 4), [1, 0, 2, 0]);
  t.throws(() => classHistogram(Int32Array.of(1), labels, 2), { code: 'ERR_PHOENIX_ARGUMENT', message: /Image 1 has label 2/ });
  t.throws(() => classHistogram(Int32Array.of(9), labels, 3), { code: 'ERR_PHOENIX_ARGUMENT' });
});
