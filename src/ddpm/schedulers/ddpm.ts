import { PhoenixError } from '../../errors.ts';
import { scheduler, transitions } from './step.ts';

/**
 * Ancestral sampling (Ho et al. 2020): draws from the posterior q(x_s | x_t, x̂0), eq. 6 and 7, with β the noise between the two times,
 * 1 - ᾱ_t/ᾱ_s: over all T times it is β_t, over fewer the respaced β of Nichol & Dhariwal 2021, eq. 19. The last step draws nothing.
 */
export const ddpm = scheduler('ddpm', ['variance', 'spacing', 'offset'], (noise, steps, { variance, spacing, offset }) => {
  if (variance !== 'large' && variance !== 'small') {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `variance must be large or small, not ${JSON.stringify(variance)}.`);
  }
  return transitions(noise, steps, { spacing, offset, usual: 'leading', linspaceToZero: true }).map(({ t, from, to }) => {
    const kept = from / to;
    const beta = 1 - kept;
    return {
      t,
      alpha: Math.sqrt(from),
      sigma: Math.sqrt(1 - from),
      cx: (Math.sqrt(kept) * (1 - to)) / (1 - from),
      c0: (Math.sqrt(to) * beta) / (1 - from),
      c1: 0,
      cz: to === 1 ? 0 : Math.sqrt(variance === 'large' ? beta : (beta * (1 - to)) / (1 - from)),
    };
  });
});
