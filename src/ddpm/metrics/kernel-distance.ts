/**
 * Kernel distance: KID's estimator (Bińkowski et al. 2018, §4) in any features. Unlike Fréchet's it has no bias in the number of samples.
 */
import { checkArguments, matrix } from '../../arguments.ts';
import { addon } from '../../bindings/load.ts';
import { rng } from '../../rng.ts';
import { checkFeatures, checkInteger, type Features, type MetricOptions, spread } from './features.ts';

export type KernelDistanceOptions = MetricOptions & {
  /** Samples a subset, from 2 to the smaller set's size. @default 1000, or that size */
  subsetSize?: number;
  /** Pairs of subsets, 1..10000. @default 100 */
  subsets?: number;
  /** Of the subsets' choice. @default 0 */
  seed?: number | bigint;
};

/**
 * Mean and standard deviation (divisor: the number of subsets), over pairs of random subsets, of the unbiased squared maximum mean
 * discrepancy with the kernel (x·y/columns + 1)³. 0 for one distribution, where it may be slightly negative.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a subset larger than a set, ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export async function kernelDistance(
  real: Features,
  fake: Features,
  options: KernelDistanceOptions = {},
): Promise<{ mean: number; std: number; values: Float64Array }> {
  checkArguments('kernelDistance', { real, fake, options }, { real: matrix, fake: matrix, options: 'object' });
  const smaller = Math.min(real.rows, fake.rows);
  const { subsetSize = Math.min(1000, smaller), subsets = 100, seed = 0 } = options;
  checkInteger('kernelDistance: subsetSize', subsetSize, 2, smaller);
  checkInteger('kernelDistance: subsets', subsets, 1, 10000);
  const threads = checkFeatures({ real, fake }, options);
  const draw = rng(seed, 'kernel-distance');
  const realRows = new Int32Array(subsets * subsetSize);
  const fakeRows = new Int32Array(subsets * subsetSize);
  for (let subset = 0; subset < subsets; subset++) {
    realRows.set(draw.permutation(real.rows).subarray(0, subsetSize), subset * subsetSize);
    fakeRows.set(draw.permutation(fake.rows).subarray(0, subsetSize), subset * subsetSize);
  }
  const values = await addon().kernelDistances(real, fake, realRows, fakeRows, subsetSize, threads);
  return { ...spread(values), values };
}
