/** The options of `phoenix finish`: a run ends, with its learning rate falling. */
import { integer, text } from './kinds.ts';
import { headed, option, required } from './option.ts';

export const finishTable = headed('Run', {
  dir: option({ kind: text('dir'), default: required, positional: true, help: 'run folder, or the folder of a federation of sites' }),
  over: option({
    kind: integer(1, 1_000_000),
    default: undefined,
    defaultText: 'a quarter of the rounds done',
    unit: 'rounds',
    help: 'rounds over which the learning rate falls to 0; the run ends with them',
  }),
});
