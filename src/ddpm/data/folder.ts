/**
 * A folder of images, decoded by sharp. What its sub-folders mean says tree.ts: splits, sites, classes. An image that does not decode is an
 * error that names it. Pixels: turned upright by EXIF, transparency on black, 8 bits. One channel if every image is stored as gray, else
 * RGB. With `size`, scaled with Lanczos-3 to cover it, what sticks out cut off evenly.
 *
 * Images of 8 bits are taken as they are, and of 16 bits without sign as 0..65535, if they use that. All others need a `range`: which of
 * their values become 0 and 255.
 */
import { relative } from 'node:path';
import { PhoenixError } from '../../errors.ts';
import {
  decode,
  decodeInRange,
  type Header,
  isRejected,
  noValues,
  type Rejected,
  readHeader,
  readValues,
  refuseRejected,
} from './image-file.ts';
import { type Extent, extentOf, histogram, showRange, type ValueRange, wholeBits, widest } from './range.ts';
import type { Reader, Size, Watch } from './reader.ts';
import { mapAhead } from './stream.ts';
import { extensions, findImages, holdsImages } from './tree.ts';
import type { DatasetNotes } from './types.ts';

/** Images decoded at a time. */
const AHEAD = 4;
/** Of 256 levels: what a set of 16 bits must go beyond at least, and what an image should span. */
const DEEP_LEVELS = 64;
const FEW_LEVELS = 32;
/** Share of values outside the range that is worth a word. */
const MANY_OUTSIDE = 0.05;

export const folder: Reader = {
  looksFor: `an image folder: images (${extensions.join(' ')}) in it, in CLASS/ or SITE/CLASS/, perhaps below train/ and test/`,
  takesRange: true,

  async detect(path, entries) {
    return entries !== undefined && holdsImages(path);
  },

  async list(path, { split, size, range, signal }) {
    const { root, files, labels, classNames, sites, siteNames, leftOut, warnings } = await findImages(path, split, signal);
    const notes = { leftOut, warnings };
    return {
      ...{ count: files.length, labels, classNames, sites, siteNames, notes },
      inWindows: false,
      async open(positions, watch = {}) {
        const chosen = Array.from(positions, (position) => files[position]!);
        const headers = await readHeaders(root, chosen, watch);
        noteFrames(notes, root, headers);
        const common = size ?? commonSize(root, headers);
        const gray = headers.every((header) => header.gray);
        const limits = range && (await limitsOf(root, headers, range, watch));
        if (limits && headers[0]!.depth === 'uchar' && (limits[0] < 0 || limits[1] > 255))
          notes.warnings.push(`The images have 8 bits, so their values do not fill the range ${showRange(limits)}.`);
        if (!range) requireShallow(root, headers);
        const set = { root, headers, gray, size: common, range: limits, notes, watch };
        return { ...common, channels: gray ? 1 : 3, range: limits, images: decodeAll(set) };
      },
    };
  },
};

/** Reads every header. @throws PhoenixError ERR_PHOENIX_DATA that names those that cannot be read */
async function readHeaders(root: string, files: string[], { signal, onProgress }: Watch): Promise<Header[]> {
  const headers: Header[] = [];
  const rejected: Rejected[] = [];
  for await (const header of mapAhead(files, AHEAD, readHeader, signal)) {
    if (isRejected(header)) rejected.push(header);
    else headers.push(header);
    onProgress?.({ stage: 'headers', done: headers.length + rejected.length, total: files.length });
  }
  refuseRejected(root, rejected);
  return headers;
}

/** The size that all images have. */
function commonSize(root: string, headers: Header[]): Size {
  const examples = new Map<string, Header>();
  for (const header of headers) {
    const key = `${header.width}×${header.height}`;
    if (!examples.has(key)) examples.set(key, header);
  }
  if (examples.size > 1) {
    const shown = [...examples].slice(0, 4).map(([key, { file }]) => `${key} (${relative(root, file)})`);
    const found = `images of ${examples.size} sizes: ${shown.join(', ')}${examples.size > shown.length ? ', …' : ''}`;
    throw new PhoenixError('ERR_PHOENIX_DATA', `${root} has ${found}. Pass a size (--size 32) to scale them all to one.`);
  }
  const [{ height, width }] = headers as [Header];
  return { height, width };
}

function noteFrames({ leftOut }: DatasetNotes, root: string, headers: Header[]): void {
  const several = headers.filter(({ frames }) => frames > 1);
  const count = several.reduce((sum, { frames }) => sum + frames - 1, 0);
  const what = `further ${count === 1 ? 'frame or page' : 'frames or pages'} of ${several.length} ${several.length === 1 ? 'file' : 'files'}`;
  if (count > 0) leftOut.push({ count, what, examples: several.slice(0, 3).map(({ file }) => relative(root, file)) });
}

/** Refuses images whose values have no agreed meaning as brightness. */
function requireShallow(root: string, headers: Header[]): void {
  const advice = 'Pass the values that are to become black and white (range, --range LOW,HIGH); phoenix inspect proposes them.';
  const wrong = headers.filter(({ depth }) => depth !== 'uchar' && depth !== 'ushort');
  refuseRejected(
    root,
    wrong.map(({ file, depth, bits }) => ({ file, reason: `its values are ${describeDepth(depth, bits)}`, advice })),
  );
}

export function describeDepth(depth: string, bits: number): string {
  if (depth === 'float' || depth === 'double') return `floating-point numbers of ${bits} bits`;
  return `${depth === 'char' || depth === 'short' || depth === 'int' ? 'signed' : 'unsigned'} integers of ${bits} ${bits === 1 ? 'bit' : 'bits'}`;
}

