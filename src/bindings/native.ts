/**
 * The typed contract of the native addon (native/binding). Nothing here is public: session.ts and vector.ts wrap it.
 * Natives trust their arguments' types and check shapes; every asynchronous call runs on a thread of its own and settles on the JS thread.
 */

/** What an addon says about itself. */
export type AddonInfo = {
  backend: 'cpu' | 'ref' | 'cuda';
  /** The type of parameters and, on the CPU, of everything else. */
  real: 'float32' | 'float64';
  /** Instruction set in use, chosen when the addon was loaded. */
  isa: 'avx512' | 'avx2' | 'portable' | 'none';
  /** Instruction sets this machine could use. */
  isas: string[];
  /** Compiler and version. */
  build: string;
  cores: number;
  /** False where the addon loads but its device cannot be used (CUDA without a driver or GPU). */
  usable: boolean;
  /** What the device is, or why it cannot be used. */
  device: string;
  /** Whether a Session may be in bf16: on CUDA; on a CPU, for sampling alone, with AVX512_BF16 instructions and the set avx512 in use. */
  bf16: boolean;
  /** How often a recorded step was replayed in this process (a CUDA graph); 0 on the CPU. */
  replays: number;
  /** Bytes copied between the host and a GPU in this process, both ways; 0 on the CPU. */
  copied: number;
};

/**
 * A model as native takes it: its kind, and the configuration of that kind. Those of src/ddpm/model make it, say what it means, and are the
 * one place of its limits.
 */
export type NativeModel = { readonly kind: string } & Readonly<Record<string, unknown>>;

export type NativeNoise = { prediction: 'eps' | 'x0' | 'v'; alphaBar: Float64Array };

/** A named range of the parameter vector. `shape` is the checkpoint's (OIHW for convolutions); in memory convolutions are KRSC. */
export type ParameterEntry = { name: string; offset: number; count: number; shape: number[] };

/**
 * Hyper-parameters by name. ddpm/fit.ts says what each means and is the one place of their limits; native/unet/hyper.h lists them again,
 * and the addon refuses an object that lacks one of these or has another.
 */
export type NativeHyper = Readonly<Record<string, number | boolean>>;

export type NativeTrain = {
  /** steps·batch positions into the images. */
  indices: Int32Array;
  /** Class of every image of the set (not of the batch); needed iff the model is conditioned on classes or tells them apart. */
  classes?: Int32Array;
  steps: number;
  hyper: NativeHyper;
  /** 64-bit key of the random stream. */
  key: bigint;
  /** The position that the first step has: see Position in ddpm/fit.ts. */
  firstStep: number;
  globalStep: number;
  adamStep: number;
  /** What FedProx pulls towards; needed iff `hyper.mu` > 0. */
  anchor?: NativeVector;
};

export type NativeSample = {
  count: number;
  batch: number;
  /** Rows of [t, alpha, sigma, cx, c0, c1, cz]; see ddpm/schedulers. */
  table: Float64Array;
  clip: boolean;
  key: bigint;
  /** Index of the first image in the stream: images are the same whatever the batch. */
  firstImage: number;
  /** One class per image, if the U-Net is class-conditional. */
  classes?: Int32Array;
  /** Which parameters to draw with. */
  weights: NativeVector;
  /** Called between rows of the table with the share done, 0..1. */
  onProgress?: (done: number) => void;
};

/** A flag shared with a running call: set it and the call stops within a step. */
export type NativeAbort = { abort(): void };

