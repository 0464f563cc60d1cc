/**
 * Every op of native/kernels/ops.h, one row each: how to draw its arguments, what its gradients are, and at which sizes to time it. The
 * rows serve the comparison with the definitions (01-ops, 71), the gradient check (02-gradients) and the benchmarks on CPU and GPU.
 * Long: one table.
 */
import type { OpTensor } from '../src/bindings/native.ts';
import type { Rng } from '../src/rng.ts';

export type Shape = [n: number, h: number, w: number, c: number];

/** Arguments of one call by their names in ops.h. A tensor without values is an output. */
export type OpArguments = { tensors: Record<string, OpTensor>; attributes: Record<string, number> };

export type Bench = {
  label: string;
  draw(r: Rng): OpArguments;
  /** Floating point operations of the op, or of its backward; a multiplication and an addition count two. */
  flops?: number;
  backwardFlops?: number;
  /** Bytes that must be moved at least, as float32. */
  bytes?: number;
  backwardBytes?: number;
};

/** Sizes of the benchmark on a GPU: those of a training step of the CIFAR-10 U-Net, or on the emulator a few elements of each. */
export type GpuScale = { batch: number; side(size: number): number; wide(channels: number): number; groups: number; parameters: number };

/** A call that is timed on a GPU, with its backward ones. */
export type GpuCall = Pick<Bench, 'label' | 'flops' | 'bytes' | 'draw'> & {
  /** Backward calls: which gradients are asked for, and how many times the forward's operations or bytes they take. */
  backward?: { label?: string; gradients: string[]; factor: number }[];
  /** What backward reads of the forward's outputs: mean and deviation of values like those. */
  saved?: Record<string, [mean: number, deviation: number]>;
};

/** A tensor gets no more than `most` values, where that is set: `timeOp` takes them again from the start. */
/** A call at a shape that reaches one path through the fast kernels of a GPU (chapter 72). */
export type TileCall = {
  title: string;
  draw(r: Rng): OpArguments;
  /** On Ampere's kernels with tiles of either side, whatever the device; otherwise on those that the device's table chooses. */
  ampere?: boolean;
  /** Which calls: even numbers draw whole tensors, odd ones slices of wider ones; gradients add up in one of the two. @default [0, 1] */
  variants?: number[];
};

export type DrawRng = Rng & { most?: number };

export type OpCase = {
  /** Name in ops.h; of a pair, the forward op. */
  op: string;
  /** How many calls to draw. The first six are small enough for the gradient check. */
  draws: number;
  draw(r: Rng, i: number): OpArguments;
  /** Given tensors that the op changes; every other given tensor must be left alone. */
  inPlace?: string[];
  /** Tensors that may be channel slices of wider ones (pixel distance ≠ channels). */
  strided?: string[];
  backward?: {
    op: string;
    /** Output of the forward op → the name of its gradient, or the constant that each of its elements weighs in the differentiated sum. */
    upstream: Record<string, string | ((args: OpArguments) => number)>;
    /** Gradient → the input that it belongs to. */
    gradients: Record<string, string>;
    /** Gradients that may add to what is there, or be left out. */
    accumulates: string[];
    strided?: string[];
  };
  /** Tensors, of the op and of its backward, that a GPU keeps in bf16 when it computes in that precision. */
  bf16?: string[];
  /** Largest Σ(fast - ref)²/Σ ref² of an output. @default 1e-10 */
  tolerance?: number;
  bench: Bench[];
  gpu?(scale: GpuScale): GpuCall[];
  tiles?: TileCall[];
};

// ---- drawing

const sizeOf = ([n, h, w, c]: Shape) => n * h * w * c;
export const output = (shape: Shape): OpTensor => ({ data: new Float64Array(0), shape });
const filled = (shape: Shape, value: (i: number) => number, most = Infinity): OpTensor => ({
  data: Float64Array.from({ length: Math.min(most, sizeOf(shape)) }, (_, i) => value(i)),
  shape,
});
/** Normal values, exact in float32. */
export const normal = (r: DrawRng, shape: Shape, mean = 0, deviation = 1): OpTensor =>
  filled(shape, () => Math.fround(mean + deviation * r.normal()), r.most);
const whole = (r: DrawRng, shape: Shape, below: number): OpTensor => filled(shape, () => r.int(below), r.most);
const between = (r: Rng, low: number, high: number) => low + r.int(high - low + 1);
const either = <T>(r: Rng, values: readonly T[]): T => values[r.int(values.length)]!;
const given = (tensors: Record<string, OpTensor | undefined>): Record<string, OpTensor> =>
  Object.fromEntries(Object.entries(tensors).filter((entry): entry is [string, OpTensor] => entry[1] !== undefined));
const f32 = Math.fround;
const key = (r: Rng) => ({ key_lo: r.uint32(), key_hi: r.uint32() });

/** Channels that fit no vector, one, and several. */
const smallChannels = [1, 3, 4, 5, 7, 8, 12, 16, 17] as const;
const channels = [1, 3, 8, 16, 20, 31, 32, 33, 48, 64, 65, 96] as const;
const counts = [1, 7, 16, 37, 4095, 16384, 16391, 50001] as const;
const vector = (r: Rng, count: number, mean = 0, deviation = 1) => normal(r, [1, 1, 1, count], mean, deviation);
const countOf = (i: number) => counts[i % counts.length]!;
const parameters = 4_000_000;

// ---- convolution and matrices

/** A 1x1 convolution of two inputs, of so many channels, into y; the second may have none. */
const shortcutOf = ([n, h, w, k]: Shape, [c0, c1]: [number, number], r: Rng) => ({
  skip0: normal(r, [n, h, w, c0]),
  skip1: c1 ? normal(r, [n, h, w, c1]) : undefined,
  skip_w: normal(r, [k, 1, 1, c0 + c1], 0, 1 / Math.sqrt(c0 + c1)),
  skip_b: normal(r, [1, 1, 1, k]),
});

