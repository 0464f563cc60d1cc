/** The options of `phoenix inspect`: what a data set is read as. */
import { formats } from '../../outputs.ts';
import { range } from './common.ts';
import { choice, outputKind, text } from './kinds.ts';
import { headed, option, required } from './option.ts';

export const inspectTable = {
  ...headed('Data', {
    data: option({ kind: text('path'), default: required, positional: true, help: 'a dataset, as for --data of train' }),
    split: option({ kind: choice(['train', 'test']), default: 'train', help: 'which images to look at' }),
    range: { ...range, defaultText: 'the one that is proposed', help: 'values that are black and white on the contact sheet, as 0,4095' },
  }),
  ...headed('Page', {
    out: option({
      kind: outputKind(formats.html),
      default: undefined,
      defaultText: 'none',
      help: 'HTML page to write, with a contact sheet; it opens anywhere, without other files',
    }),
  }),
};