export type NativeVector = {
  readonly length: number;
  /** Frees the memory at once (when no call uses it). */
  dispose(): void;
  /** y += a·x */
  axpy(x: NativeVector, a: number): Promise<void>;
  scale(a: number): Promise<void>;
  fill(value: number): Promise<void>;
  /** this = `from` in bfloat16's precision: what encode and decode make of it. */
  roundToBf16(from: NativeVector): Promise<void>;
  /** this = a - b */
  subtract(a: NativeVector, b: NativeVector): Promise<void>;
  /** this += a·(x - this) */
  interpolate(x: NativeVector, a: number): Promise<void>;
  copy(from: NativeVector, offset: number, count: number): Promise<void>;
  dot(other: NativeVector): Promise<number>;
  isFinite(): Promise<boolean>;
  /** Server steps of Reddi et al. 2021 (FedOpt); see fl/server-step.ts. Each takes this = params. */
  serverStep(
    kind: 'momentum' | 'adam' | 'yogi',
    delta: NativeVector,
    m: NativeVector,
    v: NativeVector | undefined,
    options: { lr: number; beta1: number; beta2: number; tau: number },
  ): Promise<void>;
  /** Little-endian float32 of [offset, offset+count). */
  toBytes(offset: number, count: number): Promise<Uint8Array>;
  /** The bytes are copied on the JS thread: keep pieces at a few MiB. */
  fromBytes(bytes: Uint8Array, offset: number): Promise<void>;
  /**
   * Tensors of a checkpoint to and from this vector. Each entry is six numbers: offset and count in the vector, byte offset in `bytes`,
   * then K, C and R·S: where R·S > 1 the file's (K,C,R·S) is permuted to and from (K,R·S,C).
   */
  importTensors(bytes: Uint8Array, dtype: 'F32' | 'F16' | 'BF16' | 'F64', entries: Float64Array): Promise<void>;
  exportTensors(byteLength: number, entries: Float64Array): Promise<Uint8Array>;
  /** [offset, offset+count) as bfloat16, or as blocks of 1024 signed bytes with a scale each: see ops.h for the layouts. */
  encode(codec: 'bf16' | 'int8', offset: number, count: number): Promise<Uint8Array>;
  /** Sets [offset, offset+count). @throws PhoenixError ERR_PHOENIX_SHAPE for bytes that are no such encoding */
  decode(codec: 'bf16' | 'int8', bytes: Uint8Array, offset: number, count: number): Promise<void>;
  /** The k values of largest magnitude with their indices. */
  encodeLargest(k: number): Promise<Uint8Array>;
  /** Sets the whole vector, values not sent to 0. @throws PhoenixError ERR_PHOENIX_SHAPE for bytes that are no such encoding */
  decodeLargest(bytes: Uint8Array): Promise<void>;
  /** this = the ranges of `from` one after the other; `ranges` are pairs (offset, count), together as many values as this has. */
  gather(from: NativeVector, ranges: Float64Array): Promise<void>;
  /** The ranges of this = the values of `from` one after the other. */
  scatter(from: NativeVector, ranges: Float64Array): Promise<void>;
  /**
   * this[offset+j] = the mean of column j of `rows`, a block (rows, columns), without its `trim` lowest and highest values; 2·trim < rows.
   */
  trimmedMean(rows: NativeVector, options: { rows: number; columns: number; trim: number; offset: number }): Promise<void>;
  /** ‖row i - row j‖² of this as a block (rows, columns): rows² values. */
  rowDistances(rows: number, columns: number): Promise<Float64Array>;
};

/** A resident set of u8 images. `write` copies a piece to a byte position, on the JS thread: keep pieces small. */
export type NativeImages = {
  readonly count: number;
  readonly bytes: number;
  write(pixels: Uint8Array, offset: number): void;
  dispose(): void;
};

export type NativeSession = {
  readonly parameters: ParameterEntry[];
  /** The vector of parameters; the Session's own memory, valid until dispose. */
  readonly params: NativeVector;
  readonly ema: NativeVector;
  readonly adamM: NativeVector;
  readonly adamV: NativeVector;
  /** Fills the parameters with what the model begins with: see its header in native/unet. */
  init(key: bigint): Promise<void>;
  train(images: NativeImages, options: NativeTrain, abort?: NativeAbort): Promise<{ losses: Float64Array; gradNorms: Float64Array }>;
  /** Mean loss over the images at `indices` with the noise that `key` fixes, in batches of `batch`. */
  evalLoss(
    images: NativeImages,
    options: { indices: Int32Array; classes?: Int32Array; batch: number; key: bigint; weights: NativeVector },
    abort?: NativeAbort,
  ): Promise<number>;
  /** Images in [-1,1], (count,H,W,C). */
  sample(options: NativeSample, abort?: NativeAbort): Promise<Float32Array>;
  /** Of a model with features (a classifier): features and outputs of the images at `indices`, row by row. */
  describe(
    images: NativeImages,
    options: { indices: Int32Array; batch: number; weights: NativeVector },
    abort?: NativeAbort,
  ): Promise<{ features: Float32Array; outputs: Float32Array }>;
  /** One forward pass, for tests: x (n,H,W,C) → the network's output, and, with a target, the loss and the gradient vector. */
  forward(x: Float64Array, t: Float64Array, weights: NativeVector, classes?: Int32Array): Promise<Float64Array>;
  gradient(
    x: Float64Array,
    t: Float64Array,
    target: Float64Array,
    weights: NativeVector,
    classes?: Int32Array,
  ): Promise<{ loss: number; gradient: NativeVector; output: Float64Array }>;
  /** Bytes held, by kind; while a call runs, as before it. */
  memory(): { parameters: number; optimizer: number; activations: number };
  dispose(): void;
};

