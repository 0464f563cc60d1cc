/**
 * Feature networks: a safetensors file of trained weights, run by the native engine on the CPU, or an ONNX file. Known of the former are
 * the CIFAR ResNet of He et al. 2016, §4.2 (depth 6n+2, option A shortcuts) with the names of PyTorch's common implementation, and
 * MobileNet v1 (Howard et al. 2017, table 1) with its batch norms folded in; the file's `__metadata__` must say `arch` and `input`.
 */

import { createHash } from 'node:crypto';
import { extname } from 'node:path';
import { checkArguments } from '../../arguments.ts';
import { addon } from '../../bindings/load.ts';
import { defaultThreads } from '../../bindings/threads.ts';
import { withCallbacks } from '../../callbacks.ts';
import { PhoenixError } from '../../errors.ts';
import type { ImageSet } from '../../images.ts';
import { openSafetensors, quote, type SafetensorsFile, showShape } from '../checkpoint/safetensors.ts';
import { checkImages, type FeatureNetwork, type RunNetworkOptions } from './feature-network.ts';
import { checkInteger, featureMatrix } from './features.ts';

const WIDTHS = [16, 32, 64];
const MAX_BLOCKS = 200;
const NORM_EPS = 1e-5;
/** Kinds of layers, as native/metrics/network.h counts them. */
const [CONVOLUTION, DEPTHWISE, POINTWISE] = [0, 1, 2];

/**
 * Opens a network: an ONNX file by its ending `.onnx` (see onnx.ts), or a safetensors file. The file is untrusted until every tensor has
 * the name, type and shape that the architecture requires.
 * @throws PhoenixError ERR_PHOENIX_CHECKPOINT for a damaged file or another architecture, ERR_PHOENIX_CONFIG for an ONNX file without
 * onnxruntime-node, ERR_PHOENIX_IO
 */
