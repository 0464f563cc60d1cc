import test from 'ava';
import { philox, type Rng, rng, streamKey } from '../../src/rng.ts';
import { near } from '../support/near.ts';

const hex = (words: number[]) => words.map((word) => word.toString(16).padStart(8, '0')).join(' ');

test('philox gives the known answers of Random123', (t) => {
  t.is(hex(philox(0n, 0, 0, 0, 0)), '6627e8d5 e169c58d bc57ac4c 9b00dbd8');
  const ones = 0xffffffff;
  t.is(hex(philox(0xffffffffffffffffn, ones, ones, ones, ones)), '408f276d 41c83b0e a20bc7c6 6d5451fd');
  t.is(hex(philox(0x299f31d0a4093822n, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344)), 'd16cfe09 94fdcceb 5001e420 24126ea1');
});

test('philox agrees with 64-bit arithmetic on many keys and counters', (t) => {
  const source = rng(5, 'philox');
  for (let i = 0; i < 500; i++) {
    const key = (BigInt(source.uint32()) << 32n) | BigInt(source.uint32());
    const counter = [source.uint32(), source.uint32(), source.uint32(), source.uint32()] as const;
    let [k0, k1] = [key & 0xffffffffn, key >> 32n];
    let c = counter.map(BigInt);
    for (let round = 0; round < 10; round++) {
      const a = 0xd2511f53n * c[0]!;
      const b = 0xcd9e8d57n * c[2]!;
      c = [(b >> 32n) ^ c[1]! ^ k0, b & 0xffffffffn, (a >> 32n) ^ c[3]! ^ k1, a & 0xffffffffn];
      k0 = (k0 + 0x9e3779b9n) & 0xffffffffn;
      k1 = (k1 + 0xbb67ae85n) & 0xffffffffn;
    }
    t.deepEqual(philox(key, ...counter), c.map(Number) as [number, number, number, number]);
  }
});

test('a stream is philox with the purpose of the host as last counter word', (t) => {
  const stream = rng(1, 'select', 3);
  const key = streamKey(1, 'select', 3);
  const words = Array.from({ length: 8 }, () => stream.uint32());
  t.deepEqual(words, [...philox(key, 0, 0, 0, 7), ...philox(key, 1, 0, 0, 7)]);
});

test('keys are pinned, 64-bit, and tell all parts apart', (t) => {
  t.is(streamKey(1, 'select', 3), 10546437108418554217n);
  t.is(streamKey(1, 'a'), streamKey(1n, 'a'));
  const keys = [
    streamKey(1),
    streamKey(2),
    streamKey(-1),
    streamKey(2n ** 70n),
    streamKey(1, 'a'),
    streamKey(1, 'a', 'b'),
    streamKey(1, 'ab'),
    streamKey(1, 'b', 'a'),
    streamKey(1, 1),
    streamKey(1, '1'),
    streamKey(1, 'a","b'),
    streamKey(1, 1, 2),
    streamKey(1, 12),
  ];
  t.is(new Set(keys).size, keys.length);
  for (const key of keys) t.true(key >= 0n && key < 2n ** 64n);
});

test('bad seeds, names and ranges are errors', (t) => {
  const bad = { code: 'ERR_PHOENIX_ARGUMENT' };
  t.throws(() => rng(1.5), bad);
  t.throws(() => rng(2 ** 60), bad);
  t.throws(() => rng(1, NaN), bad);
  const r = rng(1);
  t.throws(() => r.int(0), bad);
  t.throws(() => r.int(2 ** 32 + 1), bad);
  t.throws(() => r.gamma(0), bad);
  t.throws(() => r.gamma(NaN), bad);
  t.throws(() => r.dirichlet(-1, 3), bad);
  t.throws(() => r.dirichlet(1, 0), bad);
  t.throws(() => r.permutation(-1), bad);
  t.throws(() => r.pick([1, 2], 3), bad);
});

test('streams do not depend on how their calls interleave', (t) => {
  const alone = (name: string) => {
    const r = rng(9, name);
    return [r.uniform(), r.normal(), r.int(10), r.gamma(0.3), ...r.permutation(7), ...r.pick([1, 2, 3, 4, 5], 2)];
  };
  const [a, b] = [rng(9, 'a'), rng(9, 'b')];
  const mixedA: number[] = [];
  const mixedB: number[] = [];
  const draws: ((r: Rng) => number[])[] = [
    (r) => [r.uniform()],
    (r) => [r.normal()],
    (r) => [r.int(10)],
    (r) => [r.gamma(0.3)],
    (r) => [...r.permutation(7)],
    (r) => r.pick([1, 2, 3, 4, 5], 2),
  ];
  for (const draw of draws) {
    mixedB.push(...draw(b));
    mixedA.push(...draw(a));
  }
  t.deepEqual(mixedA, alone('a'));
  t.deepEqual(mixedB, alone('b'));
  t.notDeepEqual(mixedA, mixedB);
});

