/**
 * An experiment: every cell of a grid trained at equal work and scored alike, as a folder that can be killed at any moment and continued, and a
 * report at its end.
 */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type ExperimentOptions, parseOptions } from '../config.ts';
import { openDataset } from '../ddpm/data/index.ts';
import { PhoenixError } from '../errors.ts';
import type { MessageEvent } from '../events.ts';
import { parsePartition } from '../fl/partition/index.ts';
import { imageGrid } from '../image-grid.ts';
import { prepare } from '../prepare.ts';
import { io } from '../run/folder.ts';
import { takeLock } from '../run/lock.ts';
import { bytesOfRound, measureRates, type Rates } from './cost.ts';
import { createScorer, type Score, type Scorer } from './features.ts';
import {
  type Arm,
  type Cell,
  equalWork,
  expandGrid,
  type Grid,
  type Partition,
  parseGrid,
  type Training,
  trainOptions,
  type Work,
} from './grid.ts';
import { type Drawn, draw, folderOf, type Lab, roundsOf, type Standing, standingOf, trainTo } from './models.ts';
import { experimentPresets } from './presets.ts';
import { writeExperimentReport } from './report.ts';
import { type CellScore, type FinalScore, openFolder, readScore, writeScore, writeWhole } from './store.ts';

/** What will be done, and what it will cost. */
export type Plan = {
  name: string;
  dir: string;
  cells: number;
  /** Cells that are scored already. */
  done: number;
  trainings: number;
  parameterCount: number;
  /** Images that every cell trains on, and that all trainings together still have to. */
  imagesPerCell: number;
  imagesLeft: number;
  /** Images still to be drawn for scores. */
  samplesLeft: number;
  /** Bytes that the federations will send in all, at most. */
  bytes: number;
  /** On this machine as it was when measured; 0 if nothing is left. */
  secondsLeft: number;
};

export type ExperimentEvents = {
  onPlan?(plan: Plan): void;
  /** A cell has been scored to its end. */
  onCell?(score: CellScore, done: number, cells: number): void;
  /** Work done and in all, in seconds of the plan. */
  onProgress?(progress: { label: string; done: number; total: number }): void;
  onMessage?(event: MessageEvent): void;
  /** Stops at once; the folder can be continued from its last commit. */
  signal?: AbortSignal;
};

export type ExperimentResult = {
  dir: string;
  cells: number;
  done: number;
  /** Paths, once a cell is scored. */
  report?: string;
  markdown?: string;
};

/**
 * Runs the grid in `options.grid`, or continues it, and writes report.html, report.md and results.json.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for the grid or an option, ERR_PHOENIX_CONFIG for a grid that its data cannot carry, ERR_PHOENIX_RUN for
 * a folder of another experiment, and what training and metrics throw; an abort rejects with `signal.reason`
 */
