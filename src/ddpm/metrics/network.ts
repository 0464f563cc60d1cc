/**
 * Feature networks: a safetensors file of trained weights, run by the native engine. Known is the CIFAR ResNet of He et al. 2016, §4.2 (depth
 * 6n+2, option A shortcuts) with the names of PyTorch's common implementation; its `__metadata__` must say `arch` and `input`.
 */
import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { addon } from '../../bindings/load.ts';
import { PhoenixError } from '../../errors.ts';
import { openSafetensors, quote, type SafetensorsFile, showShape } from '../safetensors.ts';
import { checkInteger, type Features, featureMatrix } from './features.ts';

export type FeatureNetwork = {
  /** For the names of metrics: resnet56. */
  name: string;
  /** sha256 over the weights and the description: features of another file must not be compared with these. */
  fingerprint: string;
  /** Features a sample. */
  dims: number;
  /** Logits a sample. */
  classes: number;
  height: number;
  width: number;
  /**
   * Features (n, dims) and logits (n, classes) of images in u8, (n, height, width, channels); one channel counts as three equal ones. Results do
   * not depend on the number of threads.
   * @throws PhoenixError ERR_PHOENIX_SHAPE for images of another size (resize them first), or the signal's reason
   */
  run(images: FeatureImages, options?: RunNetworkOptions): Promise<{ features: Features; logits: Features }>;
};

export type FeatureImages = { pixels: Uint8Array; count: number; height: number; width: number; channels: number };

export type RunNetworkOptions = {
  /** @default all cores */
  threads?: number;
  signal?: AbortSignal;
  /** Called now and then with the number of images done. */
  onProgress?: (images: number) => void;
};

const SIDE = 32;
const WIDTHS = [16, 32, 64];
const MOST_BLOCKS = 200;
const NORM_EPS = 1e-5;
/** Images a native call: about a second of ResNet-56, the delay of an abort. */
const BATCH = 128;

/**
 * Opens a network. The file is hostile until every tensor has the name, type and shape that the architecture asks for.
 * @throws PhoenixError ERR_PHOENIX_CHECKPOINT for a damaged file or another architecture, ERR_PHOENIX_IO
 */
export const featureNetwork = async (path: string): Promise<FeatureNetwork> => {
  const file = await openSafetensors(path);
  try {
    return await readNetwork(path, file);
  } finally {
    await file.close();
  }
};

