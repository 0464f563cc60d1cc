/** report.md of an experiment. */
import { describeDecision } from '../fl/strategies/filter.ts';
import { formatCount, formatNumber } from '../report/units.ts';
import { TUNED } from './grid.ts';
import { besideTunedOf, bytesOf, closedOf, type ExperimentReport, formatFigure, inColumns, NOTES, percent, recallOf } from './present.ts';
import type { PartitionResult, Row } from './results.ts';

/** The report as Markdown. */
export function renderMarkdown(report: ExperimentReport): string {
  const lines = [
    `# Experiment ${report.name}`,
    '',
    report.facts.join(' · '),
    '',
    ...report.remarks.flatMap((remark) => [`**${remark}**`, '']),
    ...report.results.flatMap((result) => resultLines(result, report)),
    ...NOTES.map((note) => `- ${note}`),
    '',
    ...filterLines(report),
    ...classLines(report),
    ...clientLines(report),
  ];
  return `${lines.join('\n').trimEnd()}\n`;
}

function table(head: string[], rows: string[][]): string[] {
  return [
    `| ${head.join(' | ')} |`,
    `|${head.map(() => '---').join('|')}|`,
    ...rows.map((row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`),
    '',
  ];
}

function resultLines({ partition, rows }: PartitionResult, { metrics }: ExperimentReport): string[] {
  const { first, others } = inColumns(metrics);
  const figuresOf = (row: Row, names: string[]) => names.map((name) => (row.metrics[name] ? formatFigure(row.metrics[name]) : '–'));
  return [
    `## ${partition.name}: ${partition.partition}${partition.fraction < 1 ? `, ${percent(partition.fraction)} of the clients per round` : ''}`,
    '',
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
  ];
}

function filterLines({ filtering }: ExperimentReport): string[] {
  if (filtering.length === 0) return [];
  const about = ({ cell, decisions, ...more }: (typeof filtering)[number]) => [
    `- **${cell}**: ${recallOf(more)}. ${decisions.length === 0 ? 'Nobody was filtered.' : ''}`,
    ...decisions.map((decision) => `  - round ${decision.round}: ${describeDecision(decision)}`),
  ];
  return ['## Who was filtered', '', ...filtering.flatMap(about), ''];
}

function classLines({ scores, classNames }: ExperimentReport): string[] {
  const rows = scores.flatMap(({ cell, final }) => (final?.classes ? [[cell, ...final.classes.map(String)]] : []));
  return rows.length === 0 ? [] : ['## Samples of each class', '', ...table(['cell', ...classNames], rows)];
}

function clientLines({ scores }: ExperimentReport): string[] {
  const number = (value: number | null) => (value === null ? '–' : formatNumber(value));
  const rows = scores.flatMap(({ cell, final }) =>
    (final?.clients ?? []).map(({ client, examples, rounds, meanWeight, loss, evalLoss, evalLossLocal }) => [
      cell,
      client,
      formatCount(examples),
      String(rounds),
      formatNumber(meanWeight),
      ...[loss, evalLoss, evalLossLocal].map(number),
    ]),
  );
  if (rows.length === 0) return [];
  const note =
    'Held-out losses are of the last round in which the client took part: of the global model that it received, and of its own after training.';
  const head = ['cell', 'client', 'images', 'rounds counted', 'mean weight', 'loss', 'held out, global', 'held out, own'];
  return ['## Clients', '', note, '', ...table(head, rows)];
}
