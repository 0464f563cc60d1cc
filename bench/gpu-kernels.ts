/** Ops on a GPU, at the sizes that they have in a training step of the CIFAR-10 U-Net with a batch of 128, in bf16; device time alone. */
import type { Addon, OpTensor } from '../src/bindings/native.ts';
import { type Ceiling, normals, output } from './gpu-machine.ts';
import { median } from './quiet.ts';
import { figure, table } from './table.ts';

type Shape = OpTensor['shape'];
type Call = {
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
  for (const draw of quick ? calls(emulated).filter((_, i) => i % 5 === 0) : calls(emulated)) {
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

const elements = ([n, h, w, c]: Shape) => n * h * w * c;
const inBf16 = (names: string[], tensors: Record<string, OpTensor>) =>
  Object.fromEntries(names.filter((name) => tensors[name]).map((name) => [`bf16_${name}`, 1]));

/** All calls, each drawn only when it is timed; with `emulated` the same ones of a few elements. */
function calls(emulated: boolean): (() => Call)[] {
  const n = emulated ? 1 : 128;
  const side = (size: number) => (emulated ? Math.min(4, size) : size);
  const wide = (channels: number) => (emulated && channels > 3 ? channels / 16 : channels);
  const groups = emulated ? 4 : 32;
  const list: (() => Call)[] = [];

  type ConvOptions = { stride?: number; upsample?: number };
  const conv = (size: number, from: number, to: number, { stride = 1, upsample = 1 }: ConvOptions = {}) => {
    const [s, c, k] = [side(size), wide(from), wide(to)];
    const [x, y]: [Shape, Shape] = [
      [n, s, s, c],
      [n, (s * upsample) / stride, (s * upsample) / stride, k],
    ];
    const label = `${s}x${s} ${c}->${k}${stride > 1 ? ' stride 2' : ''}${upsample > 1 ? ' upsampled' : ''} b${n}`;
    const attributes = { stride, pad: stride > 1 ? 0 : 1, upsample };
    const flops = (2 * 9 * c * elements(y)) as number;
    const w = () => normals([k, 3, 3, c], 1 / Math.sqrt(9 * c));
    list.push(() => {
      const tensors = { y: output(y), x: normals(x), w: w(), b: normals([1, 1, 1, k]), temb: normals([n, 1, 1, k]) };
      return { op: 'conv2d_forward', label, tensors, attributes: { ...attributes, ...inBf16(['y', 'x', 'w', 'temb'], tensors) }, flops };
    });
    const backward = (what: string, outputs: Record<string, OpTensor>, share: number) =>
      list.push(() => {
        const tensors = { ...outputs, db: output([1, 1, 1, k]), dw: output([k, 3, 3, c]), dy: normals(y), x: normals(x), w: w() };
        const rounded = inBf16(['dx', 'dy', 'x', 'w'], tensors);
        return {
          op: 'conv2d_backward',
          label: `${label}${what}`,
          tensors,
          attributes: { ...attributes, ...rounded },
          flops: share * flops,
        };
      });
    if (from > 3) backward('', { dx: output(x) }, 2);
    backward(', weights only', {}, 1);
  };
  const linear = (rows: number, c0: number, c1: number, to: number) => {
    const [a, b, k] = [wide(c0), c1 && wide(c1), wide(to)];
    const flops = 2 * rows * (a + b) * k;
    const label = `${rows} rows ${b ? `${a}+${b}` : a}->${k}`;
    const column = (c: number): Shape => [rows, 1, 1, c];
    const inputs = () => ({
      x0: normals(column(a)),
      ...(b > 0 && { x1: normals(column(b)) }),
      w: normals([k, 1, 1, a + b], 1 / Math.sqrt(a + b)),
    });
    list.push(() => {
      const tensors = { y: output(column(k)), ...inputs(), b: normals([1, 1, 1, k]) };
      return { op: 'linear_forward', label, tensors, attributes: inBf16(['y', 'x0', 'x1', 'w'], tensors), flops };
    });
    list.push(() => {
      const gradients = {
        dx0: output(column(a)),
        ...(b > 0 && { dx1: output(column(b)) }),
        dw: output([k, 1, 1, a + b]),
        db: output([1, 1, 1, k]),
      };
      const tensors = { ...gradients, dy: normals(column(k)), ...inputs() };
      const attributes = inBf16(['dx0', 'dx1', 'dy', 'x0', 'x1', 'w'], tensors);
      return { op: 'linear_backward', label, tensors, attributes, flops: 2 * flops };
    });
  };
  const norm = (size: number, c0: number, c1: number, dropout: number) => {
    const [s, a, b] = [side(size), wide(c0), c1 && wide(c1)];
    const c = a + b;
    const at = (channels: number): Shape => [n, s, s, channels];
    const label = `${s}x${s}x${b ? `(${a}+${b})` : a} b${n}${dropout ? ' dropout' : ''}`;
    const attributes = { groups, eps: 1e-6, silu: 1, dropout, layer: 1, step: 1, key_lo: 1, key_hi: 2 };
    const bytes = 4 * elements(at(c));
    const statistic: Shape = [n, 1, 1, groups];
    const inputs = () => ({
      x0: normals(at(a)),
      ...(b > 0 && { x1: normals(at(b)) }),
      w: normals([1, 1, 1, c], 0.1, 1),
      b: normals([1, 1, 1, c]),
    });
    list.push(() => {
      const tensors = { y: output(at(c)), mean: output(statistic), rstd: output(statistic), ...inputs() };
      return { op: 'group_norm_forward', label, tensors, attributes: { ...attributes, ...inBf16(['y', 'x0', 'x1'], tensors) }, bytes };
    });
    list.push(() => {
      const gradients = { dx0: output(at(a)), ...(b > 0 && { dx1: output(at(b)) }), dw: output([1, 1, 1, c]), db: output([1, 1, 1, c]) };
      const saved = { mean: normals(statistic, 0.01), rstd: normals(statistic, 0.01, 1) };
      const tensors = { ...gradients, dy: normals(at(c)), ...saved, ...inputs() };
      const rounded = inBf16(['dx0', 'dx1', 'dy', 'x0', 'x1'], tensors);
      return { op: 'group_norm_backward', label, tensors, attributes: { ...attributes, ...rounded }, bytes: 1.5 * bytes };
    });
  };
  const attention = (size: number, channels: number) => {
    const [s, c] = [side(size), wide(channels)];
    const tokens = s * s;
    const [o, qkv, lse]: [Shape, Shape, Shape] = [
      [n, s, s, c],
      [n, s, s, 3 * c],
      [n, 1, 1, tokens],
    ];
    const flops = 4 * n * tokens ** 2 * c;
    const label = `${tokens} tokens of ${c} b${n}`;
    list.push(() => {
      const tensors = { o: output(o), lse: output(lse), qkv: normals(qkv) };
      return { op: 'attention_forward', label, tensors, attributes: { heads: 1, ...inBf16(['o', 'qkv'], tensors) }, flops };
    });
    list.push(() => {
      // The log-sum-exp of scores of unit variance.
      const saved = { lse: normals(lse, 0.01, Math.log(tokens) + 0.5), qkv: normals(qkv), o: normals(o) };
      const tensors = { dqkv: output(qkv), d_o: normals(o), ...saved };
      const attributes = { heads: 1, ...inBf16(['dqkv', 'd_o', 'qkv', 'o'], tensors) };
      return { op: 'attention_backward', label, tensors, attributes, flops: 2.5 * flops };
    });
  };

  conv(32, 128, 128);
  conv(32, 256, 128);
  conv(32, 384, 128);
  conv(32, 3, 128);
  conv(32, 128, 3);
  conv(32, 128, 128, { stride: 2 });
  conv(16, 256, 256, { upsample: 2 });
  conv(16, 128, 256);
  conv(16, 256, 256);
  conv(16, 384, 256);
  conv(16, 512, 256);
  conv(8, 256, 256);
  conv(8, 512, 256);
  conv(4, 256, 256);
  conv(4, 512, 256);
  const rows = (size: number) => n * side(size) ** 2;
  linear(rows(16), 256, 0, 768);
  linear(rows(16), 256, 0, 256);
  linear(rows(32), 256, 128, 128);
  linear(rows(16), 256, 256, 256);
  linear(n, 512, 0, 256);
  attention(16, 256);
  attention(4, 256);
  norm(32, 128, 0, 0);
  norm(32, 128, 0, 0.1);
  norm(32, 256, 128, 0);
  norm(16, 256, 0, 0);
  norm(16, 256, 256, 0);
  norm(8, 256, 0, 0);
  norm(4, 256, 0, 0);
  const count = emulated ? 4096 : PARAMETERS;
  const vector: Shape = [1, 1, 1, count];
  list.push(() => ({
    op: 'adam_step',
    label: `${count} parameters, EMA, bf16 copy`,
    tensors: {
      p: normals(vector),
      m: normals(vector, 1e-3),
      v: normals(vector, 0, 1e-6),
      ema: normals(vector),
      rounded: output(vector),
      g: normals(vector, 1e-3),
    },
    attributes: { lr: 2e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, ema_decay: 0.9999, step: 10, bf16_rounded: 1 },
    bytes: 38 * count,
  }));
  const image: Shape = [n, side(32), side(32), 3];
  list.push(() => ({
    op: 'sampler_step',
    label: `${image[1]}x${image[2]}x3 b${n}`,
    tensors: { x: normals(image), x0_prev: normals(image), m: normals(image) },
    attributes: { alpha: 0.8, sigma: 0.6, cx: 0.5, c0: 0.5, c1: 0, cz: 0 },
    bytes: 20 * elements(image),
  }));
  return list;
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