export const featureNetwork = async (path: string): Promise<FeatureNetwork> => {
  checkArguments('featureNetwork', { path }, { path: 'text' });
  if (extname(path) === '.onnx') return (await import('./onnx.ts')).onnxNetwork(path);
  const file = await openSafetensors(path);
  try {
    const refuse = (what: string) =>
      new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${path} is no feature network that is known here: ${what}.`);
    const { arch = '' } = file.metadata;
    if (arch.startsWith('ResNet-6n+2')) return build(await readResNet(file, refuse));
    if (arch.startsWith('conv0 3x3 s2, 13 x (dw 3x3, pw 1x1)')) return build(await readMobileNet(file, refuse));
    throw refuse(
      `its __metadata__ gives the architecture ${quote(arch)}; known are ResNet-6n+2 for 32x32 images and "conv0 3x3 s2, 13 x (dw 3x3, pw 1x1)" for 224x224`,
    );
  } finally {
    await file.close();
  }
};

type Refuse = (what: string) => PhoenixError;

/** What a file says, ready for the engine. */
type Description = {
  name: string;
  side: number;
  /** Of each channel: u8·scale + shift. */
  scale: number[];
  shift: number[];
  /** kind, channels, stride, residual of each layer */
  layers: number[];
  most: number;
  pad: number;
  dims: number;
  classes: number;
  weights: Float32Array[];
  /** Images a native call: about a second, the delay of an abort. */
  batch: number;
  /** Of the architecture and the input: what the fingerprint covers in addition to the weights. */
  text: string;
};

/** Reads a tensor of a type and shape. */
const reader =
  (file: SafetensorsFile, refuse: Refuse) =>
  async (name: string, shape: number[]): Promise<Float32Array> => {
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

/** (K,C,taps) → (K,taps,C), each K multiplied by scale(k). */
const channelsLast = (w: Float32Array, to: number, from: number, taps: number, scale: (k: number) => number = () => 1): Float32Array => {
  const turned = new Float32Array(w.length);
  for (let k = 0; k < to; k++)
    for (let c = 0; c < from; c++)
      for (let tap = 0; tap < taps; tap++) turned[(k * taps + tap) * from + c] = w[(k * from + c) * taps + tap]! * scale(k);
  return turned;
};

const readResNet = async (file: SafetensorsFile, refuse: Refuse): Promise<Description> => {
  const { arch = '', input = '' } = file.metadata;
  const constants = /^RGB\/255, minus \(([\d.]+),([\d.]+),([\d.]+)\), over \(([\d.]+),([\d.]+),([\d.]+)\)/
    .exec(input)
    ?.slice(1)
    .map(Number);
  if (!constants?.every((value, i) => Number.isFinite(value) && (i < 3 || value > 0)))
    throw refuse(`its __metadata__ gives the input ${quote(input)}; known is "RGB/255, minus (r,g,b), over (r,g,b)"`);
  const tensor = reader(file, refuse);
  const blocks = [...file.tensors.keys()].filter((name) => /^layer1\.\d+\.conv1\.weight$/.test(name)).length;
  if (blocks < 1 || blocks > MAX_BLOCKS) throw refuse(`it has ${blocks} blocks a stage; expected 1 to ${MAX_BLOCKS}`);
  const layers: number[] = [];
  const weights: Float32Array[] = [];
  /** One convolution with its batch norm: w·γ/√(var+ε) and β - mean·γ/√(var+ε). */
  const convolution = async (conv: string, norm: string, from: number, to: number, stride: number, residual: boolean) => {
    const w = await tensor(`${conv}.weight`, [to, from, 3, 3]);
    const [gamma, beta, mean, variance] = await Promise.all(
      ['weight', 'bias', 'running_mean', 'running_var'].map((part) => tensor(`${norm}.${part}`, [to])),
    );
    if (variance!.some((value) => value < 0)) throw refuse(`${norm}.running_var has values below 0`);
    const scale = Float64Array.from(gamma!, (value, k) => value / Math.sqrt(variance![k]! + NORM_EPS));
    layers.push(CONVOLUTION, to, stride, residual ? 1 : 0);
    weights.push(
      channelsLast(w, to, from, 9, (k) => scale[k]!),
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
  return {
    name: `resnet${6 * blocks + 2}`,
    side: 32,
    scale: deviations.map((deviation) => 1 / (255 * deviation)),
    shift: deviations.map((deviation, c) => -means[c]! / deviation),
    layers,
    most: 0,
    pad: 1,
    dims: channels,
    classes,
    weights,
    batch: 128,
    text: `${arch}\n${input}\n`,
  };
};

/** Width and stride of MobileNet v1's thirteen blocks: Howard et al. 2017, table 1. */
const MOBILE_BLOCKS = [
  [64, 1],
  [128, 2],
  [128, 1],
  [256, 2],
  [256, 1],
  [512, 2],
  ...Array.from({ length: 5 }, () => [512, 1]),
  [1024, 2],
  [1024, 1],
] as [number, number][];

const readMobileNet = async (file: SafetensorsFile, refuse: Refuse): Promise<Description> => {
  const { arch = '', input = '' } = file.metadata;
  if (!input.startsWith('RGB 224x224, (x-128)/128'))
    throw refuse(`its __metadata__ gives the input ${quote(input)}; known is "RGB 224x224, (x-128)/128"`);
  const tensor = reader(file, refuse);
  const layers = [CONVOLUTION, 32, 2, 0];
  const weights = [channelsLast(await tensor('conv0.weight', [32, 3, 3, 3]), 32, 3, 9), await tensor('conv0.bias', [32])];
  let channels = 32;
  for (const [i, [width, stride]] of MOBILE_BLOCKS.entries()) {
    const at = `block${i + 1}`;
    // (C,1,3,3) → (3,3,C): taps first.
    const taps = await tensor(`${at}.dw.weight`, [channels, 1, 3, 3]);
    weights.push(channelsLast(taps, 1, channels, 9), await tensor(`${at}.dw.bias`, [channels]));
    weights.push(await tensor(`${at}.pw.weight`, [width, channels, 1, 1]), await tensor(`${at}.pw.bias`, [width]));
    layers.push(DEPTHWISE, channels, stride, 0, POINTWISE, width, 1, 0);
    channels = width;
  }
  return {
    name: 'mobilenet1',
    side: 224,
    scale: [1 / 128, 1 / 128, 1 / 128],
    shift: [-1, -1, -1],
    layers,
    most: 6,
    pad: 0,
    dims: channels,
    classes: 0,
    weights,
    batch: 16,
    text: `${arch}\n${input}\n`,
  };
};

const build = (description: Description): FeatureNetwork => {
  const { name, side, dims, classes, batch, text, most, pad } = description;
  const all = new Float32Array(description.weights.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of description.weights) {
    all.set(part, offset);
    offset += part.length;
  }
  const network = addon().createNetwork({
    height: side,
    width: side,
    channels: 3,
    scale: Float32Array.from(description.scale),
    shift: Float32Array.from(description.shift),
    layers: Int32Array.from(description.layers),
    most,
    pad,
    classes,
    weights: all,
  });

  const compute = async (images: ImageSet, { threads = defaultThreads(), signal, onProgress }: RunNetworkOptions) => {
    checkInteger('featureNetwork: threads', threads, 1, 1024);
    checkImages(images, side);
    const { pixels, count, height, width, channels } = images;
    const bytes = height * width * channels;
    const features = new Float32Array(count * dims);
    const logits = new Float32Array(count * classes);
    for (let done = 0; done < count; done += batch) {
      signal?.throwIfAborted();
      const end = Math.min(count, done + batch);
      const out = await addon().runNetwork(network, pixels.subarray(done * bytes, end * bytes), height, width, channels, threads);
      features.set(out.features, done * dims);
      logits.set(out.logits, done * classes);
      onProgress?.(end);
    }
    return { features: featureMatrix(features, dims), logits: classes > 0 ? featureMatrix(logits, classes) : undefined };
  };
  const run: FeatureNetwork['run'] = (images, options = {}) => withCallbacks('run', options, (guarded) => compute(images, guarded));
  const fingerprint = createHash('sha256').update(text).update(new Uint8Array(all.buffer)).digest('hex');
  return { name, fingerprint, dims, classes, height: side, width: side, run };
};
