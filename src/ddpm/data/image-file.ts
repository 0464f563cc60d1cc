/** One image file, decoded by sharp: its header, its values as they are stored, its pixels, and why one of these cannot be had. */
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { relative } from 'node:path';
import type { Sharp, SharpOptions } from 'sharp';
import { PhoenixError } from '../../errors.ts';
import { hasCode, ioError } from '../../files.ts';
import { strangerOf } from '../stranger.ts';
import { inOwnWords } from './own-words.ts';
import { toBytes } from './range.ts';
import type { Size } from './reader.ts';
import { type TiffTags, tiffTags } from './tiff.ts';
import { isMangled } from './tree.ts';

/** Pixels that are decoded at most: what sharp allows unless told otherwise. */
const MAX_PIXELS = 0x3fff * 0x3fff;
const MAX_NAMED = 10;
/** Chunks of a PNG that are looked at for frames. */
const MAX_CHUNKS = 64;

export type Header = Size & {
  file: string;
  /** As sharp calls it: uchar, ushort, char, short, int, uint, float. */
  depth: string;
  format: string;
  /** How pixels are stored: gray, RGB, palette, CMYK, … */
  mode: string;
  bits: number;
  gray: boolean;
  alpha: boolean;
  /** The colour space of the file, in sharp's words. */
  space: string;
  /** Images in the file: frames of an animation, pages of a TIFF. */
  frames: number;
  minIsWhite: boolean;
  orientation: number;
};

export type Rejected = { file: string; reason: string; advice: string };

export const isRejected = (result: object): result is Rejected => 'reason' in result;

/** What grids of images say of themselves in EXIF (Software), so that they are not taken for data later. */
export const GRID_MARK = 'Phoenix image grid';

const REPAIR = 'Repair or remove them, or save them as PNG or JPEG.';

/** A file, opened to look at; closed by itself. */
async function withFile<T>(file: string, work: (handle: FileHandle) => Promise<T>): Promise<T | Rejected> {
  let handle: FileHandle;
  try {
    handle = await open(file);
  } catch (cause) {
    return unreadable(file, cause);
  }
  try {
    return await work(handle);
  } finally {
    await handle.close();
  }
}

/** Why a file cannot be opened, where that is the file's own fault. @throws PhoenixError ERR_PHOENIX_IO where it is the machine's */
export function unreadable(file: string, cause: unknown): Rejected {
  if (hasCode(cause, 'EACCES', 'EPERM'))
    return { file, reason: 'permission to read it is denied', advice: 'Make the files readable for this user.' };
  if (hasCode(cause, 'ENOENT') && isMangled(file))
    return { file, reason: 'its name is not UTF-8', advice: 'Rename files whose names are not UTF-8 (convmv does it for whole folders).' };
  if (hasCode(cause, 'ENOENT', 'ELOOP')) return { file, reason: 'the file is missing, or is a link to nothing', advice: REPAIR };
  if (hasCode(cause, 'ERR_FS_FILE_TOO_LARGE'))
    return { file, reason: 'it has more than 2 GiB', advice: 'Cut large images into smaller ones.' };
  throw ioError(file, cause, { action: 'read' });
}

/** A failure of decoding. @throws PhoenixError ERR_PHOENIX_MEMORY where not the image, but the machine is its cause */
export function undecodable(file: string, head: Buffer, cause: unknown): Rejected {
  if (cause instanceof PhoenixError) throw cause;
  const [said = ''] = (cause as Error).message.split('\n');
  if (/memory|allocat|thread|temporarily unavailable|too many open files/i.test(said)) {
    const advice = 'Nothing is wrong with the image: raise the limits of this process (ulimit), or end other programs.';
    throw new PhoenixError(
      'ERR_PHOENIX_MEMORY',
      `${file} could not be decoded for want of memory, threads or handles (${said}). ${advice}`,
      {
        cause,
      },
    );
  }
  const stranger = strangerOf(head);
  if (stranger) return { file, reason: stranger.what, advice: stranger.advice };
  const known = causes.find(([words]) => words.test(said));
  const words = said.replaceAll(file, 'the file');
  return known ? { file, reason: `${known[1]} (${words})`, advice: known[2] } : { file, reason: words, advice: REPAIR };
}