export async function experiment(options: ExperimentOptions, events: ExperimentEvents = {}): Promise<ExperimentResult> {
  const { onPlan, onCell, onProgress, onMessage, signal } = events;
  const settings = parseOptions('experiment', options);
  const { device, threads } = settings;
  const started = performance.now();
  const grid = await readGrid(settings.grid);
  const data = settings.data ?? grid.data;
  if (data === undefined)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The grid ${grid.name} names no data: say where it lies (--data DIR).`);
  const dir = settings.out ?? join('runs', grid.name);
  const dataset = await openDataset(data, { size: grid.size, limit: grid.limit });
  const prepared = await prepare(parseOptions('train', { ...trainOptions(grid, 0, 1), data: dataset }));
  const cells = expandGrid(grid);
  const workOf = workTable(grid, prepared.fit.batch, dataset.sites && new Set(dataset.sites).size);
  signal?.throwIfAborted();

  const { runs: _, ...fixed } = grid;
  await openFolder(dir, { grid: { ...fixed, runs: grid.runs }, data: { name: dataset.name, fingerprint: dataset.fingerprint } });
  const unlock = await io(dir, () => takeLock(dir));
  try {
    const lab: Lab = {
      grid,
      dataset,
      dir,
      device,
      threads,
      signal,
      due: () => settings.stopAfter !== undefined && performance.now() - started >= 60_000 * settings.stopAfter,
    };
    const scores = new Map<string, CellScore>();
    for (const cell of cells) {
      const score = await readScore(dir, cell.id);
      if (score) scores.set(cell.id, score);
    }
    const isDone = (cell: Cell) => scores.get(cell.id)?.final !== undefined;
    const plan = await planOf({ lab, cells, scores, workOf, prepared, dir });
    onPlan?.(plan);
    if (settings.plan) return { dir, cells: cells.length, done: plan.done };

    const left = cells.filter((cell) => !isDone(cell));
    if (left.length > 0) {
      const label = (what: string, done: number) => onProgress?.({ label: what, done, total: 1 });
      const features = settings.features ?? grid.score.features;
      const { size, score } = grid;
      const { classifierSteps } = score;
      const scorer = await createScorer({
        data,
        size,
        train: dataset,
        features,
        classifierSteps,
        dir,
        threads: threads || undefined,
        signal,
        onProgress: label,
      });
      onMessage?.({ level: 'info', text: explainScorer(scorer) });
      if (scorer.accuracy !== undefined && scorer.accuracy < 0.8)
        onMessage?.({
          level: 'warning',
          text: `Classes are not counted: at ${precisely(scorer.accuracy)} of the test images they are told too badly (80 % are needed).`,
        });
      await openFolder(dir, {
        grid,
        data: { name: dataset.name, fingerprint: dataset.fingerprint },
        scorer: describeScorer(scorer),
      });

      const clock = clockOf(plan.rates, plan.secondsLeft, onProgress);
      for (const training of new Set(left.map((cell) => cell.training))) {
        const own = cells.filter((cell) => cell.training === training);
        await runTraining(lab, scorer, training, own, workOf(training.partition), scores, clock);
        for (const cell of own)
          if (isDone(cell) && left.includes(cell)) onCell?.(scores.get(cell.id)!, cells.filter(isDone).length, cells.length);
        if (lab.due()) break;
      }
    }
    const done = cells.filter(isDone).length;
    if (done === 0) return { dir, cells: cells.length, done };
    const written = await writeExperimentReport({ dir, grid, cells, scores: [...scores.values()], prepared, dataset, workOf });
    return { dir, cells: cells.length, done, ...written };
  } finally {
    await unlock();
  }
}

/** Reads a grid file, or takes a preset. */
async function readGrid(source: string): Promise<Grid> {
  const isFile = source.endsWith('.json');
  if (!isFile) {
    if (Object.hasOwn(experimentPresets, source)) return parseGrid(experimentPresets[source], `the preset ${source}`);
    const presets = Object.keys(experimentPresets).join(', ');
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `There is no grid "${source}": name a file that ends in .json, or a preset: ${presets}.`,
    );
  }
  const text = await io(source, () => readFile(source, 'utf8'));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${source} is no grid of an experiment: it is no JSON (${(cause as Error).message}).`, {
      cause,
    });
  }
  return parseGrid(value, source);
}

export type WorkOf = (partition: Partition | undefined) => Work;

/**
 * Equal work for every partition; without one, that of the centralised arm: all partitions then need as many clients.
 * @throws PhoenixError ERR_PHOENIX_CONFIG where they do not, or for a site partition of data without sites
 */
function workTable(grid: Grid, batch: number, sites: number | undefined): WorkOf {
  const clientsOf = ({ name, partition, clients }: Partition) => {
    if (parsePartition(partition).name !== 'site') return clients ?? grid.clients;
    if (sites === undefined)
      throw new PhoenixError('ERR_PHOENIX_CONFIG', `The partition ${name} divides by site, but the images have none.`);
    return sites;
  };
  const used = grid.partitions.filter(({ name }) => grid.runs.some((run) => run.partitions.includes(name)));
  const totals = new Map(used.map((entry) => [entry.name, equalWork(grid, batch, clientsOf(entry), entry.fraction)]));
  const distinct = new Set([...totals.values()].map(({ total }) => total));
  const central = grid.runs.some((run) => run.arms.some((name) => grid.arms.find((arm) => arm.name === name)!.train === 'central'));
  if (central && distinct.size > 1) {
    const shown = [...totals].map(([name, { total }]) => `${name} ${total}`).join(', ');
    throw new PhoenixError(
      'ERR_PHOENIX_CONFIG',
      `One centralised model cannot be compared with partitions of unequal work (images: ${shown}): give them equally many clients, or experiments of their own.`,
    );
  }
  return (partition) => totals.get(partition?.name ?? used[0]!.name)!;
}

type Planning = {
  lab: Lab;
  cells: Cell[];
  scores: Map<string, CellScore>;
  workOf: WorkOf;
  prepared: Awaited<ReturnType<typeof prepare>>;
  dir: string;
};

