/**
 * Class names. A label is a position in a list of names, and two data sets, or a data set and a model, need not have the same list: where
 * they meet, classes are matched by name.
 */
import { checkArguments } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import type { DatasetFacts } from './types.ts';

/** Orders names as people do: numbers in them by value (class 2 before class 10), the rest by code unit. */
export function naturalOrder(a: string, b: string): number {
  const [x = [], y = []] = [a, b].map((name): string[] => name.match(/\d+|\D+/g) ?? []);
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    const [p, q] = [x[i]!, y[i]!];
    const both = /^\d/.test(p) && /^\d/.test(q);
    const byValue = both ? Number(BigInt(p) > BigInt(q)) - Number(BigInt(p) < BigInt(q)) : 0;
    const order = byValue || (both ? 0 : byCodeUnit(p, q));
    if (order !== 0) return order;
  }
  return x.length - y.length || byCodeUnit(a, b);
}

const byCodeUnit = (a: string, b: string) => Number(a > b) - Number(a < b);

/** Names as messages show them. */
export function showNames(names: readonly string[]): string {
  const shown = names.slice(0, 20).map((name) => JSON.stringify(name.slice(0, 80)));
  return `${shown.join(', ')}${names.length > shown.length ? `, … (${names.length})` : ''}`;
}

/** The names of classes that have none: their numbers. */
export function numbered(classes: number): string[] {
  return Array.from({ length: classes }, (_, i) => String(i));
}

/**
 * The labels of a data set in another list of classes, matched by name. Names that no image has need not be there.
 * @param whose 'the model', 'the training images': who has the other list, in messages
 * @throws PhoenixError ERR_PHOENIX_DATA naming the classes that the other list lacks, or has twice
 */
export function matchClasses(
  facts: Pick<DatasetFacts, 'name' | 'labels' | 'classNames'>,
  others: readonly string[],
  whose: string,
): Int32Array {
  checkArguments('matchClasses', { facts, others }, { facts: { classNames: 'list' }, others: 'list' });
  const { name, labels, classNames } = facts;
  if (!labels) throw new PhoenixError('ERR_PHOENIX_DATA', `${name} has no classes, and ${whose} has ${showNames(others)}.`);
  const same = classNames.length === others.length && classNames.every((own, i) => own === others[i]);
  const places = classNames.map((own, i) => (same ? i : placeOf(own, others)));
  const lacking = [...new Set(labels)].filter((label) => places[label] === undefined);
  if (lacking.length === 0) return labels.map((label) => places[label]!);
  const names = lacking.sort((a, b) => a - b).map((label) => classNames[label] ?? `number ${label}`);
  throw new PhoenixError(
    'ERR_PHOENIX_DATA',
    `${name} has images of ${showNames(names)}, which is not, or not once, among the classes of ${whose}: ${showNames(others)}. Classes are matched by name: rename them, or leave these images out.`,
  );
}

const placeOf = (name: string, list: readonly string[]) =>
  list.indexOf(name) === list.lastIndexOf(name) && list.includes(name) ? list.indexOf(name) : undefined;

/**
 * The class that is asked for: by its name, or by its number from 0 where no class has a number for a name.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT listing the classes
 */
export function classNamed(wanted: string, names: readonly string[]): number {
  const place = placeOf(wanted, names);
  if (place !== undefined) return place;
  const isNumber = (text: string) => /^\d+$/.test(text);
  if (isNumber(wanted) && !names.some(isNumber) && Number(wanted) < names.length) return Number(wanted);
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `There is no class ${JSON.stringify(wanted)}: the classes are ${showNames(names)}.`);
}
