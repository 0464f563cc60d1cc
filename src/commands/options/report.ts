/** The options of `phoenix report`: the page of a run. */
import { formats } from '../../outputs.ts';
import { outputKind, text } from './kinds.ts';
import { headed, option, required } from './option.ts';

export const reportTable = headed('Files', {
  dir: option({ kind: text('dir'), default: required, positional: true, help: 'run folder' }),
  out: option({
    kind: outputKind(formats.html),
    default: undefined,
    defaultText: 'report.html in the run folder',
    help: 'the file to write: for a run folder that takes none',
  }),
});
