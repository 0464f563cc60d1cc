/** What is said about a data set: one line of what was read and what was not, and classes without images. */
import { showRange } from './range.ts';
import type { DatasetFacts } from './types.ts';

const MAX_NAMED = 10;

/** Classes that no image has, ascending. */
export function emptyClasses({ labels, classNames }: Pick<DatasetFacts, 'labels' | 'classNames'>): number[] {
  const present = new Set(labels);
  return labels ? classNames.flatMap((_, label) => (present.has(label) ? [] : [label])) : [];
}

/** 'Class 0 (bird) has no images.' */
export function describeEmpty(empty: number[], classNames: string[]): string {
  const shown = empty.slice(0, MAX_NAMED).map((label) => `${label} (${classNames[label]})`);
  const names = `${shown.join(', ')}${empty.length > shown.length ? ', …' : ''}`;
  const which = empty.length === 1 ? `Class ${names} has` : `${empty.length} classes of ${classNames.length} have`;
  return `${which} no images${empty.length === 1 ? '' : `: ${names}`}.`;
}

/** 'data: 24 images 16×16 RGB, 2 classes; left out: 12 deeper down, 3 of unknown kind' */
export function describeData({ count, height, width, channels, classNames, siteNames, sites, labels, range, notes }: DatasetFacts): string {
  const parts = [`data: ${count} ${count === 1 ? 'image' : 'images'} ${width}×${height} ${channels === 1 ? 'gray' : 'RGB'}`];
  const classes = labels ? new Set(labels).size : 0;
  if (labels && classNames.length > 0) parts.push(`${classes} ${classes === 1 ? 'class' : 'classes'}`);
  const present = new Set(sites).size;
  if (siteNames) parts.push(`${present === siteNames.length ? present : `${present} of ${siteNames.length}`} sites`);
  if (range) parts.push(`values ${showRange(range)} as 0..255`);
  const leftOut = (notes?.leftOut ?? []).map(({ count, what }) => `${count} ${what}`);
  return `${parts.join(', ')}${leftOut.length > 0 ? `; left out: ${leftOut.join(', ')}` : ''}`;
}
