/**
 * Threshold filtering, the second half of Phoenix's personalization strategy (Stanley Jothiraj & Mashhadi 2023): clients whose models score
 * poorly are left out. Which statistic and threshold the paper used is not known; ours are options. `disconnect` is as in the paper: for
 * good, whoever it is. `quarantine` is ours: a client is excluded until it scores well again, a cohort always stays, and no client is
 * excluded if the cohort would then cover fewer bins, since a client with rare images is different, not poor; this guard can be left out,
 * for it cannot tell rare images from spoilt ones.
 */
import { checkArguments } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import type { ClientId, Decision, Report, Statistic } from '../protocol.ts';
import type { Profiles } from '../state.ts';
import type { Needs, Strategy } from '../strategy.ts';

export const filterKinds = ['none', 'quarantine', 'disconnect'] as const;

export type FilterOptions = {
  kind: 'quarantine' | 'disconnect';
  statistic: Statistic;
  /** A value, or '2x': worse than the median of those that count by this factor. */
  threshold: string;
  /** Clients that quarantine always leaves in. @default half of those known, rounded up */
  cohort?: number;
  /** Whether quarantine keeps clients that cover bins which no other client covers. @default true */
  guard?: boolean;
};

const isGuarded = ({ kind, guard = true }: Pick<FilterOptions, 'kind' | 'guard'>) => kind === 'quarantine' && guard;

/** The excluded clients, each with the round in which it was excluded. */
export type FilterState = Record<ClientId, number>;

/**
 * `0.4`: this value; `2x`: the median over (precision) or times (the others) this factor.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT
 */
export function parseThreshold(text: string): { value: number; relative: boolean } {
  const relative = text.endsWith('x');
  const digits = relative ? text.slice(0, -1) : text;
  const value = /^\d*\.?\d+(e[-+]?\d+)?$/.test(digits) ? Number(digits) : NaN;
  if (Number.isFinite(value) && (relative ? value >= 1 : value >= 0)) return { value, relative };
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `A threshold is a value of at least 0 (0.4) or a factor of at least 1 relative to the median (2x), not ${JSON.stringify(text.slice(0, 40))}.`,
  );
}

const higherIsBetter = (statistic: Statistic) => statistic === 'precision';

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[Math.floor((sorted.length - 1) / 2)]! + sorted[Math.floor(sorted.length / 2)]!) / 2;
}

/** A bin counts as covered by a client that has at least this share of an equal portion there. */
const COVERED = 0.5;

/** The bins that some of these clients cover. */
export function coveredBins(clients: ClientId[], profiles: Profiles): Set<number> {
  const covered = new Set<number>();
  for (const client of clients) {
    const histogram = profiles[client]?.histogram ?? [];
    const total = histogram.reduce((sum, count) => sum + count, 0);
    histogram.forEach((count, bin) => {
      if (total > 0 && count / total >= COVERED / histogram.length) covered.add(bin);
    });
  }
  return covered;
}

/**
 * What is decided on the clients that were scored in this round; the median is over all clients known that count. Poor ones go worst first;
 * clients of equal score share their fate where the cohort's size decides it.
 */
