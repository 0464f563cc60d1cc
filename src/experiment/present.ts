/** How the results of an experiment are said, on the page and in Markdown. */
import { formatBytes, formatNumber } from '../report/units.ts';
import { BASELINE, CEILING, isMixture, TUNED } from './grid.ts';
import { type curvesOf, type Figure, type Filtering, kindOf, type PartitionResult, type Row } from './results.ts';
import type { CellScore } from './store.ts';

/** What every form of the report says. */
export type ExperimentReport = {
  name: string;
  /** Short facts: data, model, work. */
  facts: string[];
  remarks: string[];
  classNames: string[];
  results: PartitionResult[];
  /** Metric names in the order of the columns. */
  metrics: string[];
  curves: ReturnType<typeof curvesOf>[];
  filtering: Filtering[];
  scores: CellScore[];
  pictures: { cell: string; png: Uint8Array }[];
};

/** '12.3 ± 1.2 (3)': mean, half of the 95 % t-interval, seeds; a mean alone of one seed. */
export function formatFigure({ mean, half, n }: Figure): string {
  if (!Number.isFinite(mean)) return '–';
  return half === undefined ? formatNumber(mean) : `${formatNumber(mean)} ± ${formatNumber(half)} (${n})`;
}

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** Metrics in columns before *gap closed* and *bytes*, and metrics in columns after them. */
export function inColumns(metrics: string[]): { first: string[]; others: string[] } {
  const isFirst = (name: string) => ['fd', 'fd equal parts', 'fd unseen sites', 'classes'].includes(kindOf(name));
  return { first: metrics.filter(isFirst), others: metrics.filter((name) => !isFirst(name)) };
}

/** The columns of the table that are not metrics, with their values as text. */
export function closedOf(row: Row): string {
  const shares = Object.entries(row.closed).map(([name, share]) => `${kindOf(name)} ${percent(share)}`);
  return shares.length > 0 ? `${shares.join(', ')}${isMixture(row.arm) ? ' (pooled samples)' : ''}` : '–';
}

/** For pooled samples: the difference from FedAvg's after local fine-tuning. */
export function besideTunedOf({ besideTuned = {} }: Row): string {
  return (
    Object.entries(besideTuned)
      .map(([name, value]) => `${kindOf(name)} ${value >= 0 ? '+' : '−'}${formatNumber(Math.abs(value))}`)
      .join(', ') || '–'
  );
}

export function bytesOf({ bytes, bytesShare, arm }: Row): string {
  return arm.train === 'federated' ? `${formatBytes(bytes.mean)}${bytesShare === undefined ? '' : ` (${percent(bytesShare)})`}` : '0';
}

/** Recall of an arm with a filter, and the baseline's. */
export function recallOf({ alone, recall }: Pick<Filtering, 'alone' | 'recall'>): string {
  const own = `${recall.metric} ${formatNumber(recall.own)}`;
  if (recall.baseline === undefined) return own;
  return `${own}, ${BASELINE} ${formatNumber(recall.baseline)}${alone ? '' : ' (the arm adds more than a filter)'}`;
}

export const NOTES = [
  'Intervals are 95 % t-intervals of the mean over seeds, with the number of seeds in brackets; a figure without one is of a single seed.',
  `"Gap closed" is (${BASELINE} − arm) / (${BASELINE} − ${CEILING}), of means over the seeds that all three have. 100 % is as good as ` +
    `${CEILING}, below 0 % is worse than ${BASELINE}. It is left out where ${CEILING} is not better.`,
  `Bytes are measured on the encoded messages, up and down; in brackets as a share of ${BASELINE}'s.`,
  'Pooled samples are of every client’s model, personal layers or fine-tuning included, in proportion to the client’s images; ' +
    'where clients have unequally many, "fd equal parts" is of equally many of each. ' +
    `They are compared with ${TUNED}, the pooled samples of the clients’ models after fine-tuning the global one on their own images: ` +
    `the column "minus ${TUNED}" is the difference on the seeds that both have. Their gap closed compares many models with one, and says so.`,
];
