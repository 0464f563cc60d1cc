/**
 * What every scheduler is made of. A sampler is a table: each row turns the image at diffusion time t into a less noisy one by
 *
 *   x ← cx·x + c0·x̂0 + c1·x̂0_prev + cz·z,    z ~ N(0,1), x̂0_prev the x̂0 of the row before,
 *
 * with x̂0 from the network's output at (x, t): (x - sigma·eps)/alpha, x0 itself, or alpha·x - sigma·v, where alpha = √ᾱ_t and
 * sigma = √(1-ᾱ_t). When x̂0 is clipped to [-1,1], a row moves along the noise that goes with the clipped x̂0, (x - alpha·x̂0)/sigma, and
 * not along the network's own: diffusers calls that `use_clipped_model_output=True`.
 */
import { PhoenixError } from '../../errors.ts';
import type { Noise } from '../noise.ts';

export type Step = {
  /** Diffusion time, 0..T-1. */
  t: number;
  alpha: number;
  sigma: number;
  cx: number;
  c0: number;
  c1: number;
  cz: number;
};

export type SchedulerOptions = {
  /** DDIM's η: 0 = deterministic, 1 = as noisy as DDPM with the small variance. @default 0 */
  eta?: number;
  /** DDPM's variance: β ('large', Ho et al.'s choice for CIFAR-10) or that of the posterior ('small'). @default 'large' */
  variance?: 'large' | 'small';
  /** See `transitions`. @default 'leading' for ddpm and ddim, 'trailing' for dpm-solver */
  spacing?: Spacing;
};

export type Spacing = 'leading' | 'trailing';

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for steps outside 1..T, or an option outside its range */
export type Scheduler = (noise: Noise, steps: number, options?: SchedulerOptions) => Step[];

/** From time t with ᾱ = `from` to the next, less noisy time with ᾱ = `to`; the last goes to the image itself, `to` = 1. */
export type Transition = { t: number; from: number; to: number };

/**
 * The times that a sampler of `steps` steps visits, most noise first.
 * 'leading': ⌊i·T/steps⌋, so that the last is 0. Where steps divides T these are diffusers' times of that name (with steps_offset 0);
 * where it does not, diffusers cuts off the noisiest times and this spreads over all.
 * 'trailing': ⌊i·T/steps⌉ - 1, so that the first is T-1 (Lin et al. 2024, table 2).
 */
export function transitions(noise: Noise, steps: number, spacing: Spacing): Transition[] {
  if (!Number.isInteger(steps) || steps < 1 || steps > noise.steps) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `steps must be a whole number from 1 to the noise schedule's ${noise.steps}, not ${steps}.`,
    );
  }
  if (spacing !== 'leading' && spacing !== 'trailing') {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `spacing must be leading or trailing, not ${JSON.stringify(spacing)}.`);
  }
  const times = Array.from({ length: steps }, (_, i) =>
    spacing === 'leading' ? Math.floor(((steps - 1 - i) * noise.steps) / steps) : Math.round(((steps - i) * noise.steps) / steps) - 1,
  );
  const alphaBar = (t: number | undefined) => (t === undefined ? 1 : (noise.alphaBar[t] as number));
  return times.map((t, i) => ({ t, from: alphaBar(t), to: alphaBar(times[i + 1]) }));
}