/** What a decoder says in words of its own, and what it means for a person who has such files. */
const causes: readonly (readonly [words: RegExp, reason: string, advice: string])[] = [
  [
    /required field 262 missing/,
    'its header does not say whether 0 is black or white',
    'Save TIFF files with the tag PhotometricInterpretation.',
  ],
  [
    /samples_per_pixel not a whole number of bytes/,
    'its values are packed: they do not fill whole bytes',
    'Save packed values (of 10, 12 or 14 bits) as 16 bits, and pass a range (--range).',
  ],
  [/bad labq format/, 'its colours are stored as CIE Lab', 'Save colour images as RGB.'],
];

export async function openImage(input: string | Buffer, options: SharpOptions = {}): Promise<Sharp> {
  const { default: sharp } = await import('sharp');
  return sharp(input, { failOn: 'error', ...options });
}

/** The header of an image. What has bands that are neither colour nor alpha, or too many pixels, is rejected. */
export async function readHeader(file: string): Promise<Header | Rejected> {
  return withFile(file, async (handle) => {
    const head = Buffer.alloc(4096);
    const { bytesRead } = await handle.read(head, 0, head.length, 0);
    const first = head.subarray(0, bytesRead);
    try {
      const found = await inOwnWords(async () => (await openImage(file, { limitInputPixels: false })).metadata());
      if (found.exif?.includes(GRID_MARK))
        return { file, reason: 'it is a grid of images that Phoenix drew', advice: 'Keep pictures of Phoenix elsewhere.' };
      const { width, height } = found.autoOrient;
      if (width * height > MAX_PIXELS) {
        const most = MAX_PIXELS.toLocaleString('en-US');
        return { file, reason: `it has ${width}×${height} pixels`, advice: `Scale or cut images to at most ${most} pixels first.` };
      }
      const tags = found.format === 'tiff' ? await tiffTags(handle) : undefined;
      const bands = wrongBands(tags, found.channels);
      if (bands)
        return { file, reason: bands, advice: 'Keep the bands of gray or RGB only, or tag the last as alpha (ExtraSamples 1 or 2).' };
      const { depth, format, space, pages = 1, bitsPerSample } = found;
      return {
        ...{ file, height, width, depth, format, space, mode: modeOf(found), gray: found.channels <= 2, alpha: found.hasAlpha },
        bits: bitsPerSample ?? (depth === 'uchar' ? 8 : 16),
        frames: format === 'png' ? await framesOfPng(handle) : pages,
        minIsWhite: tags?.minIsWhite ?? false,
        orientation: found.orientation ?? 1,
      };
    } catch (cause) {
      return undecodable(file, first, cause);
    }
  });
}

function modeOf({ space, channels, isPalette, hasAlpha }: { space: string; channels: number; isPalette: boolean; hasAlpha: boolean }) {
  const colour = isPalette ? 'palette' : space === 'cmyk' ? 'CMYK' : channels <= 2 ? 'gray' : 'RGB';
  return hasAlpha ? `${colour} with alpha` : colour;
}

/** What is wrong with the bands of a TIFF; of other formats libvips knows the alpha itself. */
function wrongBands(tags: TiffTags | undefined, channels: number): string | undefined {
  if (!tags) return channels > 5 ? `it has ${channels} bands` : undefined;
  const { bands, colours, alpha } = tags;
  if (alpha.length === 0 || (alpha.length === 1 && alpha[0])) return undefined;
  const others = alpha.filter((isAlpha) => !isAlpha).length;
  const what = others === 0 ? `${alpha.length} that are alpha` : `${others} that no tag calls alpha`;
  return `it has ${bands} bands: ${colours} of colour and ${what}`;
}

/** Frames of an animated PNG, which libvips reads the first of: a chunk acTL says how many, before the pixels. */
async function framesOfPng(file: FileHandle): Promise<number> {
  const chunk = Buffer.alloc(12);
  for (let n = 0, at = 8; n < MAX_CHUNKS; n++) {
    const { bytesRead } = await file.read(chunk, 0, chunk.length, at);
    const type = chunk.toString('latin1', 4, 8);
    if (bytesRead < chunk.length || type === 'IDAT') return 1;
    if (type === 'acTL') return Math.max(1, chunk.readUInt32BE(8));
    at += 12 + chunk.readUInt32BE(0);
  }
  return 1;
}

/** Why the values of an image cannot be taken as they are stored; undefined if they can. */
export function noValues({ space, alpha, minIsWhite, bits }: Header): string | undefined {
  if (alpha) return 'it has alpha, which a range does not go with';
  if (space === 'cmyk') return 'it is CMYK, which a range does not go with';
  if (minIsWhite && bits > 8) return 'its least value is white, so that values are stored inverted';
  return undefined;
}