type ConvOptions = { stride?: number; pad?: number; upsample?: number };
export function conv(
  [n, h, w, c]: Shape,
  k: number,
  options: ConvOptions,
  more: { temb?: boolean; residual?: boolean; shortcut?: [number, number] },
  r: Rng,
): OpArguments {
  const { stride = 1, pad = 1, upsample = 1 } = options;
  const y: Shape = [n, Math.floor((h * upsample) / stride), Math.floor((w * upsample) / stride), k];
  return {
    tensors: given({
      y: output(y),
      x: normal(r, [n, h, w, c]),
      w: normal(r, [k, 3, 3, c], 0, 1 / Math.sqrt(9 * c)),
      b: normal(r, [1, 1, 1, k]),
      temb: more.temb ? normal(r, [n, 1, 1, k]) : undefined,
      residual: more.residual ? normal(r, y) : undefined,
      ...(more.shortcut && shortcutOf(y, more.shortcut, r)),
    }),
    attributes: { stride, pad, upsample },
  };
}

const convVariants: ConvOptions[] = [{}, { stride: 2 }, { upsample: 2 }, { stride: 2, pad: 0 }];

function benchConv(label: string, [n, h, w, c]: Shape, k: number, options: ConvOptions = {}): Bench {
  const { stride = 1, upsample = 1 } = options;
  const flops = (2 * 9 * c * k * n * h * w * upsample ** 2) / stride ** 2;
  return { label, draw: (r) => conv([n, h, w, c], k, options, { temb: true, residual: true }, r), flops, backwardFlops: 2 * flops };
}

/**
 * Maps to be enlarged, and output channels, where the fast CPU backend goes by tiles of 2x2 pixels: one tile, edges, few tiles and many.
 * Odd numbers add to dx.
 */
const enlarged: [Shape, number][] = [
  [[1, 1, 1, 16], 16],
  [[9, 5, 9, 16], 31],
  [[3, 1, 7, 17], 33],
  [[2, 7, 7, 65], 20],
  [[4, 11, 13, 33], 48],
  [[2, 3, 7, 20], 65],
];

function gpuConv({ batch, side, wide }: GpuScale, size: number, from: number, to: number, options: ConvOptions = {}): GpuCall {
  const { stride = 1, upsample = 1 } = options;
  const [s, c, k] = [side(size), wide(from), wide(to)];
  const both = { gradients: ['dx', 'dw', 'db'], factor: 2 };
  return {
    label: `${s}x${s} ${c}->${k}${stride > 1 ? ' stride 2' : ''}${upsample > 1 ? ' upsampled' : ''} b${batch}`,
    draw: (r) => conv([batch, s, s, c], k, { ...options, pad: stride > 1 ? 0 : 1 }, { temb: true }, r),
    flops: (2 * 9 * c * k * batch * (s * upsample) ** 2) / stride ** 2,
    backward: [...(from > 3 ? [both] : []), { label: 'weights only', gradients: ['dw', 'db'], factor: 1 }],
  };
}

const everything = { temb: true, residual: true };

const conv2d: OpCase = {
  op: 'conv2d_forward',
  draws: 40 + enlarged.length,
  draw(r, i) {
    if (i >= 40) return conv(...enlarged[i - 40]!, { upsample: 2 }, { temb: i % 2 === 0, residual: i % 3 === 0 }, r);
    const options = convVariants[i % 4]!;
    const from = i < 6 ? smallChannels : channels;
    const side = () => (options.stride === 2 ? 2 * between(r, 1, i < 6 ? 3 : 7) : between(r, 1, i < 6 ? 5 : 17));
    return conv(
      [between(r, 1, 3), side(), side(), either(r, from)],
      either(r, from),
      options,
      { temb: r.int(2) === 1, residual: r.int(2) === 1, shortcut: i % 3 === 0 ? [either(r, from), r.int(2) * either(r, from)] : undefined },
      r,
    );
  },
  strided: ['y', 'x', 'residual', 'skip0', 'skip1'],
  bf16: ['y', 'x', 'temb', 'residual', 'skip0', 'skip1', 'skip_w', 'w', 'dy', 'dx', 'dtemb'],
  backward: {
    op: 'conv2d_backward',
    upstream: { y: 'dy' },
    gradients: { dx: 'x', dtemb: 'temb', dw: 'w', db: 'b' },
    accumulates: ['dx'],
    strided: ['dx', 'dy', 'x'],
  },
  bench: [
    benchConv('32x32 128->128 b8', [8, 32, 32, 128], 128),
    benchConv('32x32 384->128 b4', [4, 32, 32, 384], 128),
    benchConv('16x16 256->256 b8', [8, 16, 16, 256], 256),
    benchConv('8x8 256->256 b8', [8, 8, 8, 256], 256),
    benchConv('4x4 256->256 b8', [8, 4, 4, 256], 256),
    benchConv('28x28 32->32 b32', [32, 28, 28, 32], 32),
    benchConv('32x32 3->128 b8', [8, 32, 32, 3], 128),
    benchConv('32x32 128->3 b8', [8, 32, 32, 128], 3),
    benchConv('16x16 128->128 stride 2 b8', [8, 32, 32, 128], 128, { stride: 2, pad: 0 }),
    benchConv('16->32 256->256 upsampled b4', [4, 16, 16, 256], 256, { upsample: 2 }),
  ],
  gpu: (scale) => [
    gpuConv(scale, 32, 128, 128),
    gpuConv(scale, 32, 256, 128),
    gpuConv(scale, 32, 384, 128),
    gpuConv(scale, 32, 3, 128),
    gpuConv(scale, 32, 128, 3),
    gpuConv(scale, 32, 128, 128, { stride: 2 }),
    gpuConv(scale, 16, 256, 256, { upsample: 2 }),
    gpuConv(scale, 16, 128, 256),
    gpuConv(scale, 16, 256, 256),
    gpuConv(scale, 16, 384, 256),
    gpuConv(scale, 16, 512, 256),
    gpuConv(scale, 8, 256, 256),
    gpuConv(scale, 8, 512, 256),
    gpuConv(scale, 4, 256, 256),
    gpuConv(scale, 4, 512, 256),
  ],
  tiles: [
    { title: 'whole tiles', draw: (r) => conv([2, 8, 8, 32], 128, {}, everything, r), ampere: true, variants: [0] },
    { title: 'ragged tiles, many images', draw: (r) => conv([3, 5, 7, 40], 72, {}, everything, r), ampere: true },
    { title: 'stride 2, pad 0', draw: (r) => conv([2, 6, 8, 16], 24, { stride: 2, pad: 0 }, {}, r), ampere: true },
    { title: 'stride 2, pad 1', draw: (r) => conv([1, 8, 6, 8], 16, { stride: 2 }, {}, r), ampere: true },
    { title: 'a shortcut', draw: (r) => conv([2, 5, 7, 40], 72, {}, { temb: true, shortcut: [24, 16] }, r), ampere: true },
    { title: 'upsampled', draw: (r) => conv([2, 4, 3, 16], 8, { upsample: 2 }, { residual: true }, r), ampere: true },
    { title: 'a sum in ranges', draw: (r) => conv([3, 16, 16, 8], 16, {}, {}, r), variants: [0] },
    { title: 'few channels to many', draw: (r) => conv([2, 5, 6, 3], 24, {}, {}, r) },
    { title: 'many channels to few', draw: (r) => conv([3, 10, 9, 136], 4, {}, {}, r) },
    // Sides that Hopper's copies cover, where the device is one.
    { title: 'stride 2 on whole boxes', draw: (r) => conv([2, 8, 8, 16], 24, { stride: 2, pad: 0 }, everything, r) },
    { title: 'patches in a map that fills no tile', draw: (r) => conv([1, 8, 48, 8], 16, {}, everything, r) },
    { title: 'stride 2 over odd sides', draw: (r) => conv([2, 9, 9, 8], 16, { stride: 2 }, {}, r), variants: [0] },
    { title: 'upsampled, whole boxes', draw: (r) => conv([2, 4, 4, 16], 24, { upsample: 2 }, everything, r) },
    { title: 'a shortcut of two inputs', draw: (r) => conv([2, 8, 8, 16], 72, {}, { ...everything, shortcut: [72, 24] }, r) },
    { title: 'a shortcut of one input', draw: (r) => conv([2, 8, 8, 72], 24, {}, { temb: true, shortcut: [16, 0] }, r) },
    { title: 'a shortcut around a stride', draw: (r) => conv([2, 8, 8, 16], 24, { stride: 2 }, { shortcut: [16, 8] }, r) },
    { title: 'more columns than a tile', draw: (r) => conv([1, 4, 4, 8], 264, {}, everything, r), variants: [1] },
  ],
};

