/** The options of `phoenix finetune`: training a model on one site's images. */
import { formats } from '../../outputs.ts';
import { assumedNoise, hyper, lrFall, machine, range, seed } from './common.ts';
import { dataKind, integer, outputKind, text } from './kinds.ts';
import { headed, option, required } from './option.ts';

export const finetuneTable = {
  ...headed('Files', {
    source: option({
      kind: text('path'),
      default: required,
      positional: true,
      help: 'a run folder, a checkpoint (.safetensors), or a diffusers folder',
    }),
    data: option({
      kind: dataKind,
      default: required,
      help: "the site's images: a dataset as for federate, converted to the size and channels of the model",
    }),
    ...assumedNoise,
    range: { ...range, defaultText: 'the range that the model was trained on' },
    checkpoint: option({
      kind: outputKind(formats.safetensors),
      default: required,
      help: 'the file to write: a whole model, to sample from without --client',
    }),
  }),
  ...headed('Training', {
    epochs: option({ kind: integer(1, 1_000_000), default: 5, unit: 'passes', help: "passes over the site's images" }),
    training: {
      batch: option({ kind: hyper.batch.kind, default: 32, unit: 'images', help: 'images per step' }),
      lr: option({ kind: hyper.lr.kind, default: 1e-3, help: "Adam's learning rate before its fall" }),
    },
    lrFall: { ...lrFall, where: undefined, help: lrFall.help.replace('the run', 'the training') },
  }),
  ...headed('Machine', { seed }),
  ...machine,
};
