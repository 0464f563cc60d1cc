/**
 * Local work that follows the drift. Many local steps per round help clients that agree and hurt those that do not, so their number is
 * steered by how well the updates agree: the mean cosine between two of them. It takes the norms and the norm of the sum alone, so no
 * single update needs to be seen for it.
 */
import { plannedSteps } from '../../ddpm/fit.ts';
import { PhoenixError } from '../../errors.ts';
import type { Fit, Hello } from '../protocol.ts';

export type LocalWork = {
  /** The coherence to come near, above 0, at most 1. */
  target: number;
  /** Bounds, as multiples of the local images that the fit asks for: 0 < least ≤ 1 ≤ most. */
  least: number;
  most: number;
};

/** Most that one round changes it, up or down. */
const MAX_CHANGE = 1.25;

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function checkLocalWork({ target, least, most }: LocalWork): void {
  if (target > 0 && target <= 1 && least > 0 && least <= 1 && most >= 1 && most < Infinity) return;
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `Local work needs a target in (0,1] and bounds 0 < least ≤ 1 ≤ most, not ${target}, ${least} and ${most}.`,
  );
}

/**
 * The mean of cos(δ_i, δ_j) over i ≠ j, weighted by p_i·p_j with the parts p_i = w_i·‖δ_i‖ of the mean m = Σ w·δ: since ‖m‖² = Σ p_i² +
 * Σ_{i≠j} p_i·p_j·cos_ij, it is (‖m‖² - Σ p²) / ((Σ p)² - Σ p²), in -1..1; 0 for updates that have nothing to do with each other, however
 * many there are. Undefined where fewer than two count. For a mean that is none (a median, say) the same formula, a lower figure.
 */
export function coherenceOf(parts: number[], meanNorm: number): number | undefined {
  const sum = parts.reduce((a, b) => a + b, 0);
  const squares = parts.reduce((a, b) => a + b * b, 0);
  const pairs = sum * sum - squares;
  if (!(pairs > 1e-9 * sum * sum)) return undefined;
  return Math.max(-1, Math.min(1, (meanNorm * meanNorm - squares) / pairs));
}

/**
 * The next round's work, as a multiple of what the fit asks for: work · coherence/target, at most a quarter up or a fifth down, within the
 * bounds; as it was where there is no coherence.
 */
export function adaptWork(work: number, coherence: number | undefined, { target, least, most }: LocalWork): number {
  if (coherence === undefined) return work;
  const change = Math.min(MAX_CHANGE, Math.max(1 / MAX_CHANGE, coherence / target));
  return Math.min(most, Math.max(least, work * change));
}

/** The fit with this multiple of its local images. */
export function scaleWork(fit: Fit, { examples }: Pick<Hello, 'examples'>, work: number): Fit {
  if (work === 1) return fit;
  const { batch } = fit.hyper;
  return { ...fit, length: { localImages: Math.max(1, Math.round(work * plannedSteps(examples, batch, fit.length) * batch)) } };
}

/** The fit with at most so many local images; at least one batch. */
export function limitWork(fit: Fit, { examples }: Pick<Hello, 'examples'>, mostImages: number | undefined): Fit {
  const { batch } = fit.hyper;
  if (mostImages === undefined || mostImages >= plannedSteps(examples, batch, fit.length) * batch) return fit;
  return { ...fit, length: { localImages: Math.max(batch, Math.floor(mostImages / batch) * batch) } };
}
