/**
 * Site-labelled records: a folder with meta.json, which names sites and classes and says `"record": "… 64x64 …"`, and files *_train.bin
 * and *_test.bin of records: one byte site, one byte class, then height×width gray bytes, row by row.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { PhoenixError } from '../../errors.ts';
import { type JsonRules, readJson } from '../../files.ts';
import type { Reader, Size } from './reader.ts';
import { records as cut, fileBytes, type RecordFile, recordFiles, recordsAt, requireFile } from './stream.ts';

const MAX_SIDE = 1024;
const names = z.array(z.string().min(1)).min(1).max(256);
const splitMeta = z.object({ records: z.int().positive() }).optional();
const metaSchema = z.object({ sites: names, classes: names, record: z.string(), train: splitMeta, test: splitMeta });
const metaRules: JsonRules = {
  code: 'ERR_PHOENIX_DATA',
  maxBytes: 1 << 20,
  verdict: 'does not describe records',
  advice: 'Expected {"sites": [names], "classes": [names], "record": "… HEIGHTxWIDTH …"}.',
};

export const records: Reader = {
  looksFor: 'site-labelled records: a folder with meta.json and files *_train.bin or *_test.bin',
  detect: (_path, entries = []) => entries.includes('meta.json') && entries.some((name) => /_(train|test)\.bin$/.test(name)),

  async list(path, { split }) {
    const meta = await readMeta(join(path, 'meta.json'));
    const files = (await readdir(path)).sort().filter((name) => name.endsWith(`_${split}.bin`));
    if (files.length === 0) throw new PhoenixError('ERR_PHOENIX_DATA', `${path} has no ${split} images: expected a file *_${split}.bin.`);
    const { height, width } = meta;
    const paths = files.map((name) => join(path, name));
    const recorded = await recordFiles(paths, 2 + height * width);
    const { sites, labels } = await readLabels(recorded, meta);
    const declared = meta[split]?.records;
    if (declared !== undefined && declared !== labels.length) {
      const found = `${files.join(', ')} hold ${labels.length}`;
      throw new PhoenixError(
        'ERR_PHOENIX_DATA',
        `${join(path, 'meta.json')} declares ${declared} ${split} records, but ${found}. Fetch them again.`,
      );
    }
    const open = async (positions: Int32Array) => ({ height, width, channels: 1 as const, images: readImages(recorded, meta, positions) });
    return { count: labels.length, labels, classNames: meta.classes, sites, siteNames: meta.sites, inWindows: true, open };
  },
};

type Meta = z.infer<typeof metaSchema> & Size;

async function readMeta(file: string): Promise<Meta> {
  await requireFile(file);
  const meta = await readJson(file, metaSchema, metaRules);
  const size = /\b(\d{1,5})x(\d{1,5})\b/.exec(meta.record);
  const [height, width] = [Number(size?.[1]), Number(size?.[2])];
  if (!(height >= 1 && width >= 1 && height <= MAX_SIDE && width <= MAX_SIDE)) {
    const expected = `the size of an image as HEIGHTxWIDTH, sides in 1..${MAX_SIDE}`;
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${file}: "record" should hold ${expected}, but is ${JSON.stringify(meta.record.slice(0, 200))}.`,
    );
  }
  return { ...meta, height, width };
}

async function readLabels(files: RecordFile[], meta: Meta): Promise<{ sites: Int32Array; labels: Int32Array }> {
  const size = 2 + meta.height * meta.width;
  const count = files.reduce((sum, file) => sum + file.count, 0);
  const sites = new Int32Array(count);
  const labels = new Int32Array(count);
  let at = 0;
  for (const { path: file } of files) {
    let offset = 0;
    for await (const record of cut(fileBytes(file), size)) {
      sites[at] = requireBelow(record[0]!, meta.sites, 'site', file, offset);
      labels[at++] = requireBelow(record[1]!, meta.classes, 'class', file, offset + 1);
      offset += size;
    }
  }
  return { sites, labels };
}

function requireBelow(value: number, valid: string[], what: string, file: string, offset: number): number {
  if (value < valid.length) return value;
  const found = `the ${what} at byte ${offset} is ${value}; meta.json names 0..${valid.length - 1}`;
  throw new PhoenixError('ERR_PHOENIX_DATA', `${file} is damaged or not of this meta.json: ${found}.`);
}

async function* readImages(files: RecordFile[], { height, width }: Size, positions: Int32Array): AsyncGenerator<Uint8Array> {
  for await (const record of recordsAt(files, 2 + height * width, positions)) yield record.subarray(2);
}
