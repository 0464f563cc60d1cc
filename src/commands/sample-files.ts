/**
 * Images from a trained model as single files, many of them: a folder that goes on where it was stopped, and that is a data set itself.
 *
 *   samples.json          what is drawn: model, options, number of images; the first file that is written
 *   <class>/000123.png    image 123; without classes 000123.png
 *   index.jsonl           a line for each image, once all are there
 *
 * Image i depends on model, options and i alone, so files that are there need not be drawn again.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import sharp from 'sharp';
import { z } from 'zod';
import { withCallbacks } from '../callbacks.ts';
import { namesClass } from '../ddpm/data/tree.ts';
import { PhoenixError } from '../errors.ts';
import { draftOf, exists, hasCode, io, type JsonRules, makeFolder, readJson, remove, writeWhole } from '../files.ts';
import { imageBytes } from '../images.ts';
import { checkOutputFolder } from '../outputs.ts';
import { isLockFile, takeLock } from '../run/lock.ts';
import { parseOptions, type SampleOptions, type Settings } from './options/index.ts';
import { clientsOf, type SampleEvents, type Samples } from './sample.ts';
import { openSampler, type Sampler } from './sampler.ts';

export type SampledFiles = Pick<Samples, 'classNames' | 'range' | 'checkpoint' | 'weights' | 'clients'> & {
  /** The folder. */
  out: string;
  /** Images in it, and how many of them this call has drawn. */
  count: number;
  drawn: number;
  /** Path of the index. */
  index: string;
};

const RECORD = 'samples.json';
const INDEX = 'index.jsonl';

const recordSchema = z.strictObject({
  schema: z.literal(1),
  /** Images. */
  n: z.int().min(1),
  /** What every image depends on. */
  drawn: z.record(z.string(), z.unknown()),
});
type SampleRecord = z.infer<typeof recordSchema>;

const recordRules: JsonRules = {
  code: 'ERR_PHOENIX_ARGUMENT',
  maxBytes: 64 << 20,
  verdict: 'does not say what was drawn',
  advice: 'Name a new folder (--out).',
  version: 1,
};

/**
 * Draws `n` images into PNG files of the folder `out`, in a folder for each class, and writes an index. A folder that an earlier call of
 * the same model and options has left is completed; with a larger `n` it is extended.
 * @throws PhoenixError as `sample` does, and ERR_PHOENIX_ARGUMENT for a folder that holds something else, or samples of another model or of
 * other options; an abort rejects with `signal.reason`, and what is drawn stays
 */
export function sampleFiles(options: SampleOptions, events: SampleEvents = {}): Promise<SampledFiles> {
  return withCallbacks('sampleFiles', events, (guarded) => drawFiles(options, guarded));
}

async function drawFiles(options: SampleOptions, { onProgress, onMessage, signal }: SampleEvents): Promise<SampledFiles> {
  const settings = parseOptions('sample', options);
  const { n, out, batch } = settings;
  if (out === undefined)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'option out is missing: sampleFiles writes into a folder. sample draws into memory.');
  await checkOutputFolder(out);
  await readRecord(out);
  using sampler = await openSampler(settings, { onMessage, signal });
  const files = filesOf(sampler);
  const record: SampleRecord = { schema: 1, n, drawn: await describe(settings, sampler) };
  await io(out, () => makeFolder(out));
  const lock = await io(out, () => takeLock(out, { steal: settings.stealLock }));
  try {
    const before = await readRecord(out);
    if (before) compare(out, before, record);
    const missing = await missingFrom(out, files, n);
    await writeWhole(join(out, RECORD), `${JSON.stringify(record, null, 1)}\n`);
    for (const folder of files.folders) await io(out, () => makeFolder(join(out, folder)));

    let done = n - missing.length;
    onProgress?.(done / n);
    for (const { part, first, count } of runsOf(missing, sampler, batch)) {
      const share = onProgress && ((of: number) => onProgress((done + of * count) / n));
      const pixels = await sampler.draw(part, first - part.first, count, share);
      await lock.check();
      await writeImages(out, files, sampler, first, pixels);
      done += count;
      signal?.throwIfAborted();
    }
    const index = join(out, INDEX);
    await writeWhole(index, indexLines(files, sampler, n));
    const { classNames, range, checkpoint, weights } = sampler;
    const clients = clientsOf(sampler.parts);
    return { out, count: n, drawn: missing.length, index, classNames, range, checkpoint, weights, ...(clients.length > 0 && { clients }) };
  } finally {
    await lock.release();
  }
}

/** What lies in the folder already; undefined for a new or empty one. */
async function readRecord(out: string): Promise<SampleRecord | undefined> {
  const names = (await namesIn(out)).filter((name) => !isLockFile(name) && !isDraft(name));
  const path = join(out, RECORD);
  if (await exists(path)) return readJson(path, recordSchema, recordRules);
  if (names.length === 0) return undefined;
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `${out} is not empty, and holds no ${RECORD} of earlier samples. Name a new folder (--out).`,
  );
}

/** The names in a folder; none, if there is none. */
async function namesIn(folder: string): Promise<string[]> {
  const read = () =>
    readdir(folder).catch((error) => {
      if (hasCode(error, 'ENOENT')) return [];
      throw error;
    });
  return io(folder, read, { action: 'read' });
}

/** A file that was begun and not finished. */
const isDraft = (name: string) => /^(\d{6}\.png|samples\.json|index\.jsonl)$/.test(draftOf(name) ?? '');