export function linearOf(rows: number, c0: number, c1: number, k: number, more: { b: boolean; residual: boolean }, r: Rng): OpArguments {
  return {
    tensors: given({
      y: output([rows, 1, 1, k]),
      x0: normal(r, [rows, 1, 1, c0]),
      x1: c1 ? normal(r, [rows, 1, 1, c1]) : undefined,
      w: normal(r, [k, 1, 1, c0 + c1], 0, 1 / Math.sqrt(c0 + c1)),
      b: more.b ? normal(r, [1, 1, 1, k]) : undefined,
      residual: more.residual ? normal(r, [rows, 1, 1, k]) : undefined,
    }),
    attributes: {},
  };
}

function benchLinear(label: string, rows: number, c0: number, c1: number, k: number): Bench {
  const flops = 2 * rows * (c0 + c1) * k;
  return { label, draw: (r) => linearOf(rows, c0, c1, k, { b: true, residual: false }, r), flops, backwardFlops: 2 * flops };
}

function gpuLinear({ wide }: GpuScale, rows: number, [c0, c1]: [number, number], to: number): GpuCall {
  const [a, b, k] = [wide(c0), c1 && wide(c1), wide(to)];
  return {
    label: `${rows} rows ${b ? `${a}+${b}` : a}->${k}`,
    draw: (r) => linearOf(rows, a, b, k, { b: true, residual: false }, r),
    flops: 2 * rows * (a + b) * k,
    backward: [{ gradients: ['dx0', 'dx1', 'dw', 'db'], factor: 2 }],
  };
}

const linear: OpCase = {
  op: 'linear_forward',
  draws: 24,
  draw(r, i) {
    const from = i < 6 ? smallChannels : channels;
    const rows = i < 6 ? between(r, 1, 9) : either(r, [1, 2, 13, 64, 100, 257]);
    return linearOf(rows, either(r, from), r.int(2) * either(r, from), either(r, from), { b: r.int(3) > 0, residual: r.int(2) === 1 }, r);
  },
  strided: ['y', 'x0', 'x1', 'residual'],
  bf16: ['y', 'x0', 'x1', 'residual', 'w', 'dy', 'dx0', 'dx1'],
  backward: {
    op: 'linear_backward',
    upstream: { y: 'dy' },
    gradients: { dx0: 'x0', dx1: 'x1', dw: 'w', db: 'b' },
    accumulates: ['dx0', 'dx1'],
    strided: ['dx0', 'dx1', 'dy', 'x0', 'x1'],
  },
  bench: [
    benchLinear('qkv 16x16 256->768 b8', 8 * 256, 256, 0, 768),
    benchLinear('skip 32x32 128+128->128 b4', 4 * 1024, 128, 128, 128),
    benchLinear('time 512->256 b8', 8, 512, 0, 256),
  ],
  gpu(scale) {
    const rows = (size: number) => scale.batch * scale.side(size) ** 2;
    return [
      gpuLinear(scale, rows(16), [256, 0], 768),
      gpuLinear(scale, rows(16), [256, 0], 256),
      gpuLinear(scale, rows(32), [256, 128], 128),
      gpuLinear(scale, rows(16), [256, 256], 256),
      gpuLinear(scale, scale.batch, [512, 0], 256),
    ];
  },
  tiles: [
    { title: 'one step', draw: (r) => linearOf(13, 8, 0, 8, { b: true, residual: false }, r), ampere: true },
    { title: 'two inputs, whole tiles', draw: (r) => linearOf(128, 64, 32, 128, { b: true, residual: true }, r), ampere: true },
    { title: 'two inputs, ragged', draw: (r) => linearOf(150, 40, 24, 136, { b: false, residual: true }, r), ampere: true },
    { title: 'two inputs on Hopper', draw: (r) => linearOf(150, 40, 24, 72, { b: true, residual: true }, r) },
  ],
};

