/** The report of an experiment: results.json, report.md and report.html, all of them from the scores alone. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Prepared } from '../commands/prepare.ts';
import type { Dataset } from '../ddpm/data/index.ts';
import { writeWhole } from '../files.ts';
import { formatCount } from '../report/units.ts';
import { explainScorer, type ScoredBy } from './features.ts';
import { type Cell, type Grid, sharesReal } from './grid.ts';
import { renderMarkdown } from './markdown.ts';
import { renderExperiment } from './page.ts';
import type { WorkOf } from './plan.ts';
import type { ExperimentReport } from './present.ts';
import { curvesOf, filteringOf, kindOf, resultsOf } from './results.ts';
import type { CellScore } from './store.ts';

export type ReportInput = {
  dir: string;
  grid: Grid;
  cells: Cell[];
  scores: CellScore[];
  prepared: Prepared;
  dataset: Dataset;
  workOf: WorkOf;
  /** What samples are scored by. */
  scorer: ScoredBy;
};

/** Kinds of metrics in the order of the table's columns; what is not here comes after. */
const ORDER = [
  'fd',
  'fd equal parts',
  'fd unseen sites',
  'classes',
  'recall',
  'coverage',
  'precision',
  'density',
  'entropy',
  'kd',
  'ndb',
  'jsd',
  'nearest',
];

/** @throws PhoenixError ERR_PHOENIX_IO */
export async function writeExperimentReport(input: ReportInput): Promise<{ report: string; markdown: string }> {
  const { dir, grid, cells, prepared, dataset, workOf, scorer } = input;
  // In the order of the grid, whatever the order in which they were scored.
  const scores = cells.flatMap((cell) => input.scores.find((score) => score.cell === cell.id) ?? []);
  const results = resultsOf(grid, cells, scores);
  const names = new Set(scores.flatMap(({ final }) => (final ? Object.keys(final.metrics) : [])));
  const place = (name: string) => (ORDER.includes(kindOf(name)) ? ORDER.indexOf(kindOf(name)) : ORDER.length);
  const metrics = [...names].sort((a, b) => place(a) - place(b));
  const pictures = await Promise.all(
    scores
      .filter(({ final }) => final)
      .map(async ({ cell }) => ({ cell, png: await readFile(join(dir, 'scores', `${cell}.png`)).catch(() => new Uint8Array()) })),
  );
  const done = scores.filter(({ final }) => final).length;
  const { total, perClient, rounds } = workOf(undefined);
  const { height, width, channels, count, name } = dataset;
  const { steps, scheduler, samples } = grid.score;
  const publics = grid.arms
    .filter((arm) => results.some(({ rows }) => rows.some((row) => row.arm === arm)))
    .filter(sharesReal)
    .map((arm) => arm.name);
  const report: ExperimentReport = {
    name: grid.name,
    facts: [
      `${formatCount(count)} images of ${name}`,
      `${width}×${height} ${channels === 1 ? 'gray' : 'RGB'}`,
      `preset ${grid.options.preset ?? 'tiny'}`,
      `${prepared.noise.prediction}-prediction, ${prepared.noise.kind} schedule`,
      `batch ${prepared.hyper.batch}, learning rate ${prepared.hyper.lr}`,
      `every cell trains on ${formatCount(total)} images`,
      `${rounds} rounds of ${formatCount(perClient)} images per client`,
      `${formatCount(samples)} samples, ${scheduler} ${steps} steps`,
    ],
    remarks: [
      ...(done < cells.length ? [`${done} of ${cells.length} cells are scored: the experiment has not ended.`] : []),
      ...explainScorer(scorer),
      ...(publics.length > 0
        ? [`Images are shared in ${publics.join(', ')}: training images that are set aside for every client, and so are public.`]
        : []),
    ],
    classNames: dataset.classNames,
    results,
    metrics,
    curves: ['fd', 'classes'].map((kind) => curvesOf(grid, scores, kind)),
    filtering: filteringOf(grid, scores),
    scores,
    pictures: pictures.filter(({ png }) => png.length > 0),
  };
  const paths = { report: join(dir, 'report.html'), markdown: join(dir, 'report.md') };
  await writeWhole(
    join(dir, 'results.json'),
    `${JSON.stringify({ schema: 1, grid: grid.name, cells: cells.length, done, scorer, results }, null, 1)}\n`,
  );
  await writeWhole(paths.markdown, renderMarkdown(report));
  await writeWhole(paths.report, renderExperiment(report));
  return paths;
}
