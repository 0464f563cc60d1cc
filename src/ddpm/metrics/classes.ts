/** Metrics by a classifier's word: which classes the samples cover, and the Inception Score's formula. */
import { checkArguments, matrix } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import { checkFeatures, checkInteger, type Features, spread } from './features.ts';
import { countLabels } from './neighbours.ts';

/** The class with the largest logit of every sample, of equals the first. @throws PhoenixError ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE */
export function predictedClasses(logits: Features): Int32Array {
  checkArguments('predictedClasses', { logits }, { logits: matrix });
  checkFeatures({ logits });
  const { data, rows, columns } = logits;
  return Int32Array.from({ length: rows }, (_, row) => {
    let best = 0;
    for (let label = 1; label < columns; label++) if (data[row * columns + label]! > data[row * columns + best]!) best = label;
    return best;
  });
}

/** Share of samples whose predicted class is the label, 0..1. @throws PhoenixError ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE */
export function accuracy(logits: Features, labels: Int32Array): number {
  checkArguments('accuracy', { logits, labels }, { logits: matrix, labels: 'numbers' });
  if (labels.length !== logits.rows)
    throw new PhoenixError('ERR_PHOENIX_SHAPE', `accuracy needs ${logits.rows} labels, one per sample, not ${labels.length}.`);
  return predictedClasses(logits).reduce((sum, label, i) => sum + (label === labels[i] ? 1 : 0), 0) / labels.length;
}

/**
 * Class coverage of samples with predicted classes: a class is covered with at least threshold·N/classes samples. `shares` is p(y),
 * `entropy` its entropy in nats, 0 (one class) to ln(classes) (all equally frequent).
 * @param options threshold: share of an equal portion that counts as covered, > 0 to 1. @default 0.5
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT, ERR_PHOENIX_SHAPE for no samples
 */
export function classCoverage(
  predicted: Int32Array,
  classes: number,
  options: { threshold?: number } = {},
): { covered: number; share: number; counts: Float64Array; shares: Float64Array; entropy: number } {
  checkArguments('classCoverage', { predicted, options }, { predicted: 'numbers', options: 'object' });
  const { threshold = 0.5 } = options;
  if (!(threshold > 0 && threshold <= 1))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `classCoverage: threshold must be above 0 and at most 1, not ${threshold}.`);
  const counts = countLabels('classCoverage', predicted, classes);
  const shares = counts.map((count) => count / predicted.length);
  const covered = counts.filter((count) => count >= (threshold * predicted.length) / classes).length;
  const entropy = shares.reduce((sum, share) => sum - (share > 0 ? share * Math.log(share) : 0), 0);
  return { covered, share: covered / classes, counts, shares, entropy };
}

/**
 * Inception Score's formula (Salimans et al. 2016, §4) on any classifier's logits: exp of the mean KL(p(y|x) ‖ p(y)), mean and standard
 * deviation (divisor: splits) over equal contiguous splits; 1 to the number of classes. Order matters: shuffle sorted samples first.
 * @param options splits: 1..samples. @default 10
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT, ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export function inceptionScore(logits: Features, options: { splits?: number } = {}): { mean: number; std: number } {
  checkArguments('inceptionScore', { logits, options }, { logits: matrix, options: 'object' });
  const { splits = 10 } = options;
  checkFeatures({ logits });
  checkInteger('inceptionScore: splits', splits, 1, logits.rows);
  const scores = Array.from({ length: splits }, (_, split) => {
    const begin = Math.floor((split * logits.rows) / splits);
    const end = Math.floor(((split + 1) * logits.rows) / splits);
    return scoreOf(logits, begin, end);
  });
  return spread(scores);
}

/** log softmax of a row; exact enough for logits of any size. */
function logProbabilities({ data, columns }: Features, row: number): Float64Array {
  const logits = Float64Array.from(data.subarray(row * columns, (row + 1) * columns));
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const logSum = largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
  return logits.map((logit) => logit - logSum);
}

function scoreOf(logits: Features, begin: number, end: number): number {
  const marginal = new Float64Array(logits.columns);
  let negentropy = 0;
  for (let row = begin; row < end; row++) {
    logProbabilities(logits, row).forEach((log, label) => {
      const p = Math.exp(log);
      marginal[label]! += p / (end - begin);
      negentropy += (p * log) / (end - begin);
    });
  }
  // mean KL(p(y|x) ‖ p(y)) = mean Σ p log p - Σ p(y) log p(y)
  return Math.exp(negentropy - marginal.reduce((sum, p) => sum + (p > 0 ? p * Math.log(p) : 0), 0));
}
