/** The filter of clients: thresholds, the coverage guard, cohorts, and strategies behind it. */
import test from 'ava';
import type { Report } from '../../src/fl/protocol.ts';
import type { Profiles } from '../../src/fl/state.ts';
import { checkStrategy } from '../../src/fl/strategies/contract.ts';
import { coveredBins, decide, type FilterOptions, filtered, parseThreshold } from '../../src/fl/strategies/filter.ts';
import { strategies } from '../../src/fl/strategies/index.ts';

const report = (client: string, more: Partial<Report> = {}): Report => ({
  client,
  round: 1,
  examples: 10,
  images: 8,
  steps: 2,
  loss: 1,
  evalImages: 0,
  deltaNorm: 1,
  seconds: 0,
  ...more,
});
const profilesOf = (all: Record<string, { histogram?: number[]; quality?: number; vendi?: number; examples?: number }>): Profiles =>
  Object.fromEntries(Object.entries(all).map(([client, profile]) => [client, { round: 1, examples: 10, ...profile }]));

const quarantine = (more: Partial<FilterOptions> = {}): FilterOptions => ({
  kind: 'quarantine',
  statistic: 'precision',
  threshold: '0.5',
  cohort: 1,
  ...more,
});
const scored = (values: Record<string, number>) => Object.entries(values).map(([client, quality]) => report(client, { quality, round: 4 }));

test('thresholds: a value, or a factor to the median', (t) => {
  t.deepEqual(parseThreshold('0.25'), { value: 0.25, relative: false });
  t.deepEqual(parseThreshold('2x'), { value: 2, relative: true });
  t.deepEqual(parseThreshold('1e-3'), { value: 1e-3, relative: false });
  for (const bad of ['', 'x', '0.5x', '-1', 'NaN', '2xx', 'Infinity', '1e999'])
    t.throws(() => parseThreshold(bad), { code: 'ERR_PHOENIX_ARGUMENT' }, bad);
});

test('filter: poor by value or by the median, in the direction of the statistic', (t) => {
  const same = { histogram: [5, 5] };
  const decisions = (values: Record<string, number>, options: FilterOptions) =>
    decide(
      scored(values),
      {},
      profilesOf(Object.fromEntries(Object.entries(values).map(([id, quality]) => [id, { ...same, quality }]))),
      options,
    ).map(({ client, action, limit }) => [client, action, limit]);
  t.deepEqual(decisions({ a: 0.9, b: 0.49, c: 0.5 }, quarantine()), [['b', 'quarantine', 0.5]]);
  t.deepEqual(decisions({ a: 0.9, b: 0.3, c: 0.8 }, quarantine({ threshold: '2x' })), [['b', 'quarantine', 0.4]]);
  t.deepEqual(decisions({ a: 0.1, b: 0.5, c: 0.2 }, quarantine({ threshold: '2x', statistic: 'loss' })), [['b', 'quarantine', 0.4]]);
  t.deepEqual(decisions({ a: 9, b: 30, c: 11 }, quarantine({ threshold: '20', statistic: 'frechet-own' })), [['b', 'quarantine', 20]]);
  t.deepEqual(decisions({ a: 0.9, b: 0.8, c: 0.8 }, quarantine()), []);
});

test('filter: the coverage guard keeps a client with bins of its own, and lets its twin go', (t) => {
  const profiles = profilesOf({
    a: { histogram: [5, 5, 0], quality: 0.9 },
    b: { histogram: [5, 5, 0], quality: 0.1 },
    c: { histogram: [0, 0, 10], quality: 0 },
  });
  const [first, second] = decide(scored({ a: 0.9, b: 0.1, c: 0 }), {}, profiles, quarantine());
  t.like(first, { client: 'c', action: 'keep' });
  t.regex(first!.reason, /do not cover 1 of its bins/);
  t.like(second, { client: 'b', action: 'quarantine', value: 0.1, limit: 0.5, statistic: 'precision' });
  t.deepEqual([...coveredBins(['a', 'c'], profiles)].sort(), [0, 1, 2]);
  // Without the guard it goes by its score, and no histogram is asked for.
  t.deepEqual(
    decide(scored({ a: 0.9, b: 0.8, c: 0 }), {}, profilesOf({ a: {}, b: {}, c: { quality: 0 } }), quarantine({ guard: false })).map(
      ({ client, action }) => [client, action],
    ),
    [['c', 'quarantine']],
  );
  t.true(filtered(strategies.fedavg(), quarantine()).needs!.histogram);
  t.falsy(filtered(strategies.fedavg(), quarantine({ guard: false })).needs!.histogram);
  // The paper's way asks for neither.
  t.deepEqual(
    decide(scored({ a: 0.9, b: 0.1, c: 0 }), {}, profiles, quarantine({ kind: 'disconnect' })).map(({ client, action }) => [
      client,
      action,
    ]),
    [
      ['c', 'disconnect'],
      ['b', 'disconnect'],
    ],
  );
  const unknown = profilesOf({ a: { histogram: [1, 1], quality: 0.9 }, b: { quality: 0 } });
  t.like(decide(scored({ a: 0.9, b: 0 }), {}, unknown, quarantine())[0], {
    client: 'b',
    action: 'keep',
    reason: 'its bins are not known yet',
  });
});

