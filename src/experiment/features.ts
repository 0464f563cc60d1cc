/** What an experiment scores samples by: real test images, a feature network, and a word on classes, made once and kept in the experiment's folder. */
import { join } from 'node:path';
import { z } from 'zod';
import { openSafetensors, writeSafetensors } from '../ddpm/checkpoint/safetensors.ts';
import { type Dataset, openDataset } from '../ddpm/data/index.ts';
import {
  accuracy,
  binCounts,
  classCoverage,
  classifierNetwork,
  classRecall,
  densityCoverage,
  differentBins,
  type FeatureNetwork,
  type Features,
  featureNetwork,
  frechetDistance,
  jensenShannon,
  kernelDistance,
  kMeans,
  type Logistic,
  logisticLogits,
  logisticRegression,
  type MetricKind,
  type Moments,
  memorisation,
  metricName,
  moments,
  pickRows,
  precisionRecall,
  predictedClasses,
  trainClassifier,
} from '../ddpm/metrics/index.ts';
import { PhoenixError } from '../errors.ts';
import { everyPosition, type ImageSet, pick, valuesAt } from '../images.ts';
import { rng } from '../rng.ts';
import { subset } from './images.ts';

/** Least test accuracy of a classifier that is asked which classes samples show. */
export const LEAST_ACCURACY = 0.8;
/** Training images whose features are kept, for the distance to the nearest and for logistic regression. */
const MOST_TRAIN = 10_000;
/** Bins of NDB and JSD, and least test images a bin. */
const [MOST_BINS, PER_BIN] = [50, 20];
/** Test images that a site unseen in training has at least, to be compared with. */
const LEAST_UNSEEN = 20;
/** Pairs of subsets of the kernel distance. */
const SUBSETS = 20;

/** Real images that samples are compared with. */
type Reference = { features: Features; moments: Moments; labels?: Int32Array };

export type Scorer = {
  network: Pick<FeatureNetwork, 'name' | 'fingerprint' | 'dims'>;
  /** Of what names the classes on the test images, 0..1; absent where images have no classes. */
  accuracy?: number;
  /** Whose word on classes it is: the network's own, or a logistic regression's on its features. */
  classesBy?: 'network' | 'logistic regression';
  classNames: string[];
  /** Test images, and those of sites that no training image is of. */
  tests: number;
  unseenTests: number;
  /** One dataset a site that no training image is of: half of its test images, for models to learn the site from; the other half is compared with. */
  unseenSites: Dataset[];
  /**
   * Metrics of samples, under their names. `full`: all of them; otherwise those that curves show. `unseen`: what to compare with the sites that
   * nobody trains on, in place of `images`.
   */
  score(images: ImageSet, full: boolean, unseen?: ImageSet): Promise<Score>;
  /** How many of the images show each class; undefined where classes cannot be told. */
  classesOf(images: ImageSet): Promise<number[] | undefined>;
};

/** What is noted of it, and what the report says. `name`, `fingerprint`, `dims`: of the network. */
export const scoredBySchema = z.object({
  name: z.string(),
  fingerprint: z.string(),
  dims: z.int(),
  accuracy: z.number().optional(),
  classesBy: z.enum(['network', 'logistic regression']).optional(),
  tests: z.int(),
  unseenTests: z.int(),
});
export type ScoredBy = z.infer<typeof scoredBySchema>;

export const scoredByOf = ({ network, accuracy, classesBy, tests, unseenTests }: Scorer): ScoredBy => ({
  ...network,
  accuracy,
  classesBy,
  tests,
  unseenTests,
});

/** In one sentence; and a second one where classes are told too badly to be counted. */
export function explainScorer({ name, dims, accuracy: share, classesBy, tests, unseenTests }: ScoredBy): string[] {
  const precisely = `${(100 * (share ?? 0)).toFixed(1)} %`;
  const by = classesBy === 'network' ? 'by the network' : 'by logistic regression on its features';
  const classes = share === undefined ? 'no classes' : `${precisely} of them are classified correctly (${by})`;
  const unseen = unseenTests > 0 ? `, and with ${unseenTests} of sites that nobody trains on` : '';
  return [
    `Samples are compared with ${tests} test images${unseen} in ${dims} features of ${name}: ${classes}.`,
    ...(share !== undefined && share < LEAST_ACCURACY
      ? [`Classes are not counted: the accuracy on test images is ${precisely}, and ${100 * LEAST_ACCURACY} % are needed.`]
      : []),
  ];
}

