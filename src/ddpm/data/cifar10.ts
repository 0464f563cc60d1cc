/**
 * CIFAR-10's binary layout (Krizhevsky 2009): records of 3073 bytes, one label byte 0..9, then 1024 red, 1024 green and 1024 blue bytes of
 * a 32×32 image. Class names from batches.meta.txt where it is there, else the digits.
 */
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { PhoenixError } from '../../errors.ts';
import type { Reader, Split } from './reader.ts';
import { fileBytes, type RecordFile, recordFiles, records, recordsAt, smallText } from './stream.ts';
import type { DatasetNotes } from './types.ts';

const PLANE = 32 * 32;
const RECORD = 1 + 3 * PLANE;
const CLASSES = 10;

const fileNames: Record<Split, RegExp> = { train: /^data_batch_[1-5]\.bin$/, test: /^test_batch\.bin$/ };

export const cifar10: Reader = {
  looksFor: 'CIFAR-10 (binary version): a folder with data_batch_1.bin .. data_batch_5.bin or test_batch.bin',
  detect: (_path, entries = []) => entries.some((name) => fileNames.train.test(name) || fileNames.test.test(name)),

  async list(path, { split }) {
    const entries = (await readdir(path)).sort();
    const paths = entries.filter((name) => fileNames[split].test(name)).map((name) => join(path, name));
    if (paths.length === 0) {
      const wanted = split === 'train' ? 'data_batch_1.bin .. data_batch_5.bin' : 'test_batch.bin';
      throw new PhoenixError('ERR_PHOENIX_DATA', `${path} has no ${split} images: expected ${wanted}.`);
    }
    const files = await recordFiles(paths, RECORD);
    const labels = await readLabels(files);
    const classNames = entries.includes('batches.meta.txt')
      ? await readClassNames(join(path, 'batches.meta.txt'))
      : Array.from({ length: CLASSES }, (_, i) => String(i));
    const open = async (positions: Int32Array) => ({ height: 32, width: 32, channels: 3 as const, images: readImages(files, positions) });
    return { count: labels.length, labels, classNames, notes: notesOf(paths, split), inWindows: true, open };
  },
};

/** The training images lie in five files; a copy that lacks some is read, and said to. */
function notesOf(paths: string[], split: Split): DatasetNotes {
  const there = paths.map((path) => basename(path));
  const missing = [1, 2, 3, 4, 5].map((n) => `data_batch_${n}.bin`).filter((name) => !there.includes(name));
  const isWhole = split === 'test' || missing.length === 0;
  return { leftOut: [], warnings: isWhole ? [] : [`${missing.join(', ')} of CIFAR-10 ${missing.length === 1 ? 'is' : 'are'} missing.`] };
}

async function readLabels(files: RecordFile[]): Promise<Int32Array> {
  const labels = new Int32Array(files.reduce((sum, { count }) => sum + count, 0));
  let at = 0;
  for (const { path: file } of files) {
    let offset = 0;
    for await (const record of records(fileBytes(file), RECORD)) {
      const label = record[0]!;
      if (label >= CLASSES) {
        const found = `the label at byte ${offset} is ${label}; CIFAR-10 has 0..${CLASSES - 1}`;
        throw new PhoenixError('ERR_PHOENIX_DATA', `${file} is damaged: ${found}. Fetch it again.`);
      }
      labels[at++] = label;
      offset += RECORD;
    }
  }
  return labels;
}

async function readClassNames(file: string): Promise<string[]> {
  const names = (await smallText(file, 64 * 1024)).split('\n').map((line) => line.trim());
  const found = names.filter((name) => name !== '');
  if (found.length === CLASSES) return found;
  throw new PhoenixError('ERR_PHOENIX_DATA', `${file} should name ${CLASSES} classes, one per line; it has ${found.length} lines.`);
}

async function* readImages(files: RecordFile[], positions: Int32Array): AsyncGenerator<Uint8Array> {
  const pixels = new Uint8Array(3 * PLANE);
  for await (const record of recordsAt(files, RECORD, positions)) {
    for (let i = 0; i < PLANE; i++) {
      pixels[3 * i] = record[1 + i]!;
      pixels[3 * i + 1] = record[1 + PLANE + i]!;
      pixels[3 * i + 2] = record[1 + 2 * PLANE + i]!;
    }
    yield pixels;
  }
}
