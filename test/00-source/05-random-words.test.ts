/**
 * The random numbers that ops draw, on the definitions and on every instruction set, against the host's own Philox and what ops.h states of
 * counters: the prior, a sampler's noise, dropout, and the times, flips and noise of a batch.
 */
import test from 'ava';
import type { OpTensor } from '../../src/bindings/native.ts';
import { philox } from '../../src/rng.ts';
import { loadFast, loadReference } from '../support/addons.ts';
import { near, type Tolerance } from '../support/near.ts';

const key = 0x0123456789abcdefn;
const attributes = { key_lo: Number(key & 0xffffffffn), key_hi: Number(key >> 32n) };
const output = (n: number, h: number, w: number, c: number): OpTensor => ({ data: new Float64Array(0), shape: [n, h, w, c] });
const filled = (shape: OpTensor['shape'], value: (i: number) => number): OpTensor => ({
  data: Float64Array.from({ length: shape[0] * shape[1] * shape[2] * shape[3] }, (_, i) => value(i)),
  shape,
});
const equal: Tolerance = { relative: 1e-6, absolute: 1e-6 };

/** The fourth number of Philox's counters; see philox.h. */
const purposes = { timestep: 1, noise: 2, dropout: 3, sampler: 4, prior: 5 };

/** Standard normals as normal.h states them: pairs of words by Box-Muller, four values from the counter {j, c1, c2, purpose}. */
function normals(count: number, c1: number, c2: number, purpose: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const words = philox(key, i >> 2, c1, c2, purpose);
    const pair = i & 2;
    const radius = Math.sqrt(-2 * Math.log((words[pair]! + 1) / 2 ** 32));
    const angle = (2 * Math.PI * words[pair + 1]!) / 2 ** 32;
    return radius * (i & 1 ? Math.sin(angle) : Math.cos(angle));
  });
}

/** Half-word `at` of the words of one counter, the low half of word 0 first. */
const halfWord = (words: number[], at: number) => (at & 1 ? words[at >> 1]! >>> 16 : words[at >> 1]!) & 0xffff;

/** Dropout's factors of `count` elements in layer 3 of step 9: 0, or one over the share that is kept. */
function dropoutFactors(count: number, p: number): number[] {
  const threshold = Math.round(p * 65536);
  return Array.from({ length: count }, (_, e) => {
    const bits = halfWord(philox(key, e >> 3, 3, 9, purposes.dropout), e & 7);
    return bits >= threshold ? 65536 / (65536 - threshold) : 0;
  });
}

const addons = [{ label: 'ref', addon: loadReference() }, ...loadFast().addons.map(({ isa, addon }) => ({ label: isa as string, addon }))];

for (const { label, addon } of addons) {
  test(`${label}: words, and the prior made of them`, (t) => {
    t.deepEqual(addon.philox(key, 1, 2, 3, 4), philox(key, 1, 2, 3, 4));
    const { x } = addon.op('normal_fill', { x: output(2, 3, 3, 3) }, { ...attributes, first_image: 5 }).tensors;
    near(t, x!.data, [...normals(27, 5, 0, purposes.prior), ...normals(27, 6, 0, purposes.prior)], equal);
  });

  test(`${label}: a sampler's noise`, (t) => {
    // With x̂0 = m = 0 and cz = 1 alone, a step gives its noise.
    const zeros = filled([2, 1, 5, 1], () => 0);
    const step = { alpha: 1, sigma: 0, cx: 0, c0: 0, c1: 0, cz: 1, prediction: 1, step: 7, first_image: 5, ...attributes };
    const { x } = addon.op('sampler_step', { x: zeros, x0_prev: zeros, m: zeros }, step).tensors;
    near(t, x!.data, [...normals(5, 5, 7, purposes.sampler), ...normals(5, 6, 7, purposes.sampler)], equal);
  });

  test(`${label}: dropout`, (t) => {
    // Of a constant 1: weight 0, bias 1, no SiLU.
    for (const [[n, h, w, c], p] of [
      [[2, 3, 3, 21], 0.1],
      [[1, 2, 2, 2100], 0.5],
      [[3, 8, 8, 64], 0.25],
    ] as const) {
      const tensors = {
        y: output(n, h, w, c),
        mean: output(n, 1, 1, 1),
        rstd: output(n, 1, 1, 1),
        x0: filled([n, h, w, c], (i) => i % 7),
        w: filled([1, 1, 1, c], () => 0),
        b: filled([1, 1, 1, c], () => 1),
      };
      const { y } = addon.op('group_norm_forward', tensors, { groups: 1, silu: 0, dropout: p, layer: 3, step: 9, ...attributes }).tensors;
      near(t, y!.data, dropoutFactors(n * h * w * c, p), equal, `${n}x${h}x${w}x${c}, p ${p}`);
    }
  });

  test(`${label}: times, flips and noise of a batch`, (t) => {
    const [n, h, w, c, count, steps] = [4, 2, 3, 3, 6, 1000];
    const size = h * w * c;
    const images = filled([count, h, w, c], (i) => (i * 37) % 256);
    const indices: OpTensor = { data: Float64Array.of(5, 0, 3, 3), shape: [1, 1, 1, n] };
    const alphaBar = filled([1, 1, 1, steps], (i) => 1 - (i + 1) / (steps + 1));
    const outputs = { xt: output(n, h, w, c), target: output(n, h, w, c), weight: output(1, 1, 1, n), t: output(1, 1, 1, n) };
    const given = { images, indices, alpha_bar: alphaBar };
    const options = { ...attributes, step: 11, flip: 1, prediction: 0, min_snr_gamma: 5 };
    const batch = addon.op('noise_batch', { ...outputs, ...given }, options).tensors;
    const mirrored = new Set<number>();
    for (let i = 0; i < n; i++) {
      const words = philox(key, 0, i, 11, purposes.timestep);
      const flip = words[1] & 1;
      mirrored.add(flip);
      const time = Number((BigInt(words[0]) * BigInt(steps)) >> 32n);
      t.is(batch.t!.data[i], time);
      const bar = alphaBar.data[time]!;
      const snr = bar / (1 - bar);
      near(t, batch.weight!.data[i], Math.min(snr, 5) / snr, equal, 'weight');
      const z = normals(size, i, 11, purposes.noise);
      const pixel = (e: number) => {
        const [row, column, channel] = [Math.floor(e / (w * c)), Math.floor(e / c) % w, e % c];
        return images.data[indices.data[i]! * size + (row * w + (flip ? w - 1 - column : column)) * c + channel]! / 127.5 - 1;
      };
      const xt = z.map((noise, e) => Math.sqrt(bar) * pixel(e) + Math.sqrt(1 - bar) * noise);
      const own = (tensor: OpTensor) => tensor.data.subarray(i * size, (i + 1) * size);
      near(t, own(batch.target!), z, equal, 'noise');
      near(t, own(batch.xt!), xt, equal, 'noised images');
    }
    t.is(mirrored.size, 2, 'the batch has mirrored and plain images');
  });
}
