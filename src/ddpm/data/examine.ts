/** What a data set holds, file by file: for a person who wants to know what it is read as before anything is trained on it. */
import { createHash } from 'node:crypto';
import { relative } from 'node:path';
import { atMost, everyPosition, type ImageSet, joined, windows } from '../../images.ts';
import { describeDepth } from './folder.ts';
import { decode, decodeInRange, decoderWarning, type Header, isRejected, noValues, readHeader, readValues } from './image-file.ts';
import { findReader, openSource } from './index.ts';
import { type Extent, extentOf, parseRange, proposeRange, widest } from './range.ts';
import type { Split, Watch } from './reader.ts';
import { mapAhead } from './stream.ts';
import { findImages } from './tree.ts';
import type { DatasetNotes } from './types.ts';

/** Images decoded at a time. */
const AHEAD = 4;
/** Images of the contact sheet, and their side. */
const SHOWN = 48;
const SIDE = 64;

export type NamedCount = { name: string; count: number };

/** Images of a site, and how many of them are of each class, in the order of the classes; absent where images have no classes. */
export type SiteCount = NamedCount & { classes?: number[] };

/** Images that are stored in one way, and the least and greatest of their values. */
export type StoredAs = { mode: string; values: string; count: number; low: number | null; high: number | null };

export type Examination = DatasetNotes & {
  path: string;
  kind: string;
  split: Split;
  /** Images that can be used. */
  count: number;
  sizes: { width: number; height: number; count: number }[];
  stored: StoredAs[];
  /** Images of each class, and of each site. */
  classes: NamedCount[];
  sites: SiteCount[];
  /** Files that cannot be used, and why; files that can be, but are unusual; groups of files of equal pixels. */
  corrupt: { file: string; reason: string }[];
  odd: { file: string; what: string }[];
  duplicates: string[][];
  /** What --range may be, where the values need one. */
  range: string | null;
  /** Small copies of some images, for a contact sheet; absent if none can be used. */
  sheet?: ImageSet;
};

export type ExamineOptions = Watch & { split?: Split; range?: string };

/**
 * Looks at every image of one split.
 * @throws PhoenixError as openDataset does for what cannot be read as data at all; what is wrong with single files is part of the answer
 */
export async function examine(path: string, options: ExamineOptions = {}): Promise<Examination> {
  const { kind, reader } = await findReader(path);
  return reader.takesRange ? examineFolder(path, options) : examineRecords(path, kind, options);
}

/** One image of a folder: its header, its values or why they are not known, and a hash of its pixels. */
type Seen = { header: Header; extent?: Extent; hash: string; warning?: string };

async function examineFolder(path: string, { split = 'train', range, signal, onProgress }: ExamineOptions): Promise<Examination> {
  const tree = await findImages(path, split, signal);
  const name = (file: string) => relative(path, file);
  const corrupt: Examination['corrupt'] = [];
  const seen: Seen[] = [];
  const positions: number[] = [];
  let done = 0;
  for await (const found of mapAhead(tree.files, AHEAD, (file) => examineFile(file, signal), signal)) {
    if (isRejected(found)) corrupt.push({ file: name(found.file), reason: found.reason });
    else {
      seen.push(found);
      positions.push(done);
    }
    done++;
    onProgress?.({ stage: 'images', done, total: tree.files.length });
  }
  const proposed = proposalOf(seen);
  return {
    ...{ path, kind: 'image folder', split, count: seen.length, corrupt },
    sizes: sizesOf(seen),
    stored: storedOf(seen),
    ...countsOf(tree, positions),
    odd: seen.flatMap((found) => oddities(found).map((what) => ({ file: name(found.header.file), what }))),
    duplicates: duplicatesOf(seen, ({ hash, header }) => [hash, name(header.file)]),
    range: proposed,
    sheet: await sheetOf(seen, range ?? proposed, signal),
    leftOut: tree.leftOut,
    warnings: [...tree.warnings, ...depthWarnings(seen)],
  };
}

