/** Data sets: `openDataset` finds the kind of a path, reads its images and brings them to one size and number of channels. */

import { createHash, type Hash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { checkArguments } from '../../arguments.ts';
import { withCallbacks } from '../../callbacks.ts';
import { PhoenixError } from '../../errors.ts';
import { everyPosition, groupBy, type ImageSize, imageBytes, inTurn, sourceOfSet, valuesAt } from '../../images.ts';
import { strangerOf } from '../stranger.ts';
import { cifar10 } from './cifar10.ts';
import { folder } from './folder.ts';
import { idx } from './idx.ts';
import { describeEmpty, emptyClasses } from './notes.ts';
import { convertChannels, resizer } from './pixels.ts';
import { parseRange, type ValueRange } from './range.ts';
import type { ImageStream, Listing, Reader, Size, Watch } from './reader.ts';
import { records } from './records.ts';
import { fileError, headOf, requireFile } from './stream.ts';
import { synthetic } from './synthetic.ts';
import { endings } from './tree.ts';
import type { Dataset, DatasetFacts, DatasetSource } from './types.ts';

export { describeData, emptyClasses } from './notes.ts';
export type { ReadProgress } from './reader.ts';
export type { Dataset, DatasetFacts, DatasetNotes, DatasetSource, LeftOut } from './types.ts';

/** All readers, in the order in which a path is offered to them. */
export const readers: Record<string, Reader> = { synthetic, cifar10, idx, records, folder };

const SIDES = { min: 4, max: 1024 };
/** Bytes of pixels between turns of the event loop: a few milliseconds of scaling. */
const PAUSE = 64 * 1024;

export type DatasetOptions = Watch & {
  /**
   * Pixels, a number for squares, sides in 4..1024. Images are scaled to cover it and what sticks out is cut off evenly: an image folder by
   * Lanczos-3, other kinds by a triangle filter; synthetic images (8..64) are drawn at that size. @default the images' own size
   */
  size?: number | Size;
  /** 1 = gray, 3 = RGB. @default what the data has */
  channels?: 1 | 3;
  /**
   * Images to keep at most: by turns the next of each class (of each class and site, where there are sites), so that none is lost; whatever
   * the seed. Kept images stay in the order of the files. @default all
   */
  limit?: number;
  /** @default 'train' */
  split?: 'train' | 'test';
  /**
   * For an image folder: which values become the pixels 0 and 255, as '0,4095', or as percentiles of all values, '0.1%,99.9%'. Images of
   * other than 8 or full 16 bits need one. @default none: 8 bits as they are, 16 bits as 0..65535
   */
  range?: string;
};

/**
 * Opens `synthetic`, `synthetic:N`, a CIFAR-10 folder (binary version), idx files, site-labelled records, or an image folder. The pixels
 * come in by streams and are held once.
 * @throws PhoenixError ERR_PHOENIX_DATA for data that is missing, damaged or of no known kind, ERR_PHOENIX_ARGUMENT for an option out of
 * its range, ERR_PHOENIX_MEMORY, ERR_PHOENIX_IO
 */
export function openDataset(path: string, options: DatasetOptions = {}): Promise<Dataset> {
  checkArguments('openDataset', { path }, { path: 'text' });
  return withCallbacks('openDataset', options, (guarded) => orDataError(path, async () => load(await find(path, guarded), guarded)));
}

/**
 * The same as a source. Where pixels lie in files as they are wanted (CIFAR-10, records, idx that is not compressed, in their own size)
 * they are read through once for the fingerprint and then when they are asked for; others are held in memory.
 * @throws PhoenixError as openDataset does, and from `read`, too
 */
export function openSource(path: string, options: DatasetOptions = {}): Promise<DatasetSource> {
  checkArguments('openSource', { path }, { path: 'text' });
  return withCallbacks('openSource', options, (guarded) => source(path, guarded));
}

function source(path: string, options: DatasetOptions): Promise<DatasetSource> {
  return orDataError(path, async () => {
    const found = await find(path, options);
    if (!found.listing.inWindows || !isSameSize(found.stream, found.shape)) return sourceOfSet(await load(found, options));
    const { shape, positions, listing } = found;
    const hash = hashOf(found);
    for await (const image of watched(converted(found.stream, shape), positions.length, options)) hash.update(image);
    return {
      ...factsOf(found, hash),
      read: (wanted) =>
        orDataError(path, async () => {
          const pixels = allocate(path, wanted.length, shape);
          await fill(path, pixels, converted(await listing.open(valuesAt(positions, wanted)), shape));
          return pixels;
        }),
    };
  });
}

/** What is to be read, before any pixel is. */
type Found = {
  path: string;
  name: string;
  listing: Listing;
  /** Ascending, in the listing. */
  positions: Int32Array;
  stream: ImageStream;
  shape: Shape;
  labels?: Int32Array;
  sites?: Int32Array;
};

async function find(path: string, options: DatasetOptions): Promise<Found> {
  const { split = 'train', channels, limit, signal } = options;
  const size = typeof options.size === 'number' ? { height: options.size, width: options.size } : options.size;
  checkOptions(size, channels, limit, split);
  const range = options.range === undefined ? undefined : parseRange(options.range);
  const { reader } = await findReader(path);
  if (range && !reader.takesRange && !isWhole8(range)) {
    const found = `${path} holds pixels of 8 bits`;
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `A range is for an image folder, but ${found}. Leave it out, or pass 0,255.`);
  }
  const listing = await reader.list(path, { split, size, channels, range, signal });
  const positions = limit === undefined || limit >= listing.count ? everyPosition(listing.count) : spread(listing, limit);
  const stream = await listing.open(positions, options);
  return {
    path,
    name: reader === synthetic ? 'synthetic' : basename(resolve(path)),
    listing,
    positions,
    stream,
    shape: { height: size?.height ?? stream.height, width: size?.width ?? stream.width, channels: channels ?? stream.channels },
    labels: listing.labels && valuesAt(listing.labels, positions),
    sites: listing.sites && valuesAt(listing.sites, positions),
  };
}

