/**
 * A small classifier of one's own images (native/unet/classifier.h), for metrics where no feature network is at hand. Its 64 features
 * know what its classes needed and nothing else: distances in them are named after it (`fd_own_2k`), and compare within one data set only.
 */

import { createHash } from 'node:crypto';
import { checkArguments } from '../../arguments.ts';
import { createImages, createNativeSession } from '../../bindings/session.ts';
import { defaultThreads } from '../../bindings/threads.ts';
import { withCallbacks } from '../../callbacks.ts';
import { PhoenixError } from '../../errors.ts';
import { everyPosition, type ImageSet, slice } from '../../images.ts';
import { rng, streamKey } from '../../rng.ts';
import { plainHyper } from '../fit.ts';
import { type ClassifierConfig, classifierModel } from '../model/classifier.ts';
import type { FeatureNetwork, RunNetworkOptions } from './feature-network.ts';
import { checkInteger, featureMatrix } from './features.ts';

const FEATURES = 64;
/** Steps between two reports of progress. */
const STEPS_PER_REPORT = 10;
/** Images that a trained classifier is given at once, well below a second of work, and images of a pass. */
const WINDOW = 256;
const BATCH = 64;

export type ClassifierOptions = {
  /** Steps of the optimizer, 1..1e6. @default ten passes over the images, from 200 to 4000 */
  steps?: number;
  /** Images per step, 1..65536. @default 64 */
  batch?: number;
  /** Adam's learning rate, falling to 0 along a half cosine. @default 0.004 */
  lr?: number;
  /** Of the first weights and the order of the images. @default 0 */
  seed?: number | bigint;
  /** @default the cores, or the CPU quota */
  threads?: number;
  /** Share done, 0..1, and the mean loss of the last steps. */
  onProgress?(done: number, loss: number): void;
  signal?: AbortSignal;
};

/**
 * Trains a classifier on labelled images. Equal seeds give equal weights, whatever the number of threads.
 * @param labels one per image, 0..classes-1
 * @returns the weights, for `classifierNetwork`
 * @throws PhoenixError ERR_PHOENIX_SHAPE or ERR_PHOENIX_ARGUMENT for images and labels that do not fit, ERR_PHOENIX_NOT_FINITE; an abort
 * rejects with `signal.reason`
 */
export const trainClassifier = (
  images: ImageSet,
  labels: Int32Array,
  classes: number,
  options: ClassifierOptions = {},
): Promise<Float32Array> =>
  withCallbacks('trainClassifier', options, (guarded) => {
    checkArguments('trainClassifier', { images, labels }, { images: { pixels: 'numbers' }, labels: 'numbers' });
    return train(images, labels, classes, guarded);
  });

const train = async (images: ImageSet, labels: Int32Array, classes: number, options: ClassifierOptions): Promise<Float32Array> => {
  const { batch = 64, lr = 0.004, seed = 0, threads = defaultThreads(), onProgress, signal } = options;
  const { pixels, count, height, width, channels } = images;
  const { steps = Math.min(4000, Math.max(200, Math.ceil((10 * count) / batch))) } = options;
  checkInteger('trainClassifier: classes', classes, 2, 65536);
  checkInteger('trainClassifier: steps', steps, 1, 1e6);
  checkInteger('trainClassifier: batch', batch, 1, 65536);
  const bytes = height * width * channels;
  if (count < 1 || pixels.length !== count * bytes || labels.length !== count)
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `trainClassifier: ${count} images need ${count * bytes} bytes and ${count} labels, not ${pixels.length} and ${labels.length}.`,
    );
  using session = createNativeSession({ model: classifierModel({ height, width, channels, classes }), device: 'cpu', threads });
  using resident = await createImages(images, session);
  await session.init(streamKey(seed, 'classifier'));
  let order: Int32Array = new Int32Array();
  let used = 0;
  let pass = 0;
  const next = () => {
    if (used === order.length) {
      order = rng(seed, 'classifier', 'pass', pass++).permutation(count);
      used = 0;
    }
    return order[used++]!;
  };
  let sum = 0;
  for (let step = 0; step < steps; step++) {
    const rate = (lr * (1 + Math.cos((Math.PI * step) / steps))) / 2;
    const { losses } = await session.train(
      resident,
      {
        indices: Int32Array.from({ length: batch }, next),
        classes: labels,
        steps: 1,
        hyper: { ...plainHyper, batch, lr: rate, clip: 0 },
        key: 0n,
        firstStep: step,
        globalStep: step,
        adamStep: step,
      },
      signal,
    );
    sum += losses[0]!;
    const done = step + 1;
    if (done % STEPS_PER_REPORT !== 0 && done !== steps) continue;
    onProgress?.(done / steps, sum / (done % STEPS_PER_REPORT || STEPS_PER_REPORT));
    sum = 0;
  }
  return new Float32Array(Uint8Array.from(await session.params.toBytes(0, session.parameterCount)).buffer);
};

/**
 * A trained classifier as a feature network, named `own`, for images of exactly its size.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for weights that do not fit the shape, when it runs
 */
export const classifierNetwork = (shape: ClassifierConfig, weights: Float32Array): FeatureNetwork => {
  checkArguments('classifierNetwork', { shape, weights }, { shape: 'object', weights: 'numbers' });
  const { height, width, channels, classes } = shape;
  const bytes = height * width * channels;
  const compute = async (images: ImageSet, { threads = defaultThreads(), signal, onProgress }: RunNetworkOptions) => {
    const { pixels, count } = images;
    if (images.height !== height || images.width !== width || images.channels !== channels || pixels.length !== count * bytes)
      throw new PhoenixError(
        'ERR_PHOENIX_SHAPE',
        `The own classifier needs images of ${height}x${width}x${channels}, but ${images.height}x${images.width}x${images.channels} and ${pixels.length} bytes for ${count} images came.`,
      );
    using session = createNativeSession({ model: classifierModel(shape), device: 'cpu', threads });
    if (weights.length !== session.parameterCount)
      throw new PhoenixError(
        'ERR_PHOENIX_ARGUMENT',
        `A classifier of ${height}x${width}x${channels} and ${classes} classes has ${session.parameterCount} weights, but ${weights.length} came.`,
      );
    await session.params.fromBytes(new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength), 0);
    const features = new Float32Array(count * FEATURES);
    const logits = new Float32Array(count * classes);
    for (let done = 0; done < count; done += WINDOW) {
      signal?.throwIfAborted();
      const end = Math.min(count, done + WINDOW);
      using part = await createImages(slice(images, done, end - done), session);
      const indices = everyPosition(end - done);
      const out = await session.describe(part, { indices, batch: BATCH, weights: session.params }, signal);
      features.set(out.features, done * FEATURES);
      logits.set(out.outputs, done * classes);
      onProgress?.(end);
    }
    return { features: featureMatrix(features, FEATURES), logits: featureMatrix(logits, classes) };
  };
  const run: FeatureNetwork['run'] = (images, options = {}) => withCallbacks('run', options, (guarded) => compute(images, guarded));
  const fingerprint = createHash('sha256').update(JSON.stringify(shape)).update(new Uint8Array(weights.buffer)).digest('hex');
  return { name: 'own', fingerprint, dims: FEATURES, classes, height, width, run };
};