async function examineFile(file: string, signal: AbortSignal | undefined) {
  const header = await readHeader(file);
  if (isRejected(header)) return header;
  const read = noValues(header) ? undefined : await readValues(header, signal);
  if (read && isRejected(read)) return read;
  const pixels = read ? read.values : await decode(header, header.gray, header, signal);
  if (isRejected(pixels)) return pixels;
  const hash = createHash('sha256').update(JSON.stringify([header.height, header.width, pixels.length]));
  hash.update(new Uint8Array(pixels.buffer, pixels.byteOffset, pixels.byteLength));
  const seen: Seen = {
    header,
    extent: read && extentOf(read.values),
    hash: hash.digest('hex'),
    warning: await decoderWarning(header, signal),
  };
  return seen;
}

/** What is unusual in an image that can be used. */
function oddities({ header, extent, warning }: Seen): string[] {
  const { frames, orientation, alpha, mode, minIsWhite, depth, bits } = header;
  return [
    frames > 1 ? `${frames} frames or pages, of which the first is read` : [],
    orientation > 1 ? `turned upright by its EXIF orientation ${orientation}` : [],
    alpha ? 'transparency becomes black' : [],
    mode.startsWith('CMYK') ? 'CMYK becomes RGB' : [],
    minIsWhite ? 'its least value is white' : [],
    depth !== 'uchar' && depth !== 'ushort' ? `${describeDepth(depth, bits)}: needs a range` : [],
    depth === 'ushort' && extent && extent.high <= 0x3fff ? `uses only ${extent.low}..${extent.high} of 0..65535` : [],
    extent && !extent.isFinite ? 'holds values that are no numbers' : [],
    extent && extent.low === extent.high ? 'all of its values are equal' : [],
    warning ? `may be damaged: its decoder says "${warning}"` : [],
  ].flat();
}

/** The range that fits what was seen; null where none is needed, or none can be meant for all. */
function proposalOf(seen: Seen[]): string | null {
  const deep = seen.filter(({ header, extent }) => header.depth !== 'uchar' && extent);
  if (deep.length === 0) return null;
  const extent = deep.map((each) => each.extent!).reduce(widest);
  return (
    proposeRange(
      extent,
      deep.every(({ header }) => header.depth === 'ushort'),
    ) ?? null
  );
}

function depthWarnings(seen: Seen[]): string[] {
  const depths = new Set(seen.map(({ header }) => (header.depth === 'ushort' && header.bits === 16 ? 'whole' : header.depth)));
  const isMixed = depths.size > 1;
  const sizes = sizesOf(seen).length;
  return [
    isMixed ? 'The images have different depths: one range cannot be meant for 8 bits and for deeper images.' : [],
    sizes > 1 ? `The images have ${sizes} sizes: --size scales them to one.` : [],
  ].flat();
}

function sizesOf(seen: Seen[]): Examination['sizes'] {
  const sizes = new Map<string, Examination['sizes'][number]>();
  for (const { header } of seen) {
    const { width, height } = header;
    const key = `${width}×${height}`;
    sizes.set(key, { width, height, count: (sizes.get(key)?.count ?? 0) + 1 });
  }
  return [...sizes.values()].sort((a, b) => b.count - a.count);
}

function storedOf(seen: Seen[]): StoredAs[] {
  const groups = new Map<string, { first: Seen; count: number; extent?: Extent }>();
  for (const found of seen) {
    const { mode, depth, bits } = found.header;
    const key = `${mode} ${depth} ${bits}`;
    const group = groups.get(key);
    const extent = found.extent ? widest(group?.extent, found.extent) : group?.extent;
    groups.set(key, { first: group?.first ?? found, count: (group?.count ?? 0) + 1, extent });
  }
  const rows = [...groups.values()].map(({ first: { header }, count, extent }) => ({
    mode: header.mode,
    values: describeDepth(header.depth, header.bits),
    count,
    low: extent?.low ?? null,
    high: extent?.high ?? null,
  }));
  return rows.sort((a, b) => b.count - a.count);
}