test('filter: a cohort stays, equals share their fate, and who does better comes back', (t) => {
  const same = (quality: number) => ({ histogram: [1, 1], quality });
  const values = { a: 0.9, b: 0.1, c: 0.1, d: 0.2 };
  const profiles = profilesOf({ a: same(0.9), b: same(0.1), c: same(0.1), d: same(0.2) });
  const actions = (options: FilterOptions) => decide(scored(values), {}, profiles, options).map(({ client, action }) => client + action[0]);
  t.deepEqual(actions(quarantine({ cohort: 1 })), ['bq', 'cq', 'dq']);
  t.deepEqual(actions(quarantine({ cohort: 2 })), ['bq', 'cq', 'dk']);
  t.deepEqual(actions(quarantine({ cohort: 3 })), ['bk', 'ck', 'dq'], 'b and c are alike, so neither goes');
  t.deepEqual(actions(quarantine({ cohort: undefined })), ['bq', 'cq', 'dk'], 'half of them by default');

  const back = decide(scored({ b: 0.6 }), { b: 2, c: 2 }, profilesOf({ a: same(0.9), b: same(0.6), c: same(0.1) }), quarantine());
  t.deepEqual(
    back.map(({ client, action }) => [client, action]),
    [['b', 'readmit']],
  );
  t.deepEqual(decide(scored({ b: 0.6 }), { b: 2 }, profilesOf({ a: same(0.9), b: same(0.6) }), quarantine({ kind: 'disconnect' })), []);
});

test('a filtered strategy weighs those left as it would alone, keeps who sits out, and lets them back', (t) => {
  const strategy = filtered(strategies.fedavg(), quarantine());
  const good = { histogram: [1, 1], quality: 0.9 };
  const reports = (quality: number) => [
    report('a', { examples: 30, quality: 0.9 }),
    report('b', { quality }),
    report('c', { quality: 0.9 }),
  ];
  const first = strategy.weigh(reports(0.1), strategy.init(), profilesOf({ a: good, b: { ...good, quality: 0.1 }, c: good }));
  t.deepEqual(
    first.weights.map(({ weight }) => weight),
    [0.75, 0, 0.25],
  );
  t.deepEqual(first.state.out, { b: 1 });
  t.deepEqual(strategy.absent!(first.state), { b: 'quarantine' });
  const second = strategy.weigh(reports(0.8), first.state, profilesOf({ a: good, b: { ...good, quality: 0.8 }, c: good }));
  t.deepEqual(
    second.weights.map(({ weight }) => weight),
    [0.6, 0.2, 0.2],
  );
  t.deepEqual(second.state.out, {});
  t.deepEqual(strategy.needs, { statistic: 'precision', histogram: true });
  const alone = strategy.weigh([report('b')], first.state, {});
  t.deepEqual(alone.weights, [{ client: 'b', weight: 1 }], 'better than no round');
});

for (const name of Object.keys(strategies) as (keyof typeof strategies)[]) {
  for (const kind of ['quarantine', 'disconnect'] as const) {
    for (const threshold of ['0.5', '1.5x']) {
      test(`${name} behind ${kind} ${threshold} keeps the contract of a strategy`, (t) => {
        t.notThrows(() => checkStrategy(filtered(strategies[name](), { kind, statistic: 'precision', threshold })));
      });
    }
  }
}
