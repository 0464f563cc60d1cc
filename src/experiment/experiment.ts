/**
 * An experiment: every cell of a grid trained with an equal budget and scored in the same way, as a folder that can be killed at any moment
 * and continued, and a report at its end.
 */

import { join } from 'node:path';
import { z } from 'zod';
import { defaultThreads } from '../bindings/threads.ts';
import { withCallbacks } from '../callbacks.ts';
import { requireApart } from '../commands/data.ts';
import type { MessageEvent } from '../commands/events.ts';
import { type ExperimentOptions, parseOptions } from '../commands/options/index.ts';
import { prepare } from '../commands/prepare.ts';
import { describeData, openDataset, type ReadProgress } from '../ddpm/data/index.ts';
import { PhoenixError } from '../errors.ts';
import { type JsonRules, readJson } from '../files.ts';
import { checkOutputFolder } from '../outputs.ts';
import { clocksOf, runTraining } from './cells.ts';
import { createScorer, explainScorer, type ScoredBy, type Scorer, scoredByOf } from './features.ts';
import { type Cell, expandGrid, type Grid, parseGrid, sharesReal, type Training, trainOptions } from './grid.ts';
import { askedOf, keepMeasured, type Measured, machineOf, severalScorers, takeMeasured } from './measured.ts';
import { type Lab, secondsOf } from './models.ts';
import { type Plan, planOf, type WorkOf, workTable } from './plan.ts';
import { experimentPresets } from './presets.ts';
import { writeExperimentReport } from './report.ts';
import { type CellScore, lockFolder, noteBasis, readScore, writeScore } from './store.ts';

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
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for the grid or an option, ERR_PHOENIX_CONFIG for a grid that its data cannot carry,
 * ERR_PHOENIX_RUN for a folder of another experiment, and what training and metrics throw; an abort rejects with `signal.reason`
 */
export function experiment(options: ExperimentOptions, events: ExperimentEvents = {}): Promise<ExperimentResult> {
  return withCallbacks('experiment', events, (guarded) => runExperiment(options, guarded));
}

