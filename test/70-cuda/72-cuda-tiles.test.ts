/**
 * The fast bf16 kernels of the CUDA backend against the definitions, at shapes that reach every path through them: whole and ragged tiles
 * of either size, one step and many, sums cut into ranges, every kind of convolution, channel slices. 71-cuda-ops has the shapes that they
 * leave to the generic kernels.
 */
import test from 'ava';
import type { Addon } from '../../src/bindings/native.ts';
import { sessionOn } from '../../src/bindings/session.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { rng } from '../../src/rng.ts';
import { attend, cases, conv, linearOf, norm, type OpArguments } from '../cases.ts';
import { loadReference } from '../support/addons.ts';
import { checkPair, cuda, usable } from '../support/cuda.ts';
import { setEnvironment } from '../support/environment.ts';
import { near } from '../support/near.ts';

const withDevice = usable ? test.serial : test.serial.skip;
const rowOf = (op: string) => cases.find((row) => row.op === op)!;

/**
 * Runs a drawn call and its backward, on Ampere's kernels if a tile is named; `i` decides on channel slices (odd: forward's, even:
 * backward's) and on gradients that add up.
 */
function check(title: string, op: string, draw: (r: ReturnType<typeof rng>) => OpArguments, tile?: 64 | 128, variants = [0, 1]) {
  withDevice(`${op}: ${title}${tile ? `, tiles of ${tile}` : ''}`, (t) => {
    using _ = setEnvironment(tile ? { PHOENIX_MMA_TILE: String(tile) } : {});
    const row = rowOf(op);
    for (const i of variants) {
      const r = rng(3, 'cuda', title, i);
      t.deepEqual(checkPair(row, draw(r), r, i, row.bf16!, 1e-4, 8), []);
    }
  });
}

const all = { temb: true, residual: true };
for (const tile of [64, 128] as const) {
  check('whole tiles', 'conv2d_forward', (r) => conv([2, 8, 8, 32], 128, {}, all, r), tile, [0]);
  check('ragged tiles, many images', 'conv2d_forward', (r) => conv([3, 5, 7, 40], 72, {}, all, r), tile);
  check('stride 2, pad 0', 'conv2d_forward', (r) => conv([2, 6, 8, 16], 24, { stride: 2, pad: 0 }, {}, r), tile);
  check('stride 2, pad 1', 'conv2d_forward', (r) => conv([1, 8, 6, 8], 16, { stride: 2 }, {}, r), tile);
  check('a shortcut', 'conv2d_forward', (r) => conv([2, 5, 7, 40], 72, {}, { temb: true, shortcut: [24, 16] }, r), tile);
  check('upsampled', 'conv2d_forward', (r) => conv([2, 4, 3, 16], 8, { upsample: 2 }, { residual: true }, r), tile);
  check('one step', 'linear_forward', (r) => linearOf(13, 8, 0, 8, { b: true, residual: false }, r), tile);
  check('two inputs, whole tiles', 'linear_forward', (r) => linearOf(128, 64, 32, 128, { b: true, residual: true }, r), tile);
  check('two inputs, ragged', 'linear_forward', (r) => linearOf(150, 40, 24, 136, { b: false, residual: true }, r), tile);
}
check('a sum in ranges', 'conv2d_forward', (r) => conv([3, 16, 16, 8], 16, {}, {}, r), undefined, [0]);

check('few channels to many', 'conv2d_forward', (r) => conv([2, 5, 6, 3], 24, {}, {}, r));
check('many channels to few', 'conv2d_forward', (r) => conv([3, 10, 9, 136], 4, {}, {}, r));

const normed = { silu: true, dropout: 0.1, mean: 3 };
check('slabs', 'group_norm_forward', (r) => norm([2, 4, 6, 64], 0, 16, normed, r));
check('slabs, two inputs, the last one shorter', 'group_norm_forward', (r) => norm([2, 3, 5, 40], 32, 6, { ...normed, dropout: 0 }, r));
check('slabs of a few pixels, one group', 'group_norm_forward', (r) => norm([1, 2, 2, 48], 0, 1, { ...normed, silu: false }, r));
// Sides that Hopper's copies cover, where the device is one.
check('stride 2 on whole boxes', 'conv2d_forward', (r) => conv([2, 8, 8, 16], 24, { stride: 2, pad: 0 }, all, r));
check('patches in a map that fills no tile', 'conv2d_forward', (r) => conv([1, 8, 48, 8], 16, {}, all, r));
check('stride 2 over odd sides', 'conv2d_forward', (r) => conv([2, 9, 9, 8], 16, { stride: 2 }, {}, r), undefined, [0]);
check('upsampled, whole boxes', 'conv2d_forward', (r) => conv([2, 4, 4, 16], 24, { upsample: 2 }, all, r));
check('a shortcut of two inputs', 'conv2d_forward', (r) => conv([2, 8, 8, 16], 72, {}, { ...all, shortcut: [72, 24] }, r));
check('a shortcut of one input', 'conv2d_forward', (r) => conv([2, 8, 8, 72], 24, {}, { temb: true, shortcut: [16, 0] }, r));
check('a shortcut around a stride', 'conv2d_forward', (r) => conv([2, 8, 8, 16], 24, { stride: 2 }, { shortcut: [16, 8] }, r));
check('more columns than a tile', 'conv2d_forward', (r) => conv([1, 4, 4, 8], 264, {}, all, r), undefined, [1]);

check('whole tiles', 'attention_forward', (r) => attend([1, 8, 8, 64], 1, r));
check('several heads, ragged tiles', 'attention_forward', (r) => attend([2, 5, 7, 144], 2, r));
check('few tokens, wide heads', 'attention_forward', (r) => attend([1, 3, 3, 200], 1, r));
check('scores far below zero, fewer tokens than a tile', 'attention_forward', (r) => {
  const call = attend([1, 4, 4, 32], 1, r);
  const { qkv } = call.tensors;
  for (const [i, value] of qkv!.data.entries()) qkv!.data[i] = Math.fround(value + ([5, -5, 0][Math.floor((i % 96) / 32)] ?? 0));
  return call;
});
check('two inputs on Hopper', 'linear_forward', (r) => linearOf(150, 40, 24, 72, { b: true, residual: true }, r));

withDevice('a network in bf16, its output and gradient', async (t) => {
  const model = unetModel(
    unetConfig({
      height: 8,
      width: 8,
      inChannels: 3,
      dropout: 0,
      blockOutChannels: [8, 16],
      layersPerBlock: 1,
      attention: [false, true],
      normGroups: 4,
    }),
  );
  const r = rng(4, 'cuda', 'network');
  const normals = (count: number) => Float64Array.from({ length: count }, () => r.normal());
  const [x, target, times] = [normals(192), normals(192), Float64Array.of(400)];
  let weights: Float32Array | undefined;
  const run = async (native: Addon) => {
    using session = sessionOn(native, { model, noise: noise(), threads: 1 });
    weights ??= Float32Array.from(normals(session.parameterCount), (v) => 0.1 * v);
    await session.params.fromBytes(new Uint8Array(weights.buffer), 0);
    const { output, gradient } = await session.gradient(x, times, target, session.params);
    return { output, gradient: new Float32Array((await gradient.toBytes(0, weights.length)).slice().buffer) };
  };
  const [exact, fast] = [await run(loadReference()), await run(cuda!)];
  near(t, fast.output, exact.output, { norm: 1e-2 }, 'output');
  near(t, fast.gradient, exact.gradient, { norm: 1e-2 }, 'gradient');
});
