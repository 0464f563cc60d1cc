/**
 * A Session is one model on one device: parameters, optimizer moments, EMA. Training, evaluation and sampling run on a native thread;
 * one call at a time (a second one is ERR_PHOENIX_BUSY).
 */

import { checkArguments } from '../arguments.ts';
import { withCallbacks } from '../callbacks.ts';
import { PhoenixError } from '../errors.ts';
import { type ImageSet, type ImageSource, imageBytes, mismatch, PIECE_BYTES, sourceOfSet, windows } from '../images.ts';
import { addon, addonFile } from './load.ts';
import type {
  Addon,
  AddonInfo,
  NativeAbort,
  NativeImages,
  NativeModel,
  NativeNoise,
  NativeSample,
  NativeSession,
  NativeTrain,
  ParameterEntry,
} from './native.ts';
import { memoryOf, selfCheck } from './self-check.ts';
import { defaultThreads, type ThreadRule } from './threads.ts';
import type { Vector } from './vector.ts';

export type Images = NativeImages & Disposable;

export type Session = Omit<NativeSession, 'train' | 'evalLoss' | 'sample' | 'describe'> &
  Disposable & {
    readonly parameterCount: number;
    readonly info: AddonInfo;
    readonly threads: number;
    /**
     * Zeros on this Session's device; what is done with its vectors needs vectors of the same device. @throws PhoenixError
     * ERR_PHOENIX_MEMORY
     */
    createVector(length: number): Vector;
    createImages: Addon['createImages'];
    /**
     * @throws PhoenixError ERR_PHOENIX_ARGUMENT on a CPU in bf16, which is for sampling; ERR_PHOENIX_NOT_FINITE when a step's loss or
     * gradient is not finite: that step is not applied
     */
    train(images: Images, options: NativeTrain, signal?: AbortSignal): ReturnType<NativeSession['train']>;
    evalLoss(images: Images, options: Parameters<NativeSession['evalLoss']>[1], signal?: AbortSignal): Promise<number>;
    /** Features and outputs of a model that has features (a classifier), row by row. */
    describe(
      images: Images,
      options: Parameters<NativeSession['describe']>[1],
      signal?: AbortSignal,
    ): ReturnType<NativeSession['describe']>;
    /** Images in [-1,1], (count,H,W,C). */
    sample(options: NativeSample, signal?: AbortSignal): Promise<Float32Array>;
  };

export type Device = 'auto' | 'cpu' | 'cuda';
export type Precision = 'fp32' | 'bf16';

export type NativeSessionOptions = {
  /** What is trained: `unetModel` and its like of ddpm/model make it. */
  model: NativeModel;
  /** Of a model that predicts noise: what it predicts, and ᾱ of every step. */
  noise?: NativeNoise;
  /** @default 'auto' */
  device?: Device;
  /**
   * On CUDA that of activations and of what they are multiplied with; parameters and optimizer are fp32. On a CPU 'bf16' is for sampling
   * (and evalLoss), and needs AVX512_BF16: the products of linear layers, attention and convolutions of stride 2 are of factors rounded to
   * bfloat16, all else is fp32. @default 'bf16' on CUDA, else 'fp32'
   */
  precision?: Precision;
  /**
   * Threads of the pool that this Session may use. @default as defaultThreads says: one for small networks, else the cores or the CPU quota
   */
  threads?: number;
};

/** Runs a native call under an AbortSignal: the promise rejects with the signal's reason, within one op of the model. */
const abortable = async <T>(native: Addon, signal: AbortSignal | undefined, call: (abort: NativeAbort) => Promise<T>): Promise<T> => {
  signal?.throwIfAborted();
  const abort = native.createAbort();
  const onAbort = () => abort.abort();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await call(abort);
  } catch (error) {
    if ((error as { code?: string }).code === 'ERR_PHOENIX_ABORTED' && signal?.aborted) throw signal.reason;
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
};

/** The backend of a device, and why it is that one. */
export type Choice = { backend: 'cpu' | 'cuda'; why: string };

/** What the self-check of this process's GPU found; undefined before it. */
let checked: string[] | undefined;

/** Whether the GPU computes what the CPU does. Where it does not, a warning of Node says so once. */
function isRight(): boolean {
  if (!checked) {
    const [gpu, cpu] = [addon('cuda'), addon('cpu')];
    checked = selfCheck(gpu, cpu, memoryOf(gpu, [addonFile('cuda'), addonFile('cpu')]));
    if (checked.length > 0)
      process.emitWarning(
        `The GPU (${gpu.info().device}) does not compute what the CPU computes: ${checked.join('; ')}. The CPU is used. ` +
          "Device 'cuda' takes the GPU all the same; `phoenix doctor` tells more.",
        { code: 'PHOENIX_SELF_CHECK' },
      );
  }
  return checked.length === 0;
}

/**
 * What a device option means on this machine: 'auto' takes a usable GPU that passes the self-check, else the CPU.
 * @throws PhoenixError ERR_PHOENIX_LOAD if 'cuda' is asked for and phoenix-cuda is not built, or finds no driver or no GPU that it is for
 */
export const chooseBackend = (device: Device): Choice => {
  if (device === 'cpu') return { backend: 'cpu', why: "device 'cpu' was asked for" };
  let reason: string;
  try {
    const info = addon('cuda').info();
    if (info.usable && (device === 'cuda' || isRight())) return { backend: 'cuda', why: info.device };
    reason = info.usable ? `${info.device} did not pass the self-check: ${checked!.join('; ')}` : info.device;
  } catch (error) {
    if (device === 'cuda')
      throw new PhoenixError(
        'ERR_PHOENIX_LOAD',
        `Device 'cuda' was asked for, but phoenix-cuda cannot be loaded. ${(error as Error).message}`,
        { cause: error },
      );
    reason = 'phoenix-cuda is not built (npm install builds it where a CUDA compiler is found)';
  }
  if (device === 'cuda')
    throw new PhoenixError(
      'ERR_PHOENIX_LOAD',
      `Device 'cuda' was asked for, but it cannot be used: ${reason}. Use device 'auto' or 'cpu'.`,
    );
  return { backend: 'cpu', why: `no GPU is used: ${reason}` };
};