type Columns = { classNames: string[]; labels?: Int32Array; siteNames?: string[]; sites?: Int32Array };

/** The images at some positions, of each class and of each site. */
function countsOf(
  { classNames, labels, siteNames = [], sites }: Columns,
  positions: ArrayLike<number>,
): Pick<Examination, 'classes' | 'sites'> {
  const classes = classNames.map((name) => ({ name, count: 0 }));
  const bySite = siteNames.map((name): SiteCount => ({ name, count: 0, ...(labels && { classes: classNames.map(() => 0) }) }));
  for (let i = 0; i < positions.length; i++) {
    const [label, site] = [labels?.[positions[i]!], sites?.[positions[i]!]];
    if (label !== undefined) classes[label]!.count++;
    if (site === undefined) continue;
    bySite[site]!.count++;
    if (label !== undefined) bySite[site]!.classes![label]!++;
  }
  return { classes: labels ? classes : [], sites: sites ? bySite : [] };
}

function duplicatesOf<T>(items: Iterable<T>, keyAndName: (item: T) => [string, string]): string[][] {
  const groups = new Map<string, string[]>();
  for (const item of items) {
    const [key, name] = keyAndName(item);
    const group = groups.get(key);
    if (group) group.push(name);
    else groups.set(key, [name]);
  }
  return [...groups.values()].filter((group) => group.length > 1);
}

/** Some of the images, evenly chosen, as small squares; of deep ones the values in a range, or from their least to their greatest. */
async function sheetOf(seen: Seen[], range: string | null, signal: AbortSignal | undefined): Promise<ImageSet | undefined> {
  const chosen = [...atMost(everyPosition(seen.length), SHOWN)].map((at) => seen[at]!);
  const gray = chosen.every(({ header }) => header.gray);
  const size = { height: SIDE, width: SIDE };
  const limits = range === null ? undefined : parseRange(range);
  const images: ImageSet[] = [];
  for (const { header, extent } of chosen) {
    const own: [number, number] | undefined = extent && extent.low < extent.high ? [extent.low, extent.high] : undefined;
    const given: [number, number] | undefined = limits && !limits.isPercent ? [limits.low, limits.high] : own;
    const isDeep = header.depth !== 'uchar' && given !== undefined && extent !== undefined;
    const pixels = isDeep ? await decodeInRange(header, gray, size, given, () => {}, signal) : await decode(header, gray, size, signal);
    if (!isRejected(pixels)) images.push({ ...size, channels: gray ? 1 : 3, count: 1, pixels });
  }
  return images.length > 0 ? joined(images) : undefined;
}

/** Kinds of data whose images lie in files of records: they are checked as they are opened, and looked at in windows. */
async function examineRecords(path: string, kind: string, { split = 'train', signal, onProgress }: ExamineOptions): Promise<Examination> {
  const source = await openSource(path, { split, signal, onProgress });
  const { count, width, height, channels, notes } = source;
  const size = width * height * channels;
  const hashes: string[] = [];
  let [low, high] = [255, 0];
  for await (const { pixels } of windows(source)) {
    signal?.throwIfAborted();
    for (const value of pixels) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    for (let at = 0; at < pixels.length; at += size) {
      hashes.push(
        createHash('sha256')
          .update(pixels.subarray(at, at + size))
          .digest('base64'),
      );
    }
  }
  const shown = atMost(everyPosition(count), SHOWN);
  return {
    ...{ path, kind, split, count, corrupt: [], odd: [], range: null },
    sizes: [{ width, height, count }],
    stored: [{ mode: channels === 1 ? 'gray' : 'RGB', values: describeDepth('uchar', 8), count, low, high }],
    ...countsOf(source, everyPosition(count)),
    duplicates: duplicatesOf(hashes.entries(), ([at, hash]) => [hash, `image ${at}`]),
    sheet: { count: shown.length, width, height, channels, pixels: await source.read(shown) },
    leftOut: notes?.leftOut ?? [],
    warnings: notes?.warnings ?? [],
  };
}
