/**
 * Feature networks in ONNX files, run by onnxruntime-node, which the user installs in addition to Phoenix: for Inception and other networks
 * that the native engine does not know. The file takes one float32 input (N,3,H,W) of RGB values 0..255 and gives `features` or `pool3`,
 * (N,D) or (N,D,1,1), and, if it classifies, `logits` or `logits_unbiased`, (N,K).
 */

import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { parse } from 'node:path';
import { defaultThreads } from '../../bindings/threads.ts';
import { withCallbacks } from '../../callbacks.ts';
import { PhoenixError } from '../../errors.ts';
import { io } from '../../files.ts';
import { type ImageSet, slice } from '../../images.ts';
import { resizer } from '../data/pixels.ts';
import { checkImages, type FeatureNetwork, type RunNetworkOptions } from './feature-network.ts';
import { checkInteger, featureMatrix } from './features.ts';

/** What of onnxruntime-node is used here. */
type Tensor = { data: ArrayLike<number>; dims: readonly number[] };
type TensorInfo = { name: string; isTensor: boolean; type?: string; shape?: readonly (number | string)[] };
type Model = {
  inputMetadata: readonly TensorInfo[];
  outputMetadata: readonly TensorInfo[];
  run(feeds: Record<string, Tensor>, fetches: string[]): Promise<Record<string, Tensor>>;
  release(): Promise<void>;
};
type Runtime = {
  InferenceSession: { create(model: Uint8Array, options: object): Promise<Model> };
  Tensor: new (type: 'float32', data: Float32Array, dims: number[]) => Tensor;
};

const RUNTIME = 'onnxruntime-node';
const MAX_BYTES = 2 ** 30;
const MAX_DIMS = 65_536;
/** Largest side of images for a network that leaves its size open. */
const MAX_SIDE = 1024;

/**
 * Opens an ONNX file. Images go through it one by one, so that their features depend on nothing else; each holds the event loop for as long
 * as it takes (Inception some 0.2 s), since onnxruntime-node computes on the calling thread. A network of fixed size gets smaller images
 * enlarged to it (bilinear, rounded to whole values); one whose H and W are open gets them as they are, and resizes as it was trained for.
 * @throws PhoenixError ERR_PHOENIX_CONFIG without onnxruntime-node, ERR_PHOENIX_CHECKPOINT for a file that is no such network,
 * ERR_PHOENIX_IO
 */