// ---- normalisation and attention

function norm(
  [n, h, w, c0]: Shape,
  c1: number,
  groups: number,
  more: { silu: boolean; dropout: number; mean?: number },
  r: Rng,
): OpArguments {
  const c = c0 + c1;
  return {
    tensors: given({
      y: output([n, h, w, c]),
      mean: output([n, 1, 1, groups]),
      rstd: output([n, 1, 1, groups]),
      x0: normal(r, [n, h, w, c0], more.mean),
      x1: c1 ? normal(r, [n, h, w, c1], more.mean, 2) : undefined,
      w: normal(r, [1, 1, 1, c], 1, 0.5),
      b: normal(r, [1, 1, 1, c]),
    }),
    attributes: { groups, eps: 1e-6, silu: Number(more.silu), dropout: more.dropout, layer: r.int(100), step: r.int(1e6), ...key(r) },
  };
}

function benchNorm(label: string, shape: Shape, dropout: number): Bench {
  const bytes = 8 * sizeOf(shape);
  return { label, draw: (r) => norm(shape, 0, 32, { silu: true, dropout }, r), bytes, backwardBytes: 1.5 * bytes };
}

function gpuNorm({ batch, side, wide, groups }: GpuScale, size: number, [c0, c1]: [number, number], dropout: number): GpuCall {
  const [s, a, b] = [side(size), wide(c0), c1 && wide(c1)];
  return {
    label: `${s}x${s}x${b ? `(${a}+${b})` : a} b${batch}${dropout ? ' dropout' : ''}`,
    draw: (r) => norm([batch, s, s, a], b, groups, { silu: true, dropout }, r),
    bytes: 4 * batch * s * s * (a + b),
    backward: [{ gradients: ['dx0', 'dx1', 'dw', 'db'], factor: 1.5 }],
    saved: { mean: [0, 0.01], rstd: [1, 0.01] },
  };
}

const slabs = { silu: true, dropout: 0.1, mean: 3 };

const groupNorm: OpCase = {
  op: 'group_norm_forward',
  draws: 24,
  draw(r, i) {
    const c0 = either(r, i < 6 ? [3, 5, 8, 12] : [6, 16, 24, 32, 48, 65, 96, 132]);
    const c1 = r.int(2) * either(r, i < 6 ? [1, 4, 7] : [1, 15, 32, 64]);
    const divisors = [1, 2, 3, 4, 8, 16, 32, c0 + c1].filter((groups) => (c0 + c1) % groups === 0);
    const side = () => between(r, 3, i < 6 ? 4 : 12);
    const options = { silu: r.int(4) > 0, dropout: either(r, [0, 0.1, 0.5]), mean: either(r, [0, 0, 10]) };
    return norm([between(r, 1, 3), side(), side(), c0], c1, either(r, divisors), options, r);
  },
  strided: ['y', 'x0', 'x1'],
  bf16: ['y', 'x0', 'x1', 'dy', 'dx0', 'dx1'],
  backward: {
    op: 'group_norm_backward',
    upstream: { y: 'dy' },
    gradients: { dx0: 'x0', dx1: 'x1', dw: 'w', db: 'b' },
    accumulates: ['dx0', 'dx1'],
    strided: ['dx0', 'dx1', 'dy', 'x0', 'x1'],
  },
  bench: [
    benchNorm('32x32x128 b8', [8, 32, 32, 128], 0),
    benchNorm('32x32x128 b8 dropout', [8, 32, 32, 128], 0.1),
    benchNorm('16x16x256 b8', [8, 16, 16, 256], 0),
    benchNorm('28x28x32 b32 dropout', [32, 28, 28, 32], 0.1),
  ],
  gpu: (scale) => [
    gpuNorm(scale, 32, [128, 0], 0),
    gpuNorm(scale, 32, [128, 0], 0.1),
    gpuNorm(scale, 32, [256, 128], 0),
    gpuNorm(scale, 16, [256, 0], 0),
    gpuNorm(scale, 16, [256, 256], 0),
    gpuNorm(scale, 8, [256, 0], 0),
    gpuNorm(scale, 4, [256, 0], 0),
  ],
  tiles: [
    { title: 'slabs', draw: (r) => norm([2, 4, 6, 64], 0, 16, slabs, r) },
    { title: 'slabs, two inputs, the last one shorter', draw: (r) => norm([2, 3, 5, 40], 32, 6, { ...slabs, dropout: 0 }, r) },
    { title: 'slabs of a few pixels, one group', draw: (r) => norm([1, 2, 2, 48], 0, 1, { ...slabs, silu: false }, r) },
  ],
};

export function attend([n, h, w, c]: Shape, heads: number, r: Rng): OpArguments {
  return {
    tensors: { o: output([n, h, w, c]), lse: output([n, 1, 1, heads * h * w]), qkv: normal(r, [n, h, w, 3 * c]) },
    attributes: { heads },
  };
}

function benchAttention(label: string, [n, h, w, c]: Shape): Bench {
  const flops = 4 * n * (h * w) ** 2 * c;
  return { label, draw: (r) => attend([n, h, w, c], 1, r), flops, backwardFlops: 2.5 * flops };
}

function gpuAttention({ batch, side, wide }: GpuScale, size: number, channels: number): GpuCall {
  const [s, c] = [side(size), wide(channels)];
  const tokens = s * s;
  return {
    label: `${tokens} tokens of ${c} b${batch}`,
    draw: (r) => attend([batch, s, s, c], 1, r),
    flops: 4 * batch * tokens ** 2 * c,
    backward: [{ gradients: ['dqkv'], factor: 2.5 }],
    saved: { lse: [Math.log(tokens) + 0.5, 0.01], o: [0, 1] }, // the log-sum-exp of scores of unit variance
  };
}

