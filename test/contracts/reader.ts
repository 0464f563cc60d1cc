/**
 * What every reader of data does: it knows its own kind and no other, gives images of one size in the order asked for, and names the file
 * of what is damaged.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { openDataset } from '../../src/ddpm/data/index.ts';
import type { ImageStream, Reader } from '../../src/ddpm/data/reader.ts';
import { PhoenixError } from '../../src/errors.ts';

export type ReaderSample = {
  /** A small data set of this kind as files of a folder, all of it in the train split. */
  files: Record<string, Uint8Array | string>;
  /** The data set's path, if it is not the folder. */
  path?: string;
  expected: { count: number; height: number; width: number; channels: 1 | 3; labels?: number[]; classNames: string[] };
  /** The file that holds images, and what may be wrong with it beside being cut short: name → its content then. */
  images?: string;
  damages?: Record<string, (content: Buffer) => Uint8Array>;
};

async function put(t: ExecutionContext, { files, path }: ReaderSample): Promise<{ folder: string; path: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-reader-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), content);
  }
  return { folder, path: path ?? folder };
}

/** As findReader asks: sorted names of the folder, undefined if the path is none. */
async function detects(reader: Reader, { files, path }: ReaderSample, folder: string): Promise<boolean> {
  const entries = [...new Set(Object.keys(files).map((name) => name.split('/')[0]!))].sort();
  return reader.detect(path ?? folder, path === undefined ? entries : undefined);
}

async function imagesOf(stream: ImageStream): Promise<Buffer[]> {
  const images: Buffer[] = [];
  for await (const image of stream.images) images.push(Buffer.from(image));
  return images;
}

/** Declares the tests of one reader; `samples` holds one data set of every registered kind. */
export function readerContract(name: string, reader: Reader, samples: Record<string, ReaderSample>): void {
  const sample = samples[name]!;
  const { expected } = sample;

  test(`${name}: recognises its own kind, and neither others nor what is none`, async (t) => {
    for (const [kind, other] of Object.entries(samples)) {
      const { folder } = await put(t, other);
      t.is(await detects(reader, other, folder), kind === name, `a data set of kind ${kind}`);
    }
    const { folder } = await put(t, { ...sample, files: {} });
    t.false(await reader.detect(folder, []), 'an empty folder');
    t.false(await reader.detect(join(folder, 'nothing'), undefined), 'a path that does not exist');
    t.true(reader.looksFor.length > 0);
  });

  test(`${name}: lists labels, and opens the images at any positions in their order`, async (t) => {
    const { path } = await put(t, sample);
    const listing = await reader.list(path, { split: 'train' });
    const { count, labels, classNames } = expected;
    t.deepEqual([listing.count, listing.classNames], [count, classNames]);
    t.deepEqual(listing.labels && [...listing.labels], labels);
    const whole = await listing.open(Int32Array.from({ length: count }, (_, i) => i));
    const { height, width, channels } = whole;
    t.deepEqual({ height, width, channels }, { height: expected.height, width: expected.width, channels: expected.channels });
    const images = await imagesOf(whole);
    t.is(images.length, count);
    for (const image of images) t.is(image.length, height * width * channels);
    t.is(new Set(images.map((image) => image.toString('hex'))).size, count, 'the sample holds different images');
    for (const positions of [[0], [count - 1], [0, count - 1]])
      t.deepEqual(
        await imagesOf(await listing.open(Int32Array.from(positions))),
        positions.map((at) => images[at]!),
        `${positions}`,
      );
    t.deepEqual(Buffer.concat(images), Buffer.from((await openDataset(path)).pixels), 'what openDataset makes of it');
  });

  if (sample.images === undefined) return;
  const images = sample.images;
  const damages = { 'cut short': (content: Buffer) => content.subarray(0, content.length >> 1), ...sample.damages };
  const named = async (t: ExecutionContext, work: () => Promise<unknown>, about: string) => {
    const error = await t.throwsAsync(work, { instanceOf: PhoenixError, code: 'ERR_PHOENIX_DATA' }, about);
    t.true(error!.message.includes(images), `${about}: the error names the file: ${error!.message}`);
  };

  for (const [damage, apply] of Object.entries(damages))
    test(`${name}: a file that is damaged (${damage}) is an error that names it`, async (t) => {
      const { folder, path } = await put(t, sample);
      await writeFile(join(folder, images), apply(await readFile(join(folder, images))));
      await named(t, () => openDataset(path), damage);
    });

  test(`${name}: of one that is cut short after it was listed come fewer images, or that error, but no wrong image`, async (t) => {
    const { folder, path } = await put(t, sample);
    const listing = await reader.list(path, { split: 'train' });
    const all = Int32Array.from({ length: expected.count }, (_, i) => i);
    const before = await imagesOf(await listing.open(all));
    await writeFile(join(folder, images), (await readFile(join(folder, images))).subarray(0, 40));
    const came = await listing.open(all).then(imagesOf, (error: PhoenixError) => error);
    if (came instanceof Error)
      t.true(came instanceof PhoenixError && came.code === 'ERR_PHOENIX_DATA' && came.message.includes(images), `${came}`);
    else {
      t.true(came.length < expected.count, 'openDataset counts them');
      t.deepEqual(came, before.slice(0, came.length));
    }
  });
}
