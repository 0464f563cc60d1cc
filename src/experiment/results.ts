/** What the scores of an experiment say: rows of arms with intervals over seeds, and how much of the gap each closes. */
import { type Arm, BASELINE, CEILING, type Cell, type Grid, isMixture, type Partition, settingsOf, TUNED } from './grid.ts';
import type { CellScore, FinalScore } from './store.ts';

/** A figure over seeds: mean, and half of the 95 % t-interval where there are at least two. */
export type Figure = { mean: number; half?: number; n: number };

/** Student's t at 97.5 %, by degrees of freedom from 1; beyond 30 the normal's. */
const T = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086,
  2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
];

export function figureOf(values: number[]): Figure {
  const n = values.length;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return { mean, n };
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  return { mean, half: (T[n - 2] ?? 1.96) * Math.sqrt(variance / n), n };
}

export type Row = {
  arm: Arm;
  seeds: number[];
  /** 'global model, EMA', 'pooled samples of 10 clients', … */
  scoredAs: string;
  /** By metric name, of the seeds that have it. */
  metrics: Record<string, Figure>;
  images: Figure;
  /** Up and down, in all. */
  bytes: Figure;
  /** bytes / those of the baseline, on the seeds that both have; absent without bytes or baseline. */
  bytesShare?: number;
  /** (baseline - arm) / (baseline - centralised), by metric, on the seeds that all three have; absent where there is no gap. */
  closed: Record<string, number>;
  /**
   * For pooled samples: their metrics minus those of the baseline's after local fine-tuning, on the seeds that both have; absent where
   * there is none.
   */
  besideTuned?: Record<string, number>;
};

export type PartitionResult = {
  partition: Partition;
  rows: Row[];
};

/** Metrics of which a gap is worked out: the distance, and coverage of classes and of the test images. */
const GAPS = ['fd', 'classes', 'recall', 'coverage'];
/** The kind of a metric by its name: 'fd' of fd_own_2k. */
export function kindOf(name: string): string {
  if (name.endsWith('_unseen_sites')) return 'fd unseen sites';
  if (name.endsWith('_equal_parts')) return 'fd equal parts';
  return name.slice(0, name.indexOf('_'));
}

/** The table of each partition with scored cells. A centralised arm, which no partition changes, is in all of them. */
export function resultsOf(grid: Grid, cells: Cell[], scores: CellScore[]): PartitionResult[] {
  const finalOf = (arm: string, partition: string | undefined, seed: number) =>
    scores.find((score) => score.arm === arm && score.partition === partition && score.seed === seed)?.final;
  return grid.partitions.flatMap((partition) => {
    const seeds = [...new Set(cells.filter((cell) => cell.partition?.name === partition.name).map((cell) => cell.seed))].sort(
      (a, b) => a - b,
    );
    const at = (arm: Arm, seed: number) => finalOf(arm.name, arm.train === 'central' ? undefined : partition.name, seed);
    const baseline = grid.arms.find((arm) => arm.name === BASELINE);
    const ceiling = grid.arms.find((arm) => arm.name === CEILING);
    const tuned = grid.arms.find((arm) => arm.name === TUNED);
    const rows = grid.arms.flatMap((arm): Row[] => {
      const scored = seeds.flatMap((seed) => {
        const final = at(arm, seed);
        return final ? [{ seed, final }] : [];
      });
      if (scored.length === 0) return [];
      const names = Object.keys(scored[0]!.final.metrics);
      const over = (value: (final: FinalScore) => number) => figureOf(scored.map(({ final }) => value(final)));
      const beside = scored.flatMap(({ seed, final }) => {
        const from = baseline && at(baseline, seed);
        return from ? [{ final, from, to: ceiling && at(ceiling, seed) }] : [];
      });
      const total = (of: (entry: (typeof beside)[number]) => number) => beside.reduce((sum, entry) => sum + of(entry), 0);
      const sent = (final: FinalScore) => final.bytesUp + final.bytesDown;
      const closed: Record<string, number> = {};
      const complete = beside.filter(({ to }) => to);
      if (complete.length > 0 && arm !== baseline && arm !== ceiling)
        for (const name of names.filter((entry) => GAPS.includes(kindOf(entry)))) {
          const mean = (of: (entry: (typeof complete)[number]) => number) =>
            complete.reduce((sum, entry) => sum + of(entry), 0) / complete.length;
          const [from, to, own] = [
            mean((entry) => entry.from.metrics[name] ?? NaN),
            mean((entry) => entry.to!.metrics[name] ?? NaN),
            mean((entry) => entry.final.metrics[name] ?? NaN),
          ];
          // Without a gap in the expected direction there is nothing to close.
          const gap = kindOf(name) === 'fd' ? from - to : to - from;
          if (gap > 1e-9 && Number.isFinite(own)) closed[name] = (own - from) / (to - from);
        }
      return [
        {
          arm,
          seeds: scored.map(({ seed }) => seed),
          scoredAs: scoredAs(arm, scored[0]!.final),
          metrics: Object.fromEntries(names.map((name) => [name, over((final) => final.metrics[name] ?? NaN)])),
          images: over((final) => final.images),
          bytes: over(sent),
          ...(total(({ from }) => sent(from)) > 0 &&
            arm.train === 'federated' && {
              bytesShare: total(({ final }) => sent(final)) / total(({ from }) => sent(from)),
            }),
          closed,
          ...(tuned && arm !== tuned && isMixture(arm) && { besideTuned: differences(scored, (seed) => at(tuned, seed)) }),
        },
      ];
    });
    return rows.length > 0 && rows.some(({ arm }) => arm.train !== 'central') ? [{ partition, rows }] : [];
  });
}

