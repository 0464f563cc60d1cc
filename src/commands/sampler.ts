/** A trained model that is ready to draw images from: whose layers it has, which class each image is of, and how it draws. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Session } from '../bindings/session.ts';
import { PIECE, setBytes, type Vector } from '../bindings/vector.ts';
import { readCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { classNamed, numbered } from '../ddpm/data/classes.ts';
import { unetModel } from '../ddpm/model/unet.ts';
import { noise } from '../ddpm/noise.ts';
import { drawSamples, toPixels } from '../ddpm/sample.ts';
import { createSession } from '../ddpm/session.ts';
import { PhoenixError } from '../errors.ts';
import { io } from '../files.ts';
import { splitParameters } from '../fl/site/personal.ts';
import { keptEntry } from '../fl/site/state.ts';
import { classesInTurn, type ImageSize } from '../images.ts';
import { streamKey } from '../rng.ts';
import type { MessageEvent } from './events.ts';
import type { Settings } from './options/index.ts';
import { assumedNoise, emptyClassesOf, findCheckpoint, personalOf, rangeOf } from './sources.ts';

/** Whose model some of the images are drawn from: the first of them, and how many. A client's, or the one there is. */
export type Part = { id?: string; first: number; count: number };

export type Sampler = Disposable & {
  readonly size: ImageSize;
  /** One after the other, all images. */
  readonly parts: readonly Part[];
  /** Class of each image, and the names of all classes, of a class-conditional model. */
  readonly classes?: Int32Array;
  readonly classNames?: string[];
  /** The values of the training images that pixels 0 and 255 stand for, where they were a range. */
  readonly range?: [number, number];
  /** The checkpoint file or diffusers folder, and which of its weights. */
  readonly checkpoint: string;
  readonly weights: 'raw' | 'ema';
  readonly session: Session;
  /** sha256 of the weights, those of every part's own layers included. */
  fingerprint(): Promise<string>;
  /** Pixels of the images first..first+count-1 of a part: the same, however they are divided over calls. */
  draw(part: Part, first: number, count: number, onProgress?: (done: number) => void): Promise<Uint8Array>;
};

/** The client that stands for all: equal parts of the images from each one's model. */
const EVERY_CLIENT = '*';

export type SamplerEvents = { onMessage?(event: MessageEvent): void; signal?: AbortSignal };

/**
 * Opens a model for `settings.n` images.
 * @throws PhoenixError as `sample` does
 */
export async function openSampler(settings: Settings<'sample'>, { onMessage, signal }: SamplerEvents): Promise<Sampler> {
  const { n: count, device, precision, threads, batch, scheduler, steps, eta, variance, spacing, clip } = settings;
  const { path, stored } = await findCheckpoint(settings.source);
  const checkpoint = await readCheckpoint(path, { noise: assumedNoise(settings) });
  for (const text of checkpoint.warnings) onMessage?.({ level: 'warning', text });
  const patterns = personalOf(checkpoint);
  const owners = ownersOf(patterns, await personalFiles(stored), settings.client, count);
  const { height, width, inChannels: channels, numClasses } = checkpoint.unet;
  const classNames = numClasses > 0 ? (checkpoint.classNames ?? numbered(numClasses)) : undefined;
  const classes = classesOf(count, classNames, settings.class, emptyClassesOf(checkpoint));
  const schedule = noise(checkpoint.noise);
  signal?.throwIfAborted();

  const session = createSession({ model: unetModel(checkpoint.unet), noise: schedule, device, precision, threads });
  try {
    await checkpoint.load(session.params, session.ema, session.parameters);
  } catch (error) {
    session.dispose();
    throw error;
  }
  const weights = checkpoint.hasEma && !settings.raw ? 'ema' : 'raw';
  const vector = weights === 'ema' ? session.ema : session.params;
  let current: string | undefined;
  return {
    size: { height, width, channels },
    parts: owners,
    classes,
    classNames,
    range: rangeOf(checkpoint),
    checkpoint: path,
    weights,
    session,
    fingerprint: () => fingerprintOf(vector, owners),
    async draw(part, first, some, onProgress) {
      const { id, path: layers } = owners.find((owner) => owner.first === part.first)!;
      if (patterns && layers !== undefined && current !== layers) await setPersonal(session, vector, patterns, layers);
      current = layers;
      const values = await drawSamples({
        session,
        noise: schedule,
        count: some,
        firstImage: first,
        batch: Math.min(some, batch),
        scheduler,
        steps,
        eta,
        variance,
        spacing,
        clip,
        key: owners.length > 1 ? streamKey(settings.seed, 'samples', id!) : streamKey(settings.seed, 'samples'),
        weights: vector,
        classes: classes?.subarray(part.first + first, part.first + first + some),
        onProgress,
        signal,
      });
      return toPixels(values);
    },
    [Symbol.dispose]: () => session.dispose(),
  };
}

async function fingerprintOf(vector: Vector, owners: readonly Owner[]): Promise<string> {
  const hash = createHash('sha256');
  for (let offset = 0; offset < vector.length; offset += PIECE)
    hash.update(await vector.toBytes(offset, Math.min(PIECE, vector.length - offset)));
  for (const { id = '', path } of owners) if (path !== undefined) hash.update(id).update(await io(path, () => readFile(path)));
  return hash.digest('hex');
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

/** A part with the file of its own layers. */
type Owner = Part & { path?: string };

/**
 * Whose models to draw from, with the files of their layers: nobody's, one client's, or every client's in equal parts.
 * @throws PhoenixError unless the model has personal layers iff a client was named
 */
function ownersOf(patterns: string[] | undefined, personal: Record<string, string>, client: string | undefined, count: number): Owner[] {
  if (!patterns) {
    if (client === undefined) return [{ first: 0, count }];
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
    return wanted.map((id, i) => ({ id, path: personal[id]!, first: upTo(i), count: upTo(i + 1) - upTo(i) }));
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
