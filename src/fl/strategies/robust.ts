/**
 * Robust aggregation: rules that bound what a minority of Byzantine clients can do to the mean. They look at the updates themselves, so
 * they need all of a round's updates and cannot be combined with secure aggregation. Every client that answered uploads and counts equally:
 * a weight of its own choosing, as FedAvg's examples are, would be the first thing to lie about.
 */
import type { Report } from '../protocol.ts';
import type { Combined, Strategy, Updates, Weights } from '../strategy.ts';

const alike = (reports: Report[]): Weights => reports.map(({ client }) => ({ client, weight: 1 / reports.length }));

/** A strategy without state that weighs all clients equally and combines with `combine`. */
const robust = (name: string, combine: (updates: Updates) => Promise<Combined>): Strategy<null> => ({
  name,
  init: () => null,
  weigh: (reports, state) => ({ weights: alike(reports), state }),
  combine,
});

/** The share of Byzantine clients that a rule tolerates by default. */
const HOSTILE = 0.2;

const hostileOf = (n: number, f: number | undefined, most: number): number => Math.max(0, Math.min(f ?? Math.ceil(HOSTILE * n), most));

export type RobustOptions = {
  /** Byzantine clients to tolerate, a whole number; fewer if the round has too few clients. @default a fifth of the updates that arrived */
  hostile?: number;
};

/** The median of each coordinate, for an even number the mean of the middle two. Yin et al. 2018, def. 1. */
export const median = (): Strategy<null> =>
  robust('median', async (updates) => ({ mean: await updates.trimmedMean(Math.floor((updates.clients.length - 1) / 2)) }));

/** The mean of each coordinate without the `hostile` lowest and highest. Yin et al. 2018, def. 2. */
export const trimmedMean = ({ hostile }: RobustOptions = {}): Strategy<null> =>
  robust('trimmed-mean', async (updates) => {
    const n = updates.clients.length;
    const trim = hostileOf(n, hostile, Math.floor((n - 1) / 2));
    return { mean: await updates.trimmedMean(trim), notes: [`trimmed-mean: ${trim} of ${n} values left out at each end`] };
  });

/**
 * Krum's score of each update: the sum of squared distances to its n - f - 2 nearest others (at least 1). Blanchard et al. 2017, §4.
 * `squared`: n² squared distances.
 */
export function krumScores(squared: ArrayLike<number>, n: number, f: number): number[] {
  const nearest = Math.max(1, n - f - 2);
  return Array.from({ length: n }, (_, i) =>
    Array.from({ length: n }, (_, j) => squared[i * n + j]!)
      .filter((_, j) => j !== i)
      .sort((a, b) => a - b)
      .slice(0, nearest)
      .reduce((sum, d) => sum + d, 0),
  );
}

/** Weights 1/m for the m updates of lowest score; of equal scores the first. */
async function lowest(updates: Updates, f: number, m: number): Promise<number[]> {
  const n = updates.clients.length;
  const scores = krumScores(await updates.squaredDistances(), n, f);
  const kept = scores
    .map((score, i) => ({ score, i }))
    .sort((a, b) => a.score - b.score || a.i - b.i)
    .slice(0, m);
  return scores.map((_, i) => (kept.some((one) => one.i === i) ? 1 / m : 0));
}

/** The one update that lies closest to its neighbours. Blanchard et al. 2017; tolerates f < (n - 2)/2. */
export const krum = ({ hostile }: RobustOptions = {}): Strategy<null> =>
  robust('krum', async (updates) => {
    const n = updates.clients.length;
    const weights = await lowest(updates, hostileOf(n, hostile, Math.ceil((n - 2) / 2) - 1), 1);
    return { weights, notes: [`krum: ${updates.clients[weights.indexOf(1)]} was chosen of ${n}`] };
  });

/** The mean of the n - f - 1 updates (at least 1) of lowest Krum score. Blanchard et al. 2017, §5. */
export const multiKrum = ({ hostile, keep }: RobustOptions & { keep?: number } = {}): Strategy<null> =>
  robust('multi-krum', async (updates) => {
    const n = updates.clients.length;
    const f = hostileOf(n, hostile, Math.ceil((n - 2) / 2) - 1);
    const m = Math.max(1, Math.min(n, keep ?? n - f - 1));
    const weights = await lowest(updates, f, m);
    const out = updates.clients.filter((_, i) => weights[i] === 0);
    return { weights, notes: out.length > 0 ? [`multi-krum: left out ${out.join(', ')}`] : [] };
  });

/** Distances below this share of the largest one count as it, so that no weight is infinite (RFA's ν). */
const SMOOTHING = 1e-6;
const MAX_ITERATIONS = 1000;

/**
 * Weights of the geometric median: the point z = Σ w·x that minimises Σ ‖z - x‖. Weiszfeld 1937, smoothed as in RFA (Pillutla et al. 2022,
 * alg. 2). All is said in squared distances D (n², with Σw = 1): ‖z - x_i‖² = Σ_j w_j·D_ij - ½·Σ_jk w_j·w_k·D_jk.
 */
export function weiszfeld(squared: ArrayLike<number>, n: number): number[] {
  const largest = Math.sqrt(Array.from(squared).reduce((a, b) => Math.max(a, b), 0));
  let weights: number[] = Array(n).fill(1 / n);
  if (largest === 0) return weights;
  for (let iteration = 0; iteration < MAX_ITERATIONS; iteration++) {
    const across = weights.map((_, i) => weights.reduce((sum, w, j) => sum + w * squared[i * n + j]!, 0));
    const within = weights.reduce((sum, w, i) => sum + w * across[i]!, 0) / 2;
    const pulls = across.map((d) => 1 / Math.max(Math.sqrt(Math.max(0, d - within)), SMOOTHING * largest));
    const sum = pulls.reduce((a, b) => a + b);
    const next = pulls.map((pull) => pull / sum);
    const moved = next.reduce((most, w, i) => Math.max(most, Math.abs(w - weights[i]!)), 0);
    weights = next;
    if (moved < 1e-12) break;
  }
  return weights;
}

/** The point with the least sum of distances to the updates: stands a little under half of them. */
export const geometricMedian = (): Strategy<null> =>
  robust('geometric-median', async (updates) => ({ weights: weiszfeld(await updates.squaredDistances(), updates.clients.length) }));
