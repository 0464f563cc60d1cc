/** Data sets: `openDataset` finds the kind of a path, reads its images and brings them to one size and number of channels. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { PhoenixError } from '../../errors.ts';
import { everyPosition, groupBy, type ImageSize, imageBytes, inTurn, valuesAt } from '../../images.ts';
import { cifar10 } from './cifar10.ts';
import { folder } from './folder.ts';
import { idx } from './idx.ts';
import { convertChannels, resizer } from './pixels.ts';
import type { ImageStream, Listing, Reader, Size } from './reader.ts';
import { records } from './records.ts';
import { fileError } from './stream.ts';
import { synthetic } from './synthetic.ts';
import type { Dataset } from './types.ts';

export type { Dataset } from './types.ts';

/** All readers, in the order in which a path is offered to them. */
export const readers: Record<string, Reader> = { synthetic, cifar10, idx, records, folder };

const SIDES = { min: 4, max: 1024 };
/** Bytes of pixels between turns of the event loop: a few milliseconds of scaling. */
const PAUSE = 64 * 1024;

export type DatasetOptions = {
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
};

/**
 * Opens `synthetic`, `synthetic:N`, a CIFAR-10 folder (binary version), idx files, site-labelled records, or an image folder. The pixels come
 * in by streams and are held once.
 * @throws PhoenixError ERR_PHOENIX_DATA for data that is missing, damaged or of no known kind, ERR_PHOENIX_ARGUMENT for an option out of its
 * range, ERR_PHOENIX_MEMORY, ERR_PHOENIX_IO
 */
export async function openDataset(path: string, options: DatasetOptions = {}): Promise<Dataset> {
  const { split = 'train', channels, limit } = options;
  const size = typeof options.size === 'number' ? { height: options.size, width: options.size } : options.size;
  checkOptions(size, channels, limit, split);
  try {
    const reader = await findReader(path);
    const listing = await reader.list(path, { split, size, channels });
    const positions = limit === undefined || limit >= listing.count ? everyPosition(listing.count) : spread(listing, limit);
    const stream = await listing.open(positions);
    const shape = { height: size?.height ?? stream.height, width: size?.width ?? stream.width, channels: channels ?? stream.channels };
    const count = positions.length;
    const labels = listing.labels && valuesAt(listing.labels, positions);
    const sites = listing.sites && valuesAt(listing.sites, positions);

    const hash = createHash('sha256').update(JSON.stringify({ ...shape, count, labels: labels !== undefined, sites: sites !== undefined }));
    const pixels = allocate(path, count, shape);
    await fill(path, pixels, stream, shape, (image) => hash.update(image));
    for (const column of [labels, sites]) if (column) hash.update(new Uint8Array(column.buffer));
    const name = reader === synthetic ? 'synthetic' : basename(resolve(path));
    const { classNames, siteNames } = listing;
    return { name, ...shape, count, pixels, labels, classNames, sites, siteNames, fingerprint: hash.digest('hex') };
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

async function findReader(path: string): Promise<Reader> {
  const entries = await readdir(path).catch((cause) => {
    if (cause.code === 'ENOENT' || cause.code === 'ENOTDIR') return undefined;
    throw cause;
  });
  for (const reader of Object.values(readers)) if (await reader.detect(path, entries?.sort())) return reader;
  const found = existsSync(path) ? 'is no data set that Phoenix knows' : 'does not exist';
  const looked = Object.values(readers).map(({ looksFor }) => `  ${looksFor}`);
  throw new PhoenixError('ERR_PHOENIX_DATA', `${path} ${found}. A data set is one of\n${looked.join('\n')}`);
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

async function fill(path: string, pixels: Uint8Array, from: ImageStream, to: Shape, each: (image: Uint8Array) => void): Promise<void> {
  const sameSize = from.height === to.height && from.width === to.width;
  const resize = sameSize ? undefined : resizer(from, to, to.channels);
  let at = 0;
  let paused = 0;
  for await (const image of from.images) {
    const converted = convertChannels(image, from.channels, to.channels);
    const ready = resize ? resize(converted) : converted;
    pixels.set(ready, at);
    at += ready.length;
    each(ready);
    // A stream whose next chunk is always there would keep the event loop waiting.
    if (at - paused < PAUSE) continue;
    paused = at;
    await new Promise((resume) => setImmediate(resume));
  }
  if (at !== pixels.length) throw new PhoenixError('ERR_PHOENIX_DATA', `${path} became shorter while it was being read.`);
}
