/**
 * Every op on every instruction set against its definition in double precision: random sizes, outputs poisoned with NaN, guard words around
 * every buffer (the addon's `op` throws when one is damaged), inputs left alone, and equal bits for 1, 2 and 3 threads.
 */
import test from 'ava';
import type { Addon, OpTensor } from '../../src/bindings/native.ts';
import { philox, rng } from '../../src/rng.ts';
import { backwardArguments, cases, type OpArguments, rounded } from '../cases.ts';
import { instructionSets, loadFast, loadReference } from '../support/addons.ts';
import { error } from '../support/relative-error.ts';

const reference = loadReference();
const { addons, missing } = loadFast();

const names = Object.fromEntries(addons.map(({ isa, addon }) => [isa, addon]));

const sameBits = (a: OpTensor, b: OpTensor) => Buffer.compare(Buffer.from(a.data.buffer), Buffer.from(b.data.buffer)) === 0;

/** Adds the attributes that make the named tensors slices of wider ones. */
function withStrides(args: OpArguments, strided: string[] = [], i: number): OpArguments {
  if (i % 2 === 0) return args;
  const strides = strided
    .filter((name) => args.tensors[name])
    .map((name, at) => [`ld_${name}`, args.tensors[name]!.shape[3] + 1 + ((i + at) % 5)]);
  return { tensors: args.tensors, attributes: { ...args.attributes, ...Object.fromEntries(strides) } };
}

/** Compares one call on `addon` with the definition's results. */
function check(
  op: string,
  args: OpArguments,
  inPlace: string[],
  tolerance: number,
  addon: Addon,
  expected: Record<string, OpTensor>,
): string[] {
  const failures: string[] = [];
  const { tensors } = addon.op(op, args.tensors, args.attributes);
  for (const [name, value] of Object.entries(tensors)) {
    const given = args.tensors[name];
    if (given && given.data.length > 0 && !inPlace.includes(name)) {
      if (!sameBits(value, given)) failures.push(`changes its input ${name}`);
      continue;
    }
    const e = error(value.data, expected[name]!.data);
    if (!(e <= tolerance)) failures.push(`${name} ${JSON.stringify(value.shape)} is off by ${e}`);
  }
  for (const threads of [2, 3]) {
    const again = addon.op(op, args.tensors, { ...args.attributes, threads }).tensors;
    for (const name of Object.keys(tensors))
      if (!sameBits(again[name]!, tensors[name]!)) failures.push(`${name} differs with ${threads} threads`);
  }
  const call = Object.entries(args.tensors).map(([name, { shape }]) => `${name} ${shape.join('x')}`);
  return failures.map((failure) => `${op}: ${failure}; ${call.join(', ')}; ${JSON.stringify(args.attributes)}`);
}

test('every instruction set can be asked for', (t) => {
  t.true(addons.length > 0);
  for (const isa of missing) t.log(`${isa}: this machine lacks it, ${cases.length} ops not checked`);
});

for (const isa of instructionSets.filter((name) => names[name])) {
  for (const row of cases) {
    test(`${row.op} on ${isa} as defined`, (t) => {
      const failures: string[] = [];
      const tolerance = row.tolerance ?? 1e-10;
      for (let i = 0; i < row.draws; i++) {
        const r = rng(1, 'ops', row.op, i);
        const args = withStrides(row.draw(r, i), row.strided, i);
        const expected = reference.op(row.op, args.tensors, args.attributes).tensors;
        failures.push(...check(row.op, args, row.inPlace ?? [], tolerance, names[isa]!, expected));
        if (!row.backward) continue;
        const back = withStrides(backwardArguments(row, args, expected, r, i), row.backward.strided, i + 1);
        const gradients = reference.op(row.backward.op, back.tensors, back.attributes).tensors;
        failures.push(...check(row.backward.op, back, Object.keys(row.backward.gradients), tolerance, names[isa]!, gradients));
      }
      t.deepEqual(failures, []);
    });
  }
}

// ---- random words: the definitions themselves against the host's own Philox

const key = 0x0123456789abcdefn;
const attributes = { key_lo: Number(key & 0xffffffffn), key_hi: Number(key >> 32n) };
const output = (n: number, h: number, w: number, c: number): OpTensor => ({ data: new Float64Array(0), shape: [n, h, w, c] });

/** Normals of one image as ops.h and normal.h state them. */
function normals(count: number, c1: number, c2: number, purpose: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const words = philox(key, i >> 2, c1, c2, purpose);
    const pair = i & 2;
    const radius = Math.sqrt(-2 * Math.log((words[pair]! + 1) / 2 ** 32));
    const angle = (2 * Math.PI * words[pair + 1]!) / 2 ** 32;
    return radius * (i & 1 ? Math.sin(angle) : Math.cos(angle));
  });
}

const close = (a: ArrayLike<number>, b: number[]) =>
  a.length === b.length && b.every((value, i) => Math.abs(value - a[i]!) <= 1e-6 * (1 + Math.abs(value)));