/** Means of a metric less those of others, on the seeds that both have. */
function differences(
  scored: { seed: number; final: FinalScore }[],
  other: (seed: number) => FinalScore | undefined,
): Record<string, number> | undefined {
  const pairs = scored.flatMap(({ seed, final }) => {
    const from = other(seed);
    return from ? [{ final, from }] : [];
  });
  if (pairs.length === 0) return undefined;
  const mean = (name: string) =>
    pairs.reduce((sum, { final, from }) => sum + (final.metrics[name] ?? NaN) - (from.metrics[name] ?? NaN), 0) / pairs.length;
  const names = Object.keys(pairs[0]!.final.metrics).filter((name) => GAPS.includes(kindOf(name)));
  return Object.fromEntries(names.map((name) => [name, mean(name)]));
}

function scoredAs(arm: Arm, { mixture }: FinalScore): string {
  const weights = arm.weights === 'ema' ? 'EMA' : 'raw';
  if (!isMixture(arm)) return `one model, ${weights}`;
  const of = `pooled samples of ${mixture?.length ?? 0} clients`;
  return arm.fineTune > 0 ? `${of} after ${arm.fineTune} local epoch${arm.fineTune > 1 ? 's' : ''} on the global model` : of;
}

/** A series of a metric over the course of a training: the mean over seeds at each point that all of them have. */
export type Curve = { arm: string; partition?: string; points: { round: number; images: number; bytes: number; value: number }[] };

/** Curves of the metric of a kind, in the smaller samples of the points. */
export function curvesOf(grid: Grid, scores: CellScore[], kind: string): { metric: string; curves: Curve[] } | undefined {
  const metric = scores
    .flatMap((score) => score.points.flatMap((point) => Object.keys(point.metrics)))
    .find((name) => kindOf(name) === kind);
  if (!metric) return undefined;
  const curves: Curve[] = [];
  for (const arm of grid.arms)
    for (const partition of arm.train === 'central' ? [undefined] : grid.partitions) {
      const own = scores.filter((score) => score.arm === arm.name && score.partition === partition?.name && score.points.length > 0);
      if (own.length === 0) continue;
      const length = own.reduce((least, score) => Math.min(least, score.points.length), Infinity);
      const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
      curves.push({
        arm: arm.name,
        partition: partition?.name,
        points: Array.from({ length }, (_, i) => {
          const points = own.map((score) => score.points[i]!);
          return {
            round: mean(points.map((point) => point.round)),
            images: mean(points.map((point) => point.images)),
            bytes: mean(points.map((point) => point.bytesUp + point.bytesDown)),
            value: mean(points.map((point) => point.metrics[metric]!)),
          };
        }),
      });
    }
  return { metric, curves };
}

/**
 * What filters did: every decision, and recall with the baseline's of the same partition and seed. The arm may differ from the baseline in
 * more than its filter.
 */
export type Filtering = {
  cell: string;
  partition: string;
  seed: number;
  decisions: FinalScore['decisions'];
  /** Whether the filter is all that the arm adds to the baseline. */
  alone: boolean;
  recall: { metric: string; own: number; baseline?: number };
};

export function filteringOf(grid: Grid, scores: CellScore[]): Filtering[] {
  return scores.flatMap(({ cell, arm, partition, seed, final }) => {
    const filters = grid.arms.find(
      (entry) => entry.name === arm && entry.train === 'federated' && settingsOf(entry).filter.kind !== 'none',
    );
    const metric = final && Object.keys(final.metrics).find((name) => kindOf(name) === 'recall');
    if (!filters || !metric || partition === undefined) return [];
    const alone = Object.keys(filters.options).every((key) => key.startsWith('filter')) && filters.fineTune === 0;
    const baseline = scores.find((score) => score.arm === BASELINE && score.partition === partition && score.seed === seed)?.final;
    const { decisions } = final;
    return [
      { cell, partition, seed, decisions, alone, recall: { metric, own: final.metrics[metric]!, baseline: baseline?.metrics[metric] } },
    ];
  });
}
