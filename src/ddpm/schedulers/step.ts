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
import { type Noise, type Sampling, type Spacing, spacings } from '../noise.ts';

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
  /** DDPM's variance: β ('large', Ho et al.'s choice for CIFAR-10) or that of the posterior ('small'). @default as noise.sampling */
  variance?: Sampling['variance'];
  /** See `transitions`. @default as noise.sampling, else 'leading' for ddpm and ddim, 'trailing' for dpm-solver and for one step */
  spacing?: Spacing;
  /** Added to every time of leading spacing: diffusers' steps_offset. @default as noise.sampling */
  offset?: number;
  /** Whether DDIM ends at the image, or at ᾱ of t = 0: diffusers' set_alpha_to_one. @default as noise.sampling */
  toImage?: boolean;
};

export type Scheduler = {
  /**
   * @throws PhoenixError ERR_PHOENIX_ARGUMENT for steps outside 1..T, an option outside its range, or one that this scheduler does not have
   */
  (noise: Noise, steps: number, options?: SchedulerOptions): Step[];
  /** The options that it has. */
  readonly options: readonly (keyof SchedulerOptions)[];
};

/** A scheduler with options of its own. What is not given is as the model's sampling says. */
export function scheduler(
  name: string,
  own: readonly (keyof SchedulerOptions)[],
  rows: (noise: Noise, steps: number, options: SchedulerOptions) => Step[],
): Scheduler {
  const make = (noise: Noise, steps: number, options: SchedulerOptions = {}) => {
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    const foreign = given.find(([option]) => !own.includes(option as keyof SchedulerOptions));
    if (foreign)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The scheduler ${name} has no ${foreign[0]}: it has ${own.join(', ')}. Leave it out.`);
    return rows(noise, steps, { ...noise.sampling, ...Object.fromEntries(given) });
  };
  return Object.assign(make, { options: own });
}

/** From time t with ᾱ = `from` to the next, less noisy time with ᾱ = `to`; the last goes to the image itself, `to` = 1. */
export type Transition = { t: number; from: number; to: number };

/** What `transitions` goes by: options, and what a sampler has of its own. */
export type TransitionOptions = Pick<SchedulerOptions, 'spacing' | 'offset' | 'toImage'> & {
  /** The spacing where none is given, of two steps or more. */
  usual: Spacing;
  /** Whether the last time of 'linspace' is 0. */
  linspaceToZero: boolean;
};

/**
 * The times that a sampler of `steps` steps visits, most noise first.
 * 'leading': ⌊i·T/steps⌋ + offset, so that the last is the offset. Where steps divides T these are diffusers' times of that name; where it
 * does not, diffusers cuts off the noisiest times and this spreads over all.
 * 'trailing': ⌊i·T/steps⌉ - 1, so that the first is T-1 (Lin et al. 2024, table 2).
 * 'linspace': evenly from T-1 to 0, both included, or to 0 as one step more would be.
 * One step begins with noise, so it must visit T-1: 'trailing' where no spacing is given.
 */
export function transitions(noise: Noise, steps: number, options: TransitionOptions): Transition[] {
  const { offset = 0, toImage = true, usual } = options;
  if (!Number.isInteger(steps) || steps < 1 || steps > noise.steps) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `steps must be a whole number from 1 to the noise schedule's ${noise.steps}, not ${steps}.`,
    );
  }
  const spacing = options.spacing ?? (steps === 1 ? 'trailing' : usual);
  if (!spacings.includes(spacing)) {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `spacing must be leading, trailing or linspace, not ${JSON.stringify(spacing)}.`);
  }
  const times = timesOf(noise.steps, steps, { ...options, spacing, offset });
  const wrong = times.find((t, i) => t >= (times[i - 1] ?? noise.steps));
  if (wrong !== undefined)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `${steps} steps of ${spacing} spacing with offset ${offset} do not fit into ${noise.steps} times: take fewer steps.`,
    );
  if (steps === 1 && times[0] !== noise.steps - 1)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `One step of ${spacing} spacing visits t = ${times[0]} alone, where it leaves the noise that it begins with. Take spacing trailing, or more steps.`,
    );
  const last = toImage ? 1 : (noise.alphaBar[0] as number);
  const alphaBar = (t: number | undefined) => (t === undefined ? last : (noise.alphaBar[t] as number));
  return times.map((t, i) => ({ t, from: alphaBar(t), to: alphaBar(times[i + 1]) }));
}

function timesOf(all: number, steps: number, options: Pick<TransitionOptions, 'linspaceToZero'> & { spacing: Spacing; offset: number }) {
  const { spacing, offset, linspaceToZero } = options;
  const gaps = linspaceToZero ? steps - 1 : steps;
  const stride = gaps > 0 ? (all - 1) / gaps : 0;
  return Array.from({ length: steps }, (_, i) => {
    if (spacing === 'leading') return Math.floor(((steps - 1 - i) * all) / steps) + offset;
    if (spacing === 'trailing') return Math.round(((steps - i) * all) / steps) - 1;
    return i === 0 && gaps > 0 ? all - 1 : roundHalfEven((gaps - i) * stride);
  });
}

/** As NumPy rounds. */
function roundHalfEven(x: number): number {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}