for (const { label, addon } of [{ label: 'ref', addon: reference }, ...addons.map(({ isa, addon }) => ({ label: isa, addon }))]) {
  test(`random words of ${label} are those of the host`, (t) => {
    t.deepEqual(addon.philox(key, 1, 2, 3, 4), philox(key, 1, 2, 3, 4));

    const prior = addon.op('normal_fill', { x: output(2, 3, 3, 3) }, { ...attributes, first_image: 5 }).tensors.x!;
    t.true(close(prior.data, [...normals(27, 5, 0, 5), ...normals(27, 6, 0, 5)]), 'prior');

    // With x̂0 = m = 0 and cz = 1 alone a sampler's step gives its noise.
    const zeros = { data: new Float64Array(10), shape: [2, 1, 5, 1] as OpTensor['shape'] };
    const noise = { alpha: 1, sigma: 0, cx: 0, c0: 0, c1: 0, cz: 1, prediction: 1, step: 7, first_image: 5, ...attributes };
    const drawn = addon.op('sampler_step', { x: zeros, x0_prev: zeros, m: zeros }, noise).tensors.x!;
    t.true(close(drawn.data, [...normals(5, 5, 7, 4), ...normals(5, 6, 7, 4)]), 'sampler');

    // Dropout of a constant 1: weight 0, bias 1, no SiLU.
    for (const [shape, p] of [
      [[2, 3, 3, 21], 0.1],
      [[1, 2, 2, 2100], 0.5],
      [[3, 8, 8, 64], 0.25],
    ] as const) {
      const [n, h, w, c] = shape;
      const args = {
        y: output(n, h, w, c),
        mean: output(n, 1, 1, 1),
        rstd: output(n, 1, 1, 1),
        x0: { data: Float64Array.from({ length: n * h * w * c }, (_, i) => i % 7), shape: [...shape] as OpTensor['shape'] },
        w: { data: new Float64Array(c), shape: [1, 1, 1, c] as OpTensor['shape'] },
        b: { data: new Float64Array(c).fill(1), shape: [1, 1, 1, c] as OpTensor['shape'] },
      };
      const y = addon.op('group_norm_forward', args, { groups: 1, silu: 0, dropout: p, layer: 3, step: 9, ...attributes }).tensors.y!;
      const threshold = Math.round(p * 65536);
      const expected = Array.from({ length: y.data.length }, (_, e) => {
        const word = philox(key, e >> 3, 3, 9, 3)[(e & 7) >> 1]!;
        return ((e & 1 ? word >>> 16 : word) & 0xffff) >= threshold ? 65536 / (65536 - threshold) : 0;
      });
      t.true(close(y.data, expected), `dropout of ${shape}`);
    }

    const [h, w, c, count, steps] = [2, 3, 3, 6, 1000];
    const size = h * w * c;
    const images: OpTensor = { data: Float64Array.from({ length: count * size }, (_, i) => (i * 37) % 256), shape: [count, h, w, c] };
    const indices: OpTensor = { data: Float64Array.from([5, 0, 3, 3]), shape: [1, 1, 1, 4] };
    const bars = Float64Array.from({ length: steps }, (_, i) => 1 - (i + 1) / (steps + 1));
    const tensors = {
      xt: output(4, h, w, c),
      target: output(4, h, w, c),
      weight: output(1, 1, 1, 4),
      t: output(1, 1, 1, 4),
      images,
      indices,
    };
    const batch = addon.op(
      'noise_batch',
      { ...tensors, alpha_bar: { data: bars, shape: [1, 1, 1, steps] } },
      { ...attributes, step: 11, flip: 1, prediction: 0, min_snr_gamma: 5 },
    ).tensors;
    const mirrored = new Set<number>();
    for (let n = 0; n < 4; n++) {
      const words = philox(key, 0, n, 11, 1);
      const time = Number((BigInt(words[0]) * BigInt(steps)) >> 32n);
      t.is(batch.t!.data[n], time);
      const bar = bars[time]!;
      const snr = bar / (1 - bar);
      t.true(close([batch.weight!.data[n]!], [Math.min(snr, 5) / snr]), 'weight');
      mirrored.add(words[1] & 1);
      const z = normals(size, n, 11, 2);
      const xt = z.map((noise, e) => {
        const [row, column, channel] = [Math.floor(e / (w * c)), Math.floor(e / c) % w, e % c];
        const from = (row * w + (words[1] & 1 ? w - 1 - column : column)) * c + channel;
        return Math.sqrt(bar) * (images.data[indices.data[n]! * size + from]! / 127.5 - 1) + Math.sqrt(1 - bar) * noise;
      });
      t.true(close(batch.target!.data.subarray(n * size, (n + 1) * size), z), 'noise');
      t.true(close(batch.xt!.data.subarray(n * size, (n + 1) * size), xt), 'noised images');
    }
    t.is(mirrored.size, 2, 'the batch has mirrored and plain images');
  });
}

test('the definitions are in double precision', (t) => {
  const x: OpTensor = { data: Float64Array.from([1 / 3]), shape: [1, 1, 1, 1] };
  t.not(x.data[0], rounded(x).data[0]);
  t.is(reference.op('scale', { y: x }, { a: 1 }).tensors.y!.data[0], 1 / 3);
});
