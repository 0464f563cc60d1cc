/** The Fréchet distance between two sets of features, taken as Gaussians: FID's formula (Heusel et al. 2017, eq. 6) in any features. */
import { checkArguments, type Kind, matrix } from '../../arguments.ts';
import { addon } from '../../bindings/load.ts';
import type { NativeMoments } from '../../bindings/native.ts';
import { PhoenixError } from '../../errors.ts';
import { checkFeatures, checkInteger, type Features, type MetricOptions } from './features.ts';

/** mean (columns) and covariance (columns²), divisor rows - 1. */
export type Moments = NativeMoments;

/**
 * Mean and covariance of the rows, in double precision.
 * @throws PhoenixError ERR_PHOENIX_SHAPE for fewer than two rows, ERR_PHOENIX_NOT_FINITE
 */
export async function moments(x: Features, options?: MetricOptions): Promise<Moments> {
  checkArguments('moments', { x, options }, { x: matrix, options: 'object?' });
  return addon().moments(x, checkFeatures({ x }, options));
}

const momentsKind: Kind = { mean: 'numbers', covariance: 'numbers' };

/**
 * |μ₁-μ₂|² + tr Σ₁ + tr Σ₂ - 2 tr √(Σ₁^½ Σ₂ Σ₁^½) ≥ 0 (Dowson & Landau 1982, eq. 4); 0 for equal moments, up to rounding (which may give a
 * tiny negative number). It falls with the number of samples: compare equal numbers only.
 * @throws PhoenixError ERR_PHOENIX_SHAPE for moments of different sizes, ERR_PHOENIX_NOT_FINITE
 */
export async function frechetDistance(a: Moments, b: Moments, options?: MetricOptions): Promise<number> {
  checkArguments('frechetDistance', { a, b, options }, { a: momentsKind, b: momentsKind, options: 'object?' });
  const columns = a.mean.length;
  checkInteger('frechetDistance: number of features', columns, 1, 16384);
  for (const { mean, covariance } of [a, b]) {
    if (mean.length !== columns || covariance.length !== columns * columns)
      throw new PhoenixError(
        'ERR_PHOENIX_SHAPE',
        `frechetDistance needs moments of ${columns} features, but a mean of ${mean.length} and a covariance of ${covariance.length} values came.`,
      );
    if (!mean.every(Number.isFinite) || !covariance.every(Number.isFinite))
      throw new PhoenixError('ERR_PHOENIX_NOT_FINITE', 'frechetDistance needs finite moments, but a mean or covariance is not finite.');
  }
  return addon().frechetDistance(a, b, checkFeatures({}, options));
}