/** Mean and variance of n draws. */
function moments(n: number, draw: () => number): { mean: number; variance: number; min: number; max: number } {
  let sum = 0;
  let squares = 0;
  let min = Infinity;
  let max = -Infinity;
  for (let i = 0; i < n; i++) {
    const x = draw();
    sum += x;
    squares += x * x;
    min = Math.min(min, x);
    max = Math.max(max, x);
  }
  return { mean: sum / n, variance: squares / n - (sum / n) ** 2, min, max };
}

// Draws are fixed by the seed, so these bounds (four standard errors) either hold always or never.
test('uniform, normal and gamma have their means and variances', (t) => {
  const n = 40_000;
  const within = (name: string, value: number, expected: number, standardError: number) =>
    near(t, value, expected, 4 * standardError, name);
  const u = moments(n, rng(1, 'uniform').uniform);
  within('uniform mean', u.mean, 1 / 2, Math.sqrt(1 / 12 / n));
  within('uniform variance', u.variance, 1 / 12, Math.sqrt(1 / 180 / n));
  t.true(u.min >= 0 && u.max < 1);
  const z = moments(n, rng(1, 'normal').normal);
  within('normal mean', z.mean, 0, Math.sqrt(1 / n));
  within('normal variance', z.variance, 1, Math.sqrt(2 / n));
  for (const shape of [0.1, 0.5, 1, 2.5, 40]) {
    const stream = rng(1, 'gamma', shape);
    const g = moments(n, () => stream.gamma(shape));
    within(`gamma(${shape}) mean`, g.mean, shape, Math.sqrt(shape / n));
    within(`gamma(${shape}) variance`, g.variance, shape, Math.sqrt((2 * shape * shape + 6 * shape) / n));
    t.true(g.min >= 0);
  }
});

test('int reaches every value equally often', (t) => {
  const stream = rng(2, 'int');
  const counts = new Int32Array(7);
  for (let i = 0; i < 70_000; i++) counts[stream.int(7)]!++;
  const chiSquared = counts.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0);
  t.true(chiSquared < 22.5, `chi² = ${chiSquared}`); // 0.999 quantile at 6 degrees of freedom
  t.is(stream.int(1), 0);
  // A plain remainder of a 32-bit word would give the lowest third of these half of the draws.
  const large = 3 * 2 ** 30;
  const low = Array.from({ length: 4500 }, () => stream.int(large)).filter((x) => x < large / 3).length;
  near(t, low, 1500, 4 * Math.sqrt(1000), 'of 4500 in the lowest third');
});

test('dirichlet shares sum to one and are never NaN', (t) => {
  for (const alpha of [1e-300, 1e-9, 1e-3, 0.1, 1, 100, 1e6]) {
    const stream = rng(3, 'dirichlet', alpha);
    for (let i = 0; i < 50; i++) {
      const shares = stream.dirichlet(alpha, 8);
      t.true(
        shares.every((share) => share >= 0 && share <= 1),
        `alpha ${alpha}: ${shares}`,
      );
      near(
        t,
        shares.reduce((a, b) => a + b),
        1,
        1e-12,
        `alpha ${alpha}`,
      );
    }
  }
  t.true(Math.max(...rng(3).dirichlet(1e-3, 8)) > 0.99);
  t.true(Math.max(...rng(3).dirichlet(1e6, 8)) < 0.13);
});

test('permutation and pick', (t) => {
  const order = rng(4).permutation(100);
  t.deepEqual(
    order.slice().sort(),
    Int32Array.from({ length: 100 }, (_, i) => i),
  );
  t.notDeepEqual(order, order.slice().sort());
  t.is(rng(4).permutation(0).length, 0);
  const firsts = new Int32Array(5);
  const stream = rng(4, 'firsts');
  for (let i = 0; i < 10_000; i++) firsts[stream.permutation(5)[0]!]!++;
  for (const count of firsts) near(t, count, 2000, 4 * 40);

  const names = ['e', 'a', 'd', 'b', 'c'];
  const picked = rng(4).pick(names, 3);
  t.is(picked.length, 3);
  t.deepEqual(
    picked,
    names.filter((name) => picked.includes(name)),
  );
  t.deepEqual(rng(4).pick(names, 5), names);
  t.deepEqual(rng(4).pick(names, 0), []);
});
