/**
 * Personal layers: parameters that each client keeps, never uploads and never averages, as in FedPer (Arivazhagan et al. 2019). They are
 * named by glob patterns over the parameters' names; what they leave is the shared part, the only part that travels.
 */
import type { ParameterEntry } from '../../bindings/native.ts';
import { PhoenixError } from '../../errors.ts';

/**
 * Patterns by name. `last` in a pattern stands for the highest number there. 'head' is ours; 'fedper' is the output head alone (Arivazhagan
 * et al. 2019: the last layers); 'encoder-local' is UDec of FedDiffuse (arXiv 2406.12575: only the decoder travels; here the time embedding
 * does too); 'norm-local' is FedBN (Li et al. 2021) for GroupNorm.
 */
export const personalPresets = {
  head: ['up_blocks.last.*', 'conv_norm_out.*', 'conv_out.*'],
  fedper: ['conv_norm_out.*', 'conv_out.*'],
  'encoder-local': ['conv_in.*', 'down_blocks.*', 'mid_block.*'],
  'norm-local': ['*norm*'],
} as const;

/**
 * The patterns that an option means: none, a preset's, or those given, separated by commas.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for an empty pattern, too many or too long ones
 */
export function parsePersonal(text: string): string[] | undefined {
  if (text === 'none') return undefined;
  if (Object.hasOwn(personalPresets, text)) return [...personalPresets[text as keyof typeof personalPresets]];
  const patterns = text.split(',').map((pattern) => pattern.trim());
  if (patterns.length <= 64 && patterns.every((pattern) => pattern !== '' && pattern.length <= 200)) return patterns;
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `Personal layers are none, one of ${Object.keys(personalPresets).join(', ')}, or up to 64 patterns of 1 to 200 characters, separated by commas, not ${JSON.stringify(text.slice(0, 80))}.`,
  );
}

/** Whether `name` fits: `*` stands for any characters, dots too, and the rest for itself. Linear in both, whatever the pattern. */
function fits(name: string, pattern: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  if (rest.length === 0) return name === pattern;
  const last = rest.pop()!;
  if (!name.startsWith(first) || !name.endsWith(last) || name.length < first.length + last.length) return false;
  let at = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= name.length - last.length;
}

/** The parameter vector in two parts, each as pairs (offset, count) in the order of the vector. */
export type ParameterSplit = {
  personal: Float64Array;
  shared: Float64Array;
  personalCount: number;
  sharedCount: number;
  /** The personal parameters. */
  names: string[];
};

/** @throws PhoenixError ERR_PHOENIX_CONFIG for a pattern that fits no parameter, or patterns that leave nothing to share */
export function splitParameters(parameters: ParameterEntry[], patterns: string[]): ParameterSplit {
  const ordered = parameters.toSorted((a, b) => a.offset - b.offset);
  const resolved = patterns.map((pattern) => resolveLast(pattern, ordered));
  const idle = resolved.findIndex((pattern) => !ordered.some(({ name }) => fits(name, pattern)));
  if (idle >= 0) {
    const some = ordered.slice(0, 3).map(({ name }) => name);
    throw new PhoenixError('ERR_PHOENIX_CONFIG', `The pattern ${patterns[idle]} fits none of the parameters (${some.join(', ')}, …).`);
  }
  const isPersonal = ({ name }: ParameterEntry) => resolved.some((pattern) => fits(name, pattern));
  const personal = ordered.filter(isPersonal);
  const shared = ordered.filter((entry) => !isPersonal(entry));
  if (shared.length === 0)
    throw new PhoenixError('ERR_PHOENIX_CONFIG', `The patterns ${patterns.join(', ')} fit every parameter, so nothing is left to share.`);
  return {
    personal: rangesOf(personal),
    shared: rangesOf(shared),
    personalCount: personal.reduce((sum, { count }) => sum + count, 0),
    sharedCount: shared.reduce((sum, { count }) => sum + count, 0),
    names: personal.map(({ name }) => name),
  };
}

function resolveLast(pattern: string, parameters: ParameterEntry[]): string {
  const [before, after] = pattern.split('.last.');
  if (after === undefined) return pattern;
  const numbers = parameters
    .filter(({ name }) => name.startsWith(`${before}.`))
    .map(({ name }) => Number.parseInt(name.slice(before!.length + 1), 10));
  return `${before}.${numbers.reduce((a, b) => Math.max(a, b), -1)}.${after}`;
}

function rangesOf(entries: ParameterEntry[]): Float64Array {
  const ranges: [number, number][] = [];
  for (const { offset, count } of entries) {
    const last = ranges.at(-1);
    if (last && last[0] + last[1] === offset) last[1] += count;
    else ranges.push([offset, count]);
  }
  return Float64Array.from(ranges.flat());
}
