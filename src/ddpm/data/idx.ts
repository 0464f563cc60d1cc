/**
 * The idx format of MNIST and Fashion-MNIST (LeCun, "The MNIST database"): big-endian header, magic 0x803 (unsigned bytes, 3 dimensions)
 * for images and 0x801 for labels, plain or gzipped. A folder gives either split; an images file alone is read with the labels file of the
 * same name beside it, if there is one.
 */
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { PhoenixError } from '../../errors.ts';
import type { Reader, Split } from './reader.ts';
import { contentLength, fileBytes, firstBytes, only, records, recordsAt } from './stream.ts';

const IMAGES_MAGIC = 0x803;
const LABELS_MAGIC = 0x801;
const IMAGES_HEADER = 16;
const LABELS_HEADER = 8;
const MAX_SIDE = 4096;

const imagesName = /^(train|t10k)-images[-.]idx3-ubyte(\.gz)?$/;
const anyImagesName = /images[-.]idx3-ubyte(\.gz)?$/;
const prefixes: Record<Split, string> = { train: 'train', test: 't10k' };

export const idx: Reader = {
  looksFor: 'idx (MNIST, Fashion-MNIST): a folder with train-images-idx3-ubyte(.gz) or t10k-images-idx3-ubyte(.gz), or such a file',
  detect: (path, entries) => (entries ? entries.some((name) => imagesName.test(name)) : anyImagesName.test(basename(path))),

  async list(path, { split }) {
    const imagesFile = anyImagesName.test(basename(path)) ? path : await findImages(path, split);
    if (imagesFile === path && split === 'test') {
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${path} is one file and has no test split: pass the folder, or that file alone.`);
    }
    const { count, height, width } = await readHeader(imagesFile);
    const inWindows = !imagesFile.endsWith('.gz');
    const labelsFile = findLabels(imagesFile);
    const labels = labelsFile ? await readLabels(labelsFile, count) : undefined;
    const classes = labels ? labels.reduce((a, b) => Math.max(a, b), 0) + 1 : 0;
    return {
      count,
      labels,
      inWindows,
      classNames: Array.from({ length: classes }, (_, i) => String(i)),
      async open(positions) {
        const size = height * width;
        const images = inWindows
          ? recordsAt([{ path: imagesFile, count }], size, positions, IMAGES_HEADER)
          : only(records(fileBytes(imagesFile), size, IMAGES_HEADER), positions);
        return { height, width, channels: 1, images };
      },
    };
  },
};

async function findImages(folder: string, split: Split): Promise<string> {
  const names = (await readdir(folder)).sort();
  const found = names.find((name) => imagesName.exec(name)?.[1] === prefixes[split]);
  if (found) return join(folder, found);
  throw new PhoenixError('ERR_PHOENIX_DATA', `${folder} has no ${split} images: expected ${prefixes[split]}-images-idx3-ubyte(.gz).`);
}

/** The labels may be gzipped where the images are not, and the other way round. */
function findLabels(imagesFile: string): string | undefined {
  const plain = basename(imagesFile, '.gz').replace(/images([-.])idx3-ubyte$/, 'labels$1idx1-ubyte');
  return [plain, `${plain}.gz`].map((name) => join(dirname(imagesFile), name)).find((file) => existsSync(file));
}

/** Checked against the real length, so that nothing is allocated on the word of a header. */
async function readHeader(file: string): Promise<{ count: number; height: number; width: number }> {
  const header = await firstBytes(file, IMAGES_HEADER);
  if (header.length < IMAGES_HEADER || header.readUInt32BE(0) !== IMAGES_MAGIC) {
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${file} is no idx images file: expected ${describe(IMAGES_MAGIC)}, found ${describe(header)}.`,
    );
  }
  const [count, height, width] = [header.readUInt32BE(4), header.readUInt32BE(8), header.readUInt32BE(12)];
  if (count < 1 || height < 1 || width < 1 || height > MAX_SIDE || width > MAX_SIDE) {
    const expected = `at least one image with sides in 1..${MAX_SIDE}`;
    throw new PhoenixError('ERR_PHOENIX_DATA', `${file} declares ${count} images of ${height}×${width}; expected ${expected}.`);
  }
  await requireLength(file, IMAGES_HEADER + count * height * width, `${count} images of ${height}×${width}`);
  return { count, height, width };
}

async function readLabels(file: string, images: number): Promise<Int32Array> {
  const header = await firstBytes(file, LABELS_HEADER);
  if (header.length < LABELS_HEADER || header.readUInt32BE(0) !== LABELS_MAGIC) {
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${file} is no idx labels file: expected ${describe(LABELS_MAGIC)}, found ${describe(header)}.`,
    );
  }
  const count = header.readUInt32BE(4);
  if (count !== images) {
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${file} declares ${count} labels for ${images} images: the two files do not belong together.`,
    );
  }
  await requireLength(file, LABELS_HEADER + count, `${count} labels`);
  const labels = new Int32Array(count);
  for await (const all of records(fileBytes(file), count, LABELS_HEADER)) labels.set(all);
  return labels;
}

async function requireLength(file: string, expected: number, declared: string): Promise<void> {
  const length = await contentLength(file, expected);
  if (length === expected) return;
  const found = length < expected ? `ends after ${length} bytes` : 'goes on after that';
  throw new PhoenixError('ERR_PHOENIX_DATA', `${file} declares ${declared}, which takes ${expected} bytes, but ${found}. Fetch it again.`);
}

function describe(header: number | Buffer): string {
  if (typeof header === 'number') return `a header that starts with 0x${header.toString(16).padStart(8, '0')}`;
  return header.length === 0 ? 'an empty file' : `0x${header.subarray(0, 4).toString('hex')} and ${header.length} bytes`;
}
