/**
 * Local work that follows the drift. Many local steps a round help clients that agree and hurt those that do not, so their number is steered by how well
 * the updates agree: c = ‖Σ w·δ‖ / Σ w·‖δ‖, which is the mean cosine of the updates with their mean, weighted by w·‖δ‖ (since ‖mean‖² = Σ w·⟨δ, mean⟩).
 * It takes norms and the norm of the sum alone, so no single update needs to be seen for it.
 */
import { plannedSteps } from '../ddpm/train.ts';
import { PhoenixError } from '../errors.ts';
import type { ClientInfo, Fit } from './types.ts';

export type LocalWork = {
  /** The mean cosine to come near, above 0, at most 1. */
  target: number;
  /** Bounds, as multiples of the local images that the fit asks for: 0 < least ≤ 1 ≤ most. */
  least: number;
  most: number;
};

/** Most that one round changes it, up or down. */
const MOST_CHANGE = 1.25;

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function checkLocalWork({ target, least, most }: LocalWork): void {
  if (target > 0 && target <= 1 && least > 0 && least <= 1 && most >= 1 && most < Infinity) return;
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `Local work needs a target in (0,1] and bounds 0 < least ≤ 1 ≤ most, not ${target}, ${least} and ${most}.`,
  );
}

/** The next round's work, as a multiple of what the fit asks for: work · c/target, at most a quarter up or a fifth down, within the bounds. */
export function adaptWork(work: number, coherence: number, { target, least, most }: LocalWork): number {
  const change = Math.min(MOST_CHANGE, Math.max(1 / MOST_CHANGE, coherence / target));
  return Math.min(most, Math.max(least, work * change));
}

/** The fit with this multiple of its local images. */
export function scaleWork(fit: Fit, { examples }: ClientInfo, work: number): Fit {
  if (work === 1) return fit;
  const { epochs: _, ...rest } = fit;
  return { ...rest, localImages: Math.max(1, Math.round(work * plannedSteps(examples, fit) * fit.batch)) };
}
