/** Arguments of public functions, checked before they are read: a bare TypeError would say neither whose they are nor what was expected. */
import { PhoenixError } from './errors.ts';

const tests = {
  object: [(value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value), 'an object'],
  text: [(value: unknown) => typeof value === 'string', 'a text'],
  list: [(value: unknown) => Array.isArray(value), 'a list'],
  numbers: [(value: unknown) => ArrayBuffer.isView(value) || Array.isArray(value), 'an array of numbers'],
  number: [(value: unknown) => typeof value === 'number', 'a number'],
  /** A seed, or the key of a stream. */
  key: [(value: unknown) => ['number', 'bigint'].includes(typeof value), 'a number or a bigint'],
  function: [(value: unknown) => typeof value === 'function', 'a function'],
} as const;

type Plain = keyof typeof tests;
/** What an argument must be; with '?' it may be left out. An object may say what its fields must be. */
export type Kind = Plain | `${Plain}?` | { readonly [field: string]: Kind };

/** Features: a matrix as metrics take it. */
export const matrix: Kind = { data: 'numbers', rows: 'number', columns: 'number' };

/** An argument in a message. */
export function showArgument(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = typeof value === 'string' ? JSON.stringify(value) : typeof value === 'function' ? 'a function' : String(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

/**
 * Checks the arguments of a function by their names.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT naming the function, the argument, what was expected and what came
 */
export function checkArguments(where: string, values: Record<string, unknown>, kinds: Record<string, Kind>): void {
  for (const [name, kind] of Object.entries(kinds)) check(where, name, values[name], kind);
}

function check(where: string, name: string, value: unknown, kind: Kind): void {
  const isPlain = typeof kind === 'string';
  if (isPlain && kind.endsWith('?') && value === undefined) return;
  const [isOne, words] = tests[isPlain ? (kind.replace('?', '') as Plain) : 'object'];
  if (!isOne(value)) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${where}: ${name} must be ${words}, not ${showArgument(value)}.`);
  if (!isPlain)
    for (const [field, inner] of Object.entries(kind)) check(where, `${name}.${field}`, (value as Record<string, unknown>)[field], inner);
}