const readNetwork = async (path: string, file: SafetensorsFile): Promise<FeatureNetwork> => {
  const refuse = (what: string) => new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${path} is no feature network that is known here: ${what}`);
  const { arch = '', input = '' } = file.metadata;
  if (!arch.startsWith('ResNet-6n+2'))
    throw refuse(`its __metadata__ gives the architecture ${quote(arch)}; known is ResNet-6n+2 for 32x32 images`);
  const constants = /^RGB\/255, minus \(([\d.]+),([\d.]+),([\d.]+)\), over \(([\d.]+),([\d.]+),([\d.]+)\)/
    .exec(input)
    ?.slice(1)
    .map(Number);
  if (!constants?.every((value, i) => Number.isFinite(value) && (i < 3 || value > 0)))
    throw refuse(`its __metadata__ gives the input ${quote(input)}; known is "RGB/255, minus (r,g,b), over (r,g,b)"`);

  const tensor = async (name: string, shape: number[]): Promise<Float32Array> => {
    const stored = file.tensors.get(name);
    if (stored?.dtype !== 'F32' || showShape(stored.shape) !== showShape(shape))
      throw refuse(
        `expected F32 ${name} of shape ${showShape(shape)}, got ${stored ? `${stored.dtype} ${showShape(stored.shape)}` : 'none'}`,
      );
    const bytes = await file.read(name);
    const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    if (!values.every(Number.isFinite)) throw refuse(`${name} is not finite`);
    return values;
  };

  const blocks = [...file.tensors.keys()].filter((name) => /^layer1\.\d+\.conv1\.weight$/.test(name)).length;
  if (blocks < 1 || blocks > MOST_BLOCKS) throw refuse(`it has ${blocks} blocks a stage; expected 1 to ${MOST_BLOCKS}`);
  const layers: number[] = [];
  const weights: Float32Array[] = [];
  /** One convolution with its batch norm: w·γ/√(var+ε) and β - mean·γ/√(var+ε), and OIHW turned to (K,R,S,C). */
  const convolution = async (conv: string, norm: string, from: number, to: number, stride: number, residual: boolean) => {
    const w = await tensor(`${conv}.weight`, [to, from, 3, 3]);
    const [gamma, beta, mean, variance] = await Promise.all(
      ['weight', 'bias', 'running_mean', 'running_var'].map((part) => tensor(`${norm}.${part}`, [to])),
    );
    if (variance!.some((value) => value < 0)) throw refuse(`${norm}.running_var has values below 0`);
    const scale = Float64Array.from(gamma!, (value, k) => value / Math.sqrt(variance![k]! + NORM_EPS));
    const folded = new Float32Array(w.length);
    for (let k = 0; k < to; k++)
      for (let c = 0; c < from; c++)
        for (let tap = 0; tap < 9; tap++) folded[(k * 9 + tap) * from + c] = w[(k * from + c) * 9 + tap]! * scale[k]!;
    layers.push(to, stride, residual ? 1 : 0);
    weights.push(
      folded,
      Float32Array.from(beta!, (value, k) => value - mean![k]! * scale[k]!),
    );
  };

  await convolution('conv1', 'bn1', 3, WIDTHS[0]!, 1, false);
  let channels = WIDTHS[0]!;
  for (const [stage, width] of WIDTHS.entries()) {
    for (let block = 0; block < blocks; block++) {
      const at = `layer${stage + 1}.${block}`;
      await convolution(`${at}.conv1`, `${at}.bn1`, channels, width, stage > 0 && block === 0 ? 2 : 1, false);
      await convolution(`${at}.conv2`, `${at}.bn2`, width, width, 1, true);
      channels = width;
    }
  }
  const classes = file.tensors.get('linear.bias')?.shape[0] ?? 0;
  if (classes < 2 || classes > 65536) throw refuse('expected linear.bias of 2 to 65536 classes');
  weights.push(await tensor('linear.weight', [classes, channels]), await tensor('linear.bias', [classes]));

  const [means, deviations] = [constants.slice(0, 3), constants.slice(3)];
  const all = new Float32Array(weights.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of weights) {
    all.set(part, offset);
    offset += part.length;
  }
  const network = addon().createNetwork({
    height: SIDE,
    width: SIDE,
    channels: 3,
    scale: Float32Array.from(deviations, (deviation) => 1 / (255 * deviation)),
    shift: Float32Array.from(deviations, (deviation, c) => -means[c]! / deviation),
    layers: Int32Array.from(layers),
    classes,
    weights: all,
  });

  const run: FeatureNetwork['run'] = async (images, options = {}) => {
    const { threads = availableParallelism(), signal, onProgress } = options;
    checkInteger('featureNetwork: threads', threads, 1, 1024);
    checkImages(images);
    const features = new Float32Array(images.count * channels);
    const logits = new Float32Array(images.count * classes);
    for (let done = 0; done < images.count; done += BATCH) {
      signal?.throwIfAborted();
      const out = await addon().runNetwork(network, asRgb(images, done, Math.min(images.count, done + BATCH)), threads);
      features.set(out.features, done * channels);
      logits.set(out.logits, done * classes);
      onProgress?.(Math.min(images.count, done + BATCH));
    }
    return { features: featureMatrix(features, channels), logits: featureMatrix(logits, classes) };
  };
  const fingerprint = createHash('sha256').update(`${arch}\n${input}\n`).update(new Uint8Array(all.buffer)).digest('hex');
  return { name: `resnet${6 * blocks + 2}`, fingerprint, dims: channels, classes, height: SIDE, width: SIDE, run };
};

const checkImages = ({ pixels, count, height, width, channels }: FeatureImages): void => {
  if (height !== SIDE || width !== SIDE || (channels !== 1 && channels !== 3))
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `featureNetwork: expected ${SIDE}x${SIDE} images of 1 or 3 channels, got ${height}x${width} of ${channels}; resize them first`,
    );
  if (!(Number.isInteger(count) && count >= 1) || pixels.length !== count * SIDE * SIDE * channels)
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `featureNetwork: ${count} images take ${count * SIDE * SIDE * channels} bytes, got ${pixels.length}`,
    );
};

/** Images begin..end as three channels. */
const asRgb = ({ pixels, channels }: FeatureImages, begin: number, end: number): Uint8Array => {
  const image = SIDE * SIDE * channels;
  const part = pixels.subarray(begin * image, end * image);
  if (channels === 3) return part;
  const rgb = new Uint8Array(part.length * 3);
  for (let i = 0; i < rgb.length; i++) rgb[i] = part[Math.floor(i / 3)]!;
  return rgb;
};