async function planOf({ lab, cells, scores, workOf, prepared, dir }: Planning): Promise<Plan & { rates: Rates }> {
  const { grid, dataset, device, threads, signal } = lab;
  const { samples, every, curveSamples } = grid.score;
  const done = cells.filter((cell) => scores.get(cell.id)?.final).length;
  const trainings = [...new Set(cells.map((cell) => cell.training))];
  let imagesLeft = 0;
  let samplesLeft = 0;
  for (const cell of cells) {
    const score = scores.get(cell.id);
    if (score?.final) continue;
    const points = hasCurve(cell.arm, grid) ? Math.ceil(grid.rounds / every) - 1 - (score?.points.length ?? 0) : 0;
    samplesLeft += samples + Math.max(0, points) * curveSamples;
    if (cell.arm.fineTune > 0) imagesLeft += cell.arm.fineTune * dataset.count;
  }
  for (const training of trainings) {
    if (cells.every((cell) => cell.training !== training || scores.get(cell.id)?.final)) continue;
    const work = workOf(training.partition);
    const trained =
      training.arm.train === 'local' ? 0 : (await roundsOf(folderOf(lab, training))).reduce((sum, { images }) => sum + images, 0);
    imagesLeft += Math.max(0, work.total - trained);
  }
  const { steps, scheduler } = grid.score;
  const rates =
    done === cells.length
      ? { parameterCount: 0, train: 1, sample: 1 }
      : await measureRates(prepared, dataset, { steps, scheduler, device, threads, signal });
  const bytes = trainings.reduce((sum, training) => {
    const { selected, rounds } = workOf(training.partition);
    return training.arm.train === 'federated' ? sum + bytesOfRound(training.arm, rates.parameterCount) * selected * rounds : sum;
  }, 0);
  return {
    name: grid.name,
    dir,
    cells: cells.length,
    done,
    trainings: trainings.length,
    parameterCount: rates.parameterCount,
    imagesPerCell: workOf(undefined).total,
    imagesLeft,
    samplesLeft,
    bytes,
    secondsLeft: imagesLeft / rates.train + samplesLeft / rates.sample,
    rates,
  };
}

/** Tells progress in seconds of the plan. */
type Clock = { rates: Rates; at(label: string, more: number): void; add(seconds: number): void };

function clockOf(rates: Rates, total: number, onProgress: ExperimentEvents['onProgress']): Clock {
  let done = 0;
  return {
    rates,
    at: (label, more) => onProgress?.({ label, done: Math.min(total, done + more), total }),
    add(seconds) {
      done += seconds;
    },
  };
}

/** Trains on, and scores the cells of the training at every point of the curves and at the end. */
async function runTraining(
  lab: Lab,
  scorer: Scorer,
  training: Training,
  cells: Cell[],
  work: Work,
  scores: Map<string, CellScore>,
  clock: Clock,
): Promise<void> {
  const { every, samples, curveSamples } = lab.grid.score;
  const period = cells.some(({ arm }) => hasCurve(arm, lab.grid)) ? (every * work.total) / lab.grid.rounds : Infinity;
  let standing = await standingOf(lab, training, work);
  for (;;) {
    // A point that a kill has left unscored is scored first: the training stands where it is due.
    if (!cells.some((cell) => isDue(lab.grid, cell, scores.get(cell.id), standing, period))) {
      const begun = standing.images;
      const target = period === Infinity ? work.total : (Math.floor(begun / period) + 1) * period;
      standing = await trainTo(lab, training, work, target, (images) =>
        clock.at(`${training.id}: training`, (images - begun) / clock.rates.train),
      );
      clock.add((standing.images - begun) / clock.rates.train);
      if (!standing.ended && standing.images < target) return;
    }
    const { ended, ...point } = standing;
    for (const cell of cells) {
      if (!isDue(lab.grid, cell, scores.get(cell.id), standing, period)) continue;
      if (lab.due()) return;
      const count = ended ? samples : curveSamples;
      const drawn = await draw(lab, cell, count, (share) => clock.at(`${cell.id}: drawing`, (share * count) / clock.rates.sample));
      clock.add(count / clock.rates.sample);
      const score = await scorer.score(drawn.images, ended);
      const before: CellScore = scores.get(cell.id) ?? {
        schema: 1,
        cell: cell.id,
        arm: cell.arm.name,
        partition: cell.partition?.name,
        seed: cell.seed,
        points: [],
      };
      const after: CellScore = ended
        ? {
            ...before,
            final: { ...point, images: point.images + (drawn.trainedOn ?? 0), ...(await finalOf(lab, cell, scorer, drawn, score)) },
          }
        : { ...before, points: [...before.points, { ...point, metrics: score.metrics }] };
      if (ended) await drawPicture(lab, cell, drawn);
      await writeScore(lab.dir, after);
      scores.set(cell.id, after);
    }
    if (ended) return;
  }
}