const attention: OpCase = {
  op: 'attention_forward',
  draws: 16,
  draw(r, i) {
    const heads = either(r, [1, 2, 3]);
    const side = () => between(r, 1, i < 6 ? 3 : 9);
    return attend([between(r, 1, 3), side(), side(), heads * either(r, i < 6 ? [1, 3, 5, 8] : [4, 15, 16, 32, 40])], heads, r);
  },
  strided: ['o', 'qkv'],
  bf16: ['o', 'qkv', 'd_o', 'dqkv'],
  backward: {
    op: 'attention_backward',
    upstream: { o: 'd_o' },
    gradients: { dqkv: 'qkv' },
    accumulates: [],
    strided: ['dqkv', 'd_o', 'qkv', 'o'],
  },
  bench: [benchAttention('256 tokens of 256 b8', [8, 16, 16, 256]), benchAttention('196 tokens of 64 b32', [32, 14, 14, 64])],
  gpu: (scale) => [gpuAttention(scale, 16, 256), gpuAttention(scale, 4, 256)],
  tiles: [
    { title: 'whole tiles', draw: (r) => attend([1, 8, 8, 64], 1, r) },
    { title: 'several heads, ragged tiles', draw: (r) => attend([2, 5, 7, 144], 2, r) },
    { title: 'few tokens, wide heads', draw: (r) => attend([1, 3, 3, 200], 1, r) },
    {
      title: 'scores far below zero, fewer tokens than a tile',
      draw(r) {
        const call = attend([1, 4, 4, 32], 1, r);
        const { qkv } = call.tensors;
        for (const [i, value] of qkv!.data.entries()) qkv!.data[i] = Math.fround(value + ([5, -5, 0][Math.floor((i % 96) / 32)] ?? 0));
        return call;
      },
    },
  ],
};

// ---- time and class embedding, SiLU

const timeEmbedding: OpCase = {
  op: 'time_embedding_forward',
  bf16: ['y'],
  draws: 8,
  draw(r) {
    const n = between(r, 1, 9);
    return {
      tensors: { y: output([n, 1, 1, 2 * between(r, 2, 70)]), t: whole(r, [1, 1, 1, n], 1000) },
      attributes: { flip_sin_to_cos: r.int(2), freq_shift: r.int(2) },
    };
  },
  strided: ['y'],
  bench: [
    {
      label: '128 wide b128',
      draw: (r) => ({ tensors: { y: output([128, 1, 1, 128]), t: whole(r, [1, 1, 1, 128], 1000) }, attributes: {} }),
      bytes: 4 * 128 * 128,
    },
  ],
};

function classes(n: number, width: number, count: number, r: Rng): OpArguments {
  return {
    tensors: {
      y: output([n, 1, 1, width]),
      x: normal(r, [n, 1, 1, width]),
      classes: whole(r, [1, 1, 1, n], count),
      table: normal(r, [count, 1, 1, width]),
    },
    attributes: {},
  };
}

const classEmbedding: OpCase = {
  op: 'class_embedding_forward',
  bf16: ['y', 'x', 'dy'],
  draws: 8,
  draw: (r) => classes(between(r, 1, 9), between(r, 1, 40), between(r, 1, 5), r),
  strided: ['y', 'x'],
  backward: { op: 'class_embedding_backward', upstream: { y: 'dy' }, gradients: { dtable: 'table' }, accumulates: [], strided: ['dy'] },
  bench: [{ label: '512 wide b128', draw: (r) => classes(128, 512, 10, r), bytes: 12 * 128 * 512 }],
};

const silu: OpCase = {
  op: 'silu_forward',
  bf16: ['y', 'x', 'dy', 'dx'],
  draws: 8,
  draw(r) {
    const shape: Shape = [between(r, 1, 5), between(r, 1, 3), 1, between(r, 1, 70)];
    return { tensors: { y: output(shape), x: normal(r, shape, 0, 5) }, attributes: {} };
  },
  strided: ['y', 'x'],
  backward: { op: 'silu_backward', upstream: { y: 'dy' }, gradients: { dx: 'x' }, accumulates: ['dx'], strided: ['dx', 'dy', 'x'] },
  bench: [
    {
      label: '512 wide b128',
      draw: (r) => ({ tensors: { y: output([128, 1, 1, 512]), x: normal(r, [128, 1, 1, 512]) }, attributes: {} }),
      bytes: 8 * 128 * 512,
      backwardBytes: 12 * 128 * 512,
    },
  ],
};

// ---- padding

const pad: OpCase = {
  op: 'pad_forward',
  bf16: ['y', 'x', 'dy', 'dx'],
  draws: 10,
  draw(r) {
    const [n, c] = [between(r, 1, 3), between(r, 1, 20)];
    const side = () => between(r, 1, 8);
    return { tensors: { y: output([n, side(), side(), c]), x: normal(r, [n, side(), side(), c]) }, attributes: {} };
  },
  strided: ['y', 'x'],
  backward: { op: 'pad_backward', upstream: { y: 'dy' }, gradients: { dx: 'x' }, accumulates: ['dx'], strided: ['dx', 'dy'] },
  bench: [
    {
      label: '28x28x32 to 32x32 b32',
      draw: (r) => ({ tensors: { y: output([32, 32, 32, 32]), x: normal(r, [32, 28, 28, 32]) }, attributes: {} }),
      bytes: 4 * 32 * 32 * (1024 + 784),
      backwardBytes: 4 * 32 * 32 * (1024 + 784),
    },
  ],
};

// ---- diffusion

const alphaBars = (steps: number) => filled([1, 1, 1, steps], (i) => f32(Math.cos(((i + 1) / (steps + 1)) * (Math.PI / 2)) ** 2));

