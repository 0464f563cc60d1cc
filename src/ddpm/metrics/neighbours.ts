/** Metrics by nearest neighbours, Euclidean in feature space: fidelity and variety as separate figures, and copies of the training set. */
import { checkArguments, matrix } from '../../arguments.ts';
import { addon } from '../../bindings/load.ts';
import { PhoenixError } from '../../errors.ts';
import { checkFeatures, checkInteger, type Features, type MetricOptions, spread } from './features.ts';

export type NeighbourOptions = MetricOptions & {
  /** A sample's ball reaches to its k-th neighbour within its own set. */
  k?: number;
};

const checkK = (what: string, k: number, ...sets: Features[]) =>
  checkInteger(`${what}: k`, k, 1, Math.min(...sets.map((set) => set.rows)) - 1);

/** Share of non-zero entries. */
const shareOf = (counts: Int32Array) => counts.reduce((sum, count) => sum + (count > 0 ? 1 : 0), 0) / counts.length;

/** For each sample of `inside`: in how many balls around samples of `of` it lies, d ≤ r. */
async function ballsAround(of: Features, inside: Features, k: number, threads: number): Promise<Int32Array> {
  const { squared } = await addon().neighbours(of, undefined, k, threads);
  return addon().ballCounts(inside, of, squared, false, threads);
}

/**
 * Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2), 0..1: the share of fakes that lie in a ball of a real sample
 * (quality), and of real samples that lie in a ball of a fake (variety); f is their harmonic mean. Both fall and rise with the numbers of
 * samples.
 * @param options k @default 3
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a k that a set is too small for, ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export async function precisionRecall(
  real: Features,
  fake: Features,
  options: NeighbourOptions = {},
): Promise<{ precision: number; recall: number; f: number }> {
  checkArguments('precisionRecall', { real, fake, options }, { real: matrix, fake: matrix, options: 'object' });
  const { k = 3 } = options;
  checkK('precisionRecall', k, real, fake);
  const threads = checkFeatures({ real, fake }, options);
  const precision = shareOf(await ballsAround(real, fake, k, threads));
  const recall = shareOf(await ballsAround(fake, real, k, threads));
  return { precision, recall, f: precision + recall > 0 ? (2 * precision * recall) / (precision + recall) : 0 };
}

/**
 * Recall within each class of the real samples: which classes the fakes reach. NaN for a class without real samples.
 * @param labels class of each real sample, 0..classes-1
 * @param options k @default 3
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for labels or a k out of range, ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export async function classRecall(
  real: Features,
  labels: Int32Array,
  classes: number,
  fake: Features,
  options: NeighbourOptions = {},
): Promise<Float64Array> {
  checkArguments('classRecall', { real, labels, fake, options }, { real: matrix, labels: 'numbers', fake: matrix, options: 'object' });
  const { k = 3 } = options;
  checkK('classRecall', k, fake);
  const threads = checkFeatures({ real, fake }, options);
  const size = countLabels('classRecall', labels, classes, real.rows);
  const reached = new Float64Array(classes);
  const balls = await ballsAround(fake, real, k, threads);
  balls.forEach((count, i) => {
    if (count > 0) reached[labels[i]!]!++;
  });
  return reached.map((hits, label) => hits / size[label]!);
}

/** How many samples each class has. @throws PhoenixError ERR_PHOENIX_SHAPE, ERR_PHOENIX_ARGUMENT */
export function countLabels(what: string, labels: Int32Array, classes: number, rows = labels.length): Float64Array {
  checkInteger(`${what}: classes`, classes, 1, 1 << 20);
  if (labels.length !== rows || rows === 0)
    throw new PhoenixError('ERR_PHOENIX_SHAPE', `${what} needs a label for each of ${rows} samples, not ${labels.length}.`);
  const counts = new Float64Array(classes);
  for (const label of labels) {
    checkInteger(`${what}: labels`, label, 0, classes - 1);
    counts[label]!++;
  }
  return counts;
}

/**
 * Density and coverage (Naeem et al. 2020, eq. 3 and 4): the mean number of real balls (d < r) that hold a fake, over k (≥ 0, 1 when the
 * distributions agree), and the share of real balls that hold a fake at all (0..1). Sturdier against outliers than precision and recall.
 * @param options k @default 5
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a k that the real set is too small for, ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export async function densityCoverage(
  real: Features,
  fake: Features,
  options: NeighbourOptions = {},
): Promise<{ density: number; coverage: number }> {
  checkArguments('densityCoverage', { real, fake, options }, { real: matrix, fake: matrix, options: 'object' });
  const { k = 5 } = options;
  checkK('densityCoverage', k, real);
  const threads = checkFeatures({ real, fake }, options);
  const { squared: radii } = await addon().neighbours(real, undefined, k, threads);
  const balls = await addon().ballCounts(fake, real, radii, true, threads);
  const nearest = await addon().neighbours(real, fake, 1, threads);
  return {
    density: balls.reduce((sum, count) => sum + count, 0) / (k * fake.rows),
    coverage: nearest.squared.reduce((sum, squared, i) => sum + (squared < radii[i]! ? 1 : 0), 0) / real.rows,
  };
}

/**
 * How near the samples come to the training set: distance and row of each sample's nearest training sample, their mean and least, and the
 * share `memorised` whose nearest is less than a third as far as the second (Yoon et al. 2023, §3). `reference` is the mean distance of
 * unseen real samples to the training set, if they are given: a mean well below it says copying.
 * @throws PhoenixError ERR_PHOENIX_SHAPE for fewer than two training samples, ERR_PHOENIX_NOT_FINITE
 */
export async function memorisation(
  fake: Features,
  train: Features,
  options: MetricOptions & { unseen?: Features } = {},
): Promise<{ distance: Float64Array; index: Int32Array; mean: number; least: number; memorised: number; reference?: number }> {
  checkArguments('memorisation', { fake, train, options }, { fake: matrix, train: matrix, options: 'object' });
  const { unseen } = options;
  const threads = checkFeatures(unseen ? { fake, train, unseen } : { fake, train }, options);
  const nearest = await addon().neighbours(fake, train, 1, threads);
  const second = await addon().neighbours(fake, train, 2, threads);
  const distance = nearest.squared.map(Math.sqrt);
  const result = {
    distance,
    index: nearest.index,
    mean: spread(distance).mean,
    least: distance.reduce((a, b) => Math.min(a, b)),
    memorised: nearest.squared.reduce((sum, squared, i) => sum + (9 * squared < second.squared[i]! ? 1 : 0), 0) / fake.rows,
  };
  if (!unseen) return result;
  const { squared } = await addon().neighbours(unseen, train, 1, threads);
  return { ...result, reference: spread(squared.map(Math.sqrt)).mean };
}