/** 8 bits as they are. */
const isWhole8 = ({ low, high, isPercent }: ValueRange) => !isPercent && low === 0 && high === 255;

async function load(found: Found, watch: Watch): Promise<Dataset> {
  const { path, positions, stream, shape } = found;
  const hash = hashOf(found);
  const pixels = allocate(path, positions.length, shape);
  await fill(path, pixels, watched(converted(stream, shape), positions.length, watch), (image) => hash.update(image));
  return { ...factsOf(found, hash), pixels };
}

/** The fingerprint so far: the sizes. Pixels follow, then factsOf ends it. */
function hashOf({ shape, positions, labels, sites }: Found): Hash {
  const facts = { ...shape, count: positions.length, labels: labels !== undefined, sites: sites !== undefined };
  return createHash('sha256').update(JSON.stringify(facts));
}

function factsOf({ name, shape, positions, labels, sites, listing, stream }: Found, hash: Hash): DatasetFacts {
  for (const column of [labels, sites]) if (column) hash.update(new Uint8Array(column.buffer));
  const { classNames, siteNames, notes = { leftOut: [], warnings: [] } } = listing;
  const empty = emptyClasses({ labels, classNames });
  if (empty.length > 0) notes.warnings.push(describeEmpty(empty, classNames));
  const facts = { name, ...shape, count: positions.length, labels, classNames, sites, siteNames, range: stream.range };
  return { ...facts, notes, fingerprint: hash.digest('hex') };
}

async function orDataError<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw fileError(path, cause);
  }
}

function checkOptions(size: Size | undefined, channels: unknown, limit: number | undefined, split: string): void {
  for (const side of size ? [size.height, size.width] : []) {
    if (Number.isInteger(side) && side >= SIDES.min && side <= SIDES.max) continue;
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `size takes integers in ${SIDES.min}..${SIDES.max}, not ${side}.`);
  }
  if (![undefined, 1, 3].includes(channels as 1)) {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `channels takes 1 (gray) or 3 (RGB), not ${channels}.`);
  }
  if (limit !== undefined && !(Number.isInteger(limit) && limit >= 1)) {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `limit takes an integer of at least 1, not ${limit}.`);
  }
  if (split !== 'train' && split !== 'test') throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `split takes train or test, not ${split}.`);
}