function noising([n, h, w, c]: Shape, attributes: Record<string, number>, r: Rng): OpArguments {
  return {
    tensors: {
      xt: output([n, h, w, c]),
      target: output([n, h, w, c]),
      weight: output([1, 1, 1, n]),
      t: output([1, 1, 1, n]),
      images: whole(r, [n + 3, h, w, c], 256),
      indices: whole(r, [1, 1, 1, n], n + 3),
      alpha_bar: alphaBars(1000),
    },
    attributes: { step: r.int(1000), ...key(r), ...attributes },
  };
}

const noiseBatch: OpCase = {
  op: 'noise_batch',
  draws: 12,
  draw(r, i) {
    const shape: Shape = [between(r, 1, 5), between(r, 1, 9), between(r, 1, 9), either(r, [1, 3, 4])];
    return noising(shape, { prediction: i % 3, min_snr_gamma: either(r, [0, 5]), flip: r.int(2) }, r);
  },
  strided: ['xt', 'target'],
  bench: [{ label: '32x32x3 b128', draw: (r) => noising([128, 32, 32, 3], { flip: 1 }, r), bytes: 128 * 3072 * 9 }],
};

const normalFill: OpCase = {
  op: 'normal_fill',
  draws: 6,
  draw: (r) => ({
    tensors: { x: output([between(r, 1, 4), between(r, 1, 9), between(r, 1, 9), between(r, 1, 5)]) },
    attributes: { ...key(r), first_image: r.int(1000) },
  }),
  strided: ['x'],
  bench: [{ label: '32x32x3 b128', draw: () => ({ tensors: { x: output([128, 32, 32, 3]) }, attributes: {} }), bytes: 4 * 128 * 3072 }],
};

function sampling(shape: Shape, attributes: Record<string, number>, r: Rng): OpArguments {
  const angle = 0.1 + 1.3 * r.uniform();
  return {
    tensors: { x: normal(r, shape), x0_prev: normal(r, shape), m: normal(r, shape) },
    attributes: {
      alpha: f32(Math.cos(angle)),
      sigma: f32(Math.sin(angle)),
      cx: f32(r.normal()),
      c0: f32(r.normal()),
      c1: f32(r.normal()),
      cz: f32(r.normal()),
      step: r.int(1000),
      first_image: r.int(1000),
      ...key(r),
      ...attributes,
    },
  };
}

const samplerStep: OpCase = {
  op: 'sampler_step',
  draws: 12,
  draw(r, i) {
    const shape: Shape = [between(r, 1, 4), between(r, 1, 9), between(r, 1, 9), either(r, [1, 3])];
    return sampling(shape, { prediction: i % 3, clip: r.int(2), ...(r.int(2) ? { c1: 0, cz: 0 } : {}) }, r);
  },
  inPlace: ['x', 'x0_prev'],
  strided: ['x', 'x0_prev', 'm'],
  bench: [
    { label: '32x32x3 b128', draw: (r) => sampling([128, 32, 32, 3], { cz: 0 }, r), bytes: 20 * 128 * 3072 },
    { label: '32x32x3 b128 with noise', draw: (r) => sampling([128, 32, 32, 3], {}, r), bytes: 20 * 128 * 3072 },
  ],
  gpu({ batch, side }) {
    const shape: Shape = [batch, side(32), side(32), 3];
    return [
      {
        label: `${shape[1]}x${shape[2]}x3 b${batch}`,
        draw: (r) => sampling(shape, { c1: 0, cz: 0 }, r),
        bytes: 20 * sizeOf(shape),
      },
    ];
  },
};

const mse: OpCase = {
  op: 'mse_forward',
  draws: 8,
  draw(r) {
    const shape: Shape = [between(r, 1, 5), between(r, 1, 6), between(r, 1, 6), between(r, 1, 5)];
    const row: Shape = [1, 1, 1, shape[0]];
    return {
      tensors: { loss: output(row), y: normal(r, shape), target: normal(r, shape), weight: filled(row, () => f32(0.1 + r.uniform())) },
      attributes: {},
    };
  },
  strided: ['y', 'target'],
  backward: {
    op: 'mse_backward',
    upstream: { loss: (args) => 1 / args.tensors.loss!.shape[3] },
    gradients: { dy: 'y' },
    accumulates: [],
    strided: ['dy', 'y', 'target'],
  },
  bench: [
    {
      label: '32x32x3 b128',
      draw(r) {
        const [shape, row]: [Shape, Shape] = [
          [128, 32, 32, 3],
          [1, 1, 1, 128],
        ];
        return {
          tensors: { loss: output(row), y: normal(r, shape), target: normal(r, shape), weight: filled(row, () => 1) },
          attributes: {},
        };
      },
      bytes: 8 * 128 * 3072,
      backwardBytes: 12 * 128 * 3072,
    },
  ],
};

// ---- the parameter vector

/** A row for y = f(x) or y = f(y, x) over tensors of one shape, in any types. */
const elementwise = (op: string, inPlace: string[]): OpCase => {
  const draw = (r: Rng, shape: Shape): OpArguments => ({
    tensors: { y: inPlace.length > 0 ? normal(r, shape) : output(shape), x: normal(r, shape) },
    attributes: {},
  });
  return {
    op,
    draws: counts.length,
    draw: (r, i) => draw(r, [between(r, 1, 3), 1, 1, countOf(i)]),
    inPlace,
    bf16: ['y', 'x'],
    bench: [{ label: '32x32x128 b8', draw: (r) => draw(r, [8, 32, 32, 128]), bytes: 4 * (2 + inPlace.length) * 8 * 32 * 32 * 128 }],
  };
};

