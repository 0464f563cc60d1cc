/**
 * The noise schedule, and how a model is to be sampled, in diffusers' fields: scheduler_config.json. The samplers here are chosen by name,
 * whatever class the file is of; what its fields say of noise, clipping, variance and times is honoured, refused or named.
 */
import { z } from 'zod';
import { type Noise, type NoiseOptions, type NoiseSettings, noise, type Sampling } from '../noise.ts';
import { asCheckpointError, count, diffusersVersion, parseFields, warnOfUnknown } from './fields.ts';
import { quote } from './safetensors.ts';
import { refused } from './weights.ts';

const predictionTypes = { eps: 'epsilon', x0: 'sample', v: 'v_prediction' } as const;

/** Fields that are not those of every model are left out, and diffusers takes its defaults for them, which are the same. */
export function diffusersScheduler(options: NoiseOptions): object {
  const { kind, steps, betaStart, betaEnd, prediction, sampling } = noise(options);
  return {
    _class_name: 'DDPMScheduler',
    _diffusers_version: diffusersVersion,
    beta_end: betaEnd,
    beta_schedule: kind === 'linear' ? 'linear' : 'squaredcos_cap_v2',
    beta_start: betaStart,
    clip_sample: sampling.clip,
    clip_sample_range: 1,
    dynamic_thresholding_ratio: 0.995,
    num_train_timesteps: steps,
    prediction_type: predictionTypes[prediction],
    rescale_betas_zero_snr: false,
    sample_max_value: 1,
    ...(!sampling.toImage && { set_alpha_to_one: false }),
    steps_offset: sampling.offset,
    thresholding: false,
    ...(sampling.spacing && { timestep_spacing: sampling.spacing }),
    trained_betas: null,
    variance_type: sampling.variance === 'large' ? 'fixed_large' : 'fixed_small',
  };
}

/** What a class of schedulers does where its file does not say, and whether a sampler here is of its kind. */
type SchedulerClass = { clips: boolean; spacing?: Sampling['spacing']; here: boolean };

/** Schedulers whose noise is given by betas. */
const schedulerClasses: Record<string, SchedulerClass> = {
  DDPMScheduler: { clips: true, here: true },
  DDIMScheduler: { clips: true, here: true },
  PNDMScheduler: { clips: false, here: false },
  DEISMultistepScheduler: { clips: false, spacing: 'linspace', here: false },
  DPMSolverMultistepScheduler: { clips: false, spacing: 'linspace', here: true },
  DPMSolverSinglestepScheduler: { clips: false, spacing: 'linspace', here: false },
  UniPCMultistepScheduler: { clips: false, spacing: 'linspace', here: false },
};

const off = z.literal(false, 'expected false: the samplers here do not have it').default(false);

const schedulerFields = z.object({
  _class_name: z.enum(Object.keys(schedulerClasses)).default('DDPMScheduler'),
  num_train_timesteps: count.default(1000),
  beta_start: z.number().default(1e-4),
  beta_end: z.number().default(0.02),
  beta_schedule: z.enum(['linear', 'squaredcos_cap_v2']).default('linear'),
  trained_betas: z.null().default(null),
  prediction_type: z.enum(['epsilon', 'sample', 'v_prediction']).default('epsilon'),
  rescale_betas_zero_snr: z.literal(false).default(false),
  snr_shift_scale: z.literal(1).nullable().default(null),
  use_flow_sigmas: off,
  thresholding: off,
  clip_sample: z.boolean().optional(),
  clip_sample_range: z.number().default(1),
  variance_type: z
    .enum(['fixed_small', 'fixed_small_log', 'fixed_large'], 'expected fixed_small, fixed_small_log or fixed_large')
    .nullable()
    .default(null),
  timestep_spacing: z.enum(['leading', 'trailing', 'linspace']).optional(),
  steps_offset: z.int().min(0).default(0),
  set_alpha_to_one: z.boolean().default(true),
});

/** Fields of samplers that are not here, each with the values that change nothing: any other is named in a warning. */
const otherSamplers: Record<string, readonly unknown[]> = {
  algorithm_type: ['dpmsolver++', 'deis'],
  disable_corrector: [[]],
  euler_at_final: [false],
  final_sigmas_type: ['zero', null],
  lambda_min_clipped: ['-Infinity', null],
  lower_order_final: [true],
  predict_x0: [true],
  shift_terminal: [null],
  sigma_max: [null],
  sigma_min: [null],
  skip_prk_steps: [true, false],
  solver_order: [2],
  solver_p: [null],
  solver_type: ['midpoint', 'bh2', 'logrho'],
  use_beta_sigmas: [false],
  use_dynamic_shifting: [false],
  use_exponential_sigmas: [false],
  use_karras_sigmas: [false],
  use_lu_lambdas: [false],
};

/** Fields that go with others which are refused or off. */
const idleFields = [
  'dynamic_thresholding_ratio',
  'flow_shift',
  'sample_max_value',
  'tensor_format',
  'time_shift_type',
  'timestep_values',
  'timesteps',
];

/** diffusers' fields as settings. Fields that are not honoured, and change samples in diffusers, are named in `warnings`. */
export function parseScheduler(where: string, json: unknown, warnings: string[]): NoiseSettings {
  const fields = parseFields(where, schedulerFields, json);
  const named = schedulerClasses[fields._class_name]!;
  const clip = fields.clip_sample ?? named.clips;
  if (clip && fields.clip_sample_range !== 1)
    throw refused(
      where,
      `clip_sample_range is ${quote(fields.clip_sample_range)}, and predicted images are clipped to 1 here or not at all: set it to 1, or clip_sample to false`,
    );
  warnOfOthers(where, json as Record<string, unknown>, named, warnings);
  const predictions = { epsilon: 'eps', sample: 'x0', v_prediction: 'v' } as const;
  const settings: NoiseSettings = {
    kind: fields.beta_schedule === 'linear' ? 'linear' : 'cosine',
    steps: fields.num_train_timesteps,
    betaStart: fields.beta_start,
    betaEnd: fields.beta_end,
    prediction: predictions[fields.prediction_type],
    sampling: {
      clip,
      variance: fields.variance_type === 'fixed_large' ? 'large' : 'small',
      ...spacingOf(fields.timestep_spacing ?? named.spacing),
      offset: fields.steps_offset,
      toImage: fields.set_alpha_to_one,
    },
  };
  asCheckpointError(where, (): Noise => noise(settings));
  return settings;
}

const spacingOf = (spacing: Sampling['spacing']) => (spacing === undefined ? {} : { spacing });

function warnOfOthers(where: string, json: Record<string, unknown>, named: SchedulerClass, warnings: string[]): void {
  const known = [...Object.keys(schedulerFields.shape), ...Object.keys(otherSamplers), ...idleFields];
  warnOfUnknown(where, json, known, warnings);
  const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
  const changed = Object.entries(otherSamplers).filter(
    ([field, idle]) => Object.hasOwn(json, field) && !idle.some((value) => same(value, json[field])),
  );
  if (changed.length > 0) {
    const shown = changed.map(([field]) => `${field} (${quote(json[field])})`).join(', ');
    warnings.push(`${where}: the samplers here do not have ${shown}, so samples differ from those of diffusers.`);
  }
  if (!named.here)
    warnings.push(
      `${where}: ${json._class_name} is not among the samplers here. Its noise schedule is used, and --scheduler says what draws.`,
    );
}
