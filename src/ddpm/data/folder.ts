/**
 * A folder of images, decoded by sharp. Class = sub-folder (names sorted, numbers in them by value), or images directly in the folder and no labels; a folder whose
 * sub-folders are `train` and `test` has both splits, any other only `train`. Hidden files and files without an image's extension are
 * passed over; an image that does not decode is an error that names it. Pixels: turned upright by EXIF, transparency on black, 8 bits. One
 * channel if every image is stored as gray, else RGB. With `size`, scaled with Lanczos-3 to cover it, what sticks out cut off evenly.
 */
import { readdir, stat } from 'node:fs/promises';
import { extname, join, relative } from 'node:path';
import type { Sharp } from 'sharp';
import { PhoenixError } from '../../errors.ts';
import { naturalOrder } from './classes.ts';
import type { Reader, Size } from './reader.ts';
import { mapAhead } from './stream.ts';

const extensions = ['.png', '.jpg', '.jpeg', '.webp', '.avif', '.gif', '.tif', '.tiff'];
/** Images that sharp does not decode: an error names them, since passing them over would train on a part of the data unnoticed. */
const undecodable = ['.bmp', '.heic', '.heif', '.jp2', '.jxl', '.pgm', '.ppm'];
/** Images decoded at a time. */
const AHEAD = 4;
const MAX_NAMED = 10;

type Entries = { images: string[]; folders: string[] };
type Rejected = { file: string; reason: string };

export const folder: Reader = {
  looksFor: `an image folder: images (${extensions.join(' ')}) in it, or in one sub-folder per class`,

  async detect(path, entries) {
    if (!entries) return false;
    const top = await visible(path);
    if (top.images.length > 0 || hasSplits(top)) return true;
    for (const name of top.folders) if ((await visible(join(path, name))).images.length > 0) return true;
    return false;
  },

  async list(path, { split, size }) {
    const top = await visible(path);
    if (!hasSplits(top) && split === 'test') {
      throw new PhoenixError('ERR_PHOENIX_DATA', `${path} has no test images: an image folder has them in sub-folders train and test.`);
    }
    const root = hasSplits(top) ? join(path, split) : path;
    const { files, labels, classNames } = await findImages(root);
    return {
      count: files.length,
      labels,
      classNames,
      inWindows: false,
      async open(positions) {
        const chosen = Array.from(positions, (position) => files[position]!);
        const { gray, ...common } = await survey(root, chosen, size);
        return { ...common, channels: gray ? 1 : 3, images: decodeAll(root, chosen, gray, common) };
      },
    };
  },
};