/** A row for an op over vectors of equal length: their names, the one that is changed, and the attributes. */
function vectorCase(
  op: string,
  names: string[],
  options: { inPlace?: string[]; outputs?: string[]; attributes?(r: Rng): Record<string, number> },
): OpCase {
  const { inPlace = [], outputs = [], attributes = () => ({}) } = options;
  const draw = (r: Rng, count: number): OpArguments => ({
    tensors: Object.fromEntries(names.map((name) => [name, outputs.includes(name) ? output([1, 1, 1, count]) : vector(r, count)])),
    attributes: attributes(r),
  });
  const streams = names.length + inPlace.length;
  return {
    op,
    draws: counts.length,
    draw: (r, i) => draw(r, countOf(i)),
    inPlace,
    bench: [{ label: `${parameters / 1e6} M`, draw: (r) => draw(r, parameters), bytes: 4 * streams * parameters }],
  };
}

const factor = (name: string) => (r: Rng) => ({ [name]: f32(r.normal()) });

const allFinite: OpCase = {
  op: 'all_finite',
  draws: 3 * counts.length,
  draw(r, i) {
    const a = vector(r, countOf(i));
    if (i >= counts.length) a.data[r.int(a.data.length)] = i < 2 * counts.length ? Number.NaN : -Infinity;
    return { tensors: { a }, attributes: {} };
  },
  bench: [
    { label: `${parameters / 1e6} M`, draw: (r) => ({ tensors: { a: vector(r, parameters) }, attributes: {} }), bytes: 4 * parameters },
  ],
};

/** Parameters small against the step, so that a wrong step shows. */
function optimizer(count: number, ema: boolean, r: DrawRng): OpArguments {
  return {
    tensors: given({
      p: vector(r, count, 0, 1e-3),
      m: vector(r, count, 0, 1e-2),
      v: filled([1, 1, 1, count], () => f32((r.normal() * 1e-2) ** 2), r.most),
      ema: ema ? vector(r, count, 0, 1e-3) : undefined,
      g: vector(r, count, 0, 1e-2),
    }),
    attributes: {
      lr: 2e-3,
      beta1: 0.9,
      beta2: 0.99,
      eps: 1e-8,
      weight_decay: f32(r.uniform()),
      grad_scale: f32(r.uniform()),
      ema_decay: 0.9,
      step: between(r, 1, 50),
    },
  };
}

const adamStep: OpCase = {
  op: 'adam_step',
  draws: counts.length,
  draw: (r, i) => optimizer(countOf(i), i % 2 === 0, r),
  inPlace: ['p', 'm', 'v', 'ema'],
  bench: [{ label: `${parameters / 1e6} M with EMA`, draw: (r) => optimizer(parameters, true, r), bytes: 36 * parameters }],
  gpu: ({ parameters: count }) => [
    {
      label: `${count} parameters, EMA, bf16 copy`,
      draw(r) {
        const { tensors, attributes } = optimizer(count, true, r);
        return { tensors: { ...tensors, rounded: output([1, 1, 1, count]) }, attributes: { ...attributes, bf16_rounded: 1 } };
      },
      bytes: 38 * count,
    },
  ],
};

const serverStep: OpCase = {
  op: 'server_step',
  draws: 3 * counts.length,
  draw(r, i) {
    const { p, m, v, g } = optimizer(countOf(i), false, r).tensors;
    return {
      tensors: given({ p, m, v: i % 3 ? v : undefined, delta: g }),
      attributes: { kind: i % 3, lr: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3 },
    };
  },
  inPlace: ['p', 'm', 'v'],
  bench: [
    {
      label: `adam ${parameters / 1e6} M`,
      draw(r) {
        const { p, m, v, g } = optimizer(parameters, false, r).tensors;
        return { tensors: given({ p, m, v, delta: g }), attributes: { kind: 1, lr: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3 } };
      },
      bytes: 28 * parameters,
    },
  ],
};

// ---- the steps of a recorded program

const nextRecord: OpCase = {
  op: 'next_record',
  draws: 8,
  draw(r) {
    const [count, width] = [between(r, 1, 5), 4 * between(r, 1, 40)]; // records of whole 16 bytes
    return {
      tensors: { now: output([1, 1, 1, width]), records: normal(r, [count, 1, 1, width]) },
      attributes: { begun: r.int(count) },
    };
  },
  bench: [],
};

const finishGradient: OpCase = {
  op: 'finish_gradient',
  draws: 3 * counts.length,
  draw(r, i) {
    const [loss, g] = [vector(r, between(r, 1, 9)), vector(r, countOf(i))];
    const broken = i < counts.length ? undefined : either(r, [loss, g]);
    if (broken) broken.data[r.int(broken.data.length)] = i % 2 ? Number.NaN : Infinity;
    return { tensors: { loss, g }, attributes: { begun: between(r, 1, 4), clip: either(r, [0, 1, 1e6]) } };
  },
  bench: [],
};

// ---- updates as bytes, and several updates as rows. Tests alone: their bytes come here as numbers, which takes longer than the ops.

const int8Block = 1024;
/** Lengths around a block, too. */
const codedCounts = [...counts, 1023, 1024, 1025] as const;
const codedOf = (i: number) => codedCounts[i % codedCounts.length]!;
const byteTensor = (bytes: number[]): OpTensor => ({ data: Float64Array.from(bytes), shape: [1, 1, 1, bytes.length] });
const littleEndian = (value: number) => [...new Uint8Array(Float32Array.of(value).buffer)];
/** Two bytes of a bfloat16 between 2^-31 and 2^32. */
const halfBytes = (r: Rng) => [r.int(256), 128 * r.int(2) + 48 + r.int(32)];

function encoding(op: string, length: (count: number) => number): OpCase {
  return {
    op,
    draws: codedCounts.length,
    draw: (r, i) => ({
      tensors: { bytes: output([1, 1, 1, length(codedOf(i))]), x: vector(r, codedOf(i), 0, 10 ** between(r, -3, 3)) },
      attributes: {},
    }),
    bench: [],
  };
}

function decoding(op: string, bytes: (r: Rng, count: number) => number[]): OpCase {
  return {
    op,
    draws: codedCounts.length,
    draw: (r, i) => ({ tensors: { x: output([1, 1, 1, codedOf(i)]), bytes: byteTensor(bytes(r, codedOf(i))) }, attributes: {} }),
    bench: [],
  };
}