/** Whether a cell is scored on the way: not clients alone, who train one after the other, nor what an epoch at every point would be spent on. */
const hasCurve = ({ train, fineTune }: Arm, grid: Grid): boolean => grid.score.every > 0 && train !== 'local' && fineTune === 0;

/** Whether a training stands at its end or at a point of the curves, and the cell has not been scored there. */
function isDue(grid: Grid, { arm }: Cell, score: CellScore | undefined, { images, ended }: Standing, period: number): boolean {
  if (score?.final) return false;
  if (!hasCurve(arm, grid)) return ended;
  return ended || (score?.points.at(-1)?.images ?? 0) < Math.floor(images / period) * period;
}

async function finalOf(lab: Lab, cell: Cell, scorer: Scorer, drawn: Drawn, score: Score): Promise<Omit<FinalScore, keyof Standing>> {
  const rounds = cell.training.arm.train === 'federated' ? await roundsOf(folderOf(lab, cell.training)) : [];
  const { metrics, classes, classRecall } = score;
  return {
    metrics,
    classes,
    classRecall,
    mixture: drawn.clients && (await mixtureOf(drawn, scorer)),
    clients: clientsOf(rounds),
    decisions: rounds.flatMap(({ round, decisions = [] }) =>
      decisions.map(({ client, action, reason }) => ({ round, client, action, reason })),
    ),
  };
}

/** Which classes each client's part of a mixture shows. */
async function mixtureOf({ images, clients }: Drawn, scorer: Scorer): Promise<NonNullable<FinalScore['mixture']>> {
  const size = images.height * images.width * images.channels;
  const parts: NonNullable<FinalScore['mixture']> = [];
  let first = 0;
  for (const { id, count } of clients!) {
    const pixels = images.pixels.subarray(first * size, (first + count) * size);
    parts.push({ client: id, samples: count, classes: await scorer.classesOf({ ...images, pixels, count }) });
    first += count;
  }
  return parts;
}

function clientsOf(rounds: Awaited<ReturnType<typeof roundsOf>>): FinalScore['clients'] {
  const byClient = new Map<string, FinalScore['clients'][number]>();
  for (const { clients } of rounds)
    for (const { client, weight = 0, loss = null, examples = 0, ...more } of clients) {
      const known = byClient.get(client);
      const counted = weight > 0 ? 1 : 0;
      const [evalLoss, evalLossLocal] = [more.evalLoss, more.evalLossLocal].map((value) => (typeof value === 'number' ? value : null));
      byClient.set(client, {
        client,
        examples,
        rounds: (known?.rounds ?? 0) + counted,
        meanWeight: (known?.meanWeight ?? 0) + weight / rounds.length,
        loss,
        evalLoss: evalLoss!,
        evalLossLocal: evalLossLocal!,
      });
    }
  return [...byClient.values()].sort((a, b) => a.client.localeCompare(b.client, 'en', { numeric: true }));
}

/** Images of a picture: of a mixture equally many of each client, one client a row where they fit. */
const PICTURE = 40;

async function drawPicture(lab: Lab, cell: Cell, { images, clients }: Drawn): Promise<void> {
  const { height, width, channels, pixels } = images;
  const count = Math.min(PICTURE, images.count);
  const size = height * width * channels;
  const chosen = new Uint8Array(count * size);
  for (let i = 0; i < count; i++) {
    // Evenly over the whole, so that every client of a mixture is there.
    const from = clients ? Math.floor((i * images.count) / count) : i;
    chosen.set(pixels.subarray(from * size, (from + 1) * size), i * size);
  }
  const png = await imageGrid(chosen, { count, height, width, channels, columns: 10 });
  await writeWhole(join(lab.dir, 'scores', `${cell.id}.png`), png);
}

const precisely = (share: number): string => `${(100 * share).toFixed(1)} %`;

const describeScorer = ({ network, accuracy, classesBy, tests, unseenTests }: Scorer) => ({
  ...network,
  accuracy,
  classesBy,
  tests,
  unseenTests,
});

function explainScorer({ network, accuracy, classesBy, tests, unseenTests }: Scorer): string {
  const classes =
    accuracy === undefined
      ? 'no classes'
      : `${precisely(accuracy)} of their classes are told right (${classesBy === 'network' ? 'by the network' : 'by logistic regression on its features'})`;
  const unseen = unseenTests > 0 ? `, and with ${unseenTests} of sites that nobody trains on` : '';
  return `Samples are compared with ${tests} test images${unseen} in ${network.dims} features of ${network.name}: ${classes}.`;
}