export type Score = {
  metrics: Record<string, number>;
  /** Samples of each class, and recall within each class of the test images. */
  classes?: number[];
  classRecall?: (number | null)[];
};

export type ScorerOptions = {
  /** As --data. */
  data: string;
  size?: number;
  train: Dataset;
  features?: string;
  classifierSteps?: number;
  /** Folder that the classifier is kept in. */
  dir: string;
  threads?: number;
  signal?: AbortSignal;
  onProgress?(label: string, done: number): void;
};

/**
 * Opens the test images, and the feature network or, without one, the classifier that is trained on the training images, unless it lies in `dir`
 * already.
 * @throws PhoenixError ERR_PHOENIX_DATA without test images, ERR_PHOENIX_CONFIG without classes and without a network
 */
export async function createScorer(options: ScorerOptions): Promise<Scorer> {
  const { data, size, train, threads, signal, onProgress } = options;
  const test = await openDataset(data, { size, channels: train.channels as 1 | 3, split: 'test' });
  if (test.height !== train.height || test.width !== train.width)
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${data}: test images are ${test.height}x${test.width}, training images ${train.height}x${train.width}. Pass a size.`,
    );
  const network = options.features === undefined ? await ownNetwork(options) : await featureNetwork(options.features);
  const extract = async (what: string, images: ImageSet) =>
    network.run(images, { threads, signal, onProgress: (done) => onProgress?.(`features of ${what}`, done / images.count) });

  const trainRows = evenly(train.count, MOST_TRAIN);
  const { features: trainFeatures } = await extract('training images', pick(train, trainRows));
  const { features, logits } = await extract('test images', test);

  const classNames = train.classNames;
  let accuracyOf: number | undefined;
  let classesBy: Scorer['classesBy'];
  let regression: Logistic | undefined;
  if (train.labels && test.labels && classNames.length > 1) {
    if (logits?.columns === classNames.length) {
      accuracyOf = accuracy(logits, test.labels);
      classesBy = 'network';
    }
    if (accuracyOf === undefined || accuracyOf < LEAST_ACCURACY) {
      onProgress?.('logistic regression', 0);
      const fit = await logisticRegression(trainFeatures, valuesAt(train.labels, trainRows), classNames.length, { threads });
      const byRegression = accuracy(logisticLogits(fit, features), test.labels);
      if (byRegression > (accuracyOf ?? 0)) [accuracyOf, classesBy, regression] = [byRegression, 'logistic regression', fit];
    }
  }
  const trusted = accuracyOf !== undefined && accuracyOf >= LEAST_ACCURACY;

  // Sites that nobody trains on are a reference of their own.
  const trained = new Set(train.sites);
  const everyRow = [...everyPosition(test.count)];
  const isSeen = (row: number) => !test.sites || !train.sites || trained.has(test.sites[row]!);
  const referenceOf = async (rows: number[]): Promise<Reference> => {
    const chosen = pickRows(features, rows);
    return {
      features: chosen,
      moments: await moments(chosen, { threads }),
      labels: test.labels && valuesAt(test.labels, rows),
    };
  };
  const seenRows = everyRow.filter(isSeen);
  // Every other image of a site is for models to learn it from.
  const unseenSites = [...new Set(everyRow.filter((row) => !isSeen(row)).map((row) => test.sites![row]!))]
    .sort((a, b) => a - b)
    .map((site) => ({ site, rows: everyRow.filter((row) => test.sites![row] === site) }))
    .filter(({ rows }) => rows.length >= LEAST_UNSEEN);
  const unseenRows = unseenSites.flatMap(({ rows }) => rows.filter((_, i) => i % 2 === 0)).sort((a, b) => a - b);
  if (seenRows.length < 10)
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${data} has ${seenRows.length} test images of the sites that are trained on; 10 are needed.`,
    );
  const seen = await referenceOf(seenRows);
  const unseen = unseenRows.length > 0 ? await referenceOf(unseenRows) : undefined;
  const bins = Math.max(2, Math.min(MOST_BINS, Math.floor(seen.features.rows / PER_BIN)));
  const { centres } = await kMeans(seen.features, Math.min(bins, seen.features.rows), { threads });
  const realBins = await binCounts(seen.features, centres, { threads });

  const predict = (drawn: Features, drawnLogits: Features | undefined) =>
    predictedClasses(regression ? logisticLogits(regression, drawn) : drawnLogits!);

  return {
    async classesOf(images) {
      if (!trusted) return undefined;
      const { features: drawn, logits: drawnLogits } = await network.run(images, { threads, signal });
      return [...classCoverage(predict(drawn, drawnLogits), classNames.length).counts];
    },
    network: { name: network.name, fingerprint: network.fingerprint, dims: network.dims },
    accuracy: accuracyOf,
    classesBy,
    classNames,
    tests: seenRows.length,
    unseenTests: unseenRows.length,
    unseenSites: unseenSites.map(({ site, rows }) =>
      subset(
        test,
        rows.filter((_, i) => i % 2 === 1),
        test.siteNames?.[site] ?? `site ${site}`,
      ),
    ),
    async score(images, full, fromUnseen) {
      const { features: drawn, logits: drawnLogits } = await network.run(images, { threads, signal });
      const named = (kind: MetricKind) => metricName(kind, network.name, images.count);
      const metrics: Record<string, number> = {};
      // As many real images as there are samples, where neighbours are counted.
      const rows = evenly(seen.features.rows, images.count);
      const alike = pickRows(seen.features, rows);
      const drawnMoments = await moments(drawn, { threads });
      metrics[named('fd')] = await frechetDistance(seen.moments, drawnMoments, { threads });
      const { precision, recall } = await precisionRecall(alike, drawn, { threads });
      metrics[named('precision')] = precision;
      metrics[named('recall')] = recall;
      const score: Score = { metrics };
      if (trusted) {
        const { covered, entropy, counts } = classCoverage(predict(drawn, drawnLogits), classNames.length);
        metrics[named('classes')] = covered;
        metrics[named('entropy')] = entropy;
        score.classes = [...counts];
      }
      if (!full) return score;
      const { density, coverage } = await densityCoverage(alike, drawn, { threads });
      metrics[named('density')] = density;
      metrics[named('coverage')] = coverage;
      metrics[named('kd')] = (await kernelDistance(seen.features, drawn, { threads, subsets: SUBSETS })).mean;
      const fakeBins = await binCounts(drawn, centres, { threads });
      metrics[named('ndb')] = differentBins(realBins, fakeBins).different;
      metrics[named('jsd')] = jensenShannon(realBins, fakeBins);
      // How far the nearest training image is, of what it is for test images: copies are nearer.
      const { mean, reference } = await memorisation(drawn, trainFeatures, { threads, unseen: alike });
      metrics[named('nearest')] = mean / reference!;
      if (unseen) {
        const own = fromUnseen && (await network.run(fromUnseen, { threads, signal })).features;
        const compared = own ? await moments(own, { threads }) : drawnMoments;
        metrics[`${named('fd')}_unseen_sites`] = await frechetDistance(unseen.moments, compared, { threads });
      }
      if (seen.labels && classNames.length > 1) {
        const labels = valuesAt(seen.labels, rows);
        const recalls = await classRecall(alike, labels, classNames.length, drawn, { threads });
        score.classRecall = Array.from(recalls, (value) => (Number.isFinite(value) ? value : null));
      }
      return score;
    },
  };
}

/** The classifier of the training images: read from the folder, or trained and written there. */
async function ownNetwork(options: ScorerOptions): Promise<FeatureNetwork> {
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

/** At most `wanted` of `count` positions, evenly spaced over a fixed random order: neighbours in a file are often alike. */
function evenly(count: number, wanted: number): number[] {
  const order = rng(0, 'rows of a score').permutation(count);
  return [...order.subarray(0, Math.min(count, wanted))].sort((a, b) => a - b);
}
