/**
 * What an experiment scores samples by: real test images, a feature network and a classifier, made once and kept in the experiment's
 * folder.
 */
import { z } from 'zod';
import { matchClasses } from '../ddpm/data/classes.ts';
import { type Dataset, openDataset } from '../ddpm/data/index.ts';
import {
  accuracy,
  binCounts,
  classCoverage,
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
  logisticLogits,
  logisticRegression,
  type MetricKind,
  memorisation,
  metricName,
  moments,
  pickRows,
  precisionRecall,
  predictedClasses,
} from '../ddpm/metrics/index.ts';
import { PhoenixError } from '../errors.ts';
import { type ImageSet, pick, valuesAt } from '../images.ts';
import { subset } from './images.ts';
import { type OwnNetworkOptions, ownNetwork } from './own-network.ts';
import { evenly, type References, referencesOf } from './reference.ts';

/** Least test accuracy of a classifier that is asked which classes samples show. */
export const MIN_ACCURACY = 0.8;
/** Training images whose features are kept, for the distance to the nearest and for logistic regression. */
const MAX_TRAIN = 10_000;
/** Bins of NDB and JSD, and least test images per bin. */
const [MAX_BINS, PER_BIN] = [50, 20];
/** Pairs of subsets of the kernel distance. */
const SUBSETS = 20;

export type Scorer = {
  network: Pick<FeatureNetwork, 'name' | 'fingerprint' | 'dims'>;
  /** Of what names the classes on the test images, 0..1; absent where images have no classes. */
  accuracy?: number;
  /** Which classifier counts classes: the network's own, or a logistic regression on its features. */
  classesBy?: 'network' | 'logistic regression';
  classNames: string[];
  /** Test images, and those of sites that no training image is of. */
  tests: number;
  unseenTests: number;
  /** Test images that are training images too, as far as features tell; absent if there are none. */
  copies?: number;
  /** What reading the test images was told: classes without images, values of a small part of their range, … */
  warnings: readonly string[];
  /**
   * One dataset per site that no training image is of: half of its test images, for models to learn the site from; the other half is
   * compared with.
   */
  unseenSites: Dataset[];
  /**
   * Metrics of samples, under their names: those that curves show, or with `more` all of them.
   */
  score(images: ImageSet, more?: MoreSamples): Promise<Score>;
  /** How many of the images show each class; undefined if the classifier is not accurate enough. */
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
  copies: z.int().optional(),
});
export type ScoredBy = z.infer<typeof scoredBySchema>;

export function scoredByOf({ network, accuracy, classesBy, tests, unseenTests, copies }: Scorer): ScoredBy {
  return {
    ...network,
    accuracy,
    classesBy,
    tests,
    unseenTests,
    copies,
  };
}

/** In one sentence, with warnings of a classifier that is too inaccurate to count classes, and of test images that were trained on. */
export function explainScorer({ name, dims, accuracy: share, classesBy, tests, unseenTests, copies }: ScoredBy): string[] {
  const precisely = `${(100 * (share ?? 0)).toFixed(1)} %`;
  const by = classesBy === 'network' ? 'by the network' : 'by logistic regression on its features';
  const classes = share === undefined ? 'no classes' : `${precisely} of them are classified correctly (${by})`;
  const unseen = unseenTests > 0 ? `, and with ${unseenTests} of sites that nobody trains on` : '';
  return [
    `Samples are compared with ${tests} test images${unseen} in ${dims} features of ${name}: ${classes}.`,
    ...(share !== undefined && share < MIN_ACCURACY
      ? [`Classes are not counted: the accuracy on test images is ${precisely}, and ${100 * MIN_ACCURACY} % are needed.`]
      : []),
    ...(copies !== undefined
      ? [
          `${copies} of the test images are training images too, so samples that copy these score well.${copies === tests ? ' All are, so `nearest` cannot be computed.' : ''} Take test images that nobody trains on.`,
        ]
      : []),
  ];
}

export type Score = {
  metrics: Record<string, number>;
  /** Samples of each class, and recall within each class of the test images. */
  classes?: number[];
  classRecall?: (number | null)[];
};

/** Samples besides those that are scored. */
export type MoreSamples = {
  /** What to compare with the sites that nobody trains on. @default the samples themselves */
  unseen?: ImageSet;
  /** Pooled samples in equal parts of every client's model. */
  equal?: ImageSet;
};