/** Names of the images and folders in a folder, sorted by code unit; links are followed. */
async function visible(path: string): Promise<Entries> {
  const found: Entries = { images: [], folders: [] };
  for (const entry of await readdir(path, { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue;
    const kind = entry.isSymbolicLink() ? await stat(join(path, entry.name)).catch(() => undefined) : entry;
    if (kind?.isDirectory()) found.folders.push(entry.name);
    else if ([...extensions, ...undecodable].includes(extname(entry.name).toLowerCase())) found.images.push(entry.name);
  }
  found.images.sort();
  found.folders.sort();
  return found;
}

const hasSplits = ({ images, folders }: Entries) => images.length === 0 && folders.join() === 'test,train';

async function findImages(root: string): Promise<{ files: string[]; labels?: Int32Array; classNames: string[] }> {
  const top = await visible(root);
  top.folders.sort(naturalOrder);
  const files: string[] = [];
  const labels: number[] = [];
  const classNames: string[] = [];
  for (const name of top.folders) {
    const { images } = await visible(join(root, name));
    if (images.length === 0) continue;
    for (const image of images) {
      files.push(join(root, name, image));
      labels.push(classNames.length);
    }
    classNames.push(name);
  }
  if (files.length > 0 && top.images.length > 0) {
    const found = `${top.images.length} images beside sub-folders with images (${top.images[0]}, ${classNames[0]}/)`;
    throw new PhoenixError('ERR_PHOENIX_DATA', `${root} has ${found}: put all into sub-folders, one per class, or none.`);
  }
  if (top.images.length > 0) return { files: top.images.map((name) => join(root, name)), classNames };
  if (files.length > 0) return { files, labels: Int32Array.from(labels), classNames };
  throw new PhoenixError(
    'ERR_PHOENIX_DATA',
    `${root} has no images: expected ${extensions.join(' ')} in it or in one sub-folder per class.`,
  );
}

/** Reads every header: the common size, and whether all are gray. */
async function survey(root: string, files: string[], size: Size | undefined): Promise<Size & { gray: boolean }> {
  const examples = new Map<string, Size & { file: string }>();
  const rejected: Rejected[] = [];
  let gray = true;
  for await (const header of mapAhead(files, AHEAD, readHeader)) {
    if ('reason' in header) {
      rejected.push(header);
      continue;
    }
    gray &&= header.gray;
    const key = `${header.width}×${header.height}`;
    if (!examples.has(key)) examples.set(key, header);
  }
  refuse(root, rejected);
  const [first] = examples.values();
  if (size) return { ...size, gray };
  if (examples.size > 1) {
    const shown = [...examples].slice(0, 4).map(([key, { file }]) => `${key} (${relative(root, file)})`);
    const found = `images of ${examples.size} sizes: ${shown.join(', ')}${examples.size > shown.length ? ', …' : ''}`;
    throw new PhoenixError('ERR_PHOENIX_DATA', `${root} has ${found}. Pass a size (--size 32) to scale them all to one.`);
  }
  return { height: first!.height, width: first!.width, gray };
}

async function openImage(file: string): Promise<Sharp> {
  const { default: sharp } = await import('sharp');
  return sharp(file, { failOn: 'error' });
}

async function readHeader(file: string): Promise<(Size & { file: string; gray: boolean }) | Rejected> {
  try {
    const { autoOrient, channels } = await (await openImage(file)).metadata();
    return { file, height: autoOrient.height, width: autoOrient.width, gray: channels <= 2 };
  } catch (cause) {
    return { file, reason: reason(file, cause) };
  }
}

/** Yields what decodes, so that one pass finds all that does not; the error comes last. */
async function* decodeAll(root: string, files: string[], gray: boolean, size: Size): AsyncGenerator<Uint8Array> {
  const rejected: Rejected[] = [];
  for await (const image of mapAhead(files, AHEAD, (file) => decode(file, gray, size))) {
    if (image instanceof Uint8Array) yield image;
    else rejected.push(image);
  }
  refuse(root, rejected);
}

async function decode(file: string, gray: boolean, { height, width }: Size): Promise<Uint8Array | Rejected> {
  try {
    return await (await openImage(file))
      .autoOrient()
      .flatten({ background: '#000000' })
      .resize(width, height, { fit: 'cover', kernel: 'lanczos3' })
      .toColourspace(gray ? 'b-w' : 'srgb')
      .raw({ depth: 'uchar' })
      .toBuffer();
  } catch (cause) {
    return { file, reason: reason(file, cause) };
  }
}

/** The first line of what sharp says, without the path, which the error names already. */
const reason = (file: string, cause: unknown) => (cause as Error).message.split('\n')[0]!.replaceAll(file, 'the file');

function refuse(root: string, rejected: Rejected[]): void {
  if (rejected.length === 0) return;
  const lines = rejected.slice(0, MAX_NAMED).map(({ file, reason }) => `  ${relative(root, file)}: ${reason}`);
  if (rejected.length > lines.length) lines.push(`  … and ${rejected.length - lines.length} more`);
  const advice = 'Repair or remove them, or save them as PNG or JPEG.';
  throw new PhoenixError('ERR_PHOENIX_DATA', `${root}: ${rejected.length} images cannot be decoded:\n${lines.join('\n')}\n${advice}`);
}
