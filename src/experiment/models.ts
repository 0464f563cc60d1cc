/** Trainings of an experiment, in pieces that end where a point of the curves is due, and drawing samples from what they have learnt. */
import { join } from 'node:path';
import { createImages, type Device } from '../bindings/session.ts';
import { dealImages } from '../commands/deal.ts';
import type { MessageEvent, RunEvents } from '../commands/events.ts';
import { federate } from '../commands/federate.ts';
import { finetune } from '../commands/finetune.ts';
import { parseOptions } from '../commands/options/index.ts';
import { lossWarning, prepare } from '../commands/prepare.ts';
import { sample } from '../commands/sample.ts';
import { train } from '../commands/train.ts';
import { readCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { type Dataset, emptyClasses } from '../ddpm/data/index.ts';
import { atStart } from '../ddpm/fit.ts';
import { unetModel } from '../ddpm/model/unet.ts';
import { noise } from '../ddpm/noise.ts';
import { drawSamples, toPixels } from '../ddpm/sample.ts';
import { createSession } from '../ddpm/session.ts';
import { trainLocal } from '../ddpm/train.ts';
import { PhoenixError } from '../errors.ts';
import { remove } from '../files.ts';
import type { RoundRecord } from '../fl/protocol.ts';
import { classesInTurn, type ImageSet, joined, slice } from '../images.ts';
import { readLog } from '../report/log.ts';
import { streamKey } from '../rng.ts';
import { isRunFolder, openRun } from '../run/folder.ts';
import { examineLog } from '../run/log-file.ts';
import { type Cell, federateOptions, type Grid, isPersonal, type Training, trainOptions, type Work } from './grid.ts';
import { equalParts, partsBySize, subset } from './images.ts';

export type Lab = {
  grid: Grid;
  /** Training images. */
  dataset: Dataset;
  /** The experiment's folder. */
  dir: string;
  device: Device;
  threads: number | undefined;
  /** Whether locks of runs are taken whose owners cannot be looked up. */
  stealLock: boolean;
  /** What hands the warnings of a training, or of drawing from it, on to the caller, under the name of its cell. */
  telling(cell: string): (event: MessageEvent) => void;
  signal?: AbortSignal;
  /** Whether to stop at the next commit: time is up. */
  due(): boolean;
};

/** Where a training stands: rounds, images drawn and bytes sent so far. */
export type Standing = {
  round: number;
  images: number;
  bytesUp: number;
  bytesDown: number;
  /** Whether it has ended: at the commit whose images are nearest to the work of a cell. */
  ended: boolean;
};

/** Stands for an abort of a training by the experiment itself, after a commit. */
class Pause extends Error {}

export function folderOf(lab: Lab, training: Training): string {
  return join(lab.dir, 'runs', training.id);
}

/** The rounds of a run folder that were committed. */
export async function roundsOf(dir: string): Promise<RoundRecord[]> {
  if (!(await isRunFolder(dir))) return [];
  const run = await openRun(dir);
  if ((await examineLog(dir, run.log)).state === 'changed')
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${join(dir, 'log.jsonl')} is damaged: it is not what was committed. Restore it, or remove ${dir}.`,
    );
  return (await readLog(join(dir, 'log.jsonl'))).rounds.filter(({ round }) => round <= run.round);
}

function standingAfter(rounds: RoundRecord[], total: number): Standing {
  const sum = (of: 'images' | 'bytesUp' | 'bytesDown') => rounds.reduce((all, round) => all + round[of], 0);
  const images = sum('images');
  const last = rounds.at(-1);
  // Clients that sit out, or adapt their work, make rounds of unequal size.
  const ended = last !== undefined && total - images < last.images / 2;
  return { round: last?.round ?? 0, images, bytesUp: sum('bytesUp'), bytesDown: sum('bytesDown'), ended };
}

/** How long a training took, in seconds of the machine that made it. */
export async function secondsOf(lab: Lab, training: Training): Promise<number> {
  const dir = folderOf(lab, training);
  const folders = training.arm.train === 'local' ? sharesOf(lab, training).map(({ id }) => join(dir, id)) : [dir];
  const rounds = (await Promise.all(folders.map(roundsOf))).flat();
  return rounds.reduce((sum, { seconds }) => sum + seconds, 0);
}

/** Where a training stands as of its last commit. */
export async function standingOf(lab: Lab, training: Training, work: Work): Promise<Standing> {
  const dir = folderOf(lab, training);
  if (training.arm.train !== 'local') return standingAfter(await roundsOf(dir), work.total);
  const each = await Promise.all(sharesOf(lab, training).map(async ({ id }) => standingAfter(await roundsOf(join(dir, id)), work.alone)));
  return {
    round: Math.min(...each.map(({ round }) => round)),
    images: each.reduce((sum, { images }) => sum + images, 0),
    bytesUp: 0,
    bytesDown: 0,
    ended: each.every(({ ended }) => ended),
  };
}

/**
 * Trains on to the next point: the first commit at which `target` images have been drawn in all, or the end. A federation in which clients
 * sit out, or draw more or fewer images than planned, gets more or fewer rounds.
 * @returns where it stands; before the point where time was up
 */
export async function trainTo(
  lab: Lab,
  training: Training,
  work: Work,
  target: number,
  onImages: (images: number) => void,
): Promise<Standing> {
  const dir = folderOf(lab, training);
  if (training.arm.train === 'local') {
    await trainAlone(lab, training, work, onImages);
    return standingOf(lab, training, work);
  }
  let standing = await standingOf(lab, training, work);
  while (!standing.ended && standing.images < target && !lab.due()) {
    const events = pausing(lab, training, standing.images, target, onImages);
    if (training.arm.train === 'central') {
      const options = { ...trainOptions(lab.grid, training.seed, work.total, work.total / lab.grid.rounds), data: lab.dataset };
      await unlessPaused(() => train({ ...options, ...place(lab, dir) }, events));
    } else {
      const options = { ...federateOptions(lab.grid, training.arm, training.partition!, training.seed), data: lab.dataset };
      await unlessPaused(() => federate({ ...options, images: work.total, ...place(lab, dir) }, events));
    }
    standing = await standingOf(lab, training, work);
  }
  return standing;
}

const place = ({ device, threads, stealLock }: Lab, out: string) => ({ out, resume: true, stealLock, device, threads });

/** Events of a training that is aborted after the commit at which `target` images are reached, or time is up. */
function pausing(lab: Lab, training: Training, before: number, target: number, onImages: (images: number) => void): RunEvents {
  const pause = new AbortController();
  let images = before;
  return {
    signal: lab.signal ? AbortSignal.any([lab.signal, pause.signal]) : pause.signal,
    onMessage: lab.telling(training.id),
    onStep: (step) => onImages(step.images),
    onRound(record) {
      images += record.images;
      onImages(images);
      if (images >= target || lab.due()) pause.abort(new Pause());
    },
  };
}

async function unlessPaused(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Pause)) throw error;
  }
}

const sharesOf = (lab: Lab, { arm, partition, seed }: Training) =>
  dealImages(parseOptions('federate', federateOptions(lab.grid, arm, partition!, seed)), lab.dataset).shares;

/** One model per client, each on the client's images alone, one client after the other. */
async function trainAlone(lab: Lab, training: Training, work: Work, onImages: (images: number) => void): Promise<void> {
  let before = 0;
  for (const { id, train: own, heldOut } of sharesOf(lab, training)) {
    const dir = join(folderOf(lab, training), id);
    const had = standingAfter(await roundsOf(dir), work.alone);
    if (!had.ended) {
      if (lab.due()) return;
      const options = { ...trainOptions(lab.grid, training.seed, work.alone, work.perClient), ...place(lab, dir) };
      const data = subset(lab.dataset, [...own, ...heldOut], id);
      const events = pausing(lab, training, had.images, work.alone, (images) => onImages(before + images));
      await unlessPaused(() => train({ ...options, data }, events));
    }
    before += standingAfter(await roundsOf(dir), work.alone).images;
  }
}

// ---- samples

export type Drawn = {
  images: ImageSet;
  /** For pooled samples: the client of each image, one client after the other. */
  clients?: { id: string; count: number }[];
  /** The same in equal parts of every client's model, where clients have unequally many images. */
  equal?: ImageSet;
  /** Images processed for fine-tuning, in addition to the training. */
  trainedOn?: number;
};

/** Draws `count` images from what a cell's training has learnt: of one model, or of every client's in proportion to its images. */
export async function draw(lab: Lab, cell: Cell, count: number, onProgress: (done: number) => void): Promise<Drawn> {
  const { arm, seed, training } = cell;
  const dir = folderOf(lab, training);
  const { steps, scheduler } = lab.grid.score;
  const from = async (source: string, n: number, own: number, done: number, client?: string) => {
    const { device, threads, signal } = lab;
    const options = { source, n, steps, scheduler, client, raw: arm.weights === 'raw', seed: own, batch: 64 };
    const events = { signal, onMessage: lab.telling(cell.id), onProgress: (share: number) => onProgress((done + share * n) / count) };
    return sample({ ...options, device, threads }, events);
  };
  if (arm.fineTune > 0) return fineTuned(lab, cell, count, onProgress);
  if (arm.train !== 'local' && !isPersonal(arm)) return { images: await from(dir, count, seed, 0) };
  const parts = partsOf(sharesOf(lab, training), count);
  const images: ImageSet[] = [];
  let done = 0;
  for (const [i, { id, count: n, most }] of parts.entries()) {
    const own = clientSeed(seed, i);
    images.push(arm.train === 'local' ? await from(join(dir, id), most, own, done) : await from(dir, most, own, done, id));
    done += n;
  }
  return pooled(parts, images);
}

/** What a client contributes to samples of the mixture of their models: by its images, as one of equals, and the larger of both. */
type Part = { id: string; count: number; equal: number; most: number };

function partsOf(shares: ReturnType<typeof sharesOf>, count: number): Part[] {
  const sizes = shares.map(({ id, train }) => ({ id, size: train.length }));
  const [bySize, equally] = [
    partsBySize(sizes, count),
    equalParts(
      shares.map(({ id }) => id),
      count,
    ),
  ].map((parts) => new Map(parts.map((part) => [part.id, part.count])));
  return shares.flatMap(({ id }) => {
    const [own, equal] = [bySize!.get(id) ?? 0, equally!.get(id) ?? 0];
    return own + equal > 0 ? [{ id, count: own, equal, most: Math.max(own, equal) }] : [];
  });
}

/** Samples of all clients' models, put together in both ways. `images`: as many of each as it contributes at most. */
function pooled(parts: Part[], images: ImageSet[]): Drawn {
  const first = (of: (part: Part) => number) => joined(parts.flatMap((part, i) => (of(part) > 0 ? [slice(images[i]!, 0, of(part))] : [])));
  const clients = parts.filter(({ count }) => count > 0).map(({ id, count }) => ({ id, count }));
  const isEqual = parts.every(({ count, equal }) => count === equal);
  return { images: first(({ count }) => count), clients, ...(!isEqual && { equal: first(({ equal }) => equal) }) };
}

/** Every client's model draws from noise of its own. */
const clientSeed = (seed: number, client: number) => 100_000 * (client + 1) + seed;

/**
 * The global model after each client's own epochs on it, Adam from zero, the learning rate and the EMA as in every training: what personal
 * layers are to be compared with.
 */
async function fineTuned(
  lab: Lab,
  { id: cellId, arm, seed, training }: Cell,
  count: number,
  onProgress: (done: number) => void,
): Promise<Drawn> {
  const { dataset, device, threads, signal } = lab;
  const { checkpoint: path } = await openRun(folderOf(lab, training));
  const checkpoint = await readCheckpoint(path!);
  const options = federateOptions(lab.grid, arm, training.partition!, seed);
  const parsed = parseOptions('federate', options);
  const prepared = await prepare({ ...parsed, data: dataset });
  const schedule = noise(checkpoint.noise);
  using session = createSession({ model: unetModel(checkpoint.unet), noise: schedule, device, threads });
  using resident = await createImages(dataset, session);
  const { numClasses } = checkpoint.unet;
  const { lrFall } = parsed;
  const shares = sharesOf(lab, training);
  const parts = partsOf(shares, count);
  const images: ImageSet[] = [];
  let done = 0;
  let trainedOn = 0;
  for (const [i, { id, count: n, most }] of parts.entries()) {
    await checkpoint.load(session.params, session.ema, session.parameters);
    if (arm.weights === 'ema') await session.params.copy(session.ema, 0, session.parameterCount);
    const trained = await trainLocal({
      session,
      images: resident,
      indices: shares.find((share) => share.id === id)!.train,
      classes: prepared.classes,
      hyper: { ...prepared.hyper, warmupSteps: 0 },
      length: { epochs: arm.fineTune },
      position: atStart,
      fall: lrFall > 0 ? { share: lrFall, from: 0, to: 1 } : undefined,
      key: streamKey(seed, 'fine-tune', id),
      signal,
    });
    const warning = lossWarning(trained.loss, prepared.hyper);
    if (warning) lab.telling(cellId)({ level: 'warning', text: `fine-tuning ${id}: ${warning}` });
    trainedOn += trained.images;
    const values = await drawSamples({
      session,
      noise: schedule,
      count: most,
      batch: Math.min(most, 64),
      scheduler: lab.grid.score.scheduler,
      steps: lab.grid.score.steps,
      key: streamKey(clientSeed(seed, i), 'samples'),
      weights: arm.weights === 'ema' && prepared.hyper.emaDecay > 0 ? session.ema : session.params,
      classes: classesInTurn(most, numClasses, emptyClasses(dataset)),
      signal,
    });
    const { height, width, channels } = dataset;
    images.push({ pixels: toPixels(values), count: most, height, width, channels });
    done += n;
    onProgress(done / count);
  }
  return { ...pooled(parts, images), trainedOn };
}

/** Epochs on a site's images before a model of clients is drawn from for a site that nobody trained on. */
const UNSEEN_EPOCHS = 5;

/**
 * Draws `count` images for sites that took no part, in equal parts for each: of the personal layers, or of the whole global model where the
 * arm fine-tunes that, after UNSEEN_EPOCHS on the site's images.
 * @returns undefined for an arm that has no model for each client, or whose clients train alone: nothing of it can be fitted to a site
 */
export async function drawUnseen(lab: Lab, cell: Cell, sites: Dataset[], count: number): Promise<ImageSet | undefined> {
  const { arm, seed, training } = cell;
  if (sites.length === 0 || !(arm.fineTune > 0 || isPersonal(arm))) return undefined;
  const { device, threads, signal, grid } = lab;
  const { steps, scheduler } = grid.score;
  const events = { signal, onMessage: lab.telling(cell.id) };
  const { batch, lr } = parseOptions('federate', federateOptions(grid, arm, training.partition!, seed)).training;
  const checkpoint = join(lab.dir, 'scores', `${cell.id}.site.safetensors`);
  const place = { device, threads };
  const images: ImageSet[] = [];
  const parts = equalParts(
    sites.map(({ name }) => name),
    count,
  );
  try {
    for (const [i, { count: n }] of parts.entries()) {
      const fit = { epochs: UNSEEN_EPOCHS, training: { batch, lr }, seed };
      await finetune({ source: folderOf(lab, training), data: sites[i]!, ...fit, checkpoint, ...place }, events);
      const how = { n, steps, scheduler, seed: clientSeed(seed, i), batch: 64 };
      images.push(await sample({ source: checkpoint, ...how, ...place }, events));
    }
  } finally {
    await remove(checkpoint);
  }
  return joined(images);
}