function int8Bytes(r: Rng, count: number): number[] {
  const bytes: number[] = [];
  for (let at = 0; at < count; at += int8Block) {
    bytes.push(...littleEndian(Math.abs(r.normal())));
    for (let i = at; i < Math.min(count, at + int8Block); i++) bytes.push((r.int(255) - 127) & 255);
  }
  return bytes;
}

/** Some of `count` values by gaps, or as a bitmap. */
function largestBytes(r: Rng, count: number): number[] {
  const chosen = Array.from({ length: count }, () => r.int(4) === 0);
  chosen[r.int(count)] = true;
  const indices = [...chosen.keys()].filter((i) => chosen[i]);
  const coding = r.int(2);
  const bitmap = Array.from({ length: Math.ceil(count / 8) }, (_, byte) =>
    Array.from({ length: 8 }, (__, bit) => Number(chosen[8 * byte + bit] ?? false) << bit).reduce((a, b) => a + b),
  );
  const gaps = indices.map((index, i) => index - (i === 0 ? 0 : indices[i - 1]! + 1));
  const leb128 = gaps.flatMap((gap) => (gap < 128 ? [gap] : [(gap & 127) | 128, gap >> 7]));
  const k = [...new Uint8Array(BigUint64Array.of(BigInt(indices.length)).buffer)];
  return [...k, coding, ...new Array(7).fill(0), ...indices.flatMap(() => halfBytes(r)), ...(coding ? bitmap : leb128)];
}

const encodeLargest: OpCase = {
  op: 'encode_largest',
  draws: 2 * codedCounts.length,
  draw(r, i) {
    const x = vector(r, codedOf(i));
    // Every other one has many equal magnitudes: of these the first are taken.
    if (i >= codedCounts.length)
      for (let at = 0; at < x.data.length; at++) x.data[at] = Math.sign(x.data[at]!) * Math.ceil(Math.abs(x.data[at]!));
    return { tensors: { x }, attributes: { k: between(r, 1, codedOf(i)) } };
  },
  bench: [],
};

const trimmedMean: OpCase = {
  op: 'trimmed_mean',
  draws: 10,
  draw(r, i) {
    const [rows, columns] = [between(r, 1, 9), codedOf(i) > 20_000 ? 37 : codedOf(i)];
    return {
      tensors: { y: output([1, 1, 1, columns]), rows: normal(r, [rows, 1, 1, columns]) },
      attributes: { trim: r.int(Math.floor((rows - 1) / 2) + 1) },
    };
  },
  bench: [],
};

const rowDistances: OpCase = {
  op: 'row_distances',
  draws: 10,
  draw: (r, i) => ({ tensors: { rows: normal(r, [between(r, 1, 9), 1, 1, codedOf(i) > 20_000 ? 37 : codedOf(i)]) }, attributes: {} }),
  bench: [],
};

/** All ops of ops.h. */
export const cases: OpCase[] = [
  conv2d,
  linear,
  groupNorm,
  attention,
  timeEmbedding,
  classEmbedding,
  silu,
  pad,
  noiseBatch,
  mse,
  elementwise('convert', []),
  elementwise('add', ['y']),
  samplerStep,
  normalFill,
  vectorCase('sum_of_squares', ['g'], {}),
  vectorCase('dot', ['a', 'b'], {}),
  allFinite,
  vectorCase('axpy', ['y', 'x'], { inPlace: ['y'], attributes: factor('a') }),
  vectorCase('scale', ['y'], { inPlace: ['y'], attributes: factor('a') }),
  vectorCase('subtract', ['y', 'a', 'b'], { outputs: ['y'] }),
  vectorCase('round_bf16', ['y', 'x'], { outputs: ['y'] }),
  vectorCase('interpolate', ['y', 'x'], { inPlace: ['y'], attributes: factor('a') }),
  vectorCase('proximal', ['g', 'p', 'anchor'], { inPlace: ['g'], attributes: factor('mu') }),
  adamStep,
  serverStep,
  nextRecord,
  finishGradient,
  encoding('encode_bf16', (count) => 2 * count),
  encoding('encode_int8', (count) => count + 4 * Math.ceil(count / int8Block)),
  encodeLargest,
  decoding('decode_bf16', (r, count) => Array.from({ length: count }, () => halfBytes(r)).flat()),
  decoding('decode_int8', int8Bytes),
  decoding('decode_largest', largestBytes),
  trimmedMean,
  rowDistances,
];

// ---- from a forward call to its backward

/** Rounds to float32, so that both precisions get the same arguments. */
export const rounded = (tensor: OpTensor): OpTensor => ({ data: Float64Array.from(tensor.data, f32), shape: tensor.shape });

const bf16 = new Float32Array(1);
const bits = new Uint32Array(bf16.buffer);
/** To the nearest bfloat16, ties to even. */
export function roundToBf16(x: number): number {
  bf16[0] = x;
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >> 16) & 1)) & 0xffff0000;
  return bf16[0]!;
}

/**
 * The backward call that belongs to a forward call and its results: random upstream gradients; every other draw adds to gradients that are
 * there, every fourth leaves out those that may be.
 */
export function backwardArguments(row: OpCase, args: OpArguments, results: Record<string, OpTensor>, r: Rng, i: number): OpArguments {
  const backward = row.backward!;
  const tensors: Record<string, OpTensor> = {};
  for (const name of Object.keys(args.tensors)) tensors[name] = rounded(results[name]!);
  for (const [from, name] of Object.entries(backward.upstream)) {
    if (typeof name === 'string') tensors[name] = normal(r, results[from]!.shape);
  }
  const others = Object.keys(backward.gradients).length > backward.accumulates.length;
  for (const [name, from] of Object.entries(backward.gradients)) {
    const input = args.tensors[from];
    const optional = backward.accumulates.includes(name);
    if (!input || (optional && others && i % 4 === 3)) continue;
    tensors[name] = optional && i % 2 === 1 ? normal(r, input.shape) : output(input.shape);
  }
  return { tensors, attributes: args.attributes };
}
