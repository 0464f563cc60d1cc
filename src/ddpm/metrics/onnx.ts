/**
 * Feature networks in ONNX files, run by onnxruntime-node, which the user installs beside Phoenix: for Inception and other networks that the native
 * engine does not know. The file takes one float32 input (N,3,H,W) of RGB values 0..255 and gives `features` or `pool3`, (N,D) or (N,D,1,1), and,
 * if it classifies, `logits` or `logits_unbiased`, (N,K).
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { parse } from 'node:path';
import { PhoenixError } from '../../errors.ts';
import { io } from '../../files.ts';
import { resizer } from '../data/pixels.ts';
import { checkImages, type FeatureNetwork } from './feature-network.ts';
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
const MOST_BYTES = 2 ** 30;
const MOST_DIMS = 65_536;
/** Largest side of images for a network that leaves its size open. */
const MOST_SIDE = 1024;

/**
 * Opens an ONNX file. Images go through it one by one, so that their features depend on nothing else; each holds the event loop for as long as it
 * takes (Inception some 0.2 s), since onnxruntime-node computes on the calling thread. A network of fixed size gets smaller images enlarged to it
 * (bilinear, rounded to whole values); one whose H and W are open gets them as they are, and resizes as it was trained for.
 * @throws PhoenixError ERR_PHOENIX_CONFIG without onnxruntime-node, ERR_PHOENIX_CHECKPOINT for a file that is no such network, ERR_PHOENIX_IO
 */
export async function onnxNetwork(path: string): Promise<FeatureNetwork> {
  const { InferenceSession, Tensor } = await loadRuntime(path);
  const refuse = (what: string, cause?: unknown) =>
    new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${path} is no feature network that is known here: ${what}.`, { cause });
  const { size } = await io(path, () => stat(path), { action: 'read' });
  if (size > MOST_BYTES) throw refuse(`it has ${size} bytes; at most ${MOST_BYTES} are read`);
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
  const { inputMetadata: inputs, outputMetadata: outputs } = probe;
  await probe.release();

  const input = inputs[0];
  const [batch, channels, ...sides] = input?.shape ?? [];
  const isOpen = (length: number | string | undefined) => typeof length === 'string';
  const fits = inputs.length === 1 && input?.type === 'float32' && (batch === 1 || isOpen(batch)) && channels === 3 && sides.length === 2;
  const side = sides.every(isOpen) ? MOST_SIDE : sides[0];
  if (!fits || typeof side !== 'number' || (sides[1] !== side && !sides.every(isOpen)) || side < 1 || side > MOST_SIDE)
    throw refuse(`expected one float32 input (N,3,S,S), S at most ${MOST_SIDE} or open, got ${inputs.map(show).join(', ')}`);
  const widthOf = (wanted: string[]) => {
    const found = outputs.find(({ name }) => wanted.includes(name));
    if (!found) return undefined;
    const [, width, ...ones] = found.shape ?? [];
    if (found.type === 'float32' && typeof width === 'number' && width >= 1 && width <= MOST_DIMS && ones.every((length) => length === 1))
      return { name: found.name, width };
    throw refuse(`expected float32 values (N,D) of at most ${MOST_DIMS}, got ${show(found)}`);
  };
  const features = widthOf(['features', 'pool3']);
  if (!features) throw refuse(`expected an output features or pool3, got ${outputs.map(show).join(', ')}`);
  const logits = widthOf(['logits', 'logits_unbiased']);

  const run: FeatureNetwork['run'] = async (images, { threads = availableParallelism(), signal, onProgress } = {}) => {
    checkInteger('featureNetwork: threads', threads, 1, 1024);
    checkImages(images, side);
    const own = sides.every(isOpen) ? images.height : side;
    const resize = resizer(images, { height: own, width: own }, images.channels as 1 | 3);
    const size = images.height * images.width * images.channels;
    const plane = own * own;
    const values = new Float32Array(3 * plane);
    const wanted = [features, ...(logits ? [logits] : [])];
    const found = wanted.map(({ name, width }) => ({ name, width, values: new Float32Array(images.count * width) }));
    const model = await open(threads);
    try {
      for (let image = 0; image < images.count; image++) {
        signal?.throwIfAborted();
        const pixels = resize(images.pixels.subarray(image * size, (image + 1) * size));
        for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) values[c * plane + i] = pixels[images.channels === 3 ? 3 * i + c : i]!;
        const feeds = { [input!.name]: new Tensor('float32', values, [1, 3, own, own]) };
        const out = await model.run(
          feeds,
          found.map(({ name }) => name),
        );
        for (const { name, width, values: all } of found) {
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
    const [first, second] = found.map(({ values: all, width }) => featureMatrix(all, width));
    return { features: first!, logits: second };
  };
  const name =
    parse(path)
      .name.toLowerCase()
      .replaceAll(/^[^a-z]+|[^a-z0-9]/g, '')
      .slice(0, 40) || 'onnx';
  const fingerprint = createHash('sha256').update(bytes).digest('hex');
  return { name, fingerprint, dims: features.width, classes: logits?.width ?? 0, height: side, width: side, run };
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