/** Where the images lie: the folders, and the path of each image in `out`. */
type Files = { folders: string[]; path(image: number): string };

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for a class whose name cannot be that of a folder, or images that are neither gray nor RGB */
function filesOf({ classes, classNames = [], size }: Sampler): Files {
  if (size.channels !== 1 && size.channels !== 3)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `PNG files have 1 channel (gray) or 3 (RGB), but the model is for ${size.channels}.`);
  const drawn = classes ? [...new Set(classes)].map((place) => classNames[place]!) : [];
  const fits = (name: string) =>
    Buffer.from(name).toString() === name && !/[/\0]/.test(name) && Buffer.byteLength(name) <= 255 && namesClass(name);
  const unfit = drawn.find((name) => !fits(name) || [RECORD, INDEX].includes(name));
  if (unfit !== undefined)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `The class ${JSON.stringify(unfit)} cannot be the name of a folder of its images. Draw other classes (--class), or a grid (--grid).`,
    );
  if (new Set(drawn).size !== drawn.length)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      'Two classes of the model have one name, and cannot have a folder each. Draw a grid (--grid).',
    );
  const folderOf = (image: number) => (classes ? classNames[classes[image]!]! : '');
  return { folders: drawn, path: (image) => join(folderOf(image), `${String(image).padStart(6, '0')}.png`) };
}

/** What every image depends on. */
async function describe(settings: Settings<'sample'>, sampler: Sampler): Promise<SampleRecord['drawn']> {
  const { seed, scheduler, steps, eta, variance, spacing, clip, precision, schedule, prediction } = settings;
  const { parts, size, classNames, range, weights, session } = sampler;
  const divided = parts.length > 1 ? { n: settings.n, clients: parts.map(({ id }) => id) } : { client: settings.client };
  const facts = {
    model: await sampler.fingerprint(),
    weights,
    ...divided,
    ...size,
    classNames,
    range,
    class: settings.class === undefined ? undefined : String(settings.class),
    ...{ seed, scheduler, steps, eta, variance, spacing, clip, schedule, prediction },
    backend: session.info.backend,
    precision: precision ?? 'default',
  };
  return JSON.parse(JSON.stringify(facts));
}

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT unless the samples that are there belong to those that are asked for */
function compare(out: string, before: SampleRecord, now: SampleRecord): void {
  const fields = [...new Set([...Object.keys(before.drawn), ...Object.keys(now.drawn)])];
  const differing = fields.filter((field) => !isDeepStrictEqual(before.drawn[field], now.drawn[field]));
  const show = (value: unknown) => (JSON.stringify(value) ?? 'not given').slice(0, 80);
  const said = differing.map((field) => `${field} was ${show(before.drawn[field])} and is now ${show(now.drawn[field])}`);
  if (before.n > now.n) said.push(`n was ${before.n} and is now ${now.n}`);
  if (said.length > 0)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${out} holds other samples: ${said.join('; ')}. Name a new folder (--out).`);
}

/** The images without a file. Files that were begun are removed. @throws PhoenixError ERR_PHOENIX_ARGUMENT for what is none of these */
async function missingFrom(out: string, { folders, path }: Files, n: number): Promise<number[]> {
  const there = new Set<string>();
  const own = (name: string) => [RECORD, INDEX, ...folders].includes(name) || isLockFile(name);
  for (const folder of ['', ...folders])
    for (const name of await namesIn(join(out, folder))) {
      if (isDraft(name)) await io(out, () => remove(join(out, folder, name)));
      else if (!name.startsWith('.') && !(folder === '' && own(name))) there.add(join(folder, name));
    }
  const missing: number[] = [];
  for (let image = 0; image < n; image++) if (!there.delete(path(image))) missing.push(image);
  const [foreign] = there;
  if (foreign === undefined) return missing;
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `${out} holds ${foreign}, which is none of these samples. Remove it, or name a new folder (--out).`,
  );
}

/** Images one after the other, at most `batch`, all of one part. */
function* runsOf(missing: readonly number[], { parts }: Sampler, batch: number) {
  for (let at = 0; at < missing.length; ) {
    const first = missing[at]!;
    const part = parts.find((candidate) => first < candidate.first + candidate.count)!;
    let count = 1;
    while (count < batch && missing[at + count] === first + count && first + count < part.first + part.count) count++;
    yield { part, first, count };
    at += count;
  }
}

async function writeImages(out: string, files: Files, { size }: Sampler, first: number, pixels: Uint8Array): Promise<void> {
  const { height, width, channels } = size;
  const bytes = imageBytes(size);
  const write = async (i: number) => {
    const raw = { width, height, channels: channels as 1 | 3 };
    const picture = sharp(pixels.subarray(i * bytes, (i + 1) * bytes), { raw }).toColourspace(channels === 1 ? 'b-w' : 'srgb');
    await writeWhole(join(out, files.path(first + i)), await picture.png().toBuffer());
  };
  await Promise.all(Array.from({ length: pixels.length / bytes }, (_, i) => write(i)));
}

/** A line of JSON for each image. */
async function* indexLines({ path }: Files, { parts, classes, classNames }: Sampler, n: number): AsyncGenerator<Uint8Array> {
  let lines = '';
  for (let image = 0; image < n; image++) {
    const client = parts.find(({ first, count }) => image < first + count)?.id;
    lines += `${JSON.stringify({ file: path(image), image, class: classes && classNames![classes[image]!], client })}\n`;
    if (lines.length < 1 << 16 && image + 1 < n) continue;
    yield Buffer.from(lines);
    lines = '';
  }
}
