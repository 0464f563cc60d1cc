/** The GPU as it is found: what nvidia-smi says (nothing is set), and the ceilings that the other figures are shares of. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Addon, OpTensor } from '../src/bindings/native.ts';
import { figure } from './table.ts';

const FIELDS = [
  'name',
  'driver_version',
  'clocks.sm',
  'clocks.mem',
  'clocks.max.sm',
  'clocks.max.mem',
  'power.draw',
  'power.limit',
  'temperature.gpu',
  'memory.used',
  'memory.total',
  'utilization.gpu',
] as const;

/** By nvidia-smi's names and in its words ('1980 MHz'); one entry a GPU. null without nvidia-smi. */
export type GpuState = Record<(typeof FIELDS)[number], string>[] | null;

export async function gpuState(): Promise<GpuState> {
  try {
    const { stdout } = await promisify(execFile)('nvidia-smi', [`--query-gpu=${FIELDS.join(',')}`, '--format=csv,noheader'], {
      timeout: 20_000,
    });
    return stdout
      .trim()
      .split('\n')
      .map((line) => {
        const values = line.split(', ');
        return Object.fromEntries(FIELDS.map((field, i) => [field, values[i] ?? ''])) as Record<(typeof FIELDS)[number], string>;
      });
  } catch {
    return null;
  }
}

export const stateLine = (state: GpuState): string =>
  state === null
    ? 'no nvidia-smi: driver and clocks are not known'
    : state
        .map(
          (gpu) =>
            `${gpu.name}, driver ${gpu.driver_version}; SM ${gpu['clocks.sm']} (at most ${gpu['clocks.max.sm']}), memory ${gpu['clocks.mem']}, ` +
            `${gpu['power.draw']} of ${gpu['power.limit']}, ${gpu['temperature.gpu']} °C, ${gpu['memory.used']} in use`,
        )
        .join('\n');

export type Ceiling = {
  /** Dense products in bf16. */
  tflops: number;
  /** Reads and writes counted once each. */
  gbytesPerSecond: number;
  /** Whose product and whose copy were the fastest. */
  from: { tflops: string; gbytesPerSecond: string };
};

/**
 * What a matrix product of 8192³ in bf16 reaches in practice on an H100 or H200 (SXM), TFLOP/s: 795 by cuBLAS as published with fast.cu
 * (github.com/pranjalssh/fast.cu), of 989 in the data sheet. Only a second measure: shares are of what this card reached in the same run.
 */
export const HOPPER_TFLOPS = 790;

/** Fewer values than most shapes have: they are repeated, and a prime number of them, so that neighbouring rows differ. */
const SERIES = 4093;

/** Deterministic normal values (Box and Muller) for a tensor of that shape. */
export function normals(shape: OpTensor['shape'], deviation = 1, mean = 0): OpTensor {
  let state = 0x2545f491;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  const length = Math.min(SERIES, shape[0] * shape[1] * shape[2] * shape[3]);
  const draw = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return { data: Float64Array.from({ length }, () => Math.fround(mean + deviation * draw())), shape };
}

export const output = (shape: OpTensor['shape']): OpTensor => ({ data: new Float64Array(0), shape });

/** Phoenix's own product and streams, at sizes that no cache holds; `emulated`: tiny ones. */
export function measureCeiling(addon: Addon, emulated: boolean): Ceiling {
  const best = (op: string, tensors: Record<string, OpTensor>, attributes: Record<string, number>, launches: number) =>
    Math.min(...addon.timeOp(op, tensors, attributes, emulated ? 1 : launches, emulated ? 1 : 5)) / 1e9;
  let tflops = 0;
  for (const side of emulated ? [32] : [4096, 8192]) {
    const square: OpTensor['shape'] = [side, 1, 1, side];
    const tensors = { y: output(square), x0: normals(square), w: normals(square, 1 / Math.sqrt(side)) };
    const seconds = best('linear_forward', tensors, { bf16_y: 1, bf16_x0: 1, bf16_w: 1 }, 5);
    tflops = Math.max(tflops, (2 * side ** 3) / seconds / 1e12);
  }
  const long: OpTensor['shape'] = [1, 1, 1, emulated ? 4096 : 1 << 26];
  let gbytesPerSecond = 0;
  for (const [op, tensors, streams] of [
    ['convert', { y: output(long), x: normals(long) }, 2],
    ['axpy', { y: normals(long), x: normals(long) }, 3],
  ] as const)
    gbytesPerSecond = Math.max(gbytesPerSecond, (4 * streams * long[3]) / best(op, tensors, { a: 1 }, 10) / 1e9);
  return { tflops, gbytesPerSecond, from: { tflops: 'Phoenix', gbytesPerSecond: 'Phoenix' } };
}

/** The higher of each. */
export function higher(a: Ceiling, b: Ceiling): Ceiling {
  const [product, copy] = [a.tflops >= b.tflops ? a : b, a.gbytesPerSecond >= b.gbytesPerSecond ? a : b];
  return {
    tflops: product.tflops,
    gbytesPerSecond: copy.gbytesPerSecond,
    from: { tflops: product.from.tflops, gbytesPerSecond: copy.from.gbytesPerSecond },
  };
}

export const ceilingLine = ({ tflops, gbytesPerSecond, from }: Ceiling, device: string): string =>
  `Ceiling as measured here: ${figure(tflops)} TFLOP/s (a product of ${from.tflops}'s in bf16${
    /H100|H200|GH200/.test(device) ? `; ${((100 * tflops) / HOPPER_TFLOPS).toFixed(0)} % of ${HOPPER_TFLOPS}` : ''
  }), ${figure(gbytesPerSecond)} GB/s (a copy or sum of ${from.gbytesPerSecond}'s).`;
