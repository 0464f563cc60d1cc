/**
 * Weights that make the clients' mixture as varied as its members allow. Each client says how its images (or samples of its model) fall
 * into bins that all share; the weights are those near the example counts whose mixture of histograms is nearest to a target.
 */
import { PhoenixError } from '../../errors.ts';
import type { Profiles } from '../state.ts';
import type { Strategy } from '../strategy.ts';

export const diversityTargets = ['uniform', 'pooled', 'shared'] as const;
export type DiversityTarget = (typeof diversityTargets)[number];

export type DiversityOptions = {
  /**
   * The target of the mixture: all bins equal, as the known clients hold them by their examples, or as the shared images hold them that the
   * bins were made of. @default 'uniform'
   */
  target?: DiversityTarget;
  /** λ > 0: how strongly weights keep to the example counts. @default 0.5 */
  pull?: number;
};

/**
 * Added to each bin of a target that was counted, as a share of an equal portion: a bin that nobody was known to hold must not forbid it.
 */
const SMOOTHING = 1e-3;
const MAX_ITERATIONS = 20_000;

/** Σ p·ln(p/q), 0·ln 0 = 0. */
const divergence = (p: ArrayLike<number>, q: ArrayLike<number>): number =>
  Array.from(p).reduce((sum, share, i) => sum + (share > 0 ? share * Math.log(share / q[i]!) : 0), 0);

const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
const toShares = (counts: number[]) => {
  const total = sum(counts);
  return counts.map((count) => (total > 0 ? count / total : 1 / counts.length));
};
const mixture = (weights: number[], shares: number[][]) =>
  shares[0]!.map((_, bin) => weights.reduce((total, weight, i) => total + weight * shares[i]![bin]!, 0));

/** KL(Σ w·h ‖ target) + pull·KL(w ‖ prior): what diversityWeights makes least. */
export const diversityObjective = (weights: number[], shares: number[][], target: number[], prior: number[], pull: number): number =>
  divergence(mixture(weights, shares), target) + pull * divergence(weights, prior);

/**
 * argmin over the simplex of KL(Σ w_i·h_i ‖ target) + pull·KL(w ‖ prior), by mirror descent (exponentiated gradient, Kivinen & Warmuth
 * 1997) with the step 1/(1+pull). KL(Hw ‖ Hw') ≤ KL(w ‖ w') makes the objective (1+pull)-smooth and pull-strongly convex relative to the
 * entropy, so the error falls by the factor 1/(1+pull) an iteration (Lu, Freund & Nesterov 2018, theorem 3.1). Deterministic.
 * @param shares each client's histogram h_i as shares that sum to 1
 * @param target shares above 0
 * @param prior shares above 0, one per client
 * @param pull λ > 0
 */
export function diversityWeights(shares: number[][], target: number[], prior: number[], pull: number): number[] {
  let weights = [...prior];
  for (let iteration = 0; iteration < MAX_ITERATIONS; iteration++) {
    const logRatio = mixture(weights, shares).map((share, bin) => (share > 0 ? Math.log(share / target[bin]!) : 0));
    const logs = weights.map((weight, i) => {
      const gradient = shares[i]!.reduce((total, share, bin) => total + share * logRatio[bin]!, 0);
      return (Math.log(weight) + pull * Math.log(prior[i]!) - gradient) / (1 + pull);
    });
    const largest = logs.reduce((a, b) => Math.max(a, b));
    // No weight underflows to 0: from there it could not come back, and its logarithm is needed.
    const next = toShares(logs.map((log) => Math.max(Math.exp(log - largest), Number.MIN_VALUE * 2 ** 60)));
    const moved = next.reduce((most, weight, i) => Math.max(most, Math.abs(weight - weights[i]!)), 0);
    weights = next;
    if (moved < 1e-14) break;
  }
  return weights;
}

/**
 * Weights near the example counts whose mixture of the clients' last known histograms is nearest to the target. A client without one counts
 * by its examples.
 * @throws PhoenixError ERR_PHOENIX_CONFIG, in weigh, for target 'shared' where bins were not made of shared images
 */
export function diversity({ target = 'uniform', pull = 0.5 }: DiversityOptions = {}): Strategy<null> {
  return {
    name: 'diversity',
    needs: { histogram: true, ...(target === 'shared' && { sharedSet: 'real' }) },
    init: () => null,
    weigh(reports, state, profiles, reference) {
      const total = sum(reports.map((report) => report.examples));
      const said = reports.flatMap(({ client, examples }) => {
        const histogram = profiles[client]?.histogram;
        return histogram ? [{ client, examples, shares: toShares(histogram) }] : [];
      });
      if (said.length === 0)
        return {
          weights: reports.map(({ client, examples }) => ({ client, weight: examples / total })),
          state,
          notes: ['diversity: no histograms yet, weights by examples'],
        };

      const shares = said.map((one) => one.shares);
      const prior = toShares(said.map((one) => one.examples));
      const wanted = targetOf(target, shares[0]!.length, profiles, reference);
      const weights = diversityWeights(shares, wanted, prior, pull);
      const part = sum(said.map((one) => one.examples)) / total;
      const weightOf = new Map(said.map(({ client }, i) => [client, part * weights[i]!]));
      const [before, after] = [prior, weights].map((w) => divergence(mixture(w, shares), wanted).toFixed(4));
      const news = reports.some(({ client, round }) => profiles[client]?.round === round);
      return {
        weights: reports.map(({ client, examples }) => ({ client, weight: weightOf.get(client) ?? examples / total })),
        state,
        notes: news ? [`diversity: divergence of the mixture from the ${target} target ${after}, with weights by examples ${before}`] : [],
      };
    },
  };
}

function targetOf(target: DiversityTarget, bins: number, profiles: Profiles, reference: number[] | undefined): number[] {
  if (target === 'uniform') return Array<number>(bins).fill(1 / bins);
  const counted = target === 'pooled' ? pooled(profiles) : toShares(reference ?? []);
  if (counted.length !== bins) {
    throw new PhoenixError(
      'ERR_PHOENIX_CONFIG',
      'The diversity target shared needs bins made of real shared images, but there are none. Share real images, or use the target uniform or pooled.',
    );
  }
  return toShares(counted.map((share) => share + SMOOTHING / bins));
}

/** The mixture of all clients known, by their examples. */
function pooled(profiles: Profiles): number[] {
  const known = Object.keys(profiles)
    .sort()
    .flatMap((client) => {
      const { histogram, examples } = profiles[client]!;
      return histogram ? [{ shares: toShares(histogram), examples }] : [];
    });
  return mixture(
    toShares(known.map((one) => one.examples)),
    known.map((one) => one.shares),
  );
}

/**
 * Weights in proportion to examples · Vendi score: n_i·V_i / Σ n·V, V the effective number of different samples of a client's model
 * (Friedman & Dieng 2023, def. 2). A client that has not reported a score counts with the mean of those that have.
 */
export function vendi(): Strategy<null> {
  return {
    name: 'vendi',
    needs: { vendi: true },
    init: () => null,
    weigh(reports, state, profiles) {
      const scores = reports.flatMap(({ client }) => profiles[client]?.vendi ?? []);
      const usual = scores.length > 0 ? sum(scores) / scores.length : 1;
      const parts = toShares(reports.map(({ client, examples }) => examples * (profiles[client]?.vendi ?? usual)));
      return {
        weights: reports.map(({ client }, i) => ({ client, weight: parts[i]! })),
        state,
        notes: scores.length > 0 ? [] : ['vendi: no scores yet, weights by examples'],
      };
    },
  };
}
