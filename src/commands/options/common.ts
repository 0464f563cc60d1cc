/** Options that several commands have. */
import { hyperSchema } from '../../ddpm/fit.ts';
import { presets } from '../../ddpm/model/presets.ts';
import { dropoutSchema } from '../../ddpm/model/unet.ts';
import { schedulers } from '../../ddpm/schedulers/index.ts';
import { choice, dataKind, flag, integer, names, number, numeric, rangeKind, text, threadsKind } from './kinds.ts';
import { headed, option, required } from './option.ts';

const asPreset = { default: undefined, defaultText: 'as the preset' } as const;

/** Which values of deep images become the pixels 0 and 255. */
export const range = option({
  kind: rangeKind,
  default: undefined,
  defaultText: '8 bits as they are, 16 bits as 0,65535',
  where: 'coordinator',
  help: 'values of an image folder that become black and white, as 0,4095, or percentiles of all its values, as 0.1%,99.9%; other depths need it',
});

/** What a training reads. */
export const data = headed('Data', {
  data: option({
    kind: dataKind,
    default: required,
    mayChange: true,
    where: 'site',
    help: 'dataset, recognised by its files (docs/data.md lists the kinds), or "synthetic[:N]"',
  }),
  size: option({
    kind: integer(4, 1024),
    default: undefined,
    defaultText: 'as the data',
    unit: 'pixels',
    where: 'coordinator',
    help: 'scale images to squares of this side, and crop what sticks out',
  }),
  limit: option({
    kind: integer(1),
    default: undefined,
    defaultText: 'all',
    unit: 'images',
    where: 'site',
    help: 'use only this many images of the dataset',
  }),
  range,
});

/** What is trained. */
export const model = headed('Model', {
  preset: option({
    kind: choice(names(presets)),
    default: 'tiny',
    where: 'coordinator',
    help: `model and training defaults. ${Object.entries(presets)
      .map(([name, { summary }]) => `${name}: ${summary}`)
      .join('. ')}`,
  }),
  dropout: option({
    kind: numeric(dropoutSchema),
    ...asPreset,
    where: 'coordinator',
    help: 'probability of dropout inside residual blocks',
  }),
  classConditional: option({ kind: flag, default: false, where: 'coordinator', help: 'condition the model on the class' }),
  prediction: option({
    kind: choice(['eps', 'x0', 'v']),
    default: 'eps',
    where: 'coordinator',
    help: 'what the network predicts: the noise (eps), the image (x0) or the velocity (v)',
  }),
  schedule: option({
    kind: choice(['linear', 'cosine']),
    default: 'linear',
    where: 'coordinator',
    help: 'noise schedule of the diffusion process',
  }),
});

const ofFolder = { default: undefined, defaultText: 'as its scheduler_config.json' } as const;

/** What a diffusers folder without a scheduler_config.json does not say. */
export const assumedNoise = {
  schedule: option({
    kind: model.schedule.kind,
    ...ofFolder,
    help: 'noise schedule of a diffusers folder that does not say it; goes with --prediction',
  }),
  prediction: option({
    kind: model.prediction.kind,
    ...ofFolder,
    help: 'what the network of a diffusers folder predicts, where the folder does not say it; goes with --schedule',
  }),
};

const limits = hyperSchema.shape;

/** Hyper-parameters that are options of every training. Their limits stand in ddpm/fit.ts. */
export const hyper = {
  batch: option({ kind: numeric(limits.batch), ...asPreset, unit: 'images', where: 'coordinator', help: 'images per step' }),
  lr: option({
    kind: numeric(limits.lr),
    ...asPreset,
    where: 'coordinator',
    help: "Adam's learning rate after warm-up and before its fall",
  }),
  weightDecay: option({ kind: numeric(limits.weightDecay), default: 0, where: 'coordinator', help: 'decoupled weight decay (AdamW)' }),
  clip: option({ kind: numeric(limits.clip), ...asPreset, where: 'coordinator', help: 'largest L2 norm of the gradient; 0 = no clipping' }),
  flip: option({ kind: flag, ...asPreset, where: 'coordinator', help: 'flip images horizontally at random' }),
  emaDecay: option({
    kind: numeric(limits.emaDecay),
    ...asPreset,
    where: 'coordinator',
    help: 'largest decay per step of the moving average of the weights (EMA)',
  }),
  minSnrGamma: option({
    kind: numeric(limits.minSnrGamma),
    default: 0,
    where: 'coordinator',
    help: 'min-SNR loss weighting; 0 = off, 5 = as published',
  }),
};

/** How the learning rate of a run ends. */
export const lrFall = option({
  kind: number(0, 1),
  default: 0.5,
  where: 'coordinator',
  help: 'share of the run, at its end, over which the learning rate falls to 0 by half a cosine; 0 = it does not fall',
});

/** The sample grids of a run. `every` differs: a federation counts rounds, a training checkpoints. */
export const samples = {
  count: option({
    flag: '--samples',
    kind: integer(1, 4096),
    default: 64,
    unit: 'images',
    mayChange: true,
    where: 'coordinator',
    help: 'images in a sample grid',
  }),
  steps: option({
    flag: '--sample-steps',
    kind: integer(1, 1000),
    default: 50,
    unit: 'steps',
    mayChange: true,
    where: 'coordinator',
    help: 'steps of the sampler for grids',
  }),
  scheduler: option({ kind: choice(names(schedulers)), default: 'ddim', mayChange: true, where: 'coordinator', help: 'sampler for grids' }),
};

export function samplesEvery(unit: 'rounds' | 'checkpoints') {
  return option({
    flag: '--sample-every',
    kind: integer(0),
    default: undefined,
    defaultText: 'five times over the run',
    unit,
    mayChange: true,
    where: 'coordinator',
    help: 'how often to draw a sample grid, in addition to the one at the end; 0 = never',
  });
}

export const seed = option({ kind: integer(0), default: 0, where: 'coordinator', help: 'seed of everything random' });

/** Where to compute. */
export const machine = headed('Machine', {
  device: option({
    kind: choice(['auto', 'cpu', 'cuda']),
    default: 'auto',
    mayChange: true,
    where: 'both',
    help: 'where to compute; auto takes a GPU that computes what the CPU computes, else the CPU',
  }),
  threads: option({
    kind: threadsKind,
    default: undefined,
    defaultText: 'one for small networks, else the cores or the CPU quota',
    unit: 'threads',
    mayChange: true,
    where: 'both',
    help: 'CPU threads; does not change results',
  }),
});

export const stealLock = option({
  kind: flag,
  default: false,
  mayChange: true,
  where: 'coordinator',
  help: 'take the folder although its lock is held by a process in another container or on another machine, which cannot be looked up from here: only where that process has ended',
});

/** The folder of a run, and how it is continued. */
export const runFolder = headed('Run folder', {
  out: option({
    kind: text('dir'),
    default: undefined,
    defaultText: 'runs/<command>-<n>',
    mayChange: true,
    where: 'coordinator',
    help: 'run folder to create',
  }),
  resume: option({
    kind: flag,
    default: false,
    mayChange: true,
    where: 'coordinator',
    help: 'continue the run in --out, or begin it if there is none',
  }),
  keep: option({
    kind: integer(1),
    default: 2,
    unit: 'checkpoints',
    mayChange: true,
    where: 'coordinator',
    help: 'how many of the newest checkpoints to keep',
  }),
  stealLock,
});