/** The values that become 0 and 255; percentiles are taken over the values of all images. */
async function limitsOf(root: string, headers: Header[], { low, high, isPercent }: ValueRange, watch: Watch): Promise<[number, number]> {
  const advice = 'Leave them out, or convert them to gray or RGB, with black as the least value.';
  refuseRejected(
    root,
    headers.flatMap((header) => (noValues(header) ? { file: header.file, reason: noValues(header)!, advice } : [])),
  );
  const depths = new Map(headers.map((header) => [header.depth === 'uchar', header]));
  if (depths.size > 1) {
    const [shallow, deep] = [depths.get(true)!, depths.get(false)!].map(({ file }) => relative(root, file));
    const found = `images of 8 bits (${shallow}) and deeper ones (${deep})`;
    throw new PhoenixError('ERR_PHOENIX_DATA', `${root} has ${found}: one range cannot be meant for both. Read them apart.`);
  }
  if (!isPercent) return [low, high];
  const values = async (each: (values: Float32Array) => void, first: number) => {
    const rejected: Rejected[] = [];
    let done = first;
    for await (const read of mapAhead(headers, AHEAD, (header) => readValues(header, watch.signal), watch.signal)) {
      if (isRejected(read)) rejected.push(read);
      else each(read.values);
      watch.onProgress?.({ stage: 'values', done: ++done, total: 2 * headers.length });
    }
    refuseRejected(root, rejected);
  };
  let extent: Extent | undefined;
  await values((read) => {
    extent = widest(extent, extentOf(read));
  }, 0);
  if (!extent!.isFinite)
    throw new PhoenixError('ERR_PHOENIX_DATA', `${root} holds values that are no numbers. phoenix inspect names the files.`);
  const counted = histogram(extent!);
  await values((read) => counted.add(read), headers.length);
  const limits: [number, number] = [counted.percentile(low), counted.percentile(high)];
  if (limits[0] < limits[1]) return limits;
  const found = `the percentiles ${low}% and ${high}% of its values are both ${limits[0]}`;
  throw new PhoenixError('ERR_PHOENIX_DATA', `${root}: ${found}. Pass percentiles further apart, or two values.`);
}

type Opened = {
  root: string;
  headers: Header[];
  gray: boolean;
  size: Size;
  range: [number, number] | undefined;
  notes: DatasetNotes;
  watch: Watch;
};

/** Yields what decodes, so that one pass finds all that does not; the error comes last. */
async function* decodeAll(set: Opened): AsyncGenerator<Uint8Array> {
  const { root, headers, gray, size, range, watch } = set;
  const rejected: Rejected[] = [];
  const levels = noLevels(headers[0]!);
  const deepLevels = noLevels(headers.find(({ depth }) => depth === 'ushort'));
  let outside = 0;
  const one = (header: Header) =>
    range
      ? decodeInRange(header, gray, size, range, (share) => (outside += share), watch.signal)
      : decode(header, gray, size, watch.signal);
  let at = 0;
  for await (const image of mapAhead(headers, AHEAD, one, watch.signal)) {
    const header = headers[at++]!;
    if (isRejected(image)) rejected.push(image);
    else {
      takeLevels(levels, image, header);
      if (header.depth === 'ushort') takeLevels(deepLevels, image, header);
      yield image;
    }
  }
  refuseRejected(root, rejected);
  if (!range && deepLevels.brightest) await requireWholeRange(root, deepLevels);
  judge(set, levels, outside / headers.length);
}

/** Levels of 0..255 that a set uses, and the most that one image spans. */
type Levels = { least: number; greatest: number; widest: number; brightest: Header | undefined };

const noLevels = (brightest: Header | undefined): Levels => ({ least: 255, greatest: 0, widest: 0, brightest });

function takeLevels(levels: Levels, image: Uint8Array, header: Header): void {
  let [least, greatest] = [255, 0];
  for (const level of image) {
    if (level < least) least = level;
    if (level > greatest) greatest = level;
  }
  if (greatest > levels.greatest) levels.brightest = header;
  levels.least = Math.min(levels.least, least);
  levels.greatest = Math.max(levels.greatest, greatest);
  levels.widest = Math.max(levels.widest, greatest - least);
}

/** @throws PhoenixError ERR_PHOENIX_DATA for 16 bits of which only a small part is used: values of 10 to 14 bits would be nearly black */
async function requireWholeRange(root: string, { least, greatest, brightest }: Levels): Promise<void> {
  const isBright = least >= 256 - DEEP_LEVELS;
  if (greatest >= DEEP_LEVELS && !isBright) return;
  const read = await readValues(brightest!);
  const { low, high } = isRejected(read) ? { low: 256 * least, high: 256 * greatest + 255 } : extentOf(read.values);
  const proposal = showRange(isBright ? [low, 65_535] : [0, wholeBits(high)]);
  const values = `${relative(root, brightest!.file)} has the values ${low}..${high}`;
  const advice = `Say which values become black and white, as --range ${proposal}, or --range 0,65535 to take them as they are.`;
  throw new PhoenixError('ERR_PHOENIX_DATA', `${root} has images of 16 bits that use a small part of 0..65535: ${values}. ${advice}`);
}

/** Warns of values that are lost, and of images that are nearly uniform. */
function judge({ range, notes }: Opened, { widest: span }: Levels, outside: number): void {
  if (outside > MANY_OUTSIDE)
    notes.warnings.push(
      `${(100 * outside).toFixed(0)} % of the values lie outside the range ${showRange(range!)} and become black or white.`,
    );
  if (span < FEW_LEVELS)
    notes.warnings.push(`No image uses more than ${span + 1} of 256 levels: the images are nearly uniform, or their range is another.`);
}
