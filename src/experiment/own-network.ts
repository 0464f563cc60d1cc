/** The classifier of an experiment's own images, trained once and kept in its folder. */
import { join } from 'node:path';
import { openSafetensors, writeSafetensors } from '../ddpm/checkpoint/safetensors.ts';
import type { Dataset } from '../ddpm/data/index.ts';
import { classifierNetwork, type FeatureNetwork, trainClassifier } from '../ddpm/metrics/index.ts';
import { PhoenixError } from '../errors.ts';

export type OwnNetworkOptions = {
  /** Training images. */
  train: Dataset;
  /** Folder that the classifier is kept in. */
  dir: string;
  classifierSteps?: number;
  threads?: number;
  signal?: AbortSignal;
  onProgress?(label: string, done: number): void;
};

/** The classifier of the training images: read from the folder, or trained and written there. */
export async function ownNetwork(options: OwnNetworkOptions): Promise<FeatureNetwork> {
  const { train, dir, classifierSteps: steps, threads, signal, onProgress } = options;
  const { height, width, channels, classNames, labels, fingerprint } = train;
  if (!labels || classNames.length < 2)
    throw new PhoenixError(
      'ERR_PHOENIX_CONFIG',
      `${train.name} has no classes to train a classifier on: name a feature network (--features FILE.safetensors).`,
    );
  const shape = { height, width, channels, classes: classNames.length };
  const wanted = { arch: 'Phoenix classifier 1', data: fingerprint, shape: JSON.stringify(shape), steps: String(steps ?? 'default') };
  const path = join(dir, `own-classifier-${fingerprint.slice(0, 16)}.safetensors`);
  const kept = await readWeights(path, wanted);
  if (kept) return classifierNetwork(shape, kept);
  const weights = await trainClassifier(train, labels, classNames.length, {
    steps,
    threads,
    signal,
    onProgress: (done) => onProgress?.('training the classifier of the metrics', done),
  });
  const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
  await writeSafetensors(path, [{ name: 'weights', dtype: 'F32', shape: [weights.length], bytes: async () => bytes }], wanted);
  return classifierNetwork(shape, weights);
}

async function readWeights(path: string, wanted: Record<string, string>): Promise<Float32Array | undefined> {
  const file = await openSafetensors(path).catch((error) => {
    if (error instanceof PhoenixError && error.code === 'ERR_PHOENIX_IO') return undefined;
    throw error;
  });
  if (!file) return undefined;
  try {
    if (Object.entries(wanted).some(([key, value]) => file.metadata[key] !== value) || file.tensors.get('weights')?.dtype !== 'F32')
      return undefined;
    return new Float32Array((await file.read('weights')).slice().buffer);
  } finally {
    await file.close();
  }
}
