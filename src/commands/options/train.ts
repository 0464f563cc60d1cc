/** The options of `phoenix train`: central training in one place. */
import { data, hyper, lrFall, machine, model, runFolder, samples, samplesEvery, seed } from './common.ts';
import { integer, orWord } from './kinds.ts';
import { headed, option } from './option.ts';

const length = headed('Length', {
  epochs: option({
    kind: orWord(integer(1, 1_000_000), 'open'),
    default: 10,
    unit: 'passes',
    mayChange: true,
    help: 'passes over the images in total, also when resumed; open = until phoenix finish is called',
  }),
  images: option({
    kind: integer(1),
    default: undefined,
    defaultText: 'use --epochs',
    unit: 'images',
    mayChange: true,
    help: 'instead of --epochs: images to train on in total, rounded up to whole checkpoints',
  }),
  commitImages: option({
    kind: integer(1),
    default: undefined,
    defaultText: 'one pass',
    unit: 'images',
    help: 'images between two checkpoints',
  }),
});

export const trainTable = {
  ...data,
  ...model,
  ...length,
  ...headed('Training', { training: hyper, lrFall }),
  ...headed('Sample grids', { samples: { ...samples, every: samplesEvery('checkpoints') } }),
  ...headed('Machine', { seed }),
  ...machine,
  ...runFolder,
};
