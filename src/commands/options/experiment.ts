/** The options of `phoenix experiment`: a grid of trainings, scored and compared. */
import { machine, stealLock } from './common.ts';
import { flag, integer, number, text } from './kinds.ts';
import { headed, option, required } from './option.ts';

export const experimentTable = {
  ...headed('Experiment', {
    grid: option({
      kind: text('grid'),
      default: required,
      positional: true,
      help: 'a grid file (.json) or a preset: smoke, fashion, deeppcb-sites, cifar10',
    }),
    data: option({
      kind: text('path'),
      default: undefined,
      defaultText: "the grid's",
      help: 'dataset with training and test images, instead of the one that the grid names',
    }),
    features: option({
      kind: text('file'),
      default: undefined,
      defaultText: "the grid's, or a classifier trained on the data",
      help: 'feature network that samples are scored by (.safetensors or .onnx)',
    }),
  }),
  ...headed('Folder', {
    out: option({
      kind: text('dir'),
      default: undefined,
      defaultText: "runs/<the grid's name>",
      help: 'folder of the experiment; an existing experiment is resumed',
    }),
    resume: option({
      kind: flag,
      default: false,
      help: 'no effect: an existing experiment in --out is always resumed',
    }),
    cells: option({
      kind: text('dir'),
      default: undefined,
      defaultText: 'none',
      help: 'folder of measured cells, a small file each: those that are there are taken as done, and those that get done are put there',
    }),
    plan: option({ kind: flag, default: false, help: 'print the cost and stop' }),
    stopAfter: option({
      kind: number(0, 1e6),
      default: undefined,
      defaultText: 'never',
      unit: 'minutes',
      help: 'stop at the first commit after this time; the same command resumes',
    }),
    stealLock,
  }),
  ...machine,
  ...headed('Machine', {
    jobs: option({
      kind: integer(1, 64),
      default: 1,
      unit: 'trainings',
      help: 'trainings at once; without --threads each takes its share of the cores; does not change results',
    }),
  }),
};