export function decide(reports: Report[], state: FilterState, profiles: Profiles, options: FilterOptions): Decision[] {
  const { kind, statistic } = options;
  const guarded = isGuarded(options);
  const threshold = parseThreshold(options.threshold);
  const scored = reports.flatMap(({ client, quality }) => (quality === undefined ? [] : [{ client, value: quality }]));
  const known = Object.keys(profiles).sort();
  let cohort = known.filter((client) => !(client in state));
  const values = cohort.flatMap((client) => profiles[client]!.quality ?? []);
  if (scored.length === 0 || (threshold.relative && values.length === 0)) return [];

  const better = higherIsBetter(statistic);
  const limit = !threshold.relative ? threshold.value : better ? median(values) / threshold.value : median(values) * threshold.value;
  const isPoor = (value: number) => (better ? value < limit : value > limit);
  const decision = (client: ClientId, value: number, action: Decision['action'], reason: string): Decision => ({
    client,
    action,
    statistic,
    value,
    limit,
    reason,
  });

  const decisions: Decision[] = [];
  for (const { client, value } of scored) {
    if (!(client in state) || kind === 'disconnect' || isPoor(value)) continue;
    decisions.push(decision(client, value, 'readmit', `it was quarantined in round ${state[client]}`));
    cohort = [...cohort, client];
  }
  const poor = scored
    .filter(({ client, value }) => !(client in state) && isPoor(value))
    .sort((a, b) => (better ? a.value - b.value : b.value - a.value) || (a.client < b.client ? -1 : 1));
  const least = kind === 'disconnect' ? 1 : (options.cohort ?? Math.ceil(known.length / 2));
  for (const value of new Set(poor.map((one) => one.value))) {
    const equals = poor.filter((one) => one.value === value);
    const fits = cohort.length - equals.length >= least;
    for (const { client } of equals) {
      const others = cohort.filter((other) => other !== client);
      const lost = guarded ? coveredBins(cohort, profiles).size - coveredBins(others, profiles).size : 0;
      if (!fits) decisions.push(decision(client, value, 'keep', `fewer than ${least} would be left`));
      else if (guarded && !profiles[client]?.histogram) decisions.push(decision(client, value, 'keep', 'its bins are not known yet'));
      else if (lost > 0) decisions.push(decision(client, value, 'keep', `the others do not cover ${lost} of its bins`));
      else {
        decisions.push(
          decision(client, value, kind, threshold.relative ? `${options.threshold} worse than the median` : 'beyond the threshold'),
        );
        cohort = others;
      }
    }
  }
  return decisions;
}

/** A decision as a person reads it. */
export const describeDecision = ({ client, action, statistic, value, limit, reason }: Decision): string => {
  const done = { quarantine: 'is quarantined', disconnect: 'is disconnected', readmit: 'is readmitted', keep: 'stays in' }[action];
  return `${client} ${done}: ${statistic} ${value.toPrecision(3)}, limit ${limit.toPrecision(3)}; ${reason}`;
};

/** What a filter needs to see. */
export function filterNeeds(options: Pick<FilterOptions, 'kind' | 'statistic' | 'guard'>): Needs {
  const { statistic } = options;
  return { statistic, ...(isGuarded(options) && { histogram: true }), ...(statistic === 'frechet-shared' && { sharedSet: 'any' }) };
}

/** `base` over the clients that the filter leaves in; the others get weight 0. Both states side by side. */
export function filtered<Base>(base: Strategy<Base>, options: FilterOptions): Strategy<{ out: FilterState; base: Base }> {
  checkArguments('filtered', { base, options }, { base: { name: 'text', init: 'function', weigh: 'function' }, options: 'object' });
  const { combine } = base;
  return {
    name: base.name,
    needs: { ...base.needs, ...filterNeeds(options), ...(base.needs?.sharedSet === 'real' && { sharedSet: 'real' }) },
    init: () => ({ out: {}, base: base.init() }),
    absent: ({ out }) => Object.fromEntries(Object.keys(out).map((client) => [client, options.kind])),
    ...(base.fit && { fit: (fit, client, state) => base.fit!(fit, client, state.base) }),
    weigh(reports, state, profiles, reference) {
      const decisions = decide(reports, state.out, profiles, options);
      const out = { ...state.out };
      for (const { client, action } of decisions) {
        if (action === 'readmit') delete out[client];
        else if (action !== 'keep') out[client] = reports[0]!.round;
      }
      // With nobody else at hand those that sit out are better than no round.
      const left = reports.filter(({ client }) => !(client in out));
      const weighed = base.weigh(left.length > 0 ? left : reports, state.base, profiles, reference);
      const weightOf = new Map(weighed.weights.map(({ client, weight }) => [client, weight]));
      const scores = reports.flatMap(({ quality }) => quality ?? []);
      const blind = options.statistic === 'precision' && scores.length > 0 && scores.every((score) => score === 0);
      return {
        ...weighed,
        ...(blind && {
          notes: [
            ...(weighed.notes ?? []),
            'the filter cannot tell clients apart, since precision is 0 for all: use more held-out images, or another --filter-by',
          ],
        }),
        weights: reports.map(({ client }) => ({ client, weight: weightOf.get(client) ?? 0 })),
        state: { out, base: weighed.state },
        decisions: [...(weighed.decisions ?? []), ...decisions],
      };
    },
    ...(combine && { combine }),
  };
}
