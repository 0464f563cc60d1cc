/**
 * Whether a GPU computes what the CPU computes: single ops, forward and backward, on both, in fp32 and with bf16 tensors. A second or two
 * on a GPU. What passed is remembered for this GPU, driver and build in the user's cache folder.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { cacheSync } from '../files.ts';
import type { Addon, OpTensor } from './native.ts';

type Shape = OpTensor['shape'];
type Call = {
  op: string;
  /** What goes in, by name. */
  inputs: Record<string, Shape>;
  /** What comes out, and is compared. */
  outputs: Record<string, Shape>;
  attributes?: Record<string, number>;
  /** Tensors that are bf16 in the second run. */
  bf16?: string[];
};

const images: Shape = [2, 8, 8, 16];
const wide: Shape = [2, 8, 8, 32];
const vector = (count: number): Shape => [1, 1, 1, count];
const norm = { groups: 4, silu: 1 };

/** Shapes that the fast kernels of every architecture take: maps of 8x8, channels in eights. */
const CALLS: Call[] = [
  {
    op: 'conv2d_forward',
    inputs: { x: images, w: [32, 3, 3, 16], b: vector(32) },
    outputs: { y: wide },
    bf16: ['x', 'w', 'y'],
  },
  {
    op: 'conv2d_backward',
    inputs: { dy: wide, x: images, w: [32, 3, 3, 16] },
    outputs: { dx: images, dw: [32, 3, 3, 16], db: vector(32) },
    bf16: ['dy', 'x', 'w', 'dx'],
  },
  {
    op: 'linear_forward',
    inputs: { x0: [128, 1, 1, 16], w: [32, 1, 1, 16], b: vector(32) },
    outputs: { y: [128, 1, 1, 32] },
    bf16: ['x0', 'w', 'y'],
  },
  {
    op: 'linear_backward',
    inputs: { dy: [128, 1, 1, 32], x0: [128, 1, 1, 16], w: [32, 1, 1, 16] },
    outputs: { dx0: [128, 1, 1, 16], dw: [32, 1, 1, 16], db: vector(32) },
    bf16: ['dy', 'x0', 'w', 'dx0'],
  },
  {
    op: 'group_norm_forward',
    inputs: { x0: wide, w: vector(32), b: vector(32) },
    outputs: { y: wide, mean: [2, 1, 1, 4], rstd: [2, 1, 1, 4] },
    attributes: norm,
    bf16: ['x0', 'y'],
  },
  {
    op: 'group_norm_backward',
    inputs: { dy: wide, mean: [2, 1, 1, 4], rstd: [2, 1, 1, 4], x0: wide, w: vector(32), b: vector(32) },
    outputs: { dx0: wide, dw: vector(32), db: vector(32) },
    attributes: norm,
    bf16: ['dy', 'x0', 'dx0'],
  },
  {
    op: 'attention_forward',
    inputs: { qkv: [2, 4, 4, 96] },
    outputs: { o: [2, 4, 4, 32], lse: [2, 1, 1, 32] },
    attributes: { heads: 2 },
    bf16: ['qkv', 'o'],
  },
  { op: 'silu_forward', inputs: { x: images }, outputs: { y: images } },
  { op: 'silu_backward', inputs: { dy: images, x: images }, outputs: { dx: images } },
  { op: 'mse_forward', inputs: { y: images, target: images, weight: vector(2) }, outputs: { loss: vector(2) } },
  { op: 'mse_backward', inputs: { y: images, target: images, weight: vector(2) }, outputs: { dy: images } },
  { op: 'sum_of_squares', inputs: { g: vector(1000) }, outputs: { result: vector(1) } },
  { op: 'adam_step', inputs: { p: vector(1000), m: vector(1000), v: vector(1000), g: vector(1000) }, outputs: { p: vector(1000) } },
];

/** Relative to the norm of the CPU's result: what rounding explains, many times over. */
const TOLERANCE = { fp32: 1e-4, bf16: 2e-2 };

/** Whole eighths from -1 to 1, which bf16 holds too; never negative for second moments. */
function values(name: string, [n, h, w, c]: Shape): OpTensor {
  const data = Float64Array.from({ length: n * h * w * c }, (_, i) => ((Math.imul(i + 1, 0x9e3779b1) >>> 28) - 8) / 8);
  return { data: name === 'v' || name === 'rstd' ? data.map((x) => Math.abs(x) + 0.5) : data, shape: [n, h, w, c] };
}
const empty = (shape: Shape): OpTensor => ({ data: new Float64Array(0), shape });
const map = <A, B>(from: Record<string, A>, to: (value: A, name: string) => B): Record<string, B> =>
  Object.fromEntries(Object.entries(from).map(([name, value]) => [name, to(value, name)]));

function distance(got: Float64Array, wanted: Float64Array): number {
  const norm = (of: (i: number) => number) => Math.sqrt(wanted.reduce((sum, _, i) => sum + of(i) ** 2, 0));
  return (
    norm((i) => got[i]! - wanted[i]!) /
    Math.max(
      norm((i) => wanted[i]!),
      1e-6,
    )
  );
}

/** What a GPU computes otherwise than the CPU, in a phrase each; nothing where all is well. */
export function differences(gpu: Addon, cpu: Addon): string[] {
  const found: string[] = [];
  for (const { op, inputs, outputs, attributes = {}, bf16 = [] } of CALLS) {
    const { result: _, ...written } = outputs;
    const tensors = { ...map(written, empty), ...map(inputs, (shape, name) => values(name, shape)) };
    const wanted = cpu.op(op, tensors, attributes).tensors;
    for (const precision of bf16.length > 0 ? (['fp32', 'bf16'] as const) : (['fp32'] as const)) {
      const rounded = precision === 'bf16' ? Object.fromEntries(bf16.map((name) => [`bf16_${name}`, 1])) : {};
      const got = gpu.op(op, tensors, { ...attributes, ...rounded }).tensors;
      for (const name of Object.keys(outputs)) {
        const off = distance(got[name]!.data, wanted[name]!.data);
        if (!(off <= TOLERANCE[precision])) found.push(`${op} in ${precision}: ${name} is off by ${off.toPrecision(2)} of its norm`);
      }
    }
  }
  return found;
}

/** Where a check that was passed is remembered. */
export function memoryOf(gpu: Addon, files: string[]): string {
  const hash = createHash('sha256').update(gpu.info().device);
  for (const file of files) hash.update(readFileSync(file));
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'phoenix', `self-check-${hash.digest('hex').slice(0, 16)}`);
}

/** differences(), unless they were found to be none before on this GPU, driver and build. A cache that cannot be written is no obstacle. */
export function selfCheck(gpu: Addon, cpu: Addon, memory: string): string[] {
  try {
    readFileSync(memory);
    return [];
  } catch {
    // Not checked yet.
  }
  const found = differences(gpu, cpu);
  if (found.length === 0) cacheSync(memory, `${gpu.info().device}: ${CALLS.length} ops compute what the CPU computes\n`);
  return found;
}
