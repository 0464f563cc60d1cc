/** Drawing images from a trained model: a checkpoint, the newest one of a run folder, or a diffusers folder. */
import { readFile } from 'node:fs/promises';
import type { Session } from '../bindings/session.ts';
import type { Vector } from '../bindings/vector.ts';
import { setBytes } from '../bindings/vector.ts';
import { readCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { classNamed, numbered } from '../ddpm/data/classes.ts';
import { unetModel } from '../ddpm/model/unet.ts';
import { noise } from '../ddpm/noise.ts';
import { drawSamples, toPixels } from '../ddpm/sample.ts';
import { createSession } from '../ddpm/session.ts';
import { PhoenixError } from '../errors.ts';
import { io, writeWhole } from '../files.ts';
import { splitParameters } from '../fl/site/personal.ts';
import { keptEntry } from '../fl/site/state.ts';
import { classesInTurn, type ImageSet } from '../images.ts';
import { checkOutput, formats } from '../outputs.ts';
import { streamKey } from '../rng.ts';
import type { MessageEvent } from './events.ts';
import { classColumns, fittingGrid, imageGrid } from './image-grid.ts';
import { parseOptions, type SampleOptions } from './options/index.ts';
import { assumedNoise, emptyClassesOf, findCheckpoint, personalOf, rangeOf } from './sources.ts';

export type SampleEvents = {
  /** Share done, 0..1. */
  onProgress?(done: number): void;
  /** What of the model's files is not honoured. */
  onMessage?(event: MessageEvent): void;
  signal?: AbortSignal;
};

export type Samples = ImageSet & {
  /** Class that each image was drawn for, of a class-conditional model. */
  classes?: Int32Array;
  /** The names of the model's classes; their numbers, where it does not name them. */
  classNames?: string[];
  /** The values of the training images that pixels 0 and 255 stand for, where they were a range. */
  range?: [number, number];
  /** The checkpoint file or diffusers folder that was drawn from, and which of its weights. */
  checkpoint: string;
  weights: 'raw' | 'ema';
  /** Whose personal layers the images were drawn with, and how many of them each, one client after the other. */
  clients?: { id: string; count: number }[];
  /** Path of the grid, if one was asked for. */
  grid?: string;
};

/** The client that stands for all: equal parts of the images from each one's model. */
const EVERY_CLIENT = '*';

/**
 * Draws `n` images, from the EMA weights unless `raw` is set or there are none. Equal options give equal images, whatever batch and
 * threads.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for options, and for a precision that the device does not have, ERR_PHOENIX_RUN for a run
 * folder without a checkpoint, ERR_PHOENIX_CHECKPOINT, ERR_PHOENIX_IO; an abort rejects with `signal.reason`
 */
export async function sample(options: SampleOptions, { onProgress, onMessage, signal }: SampleEvents = {}): Promise<Samples> {
  const settings = parseOptions('sample', options);
  const { n: count, grid } = settings;
  if (grid !== undefined) await checkOutput(grid, formats.png);
  const { path, stored } = await findCheckpoint(settings.source);
  const checkpoint = await readCheckpoint(path, { noise: assumedNoise(settings) });
  for (const text of checkpoint.warnings) onMessage?.({ level: 'warning', text });
  const patterns = personalOf(checkpoint);
  const owners = ownersOf(patterns, await personalFiles(stored), settings.client, count);
  const { height, width, inChannels: channels, numClasses } = checkpoint.unet;
  const schedule = noise(checkpoint.noise);
  const classNames = numClasses > 0 ? (checkpoint.classNames ?? numbered(numClasses)) : undefined;
  const empty = emptyClassesOf(checkpoint);
  const classes = classesOf(count, classNames, settings.class, empty);
  const columns = settings.class === undefined ? classColumns(numClasses - empty.length) : undefined;
  const layout = grid === undefined ? undefined : fittingGrid({ count, height, width, channels }, columns);
  signal?.throwIfAborted();

  using session = createSession({
    model: unetModel(checkpoint.unet),
    noise: schedule,
    device: settings.device,
    precision: settings.precision,
    threads: settings.threads,
  });
  await checkpoint.load(session.params, session.ema, session.parameters);
  const weights = checkpoint.hasEma && !settings.raw ? 'ema' : 'raw';
  const vector = weights === 'ema' ? session.ema : session.params;
  const pixels = new Uint8Array(count * height * width * channels);
  let done = 0;
  for (const { id, path: layers, count: part } of owners) {
    if (patterns && layers !== undefined) await setPersonal(session, vector, patterns, layers);
    const values = await drawSamples({
      session,
      noise: schedule,
      count: part,
      batch: Math.min(part, settings.batch),
      scheduler: settings.scheduler,
      steps: settings.steps,
      eta: settings.eta,
      variance: settings.variance,
      spacing: settings.spacing,
      clip: settings.clip,
      key: owners.length > 1 ? streamKey(settings.seed, 'samples', id!) : streamKey(settings.seed, 'samples'),
      weights: vector,
      classes: classes?.subarray(done, done + part),
      onProgress: onProgress && ((share) => onProgress((done + share * part) / count)),
      signal,
    });
    pixels.set(toPixels(values), done * height * width * channels);
    done += part;
  }
  const images: ImageSet = { pixels, count, height, width, channels };
  const clients = owners.flatMap(({ id, count: part }) => (id === undefined ? [] : [{ id, count: part }]));
  if (grid !== undefined) {
    await writeWhole(grid, await imageGrid(images, layout));
  }
  return {
    ...images,
    classes,
    classNames,
    range: rangeOf(checkpoint),
    checkpoint: path,
    weights,
    ...(clients.length > 0 && { clients }),
    grid,
  };
}

/** The file of each client's personal layers, by client. @throws PhoenixError ERR_PHOENIX_RUN for a damaged run */
async function personalFiles(stored: Record<string, string>): Promise<Record<string, string>> {
  const files: Record<string, string> = {};
  for (const [key, path] of Object.entries(stored)) {
    if (!key.endsWith('/kept')) continue;
    const client = key.slice(0, -'/kept'.length);
    const entry = keptEntry(client, 'personal', await io(path, () => readFile(path)));
    if (entry !== undefined && stored[entry] !== undefined) files[client] = stored[entry];
  }
  return files;
}

/**
 * Whose models to draw from, with the files of their layers: nobody's, one client's, or every client's in equal parts.
 * @throws PhoenixError unless the model has personal layers iff a client was named
 */
function ownersOf(
  patterns: string[] | undefined,
  personal: Record<string, string>,
  client: string | undefined,
  count: number,
): { id?: string; path?: string; count: number }[] {
  if (!patterns) {
    if (client === undefined) return [{ count }];
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `option client is ${client}, but this model has no personal layers: leave it out.`);
  }
  const known = Object.keys(personal).sort();
  const wanted = client === EVERY_CLIENT ? known : known.filter((id) => id === client);
  if (wanted.length > count)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `${count} images are too few to draw from each of ${wanted.length} clients: ask for more.`,
    );
  if (wanted.length > 0) {
    const upTo = (i: number) => Math.floor((i * count) / wanted.length);
    return wanted.map((id, i) => ({ id, path: personal[id]!, count: upTo(i + 1) - upTo(i) }));
  }
  const ids = known.slice(0, 10);
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `This model has personal layers (${patterns.join(', ')}), which only its clients have trained. Name the run folder and a client (--client ID) or all clients (--client '*'), or train these layers on a site's images first (phoenix finetune). ${
      ids.length > 0 ? `Clients that have trained: ${ids.join(', ')}${known.length > ids.length ? ', …' : ''}.` : 'There are none here.'
    }`,
  );
}

