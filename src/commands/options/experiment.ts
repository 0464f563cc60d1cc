/** The options of `phoenix experiment`: a grid of trainings, scored and compared. */
import { machine, stealLock } from './common.ts';
import { flag, number, text } from './kinds.ts';
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
};
