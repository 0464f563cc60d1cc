/**
 * Every op of ops.h at the sizes of its row in test/cases.ts, against what this machine reaches on a large matrix product and a long sum.
 */
import type { Addon, OpTensor } from '../src/bindings/native.ts';
import { type Rng, rng } from '../src/rng.ts';
import { backwardArguments, cases, type OpArguments } from '../test/cases.ts';
import { median, type Watch } from './quiet.ts';
import { figure, table } from './table.ts';

export type Peak = {
  /** Best of some matrix products that fit into the second-level cache. */
  gflops: number;
  /** Best of two sums of vectors that do not fit into any cache; reads and writes counted once. */
  gbytesPerSecond: number;
};

export type KernelResult = {
  op: string;
  label: string;
  medianSeconds: number;
  minSeconds: number;
  repetitions: number;
  quiet: boolean;
  rate: number;
  unit: 'GFLOP/s' | 'GB/s';
  /** rate / the machine's peak of that unit. */
  share: number;
};

export type KernelOptions = { addon: Addon; threads: number; quick: boolean; watch: Watch };

type Timing = Pick<KernelResult, 'medianSeconds' | 'minSeconds' | 'repetitions' | 'quiet'>;
type Timed = { timing: Timing; results: Record<string, OpTensor> };

export async function benchKernels(options: KernelOptions): Promise<{ peak: Peak; kernels: KernelResult[] }> {
  const peak = await measurePeak(options);
  const r = cheapRng();
  const kernels: KernelResult[] = [];
  for (const row of cases) {
    for (const bench of options.quick ? row.bench.slice(0, 1) : row.bench) {
      const args = bench.draw(r);
      const forward = await time(row.op, args, options);
      const record = (op: string, timing: Timing, flops: number | undefined, bytes: number | undefined) => {
        const unit = flops === undefined ? 'GB/s' : 'GFLOP/s';
        const rate = (flops ?? bytes ?? Number.NaN) / timing.medianSeconds / 1e9;
        kernels.push({
          op,
          label: bench.label,
          ...timing,
          rate,
          unit,
          share: rate / (flops === undefined ? peak.gbytesPerSecond : peak.gflops),
        });
      };
      record(row.op, forward.timing, bench.flops, bench.bytes);
      if (!row.backward || (bench.backwardFlops ?? bench.backwardBytes) === undefined) continue;
      const backward = await time(row.backward.op, backwardArguments(row, args, forward.results, r, 0), options);
      record(row.backward.op, backward.timing, bench.backwardFlops, bench.backwardBytes);
    }
  }
  return { peak, kernels };
}

/** Calls one op for a while. With a = 1 the vector ops that work in place neither grow nor vanish. */
async function time(op: string, args: OpArguments, options: KernelOptions): Promise<Timed> {
  const { addon, threads, quick, watch } = options;
  const attributes = { ...args.attributes, threads, ...('a' in args.attributes && { a: 1 }) };
  const { tensors: results } = addon.op(op, args.tensors, attributes);
  const first = addon.timeOp(op, args.tensors, attributes, 1, 1)[0]!;
  const repetitions = Math.min(1000, Math.max(quick ? 3 : 5, Math.ceil((quick ? 5e7 : 4e8) / first)));
  let sorted: number[] = [];
  const { quiet } = await watch.repetition(() => {
    const started = performance.now();
    sorted = Array.from(addon.timeOp(op, args.tensors, attributes, 1, repetitions)).sort((a, b) => a - b);
    return { seconds: (performance.now() - started) / 1000 };
  });
  return { timing: { medianSeconds: median(sorted) / 1e9, minSeconds: sorted[0]! / 1e9, repetitions, quiet }, results };
}

async function measurePeak(options: KernelOptions): Promise<Peak> {
  const r = cheapRng();
  const filled = (shape: OpTensor['shape']): OpTensor => ({
    data: Float64Array.from({ length: shape[0] * shape[3] }, () => r.normal()),
    shape,
  });
  const empty = (shape: OpTensor['shape']): OpTensor => ({ data: new Float64Array(0), shape });
  let gflops = 0;
  for (const [rows, c, k] of [
    [256, 256, 256],
    [384, 384, 384],
    [768, 256, 256],
  ] as const) {
    const tensors = { y: empty([rows, 1, 1, k]), x0: filled([rows, 1, 1, c]), w: filled([k, 1, 1, c]) };
    const { timing } = await time('linear_forward', { tensors, attributes: {} }, options);
    gflops = Math.max(gflops, (2 * rows * c * k) / timing.minSeconds / 1e9);
  }
  const count = options.quick ? 8 << 20 : 16 << 20;
  const long = (): OpTensor => ({ data: new Float64Array(count).fill(1), shape: [1, 1, 1, count] });
  let gbytesPerSecond = 0;
  for (const [op, tensors] of [
    ['axpy', { y: long(), x: long() }],
    ['subtract', { y: empty([1, 1, 1, count]), a: long(), b: long() }],
  ] as const) {
    const { timing } = await time(op, { tensors, attributes: { a: 1 } }, options);
    gbytesPerSecond = Math.max(gbytesPerSecond, (12 * count) / timing.minSeconds / 1e9);
  }
  return { gflops, gbytesPerSecond };
}

/**
 * Numbers like those of a real stream, from a short one walked in a circle: drawing millions of normal values would take longer than the
 * ops.
 */
function cheapRng(): Rng {
  const source = rng(1, 'bench');
  const normals = Float64Array.from({ length: 4096 }, () => source.normal());
  let at = 0;
  return { ...source, normal: () => normals[at++ & 4095]! };
}

export function kernelTables({ peak, kernels }: { peak: Peak; kernels: KernelResult[] }): string {
  const rows = kernels.map(({ op, label, medianSeconds, minSeconds, quiet, rate, unit, share }) => [
    op,
    label,
    figure(medianSeconds * 1e6),
    figure(minSeconds * 1e6),
    figure(rate),
    unit,
    `${(100 * share).toFixed(0)} %`,
    quiet ? '' : 'busy',
  ]);
  return [
    `Peak as measured here: ${figure(peak.gflops)} GFLOP/s (Phoenix's own matrix product in cache), ${figure(peak.gbytesPerSecond)} GB/s (sum of long vectors).`,
    "FLOPs are those of the direct formula and bytes those that must move at least, so Winograd's convolutions and arrays in cache may show more than 100 %.",
    '',
    table(['op', 'size', '>us', '>min', '>rate', 'unit', '>of peak', ''], rows),
  ].join('\n');
}