export type Values = Size & { channels: 1 | 3; values: Float32Array };

/** The values of an image as they are stored, upright. */
export async function readValues(header: Header, signal?: AbortSignal): Promise<Values | Rejected> {
  const { file, space, depth, gray } = header;
  return decoding(file, signal, async (bytes) => {
    let image = (await openImage(bytes, { ignoreIcc: true })).autoOrient().pipelineColourspace(space).toColourspace(space);
    // Of signed 16 bits in these spaces sharp cuts off what is below 0: it is lifted, and lowered again.
    const lift = depth === 'short' && /16$/.test(space) ? 32_768 : 0;
    if (lift > 0) image = image.linear(1, lift);
    const { data, info } = await image.raw({ depth: 'float' }).toBuffer({ resolveWithObject: true });
    const values = new Float32Array(data.buffer, data.byteOffset, data.length / 4);
    if (info.channels !== (gray ? 1 : 3)) return { file, reason: `it has ${info.channels} bands`, advice: REPAIR };
    return {
      height: info.height,
      width: info.width,
      channels: gray ? 1 : 3,
      values: lift > 0 ? values.map((value) => value - lift) : values,
    };
  });
}

/** What a decoder remarks on a JPEG that it reads all the same, as of damage inside it; other formats have no such remarks. */
export async function decoderWarning({ file, format }: Header, signal?: AbortSignal): Promise<string | undefined> {
  if (format !== 'jpeg') return undefined;
  const bytes = await readFile(file, { signal });
  return inOwnWords(async () => (await openImage(bytes, { failOn: 'warning' })).stats()).then(
    () => undefined,
    (cause) => (cause as Error).message.split('\n')[0]!.trim(),
  );
}

/** Reads a file and decodes it; a failure of either is told apart. */
async function decoding<T extends object>(
  file: string,
  signal: AbortSignal | undefined,
  work: (bytes: Buffer) => Promise<T>,
): Promise<T | Rejected> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file, { signal });
  } catch (cause) {
    signal?.throwIfAborted();
    return unreadable(file, cause);
  }
  try {
    return await inOwnWords(() => work(bytes));
  } catch (cause) {
    return undecodable(file, bytes, cause);
  }
}

/** An image as pixels of a size: upright, transparency on black, 8 bits, scaled to cover the size. */
export async function decode(header: Header, gray: boolean, size: Size, signal?: AbortSignal): Promise<Uint8Array | Rejected> {
  return decoding(header.file, signal, async (bytes) =>
    toPixels((await openImage(bytes)).autoOrient().flatten({ background: '#000000' }), gray, size),
  );
}

/** The same of an image whose values in a range become 0..255. `onOutside` hears of the share of values that lie beyond. */
export async function decodeInRange(
  header: Header,
  gray: boolean,
  size: Size,
  range: readonly [number, number],
  onOutside: (share: number) => void,
  signal?: AbortSignal,
): Promise<Uint8Array | Rejected> {
  const found = await readValues(header, signal);
  if (isRejected(found)) return found;
  const { height, width, channels, values } = found;
  if (!values.every(Number.isFinite)) return { file: header.file, reason: 'it holds values that are no numbers', advice: REPAIR };
  const { bytes, outside } = toBytes(values, range);
  onOutside(outside / values.length);
  const { default: sharp } = await import('sharp');
  return toPixels(sharp(bytes, { raw: { width, height, channels } }), gray, size);
}

function toPixels(image: Sharp, gray: boolean, { height, width }: Size): Promise<Uint8Array> {
  return image
    .resize(width, height, { fit: 'cover', kernel: 'lanczos3' })
    .toColourspace(gray ? 'b-w' : 'srgb')
    .raw({ depth: 'uchar' })
    .toBuffer();
}

/** @throws PhoenixError ERR_PHOENIX_DATA that names what was rejected, if anything was */
export function refuseRejected(root: string, rejected: Rejected[]): void {
  if (rejected.length === 0) return;
  const lines = rejected.slice(0, MAX_NAMED).map(({ file, reason }) => `  ${relative(root, file)}: ${reason}`);
  if (rejected.length > lines.length) lines.push(`  … and ${rejected.length - lines.length} more`);
  const advice = [...new Set(rejected.map(({ advice }) => advice))].join(' ');
  throw new PhoenixError('ERR_PHOENIX_DATA', `${root}: ${rejected.length} images cannot be used:\n${lines.join('\n')}\n${advice}`);
}