export async function onnxNetwork(path: string): Promise<FeatureNetwork> {
  const { InferenceSession, Tensor } = await loadRuntime(path);
  const refuse: Refuse = (what, cause) =>
    new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${path} is no feature network that is known here: ${what}.`, { cause });
  const found = await io(path, () => stat(path), { action: 'read' });
  if (!found.isFile()) throw refuse('it is not a regular file');
  const { size } = found;
  if (size > MAX_BYTES) throw refuse(`it has ${size} bytes; at most ${MAX_BYTES} are read`);
  const bytes = await io(path, () => readFile(path), { action: 'read' });
  // From bytes, not by path: a model so opened can name no other files.
  const open = async (threads: number) => {
    try {
      return await InferenceSession.create(bytes, { executionProviders: ['cpu'], intraOpNumThreads: threads, logSeverityLevel: 4 });
    } catch (error) {
      throw refuse(`onnxruntime does not take it (${(error as Error).message})`, error);
    }
  };
  const probe = await open(1);
  const shape = shapeOf(probe, refuse);
  await probe.release();

  const { input, side, isOpen, features, logits } = shape;
  const compute = async (images: ImageSet, { threads = defaultThreads(), signal, onProgress }: RunNetworkOptions) => {
    checkInteger('featureNetwork: threads', threads, 1, 1024);
    checkImages(images, side);
    const own = isOpen ? images.height : side;
    const planesOf = planes(images, own);
    const outputs = [features, ...(logits ? [logits] : [])].map((output) => ({
      ...output,
      all: new Float32Array(images.count * output.width),
    }));
    const names = outputs.map(({ name }) => name);
    const model = await open(threads);
    try {
      for (let image = 0; image < images.count; image++) {
        signal?.throwIfAborted();
        const out = await model.run({ [input]: new Tensor('float32', planesOf(image), [1, 3, own, own]) }, names);
        for (const { name, width, all } of outputs) {
          const { data } = out[name]!;
          if (data.length !== width || !Array.prototype.every.call(data, Number.isFinite))
            throw refuse(`${name} of an image are ${data.length} values, not ${width} finite ones`);
          all.set(data, image * width);
        }
        onProgress?.(image + 1);
      }
    } catch (error) {
      if (error instanceof PhoenixError || signal?.aborted) throw error;
      throw refuse(`onnxruntime cannot run it (${(error as Error).message})`, error);
    } finally {
      await model.release();
    }
    const [first, second] = outputs.map(({ all, width }) => featureMatrix(all, width));
    return { features: first!, logits: second };
  };
  const run: FeatureNetwork['run'] = (images, options = {}) => withCallbacks('run', options, (guarded) => compute(images, guarded));
  const fingerprint = createHash('sha256').update(bytes).digest('hex');
  return { name: nameOf(path), fingerprint, dims: features.width, classes: logits?.width ?? 0, height: side, width: side, run };
}

type Refuse = (what: string, cause?: unknown) => PhoenixError;
type Output = { name: string; width: number };
type Shape = {
  input: string;
  /** Side of the images; the largest, if the network leaves it open. */
  side: number;
  isOpen: boolean;
  features: Output;
  logits?: Output;
};

/** What a model takes and gives. @throws PhoenixError ERR_PHOENIX_CHECKPOINT for one that is no feature network */
function shapeOf({ inputMetadata: inputs, outputMetadata: outputs }: Model, refuse: Refuse): Shape {
  const input = inputs[0];
  const [batch, channels, ...sides] = input?.shape ?? [];
  const isName = (length: number | string | undefined) => typeof length === 'string';
  const fits = inputs.length === 1 && input?.type === 'float32' && (batch === 1 || isName(batch)) && channels === 3 && sides.length === 2;
  const isOpen = sides.every(isName);
  const side = isOpen ? MAX_SIDE : sides[0];
  if (!fits || typeof side !== 'number' || (sides[1] !== side && !isOpen) || side < 1 || side > MAX_SIDE)
    throw refuse(`expected one float32 input (N,3,S,S), S at most ${MAX_SIDE} or open, got ${inputs.map(show).join(', ')}`);
  const outputOf = (wanted: string[]): Output | undefined => {
    const found = outputs.find(({ name }) => wanted.includes(name));
    if (!found) return undefined;
    const [, width, ...ones] = found.shape ?? [];
    if (found.type === 'float32' && typeof width === 'number' && width >= 1 && width <= MAX_DIMS && ones.every((length) => length === 1))
      return { name: found.name, width };
    throw refuse(`expected float32 values (N,D) of at most ${MAX_DIMS}, got ${show(found)}`);
  };
  const features = outputOf(['features', 'pool3']);
  if (!features) throw refuse(`expected an output features or pool3, got ${outputs.map(show).join(', ')}`);
  return { input: input!.name, side, isOpen, features, logits: outputOf(['logits', 'logits_unbiased']) };
}

/** A function that gives an image in the network's size, as planes of red, green and blue; the next call writes over them. */
function planes(images: ImageSet, side: number): (image: number) => Float32Array {
  const { channels } = images;
  const resize = resizer(images, { height: side, width: side }, channels as 1 | 3);
  const plane = side * side;
  const values = new Float32Array(3 * plane);
  return (image) => {
    const pixels = resize(slice(images, image, 1).pixels);
    for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) values[c * plane + i] = pixels[channels === 3 ? 3 * i + c : i]!;
    return values;
  };
}

/** The name of a file as part of a metric's name. */
function nameOf(path: string): string {
  const letters = parse(path)
    .name.toLowerCase()
    .replaceAll(/^[^a-z]+|[^a-z0-9]/g, '');
  return letters.slice(0, 40) || 'onnx';
}

async function loadRuntime(path: string): Promise<Runtime> {
  try {
    return (await import(RUNTIME)) as Runtime;
  } catch (cause) {
    throw new PhoenixError(
      'ERR_PHOENIX_CONFIG',
      `${path} needs the package ${RUNTIME}, which could not be loaded: npm install ${RUNTIME}@1.30.0 (with ONNXRUNTIME_NODE_INSTALL=skip where it cannot download CUDA libraries; they are not needed).`,
      { cause },
    );
  }
}

const show = ({ name, type = 'no tensor', shape = [] }: TensorInfo): string => `${name} ${type} (${shape.join(',')})`;
