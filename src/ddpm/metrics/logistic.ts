/** Multinomial logistic regression on features: the classifier of a network that has none of its own. */
import { checkArguments, matrix } from '../../arguments.ts';
import { addon } from '../../bindings/load.ts';
import { PhoenixError } from '../../errors.ts';
import { checkFeatures, checkInteger, type Features, featureMatrix, type MetricOptions } from './features.ts';

export type LogisticOptions = MetricOptions & {
  /** Weight of the penalty l2/2·|weights|² on standardised features, ≥ 0. @default 0.001 */
  l2?: number;
  /** Most steps of the solver, 1..100000. @default 500 */
  iterations?: number;
};

export type Logistic = {
  /** (classes, columns), for the features as they are. */
  weights: Float64Array;
  biases: Float64Array;
  /** Largest entry of the gradient where the solver ended: below 1e-7 unless its steps ran out. */
  gradient: number;
  iterations: number;
};

/**
 * The minimum of mean cross-entropy + l2/2·|weights|² with free biases, on standardised features.
 * @param labels one per row, 0..classes-1
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT, ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export async function logisticRegression(
  x: Features,
  labels: Int32Array,
  classes: number,
  options: LogisticOptions = {},
): Promise<Logistic> {
  checkArguments('logisticRegression', { x, labels, options }, { x: matrix, labels: 'numbers', options: 'object' });
  const { l2 = 1e-3, iterations = 500 } = options;
  checkInteger('logisticRegression: classes', classes, 2, 65536);
  checkInteger('logisticRegression: iterations', iterations, 1, 100_000);
  if (!(l2 >= 0 && Number.isFinite(l2)))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `logisticRegression: l2 must be a number of at least 0, not ${l2}.`);
  return addon().logisticRegression(x, labels, classes, l2, iterations, checkFeatures({ x }, options));
}

/** Logits (rows, classes) of features. @throws PhoenixError ERR_PHOENIX_SHAPE for features of another number of columns */
export function logisticLogits(fit: Logistic, x: Features): Features {
  checkArguments('logisticLogits', { fit, x }, { fit: { weights: 'numbers', biases: 'numbers' }, x: matrix });
  checkFeatures({ x });
  const { weights, biases } = fit;
  const { data, rows, columns } = x;
  const classes = biases.length;
  if (weights.length !== classes * columns)
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `The logistic regression needs ${weights.length / classes} features per sample, not ${columns}.`,
    );
  const logits = new Float64Array(rows * classes);
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < classes; k++) {
      let sum = biases[k]!;
      for (let c = 0; c < columns; c++) sum += weights[k * columns + c]! * data[row * columns + c]!;
      logits[row * classes + k] = sum;
    }
  return featureMatrix(logits, classes);
}
