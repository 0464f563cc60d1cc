/**
 * Normalised averaging (FedNova, Wang et al. 2020, eq. 7 and §4): where clients make different numbers of local steps τ_i, the plain mean
 * Σ p_i·δ_i follows those that made more, and converges to a minimum of another objective. Instead the mean is taken per step, and moves as
 * far as the mean client has:
 *
 *   δ = τ_eff · Σ p_i · δ_i/τ_i,   τ_eff = Σ p_i·τ_i,   p_i: the weights of the strategy
 *
 * ‖a_i‖₁ of the paper is τ_i here, as for plain SGD: Adam's bias-corrected steps count alike from the first on. A sum of updates knows
 * shares q_i ∝ p_i/τ_i alone, of those that arrived. With them p_i ∝ q_i·τ_i, so that δ = s · Σ q_i·δ_i with s = Σ q_i·τ_i² / (Σ q_i·τ_i)².
 * s is at least 1; at most (1+r)²/4r where the most steps are r times the least.
 */
import { plannedSteps } from '../../ddpm/fit.ts';
import type { ClientId, Failure, Fit, Report } from '../protocol.ts';
import type { Weights } from '../strategy.ts';

/** Steps by client. */
export type Steps = ReadonlyMap<ClientId, number>;

const differ = (steps: number[]) => steps.some((one) => one !== steps[0]);

/**
 * Local steps of each client, as it was asked for them: a report that says otherwise is a Failure, since who claims few steps would count
 * for more.
 */
export function askedSteps(reports: Report[], fits: ReadonlyMap<ClientId, Fit>): { steps: Map<ClientId, number>; failures: Failure[] } {
  const steps = new Map<ClientId, number>();
  const failures: Failure[] = [];
  for (const { client, round, examples, steps: made } of reports) {
    const { hyper, length } = fits.get(client)!;
    const asked = plannedSteps(examples, hyper.batch, length);
    if (made === asked) steps.set(client, made);
    else failures.push({ client, round, stage: 'train', reason: `it reports ${made} steps, but ${asked} were asked for` });
  }
  return { steps, failures };
}

/** Shares q of the weights p, sum 1; the weights themselves where all made equally many steps. */
export function normaliseWeights(weights: Weights, steps: Steps): Weights {
  if (!differ(weights.map(({ client }) => steps.get(client)!))) return weights;
  const parts = weights.map(({ client, weight }) => weight / steps.get(client)!);
  const total = parts.reduce((sum, part) => sum + part, 0);
  return weights.map(({ client }, i) => ({ client, weight: parts[i]! / total }));
}

/** s and τ_eff over the shares of the updates that arrived; s is 1 where all made equally many steps. */
export function normaliseMean(shares: ReadonlyMap<ClientId, number>, steps: Steps): { scale: number; effectiveSteps: number } {
  const arrived = [...shares].map(([client, share]) => ({ share, made: steps.get(client)! }));
  const first = arrived.reduce((sum, { share, made }) => sum + share * made, 0);
  if (!differ(arrived.map(({ made }) => made))) return { scale: 1, effectiveSteps: first };
  const second = arrived.reduce((sum, { share, made }) => sum + share * made * made, 0);
  return { scale: second / first ** 2, effectiveSteps: second / first };
}
