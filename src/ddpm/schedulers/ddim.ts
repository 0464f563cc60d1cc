import { PhoenixError } from '../../errors.ts';
import { scheduler, transitions } from './step.ts';

/**
 * DDIM (Song et al. 2021, eq. 12): x_s = √ᾱ_s·x̂0 + √(1-ᾱ_s-σ²)·ε̂ + σ·z with ε̂ = (x - √ᾱ_t·x̂0)/√(1-ᾱ_t) and
 * σ = η·√((1-ᾱ_s)/(1-ᾱ_t))·√(1-ᾱ_t/ᾱ_s), eq. 16. η in [0,1]; η = 0 is deterministic.
 */
export const ddim = scheduler('ddim', ['eta', 'spacing', 'offset', 'toImage'], (noise, steps, { eta = 0, ...rest }) => {
  if (!(eta >= 0 && eta <= 1))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `eta must be a number from 0 (deterministic) to 1, not ${eta}.`);
  return transitions(noise, steps, { ...rest, usual: 'leading', linspaceToZero: true }).map(({ t, from, to }) => {
    const alpha = Math.sqrt(from);
    const sigma = Math.sqrt(1 - from);
    const variance = eta ** 2 * ((1 - to) / (1 - from)) * (1 - from / to);
    const cx = Math.sqrt(Math.max(0, 1 - to - variance)) / sigma;
    return { t, alpha, sigma, cx, c0: Math.sqrt(to) - cx * alpha, c1: 0, cz: Math.sqrt(variance) };
  });
});