export type ScorerOptions = OwnNetworkOptions & {
  /** As --data. */
  data: string;
  size?: number;
  range?: string;
  features?: string;
};

/**
 * Opens the test images, and the feature network or, without one, the classifier that is trained on the training images, unless it lies in
 * `dir` already.
 * @throws PhoenixError ERR_PHOENIX_DATA without test images, ERR_PHOENIX_CONFIG without classes and without a network
 */
export async function createScorer(options: ScorerOptions): Promise<Scorer> {
  const { data, size, train, threads, signal, onProgress } = options;
  const { range } = options;
  const test = withClassesOf(train, await openDataset(data, { size, channels: train.channels, split: 'test', range, signal }));
  if (test.height !== train.height || test.width !== train.width)
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${data}: test images are ${test.height}x${test.width}, training images ${train.height}x${train.width}. Pass a size.`,
    );
  const network = options.features === undefined ? await ownNetwork(options) : await featureNetwork(options.features);
  const extract = async (what: string, images: ImageSet) =>
    network.run(images, { threads, signal, onProgress: (done) => onProgress?.(`features of ${what}`, done / images.count) });

  const trainRows = evenly(train.count, MAX_TRAIN);
  const { features: trainFeatures } = await extract('training images', pick(train, trainRows));
  const { features, logits } = await extract('test images', test);
  const trainLabels = train.labels && valuesAt(train.labels, trainRows);
  const real = { features, logits, labels: test.labels, trainFeatures, trainLabels };
  const teller = await tellerOf(real, train.classNames.length, options);

  const { seen, unseen, unseenSites } = await referencesOf(test, train, features, { threads });
  const bins = Math.max(2, Math.min(MAX_BINS, Math.floor(seen.features.rows / PER_BIN)));
  const { centres } = await kMeans(seen.features, Math.min(bins, seen.features.rows), { threads });
  const realBins = await binCounts(seen.features, centres, { threads });

  const nearest = await memorisation(seen.features, trainFeatures, { threads });
  const copies = nearest.distance.filter((distance) => distance === 0).length;
  const scoring = { network, classes: train.classNames.length, teller, trainFeatures, seen, unseen, centres, realBins, threads, signal };
  const { name, fingerprint, dims } = network;
  return {
    network: { name, fingerprint, dims },
    accuracy: teller?.accuracy,
    classesBy: teller?.by,
    classNames: train.classNames,
    tests: seen.features.rows,
    unseenTests: unseen?.features.rows ?? 0,
    copies: copies > 0 ? copies : undefined,
    warnings: test.notes?.warnings ?? [],
    unseenSites: unseenSites.map(({ site, rows }) => subset(test, rows, test.siteNames?.[site] ?? `site ${site}`)),
    async classesOf(images) {
      const told = trusted(teller)?.tell(await network.run(images, { threads, signal }));
      return told && [...classCoverage(told, train.classNames.length).counts];
    },
    async score(images, more) {
      const drawn = await network.run(images, { threads, signal });
      const score = await basicScore(scoring, drawn);
      return more ? await fullScore(scoring, drawn, score, more) : score;
    },
  };
}

/** Test images with the training images' classes, matched by name. @throws PhoenixError ERR_PHOENIX_DATA for others */
function withClassesOf(train: Dataset, test: Dataset): Dataset {
  if (!train.labels || !test.labels) return test;
  const { classNames } = train;
  return { ...test, labels: matchClasses({ ...test, name: `${test.name} (test)` }, classNames, 'the training images'), classNames };
}

/** What a network makes of images. */
type Seen = { features: Features; logits?: Features };

/** What names the classes of images. */
type Teller = {
  by: NonNullable<Scorer['classesBy']>;
  /** On the test images. */
  accuracy: number;
  tell(images: Seen): Int32Array;
};

/** The teller, if it is asked which classes samples show. */
const trusted = (teller: Teller | undefined) => (teller && teller.accuracy >= MIN_ACCURACY ? teller : undefined);

/**
 * The network itself where it has these classes, or a logistic regression on its features where that is better; undefined without classes.
 */
async function tellerOf(
  real: Seen & { labels?: Int32Array; trainFeatures: Features; trainLabels?: Int32Array },
  classes: number,
  { threads, onProgress }: ScorerOptions,
): Promise<Teller | undefined> {
  const { features, logits, labels, trainFeatures, trainLabels } = real;
  if (!labels || !trainLabels || classes < 2) return undefined;
  const network: Teller | undefined =
    logits?.columns === classes
      ? { by: 'network', accuracy: accuracy(logits, labels), tell: (images) => predictedClasses(images.logits!) }
      : undefined;
  if (trusted(network)) return network;
  onProgress?.('logistic regression', 0);
  const fit = await logisticRegression(trainFeatures, trainLabels, classes, { threads });
  const regression: Teller = {
    by: 'logistic regression',
    accuracy: accuracy(logisticLogits(fit, features), labels),
    tell: (images) => predictedClasses(logisticLogits(fit, images.features)),
  };
  return regression.accuracy > (network?.accuracy ?? 0) ? regression : network;
}

type Scoring = Pick<ScorerOptions, 'threads' | 'signal'> &
  Pick<References, 'seen' | 'unseen'> & {
    network: FeatureNetwork;
    classes: number;
    teller: Teller | undefined;
    trainFeatures: Features;
    centres: Features;
    realBins: Float64Array;
  };

const namesOf =
  ({ network }: Scoring, { features }: Seen) =>
  (kind: MetricKind) =>
    metricName(kind, network.name, features.rows);

/** As many real images as there are samples, where neighbours are counted. */
function alikeOf({ seen }: Scoring, { features }: Seen) {
  const rows = evenly(seen.features.rows, features.rows);
  return { features: pickRows(seen.features, rows), labels: seen.labels && valuesAt(seen.labels, rows) };
}

/** What curves show. */
async function basicScore(scoring: Scoring, drawn: Seen): Promise<Score> {
  const { seen, teller, classes, threads } = scoring;
  const named = namesOf(scoring, drawn);
  const metrics: Score['metrics'] = {};
  metrics[named('fd')] = await frechetDistance(seen.moments, await moments(drawn.features, { threads }), { threads });
  const { precision, recall } = await precisionRecall(alikeOf(scoring, drawn).features, drawn.features, { threads });
  metrics[named('precision')] = precision;
  metrics[named('recall')] = recall;
  const told = trusted(teller)?.tell(drawn);
  if (!told) return { metrics };
  const { covered, entropy, counts } = classCoverage(told, classes);
  metrics[named('classes')] = covered;
  metrics[named('entropy')] = entropy;
  return { metrics, classes: [...counts] };
}

/** A basic score with all other metrics. */
async function fullScore(scoring: Scoring, drawn: Seen, basic: Score, more: MoreSamples): Promise<Score> {
  const { network, seen, unseen, trainFeatures, centres, realBins, classes, threads, signal } = scoring;
  const named = namesOf(scoring, drawn);
  const alike = alikeOf(scoring, drawn);
  const metrics = { ...basic.metrics };
  const { density, coverage } = await densityCoverage(alike.features, drawn.features, { threads });
  metrics[named('density')] = density;
  metrics[named('coverage')] = coverage;
  metrics[named('kd')] = (await kernelDistance(seen.features, drawn.features, { threads, subsets: SUBSETS })).mean;
  const fakeBins = await binCounts(drawn.features, centres, { threads });
  metrics[named('ndb')] = differentBins(realBins, fakeBins).different;
  metrics[named('jsd')] = jensenShannon(realBins, fakeBins);
  // Distance to the nearest training image, divided by the same for test images: copies are nearer.
  const { mean, reference } = await memorisation(drawn.features, trainFeatures, { threads, unseen: alike.features });
  if (reference! > 0) metrics[named('nearest')] = mean / reference!;
  const distance = async (from: References['seen'], images: ImageSet | undefined) => {
    const compared = images ? (await network.run(images, { threads, signal })).features : drawn.features;
    return frechetDistance(from.moments, await moments(compared, { threads }), { threads });
  };
  if (unseen) metrics[`${named('fd')}_unseen_sites`] = await distance(unseen, more.unseen);
  if (more.equal) metrics[`${named('fd')}_equal_parts`] = await distance(seen, more.equal);
  if (!alike.labels || classes < 2) return { ...basic, metrics };
  const recalls = await classRecall(alike.features, alike.labels, classes, drawn.features, { threads });
  return { ...basic, metrics, classRecall: Array.from(recalls, (value) => (Number.isFinite(value) ? value : null)) };
}
