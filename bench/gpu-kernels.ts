/**
 * Ops on a GPU at the sizes of their rows in test/cases.ts: a training step of the CIFAR-10 U-Net with a batch of 128, in bf16. Device time
 * alone.
 */
import type { Addon, OpTensor } from '../src/bindings/native.ts';
import { rng } from '../src/rng.ts';
import { cases, type DrawRng, type GpuCall, type GpuScale, normal, type OpCase, output } from '../test/cases.ts';
import type { Ceiling } from './gpu-machine.ts';
import { median } from './quiet.ts';
import { figure, table } from './table.ts';

type TimedCall = {
  op: string;
  label: string;
  tensors: Record<string, OpTensor>;
  attributes: Record<string, number>;
  /** One of them: what the op must do, or must move, at least. */
  flops?: number;
  bytes?: number;
};

export type GpuKernelResult = {
  op: string;
  label: string;
  medianSeconds: number;
  minSeconds: number;
  maxSeconds: number;
  repetitions: number;
  /** Calls a repetition. */
  launches: number;
  rate: number;
  unit: 'TFLOP/s' | 'GB/s';
  /** Of the ceiling of that unit. */
  share: number;
};

export type GpuKernelOptions = {
  addon: Addon;
  ceiling: Ceiling;
  reps: number;
  quick: boolean;
  emulated: boolean;
  /** performance.now() when time is up. */
  until: number;
  say(line: string): void;
  onResult(result: GpuKernelResult): void;
};

/** Device time that a repetition is to take, if the op ran at its ceiling. */
const REPETITION_SECONDS = 0.004;
const PARAMETERS = 35_746_307;

/** The result, and what was left out for want of time or because it failed. */
export function benchGpuKernels(options: GpuKernelOptions): { kernels: GpuKernelResult[]; leftOut: string[] } {
  const { addon, ceiling, reps, quick, emulated, until, say, onResult } = options;
  const kernels: GpuKernelResult[] = [];
  const leftOut: string[] = [];
  for (const draw of quick ? gpuCalls(emulated).filter((_, i) => i % 5 === 0) : gpuCalls(emulated)) {
    const { op, label, tensors, attributes, flops, bytes } = draw();
    if (performance.now() > until) {
      leftOut.push(`${op} ${label}: no time left`);
      continue;
    }
    const floor = flops === undefined ? bytes! / (ceiling.gbytesPerSecond * 1e9) : flops / (ceiling.tflops * 1e12);
    const launches = emulated ? 1 : Math.min(200, Math.max(1, Math.ceil(REPETITION_SECONDS / floor)));
    try {
      const sorted = Array.from(addon.timeOp(op, tensors, attributes, launches, reps)).sort((a, b) => a - b);
      const seconds = median(sorted) / 1e9;
      const unit = flops === undefined ? 'GB/s' : 'TFLOP/s';
      const rate = flops === undefined ? bytes! / seconds / 1e9 : flops / seconds / 1e12;
      const result: GpuKernelResult = {
        op,
        label,
        medianSeconds: seconds,
        minSeconds: sorted[0]! / 1e9,
        maxSeconds: sorted.at(-1)! / 1e9,
        repetitions: reps,
        launches,
        rate,
        unit,
        share: rate / (flops === undefined ? ceiling.gbytesPerSecond : ceiling.tflops),
      };
      kernels.push(result);
      onResult(result);
    } catch (error) {
      leftOut.push(`${op} ${label}: ${(error as Error).message}`);
    }
  }
  for (const line of leftOut) say(`  left out: ${line}`);
  return { kernels, leftOut };
}

// ---- the calls

/** Fewer values than most tensors have: they are repeated, and a prime number of them, so that neighbouring rows differ. */
const SERIES = 4093;

const inBf16 = (names: string[], tensors: Record<string, OpTensor>) =>
  Object.fromEntries(names.filter((name) => tensors[name]).map((name) => [`bf16_${name}`, 1]));

/** All calls of the table of cases, each drawn only when it is timed; with `emulated` the same ones of a few elements. */
export function gpuCalls(emulated: boolean): (() => TimedCall)[] {
  const scale: GpuScale = {
    batch: emulated ? 1 : 128,
    side: (size) => (emulated ? Math.min(4, size) : size),
    wide: (channels) => (emulated && channels > 3 ? channels / 16 : channels),
    groups: emulated ? 4 : 32,
    parameters: emulated ? 4096 : PARAMETERS,
  };
  const draw: DrawRng = { ...rng(1, 'gpu'), most: SERIES };
  return cases.flatMap((row) =>
    (row.gpu?.(scale) ?? []).flatMap((call) => [
      () => forwardOf(row, call, draw),
      ...(call.backward ?? []).map((backward) => () => backwardOf(row, call, backward, draw)),
    ]),
  );
}

function forwardOf({ op, bf16 = [] }: OpCase, { label, draw, flops, bytes }: GpuCall, r: DrawRng): TimedCall {
  const { tensors, attributes } = draw(r);
  return { op, label, tensors, attributes: { ...attributes, ...inBf16(bf16, tensors) }, flops, bytes };
}

/** With values like those that a forward call would have saved. */
function backwardOf(
  row: OpCase,
  call: GpuCall,
  { label, gradients, factor }: NonNullable<GpuCall['backward']>[number],
  r: DrawRng,
): TimedCall {
  const { op, upstream, gradients: inputs } = row.backward!;
  const args = call.draw(r);
  const tensors: Record<string, OpTensor> = {};
  for (const [name, tensor] of Object.entries(args.tensors)) {
    const saved = call.saved?.[name];
    if (tensor.data.length > 0) tensors[name] = tensor;
    else if (saved) tensors[name] = normal(r, tensor.shape, ...saved);
  }
  for (const [from, name] of Object.entries(upstream)) if (typeof name === 'string') tensors[name] = normal(r, args.tensors[from]!.shape);
  for (const name of gradients) {
    const input = args.tensors[inputs[name]!];
    if (input) tensors[name] = output(input.shape);
  }
  return {
    op,
    label: label ? `${call.label}, ${label}` : call.label,
    tensors,
    attributes: { ...args.attributes, ...inBf16(row.bf16 ?? [], tensors) },
    flops: call.flops && factor * call.flops,
    bytes: call.bytes && factor * call.bytes,
  };
}

export function gpuKernelTable(kernels: GpuKernelResult[], as = table): string {
  const rows = kernels.map(({ op, label, medianSeconds, minSeconds, maxSeconds, rate, unit, share }) => [
    op,
    label,
    figure(medianSeconds * 1e6),
    figure(minSeconds * 1e6),
    figure(maxSeconds * 1e6),
    figure(rate),
    unit,
    `${(100 * share).toFixed(0)} %`,
  ]);
  return as(['op', 'size, bf16', '>us', '>min', '>max', '>rate', 'unit', '>of ceiling'], rows);
}
