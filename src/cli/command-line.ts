/** What a command line is. */
import type { Command, RawOptions } from '../commands/options/index.ts';
import type { Own } from './options.ts';
import type { Terminal } from './terminal.ts';

export type CommandLine = Own & {
  /** 'site check' is the verb check of the command site, which comes before it. */
  name: string;
  description: string;
  /** Whose options it takes; absent for one that has none. */
  table?: Command;
  /** Command lines with what each does. */
  examples: readonly (readonly [what: string, line: string])[];
  /** `options` are as they were given; the command checks them. */
  run(options: RawOptions, terminal: Terminal): Promise<void>;
};