/** A matrix of features, one sample per row: see ddpm/metrics/features.ts. */
export type NativeFeatures = { data: Float32Array | Float64Array; rows: number; columns: number };

/** mean (columns) and covariance (columns²), divisor rows - 1. */
export type NativeMoments = { mean: Float64Array; covariance: Float64Array };

/**
 * A feature network: see native/metrics/network.h. `layers` holds kind (0 convolution, 1 depthwise, 2 pointwise), channels, stride and
 * residual (0, 1) of each; `most`: of an activation, 0 = no limit; `pad`: before a stride of 2, 0 or 1.
 */
export type NativeNetworkPlan = {
  height: number;
  width: number;
  channels: number;
  scale: Float32Array;
  shift: Float32Array;
  layers: Int32Array;
  most: number;
  pad: number;
  classes: number;
  weights: Float32Array;
};
/** Opaque; freed by the garbage collector. */
export type NativeNetwork = { readonly nativeNetwork: unique symbol };

/** One tensor of a single-op call: values and (n,h,w,c). */
export type OpTensor = { data: Float64Array; shape: [number, number, number, number] };

export type Addon = {
  info(): AddonInfo;
  /** The class of every error that the addon throws, called with (code, message). */
  setErrorClass(errorClass: unknown): void;
  createVector(length: number): NativeVector;
  /** Threads that operations on Vectors take, of 1 to 1024. @default 1 */
  setVectorThreads(threads: number): void;
  createImages(count: number, height: number, width: number, channels: number): NativeImages;
  /** `noise`: of a model that predicts it. */
  createSession(model: NativeModel, noise: NativeNoise | undefined, options: { threads: number; bf16: boolean }): NativeSession;
  createAbort(): NativeAbort;
  /** Philox words for (key, c0..c3): the test of rng.ts against philox.h. */
  philox(key: bigint, c0: number, c1: number, c2: number, c3: number): [number, number, number, number];
  /**
   * Runs one op of ops.h by name, for tests and benchmarks. Outputs are filled with NaN (or with `tensors`' values, if accumulated into),
   * every buffer lies between guard words, and a damaged guard is an error that names the tensor.
   */
  op(name: string, tensors: Record<string, OpTensor>, attributes: Record<string, number>): { tensors: Record<string, OpTensor> };
  /**
   * Times one op: nanoseconds per call of each of `runs` runs of `launches` calls, after runs that do not count. A tensor with fewer values
   * than its shape takes them again from the start. On a GPU a run is a replayed recording, and an op that brings a number to the host is
   * an error.
   */
  timeOp(name: string, tensors: Record<string, OpTensor>, attributes: Record<string, number>, launches: number, runs: number): Float64Array;
  /** Metrics, native/metrics/metrics.h. Arguments are copied on the JS thread (about 1 ms for 10,000 rows of 64). */
  moments(x: NativeFeatures, threads: number): Promise<NativeMoments>;
  frechetDistance(a: NativeMoments, b: NativeMoments, threads: number): Promise<number>;
  /** The k-th nearest row of y for each row of x; without y, of the other rows of x. */
  neighbours(
    x: NativeFeatures,
    y: NativeFeatures | undefined,
    k: number,
    threads: number,
  ): Promise<{ squared: Float64Array; index: Int32Array }>;
  ballCounts(x: NativeFeatures, centres: NativeFeatures, squaredRadii: Float64Array, strict: boolean, threads: number): Promise<Int32Array>;
  kernelDistances(
    x: NativeFeatures,
    y: NativeFeatures,
    xRows: Int32Array,
    yRows: Int32Array,
    size: number,
    threads: number,
  ): Promise<Float64Array>;
  kmeans(
    x: NativeFeatures,
    uniforms: Float64Array,
    iterations: number,
    threads: number,
  ): Promise<{ centres: Float64Array; assignment: Int32Array; inertia: number; iterations: number }>;
  createNetwork(plan: NativeNetworkPlan): NativeNetwork;
  /** u8 images, scaled to the network's size → features (n, channels of the last layer) and logits (n, classes). */
  runNetwork(
    network: NativeNetwork,
    pixels: Uint8Array,
    height: number,
    width: number,
    channels: number,
    threads: number,
  ): Promise<{ features: Float32Array; logits: Float32Array }>;
  /** weights (classes, columns), biases, and the largest entry of the gradient where it ended. */
  logisticRegression(
    x: NativeFeatures,
    labels: Int32Array,
    classes: number,
    l2: number,
    iterations: number,
    threads: number,
  ): Promise<{ weights: Float64Array; biases: Float64Array; gradient: number; iterations: number }>;
};