async function runExperiment(options: ExperimentOptions, events: ExperimentEvents): Promise<ExperimentResult> {
  const { onPlan, onProgress, onMessage, signal } = events;
  const settings = parseOptions('experiment', options);
  const { device, jobs } = settings;
  const threads = settings.threads ?? (jobs > 1 ? Math.max(1, Math.floor(defaultThreads() / jobs)) : undefined);
  const started = performance.now();
  const grid = await readGrid(settings.grid);
  const data = settings.data ?? grid.data;
  if (data === undefined)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The grid ${grid.name} names no data: say where it lies (--data DIR).`);
  const dir = settings.out ?? join('runs', grid.name);
  await checkOutputFolder(dir);
  await requireApart(data, dir);
  const dataset = await openDataset(data, {
    size: grid.size,
    limit: grid.limit,
    range: grid.range,
    signal,
    onProgress: reading(onProgress),
  });
  onMessage?.({ level: 'info', text: describeData(dataset) });
  const warnings = [...(dataset.notes?.warnings ?? [])];
  for (const text of warnings) onMessage?.({ level: 'warning', text });
  const prepared = await prepare(parseOptions('train', { ...trainOptions(grid, 0, 1), data: dataset }));
  const cells = expandGrid(grid);
  const workOf = workTable(grid, prepared.hyper.batch, dataset.sites && new Set(dataset.sites).size);
  signal?.throwIfAborted();

  const lock = await lockFolder(dir, { steal: settings.stealLock });
  try {
    const basis = { grid, data: { name: dataset.name, fingerprint: dataset.fingerprint } };
    let { scorer: scoredBy } = await noteBasis(dir, basis);
    const lab: Lab = {
      grid,
      dataset,
      dir,
      device,
      threads,
      stealLock: settings.stealLock,
      telling: tellingOf(onMessage, warnings),
      signal,
      due: () => settings.stopAfter !== undefined && performance.now() - started >= 60_000 * settings.stopAfter,
    };
    const scores = await scoresOf(dir, cells);
    const taken = settings.cells === undefined ? [] : await takeCells(settings.cells, { lab, cells, scores });
    if (taken.length > 0) onMessage?.({ level: 'info', text: `${taken.length} cells are taken from ${settings.cells}.` });
    const plan = await planOf({ lab, cells, scores, workOf, prepared, dir });
    const publics = grid.arms.filter((arm) => sharesReal(arm) && cells.some((cell) => cell.arm === arm)).map((arm) => arm.name);
    if (publics.length > 0)
      onMessage?.({
        level: 'info',
        text: `Real training images become public to all clients of the arms ${publics.join(', ')} (shareReal of the grid).`,
      });
    await onPlan?.(plan);
    if (settings.plan) return { dir, cells: cells.length, done: plan.done };

    if (cells.some((cell) => !isDone(scores, cell))) {
      const features = settings.features ?? grid.score.features;
      const scorer = await scorerOf(lab, data, features, onProgress);
      for (const text of scorer.warnings) onMessage?.({ level: 'warning', text: `test images: ${text}` });
      warnings.push(...scorer.warnings);
      scoredBy = scoredByOf(scorer);
      await noteBasis(dir, { ...basis, scorer: scoredBy });
      tell(scoredBy, onMessage);
      await scoreCells({ lab, scorer, cells, scores, workOf, plan, jobs, keepIn: settings.cells }, events);
    } else if (scoredBy) tell(scoredBy, onMessage);
    scoredBy ??= taken[0]?.scorer;
    const several = severalScorers([...taken.map(({ scorer }) => scorer), ...(scoredBy ? [scoredBy] : [])]);
    if (several) onMessage?.({ level: 'warning', text: several });

    const done = cells.filter((cell) => isDone(scores, cell)).length;
    if (done === 0 || !scoredBy) return { dir, cells: cells.length, done };
    const report = { dir, grid, cells, scores: [...scores.values()], prepared, dataset, workOf, scorer: scoredBy };
    return { dir, cells: cells.length, done, ...(await writeExperimentReport(report)) };
  } finally {
    await lock.release();
  }
}

/** Reading as progress of the experiment. */
function reading(onProgress: ExperimentEvents['onProgress']): (progress: ReadProgress) => void {
  return ({ stage, done, total }) => onProgress?.({ label: `reading ${stage}`, done, total });
}

/**
 * Warnings of trainings go to the caller behind the name of the cell, each once however often its training is continued. Those of the data,
 * which every training repeats, are told already.
 */
function tellingOf(onMessage: ExperimentEvents['onMessage'], ofData: readonly string[]): Lab['telling'] {
  const told = new Set<string>();
  return (cell) =>
    ({ level, text }) => {
      const whole = `${cell}: ${text}`;
      if (level !== 'warning' || ofData.includes(text) || told.has(whole)) return;
      told.add(whole);
      onMessage?.({ level, text: whole });
    };
}

/** What the cells have scored before. */
async function scoresOf(dir: string, cells: Cell[]): Promise<Map<string, CellScore>> {
  const scores = new Map<string, CellScore>();
  for (const cell of cells) {
    const score = await readScore(dir, cell.id);
    if (score) scores.set(cell.id, score);
  }
  return scores;
}

const isDone = (scores: Map<string, CellScore>, cell: Cell) => scores.get(cell.id)?.final !== undefined;

function tell(scorer: ScoredBy, onMessage: ExperimentEvents['onMessage']): void {
  for (const [i, text] of explainScorer(scorer).entries()) onMessage?.({ level: i === 0 ? 'info' : 'warning', text });
}

function scorerOf(lab: Lab, data: string, features: string | undefined, onProgress: ExperimentEvents['onProgress']): Promise<Scorer> {
  const { grid, dataset: train, dir, threads, signal } = lab;
  return createScorer({
    data,
    size: grid.size,
    train,
    range: train.range?.join(','),
    features,
    classifierSteps: grid.score.classifierSteps,
    dir,
    threads,
    signal,
    onProgress: (label, done) => onProgress?.({ label, done, total: 1 }),
  });
}

/** Takes cells that were measured before into the folder, as scored. What the folder has scored itself is its own. */
async function takeCells(from: string, { lab, cells, scores }: Pick<Scoring, 'lab' | 'cells' | 'scores'>): Promise<Measured[]> {
  const taken: Measured[] = [];
  for (const cell of cells) {
    if (isDone(scores, cell)) continue;
    const measured = await takeMeasured(from, cell.id, askedOf(lab.grid, lab.dataset, cell));
    if (!measured?.score.final) continue;
    await writeScore(lab.dir, measured.score);
    scores.set(cell.id, measured.score);
    taken.push(measured);
  }
  return taken;
}

type Scoring = {
  lab: Lab;
  scorer: Scorer;
  cells: Cell[];
  scores: Map<string, CellScore>;
  workOf: WorkOf;
  plan: Awaited<ReturnType<typeof planOf>>;
  /** Trainings at once. */
  jobs: number;
  /** The folder that measured cells are put into. */
  keepIn: string | undefined;
};

/** Trains and scores what is not done yet, so many trainings at once, until time is up. */
async function scoreCells(scoring: Scoring, { onProgress, onCell }: ExperimentEvents): Promise<void> {
  const { scorer, cells, scores, workOf, plan, jobs, keepIn } = scoring;
  // The first that fails ends the others.
  const failed = new AbortController();
  const { signal } = scoring.lab;
  const lab = { ...scoring.lab, signal: signal ? AbortSignal.any([signal, failed.signal]) : failed.signal };
  const left = cells.filter((cell) => !isDone(scores, cell));
  const newClock = clocksOf(plan.rates, plan.secondsLeft, onProgress);
  const trainOne = async (training: Training) => {
    const own = cells.filter((cell) => cell.training === training);
    await runTraining({ lab, scorer, training, cells: own, work: workOf(training.partition), scores, clock: newClock() });
    for (const cell of own) {
      if (!isDone(scores, cell) || !left.includes(cell)) continue;
      const score = scores.get(cell.id)!;
      if (keepIn !== undefined) {
        const asked = askedOf(lab.grid, lab.dataset, cell);
        const seconds = await secondsOf(lab, training);
        await keepMeasured(keepIn, { schema: 1, asked, scorer: scoredByOf(scorer), machine: machineOf(), seconds, jobs, score });
      }
      await onCell?.(score, cells.filter((other) => isDone(scores, other)).length, cells.length);
    }
  };
  const waiting = [...new Set(left.map((cell) => cell.training))];
  const takeTurns = async () => {
    try {
      for (let next = waiting.shift(); next && !lab.due(); next = waiting.shift()) await trainOne(next);
    } catch (error) {
      failed.abort(error);
    }
  };
  await Promise.all(Array.from({ length: jobs }, takeTurns));
  failed.signal.throwIfAborted();
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
  const rules: JsonRules = {
    code: 'ERR_PHOENIX_ARGUMENT',
    maxBytes: 1 << 20,
    verdict: 'is no grid of an experiment',
    advice: 'docs/experiments.md shows one.',
  };
  return parseGrid(await readJson(source, z.unknown(), rules), source);
}
