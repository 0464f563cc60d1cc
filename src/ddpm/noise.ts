/**
 * The noise schedule: how much of an image is left at diffusion time t. x_t = √ᾱ_t·x0 + √(1-ᾱ_t)·z (Ho et al. 2020, eq. 4), t = 0..T-1,
 * ᾱ_t = Π_{s≤t} (1-β_s). Everything in float64.
 */
import { checkArguments } from '../arguments.ts';
import { PhoenixError } from '../errors.ts';

export type NoiseOptions = {
  /** How β grows: linearly (Ho et al. 2020) or so that ᾱ follows a squared cosine (Nichol & Dhariwal 2021, eq. 17). @default 'linear' */
  kind?: 'linear' | 'cosine';
  /** T, the number of diffusion times, 1..100000. @default 1000 */
  steps?: number;
  /** β of the first and last time, 0 < betaStart ≤ betaEnd < 1; 'linear' only. @default 1e-4 */
  betaStart?: number;
  /** @default 0.02 */
  betaEnd?: number;
  /** What the network predicts: the noise, the image, or v = √ᾱ·z - √(1-ᾱ)·x0 (Salimans & Ho 2022). @default 'eps' */
  prediction?: 'eps' | 'x0' | 'v';
  /** How the model is to be sampled where the options of a sampler do not say otherwise. @default the defaults of Sampling */
  sampling?: Partial<Sampling>;
};

/** The times that a sampler visits: see `transitions` in schedulers/step.ts. */
export const spacings = ['leading', 'trailing', 'linspace'] as const;
export type Spacing = (typeof spacings)[number];

/** What a model's own files say of its sampling. */
export type Sampling = {
  /** Whether predicted images are clipped to [-1,1]. @default true */
  clip: boolean;
  /** The variance of ddpm. @default 'large' */
  variance: 'large' | 'small';
  /** @default undefined: each sampler has one of its own */
  spacing?: Spacing;
  /** Added to every time of leading spacing. @default 0 */
  offset: number;
  /** Whether the last step of ddim ends at the image (true), or keeps the noise of t = 0. @default true */
  toImage: boolean;
};

export const usualSampling: Sampling = { clip: true, variance: 'large', offset: 0, toImage: true };

/** A noise schedule and what goes with it, every field present. */
export type NoiseSettings = Required<Omit<NoiseOptions, 'sampling'>> & { sampling: Sampling };

export type Noise = NoiseSettings & {
  /** T values in (0,1). */
  betas: Float64Array;
  /** T values, falling, in (0,1). */
  alphaBar: Float64Array;
};

const kinds = ['linear', 'cosine'];
const predictions = ['eps', 'x0', 'v'];

/** @throws PhoenixError ERR_PHOENIX_CONFIG naming the option that is wrong. */
export function noise(options: NoiseOptions = {}): Noise {
  checkArguments('noise', { options }, { options: 'object' });
  const { kind = 'linear', steps = 1000, betaStart = 1e-4, betaEnd = 0.02, prediction = 'eps' } = options;
  const check = (field: keyof NoiseOptions, valid: boolean, expected: string) => {
    if (!valid)
      throw new PhoenixError(
        'ERR_PHOENIX_CONFIG',
        `Noise schedule: ${field} is ${JSON.stringify(options[field])}; it must be ${expected}.`,
      );
  };
  check('kind', kinds.includes(kind), `one of ${kinds.join(', ')}`);
  check('prediction', predictions.includes(prediction), `one of ${predictions.join(', ')}`);
  check('steps', Number.isInteger(steps) && steps >= 1 && steps <= 100_000, 'a whole number, 1 to 100000');
  check('betaStart', betaStart > 0 && betaStart < 1, 'a number above 0 and below 1');
  check('betaEnd', betaEnd >= betaStart && betaEnd < 1, `a number from betaStart (${betaStart}) up to, but not including, 1`);

  const sampling: Sampling = { ...usualSampling, ...options.sampling };
  const { clip, variance, spacing, offset, toImage } = sampling;
  check(
    'sampling',
    [clip, toImage].every((value) => typeof value === 'boolean'),
    'clip and toImage true or false',
  );
  check('sampling', variance === 'large' || variance === 'small', 'variance large or small');
  check('sampling', spacing === undefined || spacings.includes(spacing), `spacing one of ${spacings.join(', ')}`);
  check('sampling', Number.isInteger(offset) && offset >= 0 && offset < steps, 'offset a whole number from 0, below steps');

  const betas = kind === 'linear' ? linearBetas(steps, betaStart, betaEnd) : cosineBetas(steps);
  const alphaBar = new Float64Array(steps);
  let product = 1;
  for (const [t, beta] of betas.entries()) alphaBar[t] = product *= 1 - beta;
  return { kind, steps, betaStart, betaEnd, prediction, sampling, betas, alphaBar };
}

function linearBetas(steps: number, start: number, end: number): Float64Array {
  const stride = steps > 1 ? (end - start) / (steps - 1) : 0;
  return Float64Array.from({ length: steps }, (_, t) => start + t * stride);
}

/** β_t = min(1 - f((t+1)/T)/f(t/T), 0.999), f(u) = cos²((u+s)/(1+s)·π/2), s = 0.008: Nichol & Dhariwal 2021, eq. 17. */
function cosineBetas(steps: number): Float64Array {
  const f = (u: number) => Math.cos((((u + 0.008) / 1.008) * Math.PI) / 2) ** 2;
  return Float64Array.from({ length: steps }, (_, t) => Math.min(1 - f((t + 1) / steps) / f(t / steps), 0.999));
}
