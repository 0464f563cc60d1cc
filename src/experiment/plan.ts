/** The plan of an experiment: the training budget per partition, what is left to do, and its cost. */

import type { prepare } from '../commands/prepare.ts';
import { PhoenixError } from '../errors.ts';
import { parsePartition } from '../fl/partition/index.ts';
import { measureRates, mostBytes, type Rates } from './cost.ts';
import { type Cell, equalWork, type Grid, hasCurve, type Partition, type Work } from './grid.ts';
import { type Lab, standingOf } from './models.ts';
import type { CellScore } from './store.ts';

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
  /** Most bytes that all federations will send in models, updates and shared images. */
  bytes: number;
  /**
   * Of training and drawing on this machine as it was when measured; 0 if nothing is left. Metrics, probes and what is made at the start
   * come on top.
   */
  secondsLeft: number;
};

export type WorkOf = (partition: Partition | undefined) => Work;

/**
 * Equal work for every partition; without one, that of the centralised arm: all partitions then need as many clients.
 * @throws PhoenixError ERR_PHOENIX_CONFIG where they do not, or for a site partition of data without sites
 */
export function workTable(grid: Grid, batch: number, sites: number | undefined): WorkOf {
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

export async function planOf({ lab, cells, scores, workOf, prepared, dir }: Planning): Promise<Plan & { rates: Rates }> {
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
    const { images, ended } = await standingOf(lab, training, work);
    if (!ended) imagesLeft += Math.max(0, work.total - images);
  }
  const { steps, scheduler } = grid.score;
  const rates =
    done === cells.length
      ? { parameterCount: 0, train: 1, sample: 1 }
      : await measureRates(prepared, dataset, { steps, scheduler, device, threads, signal });
  const bytes = trainings
    .filter(({ arm }) => arm.train === 'federated')
    .reduce((sum, { arm, partition }) => sum + mostBytes(arm, workOf(partition), rates.parameterCount, dataset), 0);
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
