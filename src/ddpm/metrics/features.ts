/** What every metric takes: a matrix of features, one sample per row, and the threads to use. Numbers must be finite. */

import { checkArguments, matrix } from '../../arguments.ts';
import { defaultThreads } from '../../bindings/threads.ts';
import { PhoenixError } from '../../errors.ts';

export type Features = {
  /** rows·columns values, row by row. */
  data: Float32Array | Float64Array;
  rows: number;
  columns: number;
};

export type MetricOptions = {
  /** Threads of the native pool; results do not depend on it. @default the cores, or the CPU quota */
  threads?: number;
};

/**
 * Features from rows of `columns` values.
 * @throws PhoenixError ERR_PHOENIX_SHAPE when the values do not fill whole rows, at least one
 */
export function featureMatrix(data: Float32Array | Float64Array, columns: number): Features {
  checkArguments('featureMatrix', { data, columns }, { data: 'numbers', columns: 'number' });
  const rows = data.length / columns;
  if (!(Number.isInteger(columns) && columns >= 1 && Number.isInteger(rows) && rows >= 1))
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `A feature matrix needs whole rows of ${columns} values, at least one, but ${data.length} values came.`,
    );
  return { data, rows, columns };
}

/** The rows of `x` that are named, in that order. @throws PhoenixError ERR_PHOENIX_ARGUMENT for a row that is not there */
export function pickRows(x: Features, rows: ArrayLike<number>): Features {
  checkArguments('pickRows', { x, rows }, { x: matrix, rows: 'numbers' });
  const data = new Float64Array(rows.length * x.columns);
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]!;
    if (!(Number.isInteger(row) && row >= 0 && row < x.rows))
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Row ${row} of the features was asked for, but there are only ${x.rows} rows.`);
    data.set(x.data.subarray(row * x.columns, (row + 1) * x.columns), i * x.columns);
  }
  return featureMatrix(data, x.columns);
}

/**
 * The threads to use, after a check of what natives trust: sizes that fit together and finite values.
 * @throws PhoenixError ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE, ERR_PHOENIX_ARGUMENT for a number of threads outside of 1..1024
 */
export function checkFeatures(all: Record<string, Features>, { threads = defaultThreads() }: MetricOptions = {}): number {
  if (!(Number.isInteger(threads) && threads >= 1 && threads <= 1024))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `threads must be a whole number in 1..1024, not ${threads}.`);
  const [first] = Object.entries(all);
  for (const [name, { data, rows, columns }] of Object.entries(all)) {
    if (data.length !== rows * columns || rows < 1 || columns < 1)
      throw new PhoenixError('ERR_PHOENIX_SHAPE', `${name} needs ${rows}·${columns} values, but ${data.length} came.`);
    if (columns !== first![1].columns)
      throw new PhoenixError(
        'ERR_PHOENIX_SHAPE',
        `${name} has ${columns} features per sample, but ${first![0]} has ${first![1].columns}: take both from one network.`,
      );
    const bad = data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0)
      throw new PhoenixError(
        'ERR_PHOENIX_NOT_FINITE',
        `${name}: sample ${Math.floor(bad / columns)} has the feature ${data[bad]}, which is not finite.`,
      );
  }
  return threads;
}

/** An integer option in its range. @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function checkInteger(name: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${name} must be a whole number in ${least}..${most}, not ${value}.`);
}

function meanOf(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
}

/** Mean and standard deviation with divisor n. */
export function spread(values: ArrayLike<number>): { mean: number; std: number } {
  const mean = meanOf(values);
  return { mean, std: Math.sqrt(meanOf(Array.from(values, (value) => (value - mean) ** 2))) };
}
