/** Metrics by bins of feature space: clusters of the real samples, and how the fakes fall into them. */
import { checkArguments, matrix } from '../../arguments.ts';
import { addon } from '../../bindings/load.ts';
import { PhoenixError } from '../../errors.ts';
import { rng } from '../../rng.ts';
import { checkFeatures, checkInteger, type Features, featureMatrix, type MetricOptions } from './features.ts';

export type ClusterOptions = MetricOptions & {
  /** Of the first centres. @default 0 */
  seed?: number | bigint;
  /** Most rounds of moving centres, 1..10000. @default 100 */
  iterations?: number;
};

/** Centres (k, columns), the centre of every row, and Σ squared distance to it. */
export type Clusters = { centres: Features; assignment: Int32Array; inertia: number; iterations: number };

/**
 * k-means: Lloyd's iterations from centres chosen by k-means++ (Arthur & Vassilvitskii 2007). Equal seeds give equal bits.
 * @param k 1..rows
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT, ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export async function kMeans(x: Features, k: number, options: ClusterOptions = {}): Promise<Clusters> {
  checkArguments('kMeans', { x, options }, { x: matrix, options: 'object' });
  const { seed = 0, iterations = 100 } = options;
  checkInteger('kMeans: k', k, 1, x.rows);
  checkInteger('kMeans: iterations', iterations, 1, 10000);
  const threads = checkFeatures({ x }, options);
  const draw = rng(seed, 'k-means');
  const uniforms = Float64Array.from({ length: k }, () => draw.uniform());
  const found = await addon().kmeans(x, uniforms, iterations, threads);
  return { ...found, centres: featureMatrix(found.centres, x.columns) };
}

/**
 * How many rows of x have each centre as their nearest (of equals the first): centres.rows counts that sum to x.rows.
 * @throws PhoenixError ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export async function binCounts(x: Features, centres: Features, options?: MetricOptions): Promise<Float64Array> {
  checkArguments('binCounts', { x, centres, options }, { x: matrix, centres: matrix, options: 'object?' });
  const { index } = await addon().neighbours(x, centres, 1, checkFeatures({ x, centres }, options));
  const counts = new Float64Array(centres.rows);
  for (const bin of index) counts[bin]!++;
  return counts;
}

const totalOf = (counts: Float64Array): number => counts.reduce((sum, count) => sum + count, 0);

function checkBins(what: string, a: Float64Array, b: Float64Array) {
  const valid = a.length === b.length && [a, b].every((c) => c.every((n) => n >= 0 && Number.isFinite(n)) && totalOf(c) > 0);
  if (!valid)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `${what} needs two lists of equally many counts ≥ 0, each with a positive sum, not lists of ${a.length} and ${b.length} counts.`,
    );
}

/** The normal distribution's 97.5 % quantile: two-tailed, p < 0.05. */
const SIGNIFICANT = 1.959963984540054;

/**
 * Number of statistically different bins (Richardson & Weiss 2018, §2): bins whose shares of the two sets differ by a pooled two-proportion
 * z-test at p < 0.05, two-tailed. By chance five of a hundred differ. z > 0: the real samples have more there.
 * @param real, fake counts of each bin, from binCounts
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT
 */
export function differentBins(real: Float64Array, fake: Float64Array): { different: number; share: number; z: Float64Array } {
  checkArguments('differentBins', { real, fake }, { real: 'numbers', fake: 'numbers' });
  checkBins('differentBins', real, fake);
  const [m, n] = [totalOf(real), totalOf(fake)];
  const z = real.map((count, bin) => {
    const pooled = (count + fake[bin]!) / (m + n);
    const deviation = Math.sqrt(pooled * (1 - pooled) * (1 / m + 1 / n));
    return deviation > 0 ? (count / m - fake[bin]! / n) / deviation : 0;
  });
  const different = z.filter((value) => Math.abs(value) > SIGNIFICANT).length;
  return { different, share: different / z.length, z };
}

/**
 * Jensen-Shannon divergence of the two shares over bins, in nats: 0 (equal) to ln 2 (disjoint).  Lin 1991, eq. 3.2
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT
 */
export function jensenShannon(real: Float64Array, fake: Float64Array): number {
  checkArguments('jensenShannon', { real, fake }, { real: 'numbers', fake: 'numbers' });
  checkBins('jensenShannon', real, fake);
  const [m, n] = [totalOf(real), totalOf(fake)];
  return real.reduce((sum, count, bin) => {
    const p = count / m;
    const q = fake[bin]! / n;
    const term = (share: number) => (share > 0 ? (share / 2) * Math.log((2 * share) / (p + q)) : 0);
    return sum + term(p) + term(q);
  }, 0);
}
