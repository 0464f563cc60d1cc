/** The options of a command as commander takes them. Values are text here, and are checked once, by the command itself. */
import { type Command, Option } from 'commander';
import type { OptionRow, RawOptions } from '../commands/options/index.ts';

/** Options and arguments of one call as commander gives them: text, or true for a flag. */
export type Given = Record<string, unknown> & { json?: boolean };

/** Values of a command line that are its own: defaults in place of the table's. */
export type Own = { defaults?: RawOptions };

/** The name that an option of this flag has in a Given. */
const attributeOf = ({ flag }: OptionRow) => new Option(flag).attributeName();

const at = (options: RawOptions | undefined, path: readonly string[]) =>
  path.reduce<unknown>((value, key) => (value as RawOptions | undefined)?.[key], options);

/** Adds the options of a table to a command, under the headings of the table. */
export function addOptions(command: Command, rows: OptionRow[], own: Own): void {
  for (const row of rows) {
    if (row.positional) {
      command.argument(row.flag, row.help);
      continue;
    }
    const flags = row.placeholder ? `${row.flag} <${row.placeholder}>` : row.flag;
    command.addOption(new Option(flags, describe(row, own)).helpGroup(`${row.heading}:`));
    if (row.negatable)
      command.addOption(new Option(row.flag.replace('--', '--no-'), `do without ${row.flag}`).helpGroup(`${row.heading}:`));
  }
}

/** 'passes over the images (passes, default 10)' */
function describe(row: OptionRow, { defaults }: Own): string {
  const notes: string[] = [];
  if (row.choices) notes.push(row.choices.join(' | '));
  if (row.unit) notes.push(row.unit);
  const given = at(defaults, row.path);
  if (given !== undefined) notes.push(`default ${given}`);
  else if (row.required) notes.push('required');
  else if (row.defaultText) notes.push(`default ${row.defaultText}`);
  if (row.where === 'simulation') notes.push('simulation only');
  return notes.length > 0 ? `${row.help} (${notes.join(', ')})` : row.help;
}

/** What was given, in the groups of the table. */
export function collect(rows: OptionRow[], positionals: readonly string[], given: Given): RawOptions {
  const options: RawOptions = {};
  const inOrder = [...positionals];
  for (const row of rows) {
    const value = row.positional ? inOrder.shift() : given[attributeOf(row)];
    if (value === undefined) continue;
    const [key, inner] = row.path as [string, string?];
    if (inner === undefined) options[key] = value;
    else options[key] = { ...(options[key] as RawOptions | undefined), [inner]: value };
  }
  return options;
}
