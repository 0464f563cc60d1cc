/** The data of a command: opened, told in one line, kept apart from what the command writes; and what checkpoints keep of it. */
import { realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';
import {
  type Dataset,
  type DatasetFacts,
  type DatasetOptions,
  type DatasetSource,
  describeData,
  emptyClasses,
  findReader,
  openSource,
} from '../ddpm/data/index.ts';
import { PhoenixError } from '../errors.ts';
import { exists } from '../files.ts';
import { sourceOfSet } from '../images.ts';
import type { DataEvents } from './events.ts';

/**
 * Opens the path of a data set, or takes one that is open, and says what it is.
 * @throws PhoenixError what openSource throws, ERR_PHOENIX_CONFIG for options that a path would need
 */
export async function openData(
  data: string | Dataset,
  options: Omit<DatasetOptions, 'signal' | 'onProgress'>,
  { signal, onRead, onMessage }: DataEvents,
): Promise<DatasetSource> {
  const isPath = typeof data === 'string';
  const dataset = isPath ? await openSource(data, { ...options, signal, onProgress: onRead }) : sourceOfSet(data);
  onMessage?.({ level: 'info', text: describeData(dataset) });
  for (const text of dataset.notes?.warnings ?? []) onMessage?.({ level: 'warning', text });
  return dataset;
}

/** @throws PhoenixError ERR_PHOENIX_CONFIG for options that say how to read a path, where the data is open already */
export function requirePath(data: unknown, options: Record<string, unknown>): void {
  const given = Object.keys(options).filter((name) => options[name] !== undefined);
  if (typeof data === 'string' || given.length === 0) return;
  throw new PhoenixError(
    'ERR_PHOENIX_CONFIG',
    `${given.join(' and ')} with a Dataset: size, limit and range go with the path of one. Give them to openDataset.`,
  );
}

/** Warns where images are not on the range that a model was trained on: equal pixels are not equal values then. */
export function compareRanges(
  trained: [number, number] | undefined,
  own: [number, number] | undefined,
  onMessage: DataEvents['onMessage'],
): void {
  if (trained === undefined || trained.join() === own?.join()) return;
  const text = `The model was trained on values ${trained.join(',')} as 0..255, and these images are ${own ? `on ${own.join(',')}` : 'as they are'}.`;
  onMessage?.({ level: 'warning', text });
}

/** What a model keeps that was trained further on images of these classes: their range, and the classes that had none before either. */
export function tunedMetadata(
  range: [number, number] | undefined,
  classes: Int32Array | undefined,
  before: number[],
): Record<string, string> {
  return metadataOf(
    range,
    before.filter((label) => !classes?.includes(label)),
  );
}

const metadataOf = (range: [number, number] | undefined, empty: number[]): Record<string, string> => ({
  ...(range && { range: JSON.stringify(range) }),
  ...(empty.length > 0 && { emptyClasses: JSON.stringify(empty) }),
});

/** @throws PhoenixError ERR_PHOENIX_CONFIG if a run would be written among the images that it reads */
export async function requireApart(data: unknown, out: string): Promise<void> {
  if (typeof data !== 'string' || !(await exists(data))) return;
  const within = `${await realpath(data)}${sep}`;
  const target = `${await realOf(resolve(out))}${sep}`;
  if (!target.startsWith(within) || (await findReader(data)).kind !== 'folder') return;
  throw new PhoenixError(
    'ERR_PHOENIX_CONFIG',
    `The run folder ${out} (--out) lies inside the data ${data} (--data), and its pictures would be taken for data. Name a folder elsewhere.`,
  );
}

/** A path with the links of the folders that are there already followed. */
async function realOf(path: string): Promise<string> {
  if (await exists(path)) return realpath(path);
  const parent = dirname(path);
  return parent === path ? path : join(await realOf(parent), basename(path));
}

/** What a checkpoint keeps of the data that its model was trained on: sources.ts reads it. */
export function dataMetadata(dataset: Pick<DatasetFacts, 'range' | 'labels' | 'classNames'>): Record<string, string> {
  return metadataOf(dataset.range, emptyClasses(dataset));
}
