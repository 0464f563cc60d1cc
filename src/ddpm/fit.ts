/**
 * How a model is trained, in three parts: hyper-parameters (the same in every step), length (how much), and position (where on the way it
 * begins). Each hyper-parameter is declared here once; the task of a federation, native code and the presets take it by the same name.
 */
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';

const positive = z.int().min(1);
const count = z.int().min(0);
const notNegative = z.number().min(0);
const decay = z.number().min(0).lt(1);

/** Hyper-parameters with their limits. native/unet/hyper.h lists the same names and says how a step reads each. */
export const hyperSchema = z.strictObject({
  /** Images per step; may be more than there are images. */
  batch: positive.max(65_536),
  /** Learning rate after warm-up and before its fall. */
  lr: notNegative.max(10),
  /** Steps of linear warm-up, counted from `globalStep` 0: step n uses lr·min(1, (n+1)/warmupSteps). 0 = none. */
  warmupSteps: count,
  /** Decay of Adam's first moment (Kingma & Ba 2015, alg. 1). */
  beta1: decay,
  /** Decay of Adam's second moment. */
  beta2: decay,
  /** Adam's eps, added to the root of the second moment (not privacy, not predicted noise). */
  adamEps: notNegative,
  /** Decoupled weight decay (AdamW, Loshchilov & Hutter 2019); 0 = off. */
  weightDecay: notNegative.max(10),
  /** Largest gradient norm; 0 = no clipping. */
  clip: notNegative,
  /** Whether images are mirrored at random. */
  flip: z.boolean(),
  /** Min-SNR-γ loss weighting (Hang et al. 2023); 0 = off. */
  minSnrGamma: notNegative.max(1e6),
  /** FedProx μ (Li et al. 2020): μ/2·|p - anchor|² is added to the loss; 0 = off. */
  mu: notNegative,
  /** Largest decay of the per-step EMA in `session.ema`: see emaDecayAt. 0 = no EMA is kept. */
  emaDecay: decay,
});
export type Hyper = z.infer<typeof hyperSchema>;

/** Adam as it is usually set, and a clipped gradient: what a training uses where neither an option nor a preset says otherwise. */
export const plainHyper: Omit<Hyper, 'batch' | 'lr'> = {
  warmupSteps: 0,
  beta1: 0.9,
  beta2: 0.999,
  adamEps: 1e-8,
  weightDecay: 0,
  clip: 1,
  flip: false,
  minSnrGamma: 0,
  mu: 0,
  emaDecay: 0,
};

/**
 * How much is trained. `epochs`: passes over the images, each of ceil(examples/batch) full batches. `localImages`: images drawn, rounded up
 * to full batches.
 */
export const lengthSchema = z.union(
  [z.strictObject({ epochs: positive }), z.strictObject({ localImages: positive })],
  'set exactly one of epochs and localImages, an integer of at least 1',
);
export type Length = z.infer<typeof lengthSchema>;

const share = z.number().min(0).max(1);

/**
 * How the learning rate of a run ends: over the last `share` of the run it falls from lr to 0 by half a cosine (Loshchilov & Hutter 2017,
 * without restarts). A training is the part of the run from `from` to `to`, as shares of the run's length.
 */
export const fallSchema = z
  .strictObject({ share: share.gt(0), from: share, to: share })
  .refine(({ from, to }) => from <= to, 'from must not be above to');
export type Fall = z.infer<typeof fallSchema>;

/**
 * The learning rate at a place in a run, 0..1, as a multiple of lr: 1 until the fall begins, then ½·(1 + cos πx), x its share that is over.
 */
export function rateAt(progress: number, share: number): number {
  const over = (progress - (1 - share)) / share;
  return over <= 0 ? 1 : (1 + Math.cos(Math.PI * Math.min(1, over))) / 2;
}

/** Where on the way a training begins. */
export type Position = {
  /** Optimizer steps that the model has behind it, everywhere: drives warm-up and EMA. */
  globalStep: number;
  /** Steps since the optimizer's moments were zero: drives Adam's bias correction. At 0 the moments are set to zero. */
  adamStep: number;
  /** Step of the random stream to begin at: n steps and then m steps from `firstStep: n` are n + m steps. */
  firstStep: number;
};

/** The position of a model that was never trained. */
export const atStart: Position = { globalStep: 0, adamStep: 0, firstStep: 0 };

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT naming the first hyper-parameter that is wrong */
export function checkHyper(hyper: Hyper): void {
  const issue = hyperSchema.safeParse(hyper).error?.issues[0];
  if (!issue) return;
  const name = issue.path.join('.');
  const what = name ? `The hyper-parameter ${name} is ${hyper[name as keyof Hyper]}` : 'The hyper-parameters are wrong';
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${what}. ${issue.message}.`);
}

/**
 * Optimizer steps over `examples` images: epochs·ceil(examples/batch), or ceil(localImages/batch).
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a length, a batch or a number of images out of range
 */
export function plannedSteps(examples: number, batch: number, length: Length): number {
  for (const [name, value] of Object.entries({ examples, batch })) {
    if (!Number.isSafeInteger(value) || value < 1)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${name} must be an integer of at least 1, not ${value}.`);
  }
  const { error, data } = lengthSchema.safeParse(length);
  if (error) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The length is ${JSON.stringify(length)}: ${error.issues[0]!.message}.`);
  return 'epochs' in data ? data.epochs * Math.ceil(examples / batch) : Math.ceil(data.localImages / batch);
}

/** Linear warm-up over `share` of the planned steps, at most `most` steps. */
export type WarmupRule = { share: number; most: number };

export const usualWarmup: WarmupRule = { share: 0.05, most: 5000 };

/** Steps of linear warm-up for a training of `planned` steps: min(most, share·planned), so that a short run is not all warm-up. */
export function warmupSteps(planned: number, rule: WarmupRule = usualWarmup): number {
  return Math.min(rule.most, Math.floor(rule.share * planned));
}

/**
 * EMA decay of step n (counted from 0): min(max, (1+n)/(10+n)), so that a short run does not sample its initial noise. The ramp is that
 * of TensorFlow's ExponentialMovingAverage with num_updates. Native training uses the same rule with max = `emaDecay`.
 */
export function emaDecayAt(n: number, max = 0.9999): number {
  return Math.min(max, (1 + n) / (10 + n));
}

/** The decay of `steps` steps from step n on: the product of emaDecayAt(n) … emaDecayAt(n+steps-1). 1 for no steps. */
export function emaDecayOver(n: number, steps: number, max = 0.9999): number {
  let decay = 1;
  for (let step = 0; step < steps; step++) decay *= emaDecayAt(n + step, max);
  return decay;
}