/** The reader of a path, and its name. @throws PhoenixError ERR_PHOENIX_DATA for a path that is of no kind */
export async function findReader(path: string): Promise<{ kind: string; reader: Reader }> {
  const entries = await readdir(path).catch((cause) => {
    if (cause.code === 'ENOENT' || cause.code === 'ENOTDIR') return undefined;
    throw fileError(path, cause);
  });
  for (const [kind, reader] of Object.entries(readers)) if (await reader.detect(path, entries?.sort())) return { kind, reader };
  const found = existsSync(path) ? `is no data set that Phoenix knows${await inPlaceOf(path, entries)}` : 'does not exist';
  const looked = Object.values(readers).map(({ looksFor }) => `  ${looksFor}`);
  throw new PhoenixError('ERR_PHOENIX_DATA', `${path} ${found}. A data set is one of\n${looked.join('\n')}`);
}

/** What lies at a path in place of a data set, to continue a sentence. */
async function inPlaceOf(path: string, entries: string[] | undefined): Promise<string> {
  if (entries) return entries.length > 0 ? `: it holds ${entries.length} files and folders${endings(entries)}` : ': it is empty';
  await requireFile(path);
  const stranger = strangerOf(await headOf(path));
  return stranger ? `: ${stranger.what}. ${stranger.advice.slice(0, -1)}` : '';
}

/** `limit` positions: by turns the next image of every class, or of every class and site. */
function spread({ count, labels, sites }: Listing, limit: number): Int32Array {
  return inTurn([...groupBy(everyPosition(count), (i) => `${sites?.[i]} ${labels?.[i]}`).values()], limit);
}

type Shape = ImageSize & { channels: 1 | 3 };

function allocate(path: string, count: number, shape: Shape): Uint8Array {
  const bytes = count * imageBytes(shape);
  try {
    return new Uint8Array(bytes);
  } catch (cause) {
    const need = `${count} images of ${shape.height}×${shape.width}×${shape.channels} need ${Math.ceil(bytes / 2 ** 20)} MiB`;
    throw new PhoenixError('ERR_PHOENIX_MEMORY', `${path}: ${need}, which could not be allocated. Pass a limit or a size.`, { cause });
  }
}

const isSameSize = (a: Size, b: Size) => a.height === b.height && a.width === b.width;

/** The images of a stream in another size and number of channels. */
async function* converted(from: ImageStream, to: Shape): AsyncGenerator<Uint8Array> {
  const resize = isSameSize(from, to) ? undefined : resizer(from, to, to.channels);
  let sincePause = 0;
  for await (const image of from.images) {
    const inColour = convertChannels(image, from.channels, to.channels);
    const ready = resize ? resize(inColour) : inColour;
    yield ready;
    // A stream whose next chunk is always there would keep the event loop waiting.
    sincePause += ready.length;
    if (sincePause < PAUSE) continue;
    sincePause = 0;
    await new Promise((resume) => setImmediate(resume));
  }
}

/** Images as they come, counted; a signal stops them. */
async function* watched(images: AsyncIterable<Uint8Array>, total: number, { signal, onProgress }: Watch): AsyncGenerator<Uint8Array> {
  let done = 0;
  for await (const image of images) {
    signal?.throwIfAborted();
    yield image;
    onProgress?.({ stage: 'images', done: ++done, total });
  }
}

async function fill(
  path: string,
  pixels: Uint8Array,
  images: AsyncIterable<Uint8Array>,
  each?: (image: Uint8Array) => void,
): Promise<void> {
  let at = 0;
  for await (const image of images) {
    pixels.set(image, at);
    at += image.length;
    each?.(image);
  }
  if (at !== pixels.length) throw new PhoenixError('ERR_PHOENIX_DATA', `${path} became shorter while it was being read.`);
}
