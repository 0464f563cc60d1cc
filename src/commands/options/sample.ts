/** The options of `phoenix sample`: drawing images from a trained model. */
import { spacings } from '../../ddpm/noise.ts';
import { schedulers } from '../../ddpm/schedulers/index.ts';
import { formats } from '../../outputs.ts';
import { assumedNoise, machine, seed, stealLock } from './common.ts';
import { choice, classKind, flag, integer, names, number, outputKind, text } from './kinds.ts';
import { headed, option, required } from './option.ts';

const asModel = { default: undefined, defaultText: 'as the model says' } as const;

export const sampleTable = {
  ...headed('Model', {
    source: option({
      kind: text('path'),
      default: required,
      positional: true,
      help: 'a checkpoint (.safetensors), a run folder, or a diffusers folder',
    }),
    client: option({
      kind: text('id'),
      default: undefined,
      defaultText: 'none',
      help: 'for a run with personal layers: the client whose layers to use, or * for equally many samples of every client',
    }),
    ...assumedNoise,
    raw: option({ kind: flag, default: false, help: 'sample with the raw weights instead of the EMA' }),
  }),
  ...headed('Images', {
    n: option({ kind: integer(1, 1_000_000), default: 64, unit: 'images', help: 'images to sample' }),
    class: option({
      kind: classKind,
      default: undefined,
      defaultText: 'all in turn',
      help: 'class to sample, for a class-conditional model: its name, or its number from 0 where no name is a number',
    }),
    grid: option({
      kind: outputKind(formats.png),
      default: undefined,
      defaultText: 'none, where --out is given',
      help: 'PNG file for all images as one grid',
    }),
    out: option({
      kind: text('dir'),
      default: undefined,
      defaultText: 'none, where --grid is given',
      help: 'folder for single PNG files, by class, with an index; the same command goes on where it was stopped',
    }),
    stealLock: { ...stealLock, help: `with --out: ${stealLock.help}` },
  }),
  ...headed('Sampler', {
    scheduler: option({ kind: choice(names(schedulers)), default: 'ddim', help: 'sampler' }),
    steps: option({ kind: integer(1, 100_000), default: 50, unit: 'steps', help: 'steps of the sampler' }),
    eta: option({ kind: number(0, 1), default: undefined, defaultText: '0', help: 'ddim only: the noise added, 0 = none, 1 = as ddpm' }),
    variance: option({
      kind: choice(['large', 'small']),
      ...asModel,
      help: 'ddpm only: the variance of the noise added, β (large) or that of the posterior (small)',
    }),
    spacing: option({
      kind: choice(spacings),
      default: undefined,
      defaultText: 'as the model says, else leading for ddpm and ddim, trailing for dpm-solver and for one step',
      help: 'the times that the steps visit: down to 0 (leading), from the noisiest on (trailing), or both (linspace)',
    }),
    clip: option({ kind: flag, ...asModel, help: 'clip predicted images to the range of pixels at every step' }),
    batch: option({ kind: integer(1, 65_536), default: 16, unit: 'images', help: 'images sampled at once; does not change results' }),
  }),
  ...headed('Machine', {
    seed,
    precision: option({
      kind: choice(['fp32', 'bf16']),
      default: undefined,
      defaultText: 'bf16 on CUDA, fp32 on a CPU',
      help: 'precision of products; bf16 on a CPU needs AVX512_BF16, and applies to linear layers, attention and strided convolutions',
    }),
  }),
  ...machine,
};