/**
 * A new Session with parameters 0. ddpm/session.ts is the door for users.
 * @throws PhoenixError ERR_PHOENIX_SHAPE for a model that does not fit together, ERR_PHOENIX_ARGUMENT for bf16 on a CPU without
 * AVX512_BF16, ERR_PHOENIX_LOAD without a backend, ERR_PHOENIX_MEMORY
 */
export const createNativeSession = (options: NativeSessionOptions): Session =>
  sessionOn(addon(chooseBackend(options.device ?? 'auto').backend), options);

/** The size of a U-Net's first level, by which its default number of threads is chosen; undefined for other models. */
function firstLevel({ height, width, blockOutChannels }: NativeModel): ThreadRule['network'] {
  const [channels] = Array.isArray(blockOutChannels) ? blockOutChannels : [];
  const sizes = { height, width, channels };
  return Object.values(sizes).every((size) => typeof size === 'number') ? (sizes as ThreadRule['network']) : undefined;
}

/** createNativeSession on a given addon, so that tests can ask for the reference backend. */
export const sessionOn = (native: Addon, options: NativeSessionOptions): Session => {
  const threads = options.threads ?? defaultThreads(firstLevel(options.model));
  const { backend, isa, bf16 } = native.info();
  const precision = options.precision ?? (backend === 'cuda' ? 'bf16' : 'fp32');
  if (precision === 'bf16' && !bf16) {
    const asked = process.env.PHOENIX_CPU_ISA ? ` (PHOENIX_CPU_ISA=${process.env.PHOENIX_CPU_ISA})` : '';
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `Precision 'bf16' needs CUDA, or a CPU with AVX512_BF16 instructions and the set avx512 in use; this one is ${backend} with the set ${isa}${asked}, without them. Use precision 'fp32'.`,
    );
  }
  /** What needs a gradient. */
  const training = async <T>(call: () => Promise<T>): Promise<T> => {
    if (precision === 'fp32' || backend === 'cuda') return call();
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      "Training on a CPU is in fp32, but this Session has precision 'bf16', which is for sampling there. Create one with precision 'fp32'.",
    );
  };
  const session = native.createSession(options.model, options.noise, { threads, bf16: precision === 'bf16' });
  const parameters: ParameterEntry[] = session.parameters;
  const dispose = () => session.dispose();
  return {
    parameters,
    parameterCount: parameters.reduce((sum, p) => sum + p.count, 0),
    info: native.info(),
    threads,
    createVector: (length) => native.createVector(length),
    createImages: (count, height, width, channels) => native.createImages(count, height, width, channels),
    get params(): Vector {
      return session.params;
    },
    get ema(): Vector {
      return session.ema;
    },
    get adamM(): Vector {
      return session.adamM;
    },
    get adamV(): Vector {
      return session.adamV;
    },
    init: (key) => session.init(key),
    train: (images, train, signal) => training(() => abortable(native, signal, (abort) => session.train(images, train, abort))),
    describe: (images, given, signal) => abortable(native, signal, (abort) => session.describe(images, given, abort)),
    evalLoss: (images, evaluation, signal) => abortable(native, signal, (abort) => session.evalLoss(images, evaluation, abort)),
    sample: (sample, outer) =>
      withCallbacks('sample', { ...sample, signal: outer }, ({ signal, ...guarded }) =>
        abortable(native, signal, (abort) => session.sample(guarded, abort)),
      ),
    forward: (x, t, weights, classes) => session.forward(x, t, weights, classes),
    gradient: (x, t, target, weights, classes) => training(() => session.gradient(x, t, target, weights, classes)),
    memory: () => session.memory(),
    dispose,
    [Symbol.dispose]: dispose,
  };
};

/** Writes pixels into native memory in pieces, so that the JS thread never stalls. `at`: the first byte. */
export async function writePixels(images: NativeImages, pixels: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < pixels.length; done += PIECE_BYTES) {
    images.write(pixels.subarray(done, done + PIECE_BYTES), at + done);
    await new Promise(setImmediate);
  }
}

/**
 * A resident copy of images in native memory. A source is copied window by window, so that its images need not be in memory a second time.
 * With `room`, that many black images more at the end, to be written later. `on`: the Session that is to use them, if it is not on the CPU.
 * @throws PhoenixError ERR_PHOENIX_SHAPE for pixels of another number than the sizes say, ERR_PHOENIX_MEMORY; what the source throws
 */
export async function createImages(images: ImageSet | ImageSource, on: Pick<Addon, 'createImages'> = addon(), room = 0): Promise<Images> {
  checkArguments('createImages', { images, on }, { images: 'object', on: { createImages: 'function' } });
  const wrong = 'pixels' in images ? mismatch(images) : undefined;
  if (wrong) throw new PhoenixError('ERR_PHOENIX_SHAPE', `${wrong}.`);
  const source = 'pixels' in images ? sourceOfSet(images) : images;
  const { count, height, width, channels } = source;
  const resident = on.createImages(count + room, height, width, channels);
  try {
    for await (const { first, pixels } of windows(source)) await writePixels(resident, pixels, first * imageBytes(source));
  } catch (error) {
    resident.dispose();
    throw error;
  }
  return Object.assign(resident, { [Symbol.dispose]: () => resident.dispose() });
}
