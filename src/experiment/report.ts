/** The report of an experiment: results.json, report.md and report.html, all of them from the scores alone. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Prepared } from '../commands/prepare.ts';
import type { Dataset } from '../ddpm/data/index.ts';
import { writeWhole } from '../files.ts';
import { describeDecision } from '../fl/strategies/filter.ts';
import { formatCount, formatNumber } from '../report/units.ts';
import { explainScorer, type ScoredBy } from './features.ts';
import { type Cell, type Grid, settingsOf, TUNED } from './grid.ts';
import { renderExperiment } from './page.ts';
import type { WorkOf } from './plan.ts';
import { besideTunedOf, bytesOf, closedOf, type ExperimentReport, formatFigure, inColumns, NOTES, percent, recallOf } from './present.ts';
import { curvesOf, filteringOf, kindOf, type Row, resultsOf } from './results.ts';
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
const ORDER = ['fd', 'fd unseen sites', 'classes', 'recall', 'coverage', 'precision', 'density', 'entropy', 'kd', 'ndb', 'jsd', 'nearest'];

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
    .filter((arm) => arm.train === 'federated' && results.some(({ rows }) => rows.some((row) => row.arm === arm)))
    .filter((arm) => {
      const { shareBeta, shareSource } = settingsOf(arm);
      return shareBeta > 0 && shareSource === 'real';
    })
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
      `${rounds} rounds of ${formatCount(perClient)} images a client`,
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

function renderMarkdown(report: ExperimentReport): string {
  const { results, metrics, filtering, scores, classNames } = report;
  const table = (head: string[], rows: string[][]) => [
    `| ${head.join(' | ')} |`,
    `|${head.map(() => '---').join('|')}|`,
    ...rows.map((row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`),
  ];
  const { first, others } = inColumns(metrics);
  const figuresOf = (row: Row, names: string[]) => names.map((name) => (row.metrics[name] ? formatFigure(row.metrics[name]) : '–'));
  const lines = [
    `# Experiment ${report.name}`,
    '',
    report.facts.join(' · '),
    '',
    ...report.remarks.flatMap((remark) => [`**${remark}**`, '']),
  ];
  for (const { partition, rows } of results) {
    lines.push(
      `## ${partition.name}: ${partition.partition}${partition.fraction < 1 ? `, ${percent(partition.fraction)} of the clients per round` : ''}`,
      '',
    );
    lines.push(
      ...table(
        ['arm', 'scored as', ...first, 'gap closed', 'bytes', ...others, `minus ${TUNED}`, 'images'],
        rows.map((row) => [
          row.arm.name,
          row.scoredAs,
          ...figuresOf(row, first),
          closedOf(row),
          bytesOf(row),
          ...figuresOf(row, others),
          besideTunedOf(row),
          formatCount(row.images.mean),
        ]),
      ),
      '',
    );
  }
  lines.push(...NOTES.map((note) => `- ${note}`), '');
  if (filtering.length > 0) {
    lines.push('## Who was filtered', '');
    for (const { cell, decisions, ...more } of filtering) {
      lines.push(`- **${cell}**: ${recallOf(more)}. ${decisions.length === 0 ? 'Nobody was filtered.' : ''}`);
      for (const decision of decisions) lines.push(`  - round ${decision.round}: ${describeDecision(decision)}`);
    }
    lines.push('');
  }
  const withClasses = scores.filter(({ final }) => final?.classes);
  if (withClasses.length > 0) {
    lines.push(
      '## Samples of each class',
      '',
      ...table(
        ['cell', ...classNames],
        withClasses.map(({ cell, final }) => [cell, ...final!.classes!.map(String)]),
      ),
      '',
    );
  }
  const federated = scores.filter(({ final }) => final && final.clients.length > 0);
  if (federated.length > 0) {
    lines.push(
      '## Clients',
      '',
      'Held-out losses are of the last round in which the client took part: of the global model that it received, and of its own after training.',
      '',
    );
    lines.push(
      ...table(
        ['cell', 'client', 'images', 'rounds counted', 'mean weight', 'loss', 'held out, global', 'held out, own'],
        federated.flatMap(({ cell, final }) =>
          final!.clients.map(({ client, examples, rounds, meanWeight, loss, evalLoss, evalLossLocal }) => [
            cell,
            client,
            formatCount(examples),
            String(rounds),
            formatNumber(meanWeight),
            ...[loss, evalLoss, evalLossLocal].map((value) => (value === null ? '–' : formatNumber(value))),
          ]),
        ),
      ),
      '',
    );
  }
  return `${lines.join('\n').trimEnd()}\n`;
}
