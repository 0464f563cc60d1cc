/**
 * A small classifier of one's own images (native/metrics/classifier.h), for metrics where no feature network is at hand. Its 64 features
 * know what its classes needed and nothing else: distances in them are named after it (`fd_own_2k`), and compare within one data set only.
 */
import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { addon } from '../../bindings/load.ts';
import type { NativeClassifier, NativeClassifierState } from '../../bindings/native.ts';
import { PhoenixError } from '../../errors.ts';
import type { ImageSet } from '../../images.ts';
import { rng, streamKey } from '../../rng.ts';
import type { FeatureNetwork, RunNetworkOptions } from './feature-network.ts';
import { checkInteger, featureMatrix } from './features.ts';

const FEATURES = 64;
/** Steps per native call, and images per native call of a trained classifier: well below a second. */
const STEPS_A_CALL = 10;
const BATCH = 256;

export type ClassifierOptions = {
  /** Steps of the optimizer, 1..1e6. @default ten passes over the images, from 200 to 4000 */
  steps?: number;
  /** Images per step, 1..65536. @default 64 */
  batch?: number;
  /** Adam's learning rate, falling to 0 along a half cosine. @default 0.004 */
  lr?: number;
  /** Of the first weights and the order of the images. @default 0 */
  seed?: number | bigint;
  /** @default all cores */
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
export const trainClassifier = async (
  images: ImageSet,
  labels: Int32Array,
  classes: number,
  options: ClassifierOptions = {},
): Promise<Float32Array> => {
  const { batch = 64, lr = 0.004, seed = 0, threads = availableParallelism(), onProgress, signal } = options;
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
  const shape: NativeClassifier = { height, width, channels, classes };
  let state: NativeClassifierState = {
    weights: addon().classifierInit(shape, streamKey(seed, 'classifier')),
    m: new Float32Array(),
    v: new Float32Array(),
    step: 0,
  };
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
  while (state.step < steps) {
    signal?.throwIfAborted();
    const now = Math.min(STEPS_A_CALL, steps - state.step);
    const chosen = new Uint8Array(now * batch * bytes);
    const classesOf = new Int32Array(now * batch);
    for (let i = 0; i < now * batch; i++) {
      const image = next();
      chosen.set(pixels.subarray(image * bytes, (image + 1) * bytes), i * bytes);
      classesOf[i] = labels[image]!;
    }
    const rates = Float64Array.from({ length: now }, (_, i) => (lr * (1 + Math.cos((Math.PI * (state.step + i)) / steps))) / 2);
    const { losses, ...after } = await addon().classifierTrain(shape, state, chosen, classesOf, batch, rates, threads);
    state = after;
    const loss = losses.reduce((a, b) => a + b) / now;
    if (!Number.isFinite(loss))
      throw new PhoenixError('ERR_PHOENIX_NOT_FINITE', `The classifier's loss is ${loss} at step ${state.step}: lower its learning rate.`);
    onProgress?.(state.step / steps, loss);
  }
  return Float32Array.from(state.weights);
};

/**
 * A trained classifier as a feature network, named `own`, for images of exactly its size.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for weights that do not fit the shape, when it runs
 */
export const classifierNetwork = (shape: NativeClassifier, weights: Float32Array): FeatureNetwork => {
  const { height, width, channels, classes } = shape;
  const bytes = height * width * channels;
  const run = async (images: ImageSet, { threads = availableParallelism(), signal, onProgress }: RunNetworkOptions = {}) => {
    const { pixels, count } = images;
    if (images.height !== height || images.width !== width || images.channels !== channels || pixels.length !== count * bytes)
      throw new PhoenixError(
        'ERR_PHOENIX_SHAPE',
        `The own classifier needs images of ${height}x${width}x${channels}, but ${images.height}x${images.width}x${images.channels} and ${pixels.length} bytes for ${count} images came.`,
      );
    const features = new Float32Array(count * FEATURES);
    const logits = new Float32Array(count * classes);
    for (let done = 0; done < count; done += BATCH) {
      signal?.throwIfAborted();
      const end = Math.min(count, done + BATCH);
      const out = await addon().classifierRun(shape, weights, pixels.subarray(done * bytes, end * bytes), threads);
      features.set(out.features, done * FEATURES);
      logits.set(out.logits, done * classes);
      onProgress?.(end);
    }
    return { features: featureMatrix(features, FEATURES), logits: featureMatrix(logits, classes) };
  };
  const fingerprint = createHash('sha256').update(JSON.stringify(shape)).update(new Uint8Array(weights.buffer)).digest('hex');
  return { name: 'own', fingerprint, dims: FEATURES, classes, height, width, run };
};