/** Puts a client's layers into a whole model. */
async function setPersonal(session: Session, into: Vector, patterns: string[], path: string): Promise<void> {
  const split = splitParameters(session.parameters, patterns);
  const bytes = await io(path, () => readFile(path));
  const own = session.createVector(split.personalCount);
  try {
    if (bytes.length !== 4 * own.length) {
      throw new PhoenixError('ERR_PHOENIX_RUN', `${path} is damaged: it has ${bytes.length} bytes instead of ${4 * own.length}.`);
    }
    await setBytes(bytes, own);
    if (!(await own.isFinite())) throw new PhoenixError('ERR_PHOENIX_RUN', `${path} is damaged: it holds NaN or infinite values.`);
    await into.scatter(own, split.personal);
  } finally {
    own.dispose();
  }
}

/** The class asked for, or all that had images in turn; undefined for a model without classes. */
function classesOf(
  count: number,
  names: string[] | undefined,
  wanted: string | number | undefined,
  empty: number[],
): Int32Array | undefined {
  if (wanted === undefined) return classesInTurn(count, names?.length ?? 0, empty);
  if (!names)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `option class is ${wanted}, but this model is not class-conditional: leave it out.`);
  const label = classNamed(String(wanted), names);
  if (!empty.includes(label)) return new Int32Array(count).fill(label);
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `option class is ${wanted}, but that class had no images in training. Name another.`);
}
