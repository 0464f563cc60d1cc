/** site.json: each of its lines allows and refuses at its border, and no request gets around one. */
import test from 'ava';
import { MAX_BINS, MAX_FEATURES, MAX_POINTS, report } from '../../src/fl/protocol.ts';
import { encodeVector } from '../../src/fl/wire/codec.ts';
import { encodeHead, message } from '../../src/fl/wire/message.ts';
import { leavingText, type RunFacts, whatLeaves } from '../../src/net/leaving.ts';
import { defaultPolicy, judgePolicy, type PolicyContext, parsePolicy, policyLines, type Verdict } from '../../src/net/policy.ts';
import { fakeVector } from '../support/fake-vector.ts';

const policyOf = (change: object) => parsePolicy('site.json', JSON.stringify(change));
const context: PolicyContext = { now: new Date(2026, 2, 10, 12, 0), cohort: 3, rounds: 0, bytesSent: 0, trainingHours: 0 };
const train = (probe?: object) => ({ kind: 'train', head: { fit: probe ? { probe } : {} } });
const ask = (kind: string, head: object = {}) => ({ kind, head });
const judge = (change: object, request: ReturnType<typeof ask>, circumstances: Partial<PolicyContext> = {}) =>
  judgePolicy(policyOf(change), request, { ...context, ...circumstances });
const at = (hours: number, minutes: number, day = 10) => new Date(2026, 2, day, hours, minutes);

/** A verdict in short: the line, behind a sign. */
const short = (verdict: Verdict) => `${verdict.allowed ? '+' : '-'} ${verdict.line}`;

/** What is asked, under which rules, in what circumstances; and the verdict. Each border has both of its sides. */
const LIMITS: [string, object, ReturnType<typeof ask>, Partial<PolicyContext>, string][] = [
  ['cohort as small as allowed', { smallestCohort: 3 }, train(), { cohort: 3 }, '+ allow.train: true'],
  ['cohort one smaller', { smallestCohort: 3 }, train(), { cohort: 2 }, '- smallestCohort: 3'],
  ['cohort not told', { smallestCohort: 2 }, ask('upload'), { cohort: undefined }, '- smallestCohort: 2'],
  ['cohort not told to a site that takes any', { smallestCohort: 1 }, ask('upload'), { cohort: undefined }, '+ allow.upload: true'],
  ['a small cohort cleans up', { smallestCohort: 3 }, ask('finish'), { cohort: 1 }, '+ allow.finish: true'],
  ['last round', { rounds: 5 }, train(), { rounds: 4 }, '+ allow.train: true'],
  ['one round more', { rounds: 5 }, train(), { rounds: 5 }, '- rounds: 5'],
  ['the upload of the last round', { rounds: 5 }, ask('upload'), { rounds: 5 }, '+ allow.upload: true'],
  ['one round more alone', { rounds: 5 }, ask('specialise'), { rounds: 5 }, '- rounds: 5'],
  ['the last byte', { megabytesSent: 2 }, ask('upload'), { bytesSent: 1_500_000, answerBytes: 500_000 }, '+ allow.upload: true'],
  ['a byte more', { megabytesSent: 2 }, ask('upload'), { bytesSent: 1_500_000, answerBytes: 500_001 }, '- megabytesSent: 2'],
  ['what sends nothing', { megabytesSent: 2 }, ask('parcel'), { bytesSent: 3_000_000 }, '+ allow.parcel: true'],
  ['the last minute', { trainingHours: 1.5 }, train(), { trainingHours: 1.49 }, '+ allow.train: true'],
  ['the time is up', { trainingHours: 1.5 }, train(), { trainingHours: 1.5 }, '- trainingHours: 1.5'],
  ['what was trained may be sent', { trainingHours: 1.5 }, ask('upload'), { trainingHours: 1.5 }, '+ allow.upload: true'],
  ['memory as much as allowed', { memoryMegabytes: 100 }, train(), { memory: 1e8 }, '+ allow.train: true'],
  ['a byte of memory more', { memoryMegabytes: 100 }, train(), { memory: 1e8 + 1 }, '- memoryMegabytes: 100'],
  ['the first minute of a window', { hoursOfDay: ['08:30-17:00'] }, train(), { now: at(8, 30) }, '+ allow.train: true'],
  ['the minute before it', { hoursOfDay: ['08:30-17:00'] }, train(), { now: at(8, 29) }, '- hoursOfDay: ["08:30-17:00"]'],
  ['its last minute', { hoursOfDay: ['08:30-17:00'] }, train(), { now: at(16, 59) }, '+ allow.train: true'],
  ['the minute after it', { hoursOfDay: ['08:30-17:00'] }, train(), { now: at(17, 0) }, '- hoursOfDay: ["08:30-17:00"]'],
  ['before midnight', { hoursOfDay: ['22:00-06:00'] }, train(), { now: at(23, 59) }, '+ allow.train: true'],
  ['after midnight', { hoursOfDay: ['22:00-06:00'] }, train(), { now: at(5, 59) }, '+ allow.train: true'],
  ['the end of a window over midnight', { hoursOfDay: ['22:00-06:00'] }, train(), { now: at(6, 0) }, '- hoursOfDay: ["22:00-06:00"]'],
  ['one of two windows', { hoursOfDay: ['01:00-02:00', '12:00-13:00'] }, train(), { now: at(12, 30) }, '+ allow.train: true'],
  ['the whole day', { hoursOfDay: ['00:00-24:00'] }, train(), { now: at(23, 59) }, '+ allow.train: true'],
  ['an upload at any hour', { hoursOfDay: ['22:00-06:00'] }, ask('upload'), { now: at(12, 0) }, '+ allow.upload: true'],
];

for (const [name, change, request, circumstances, expected] of LIMITS)
  test(`limits: ${name}`, (t) => t.is(short(judge(change, request, circumstances)), expected));

/** Every line of `allow`: requests that need it and nothing else that is off by default. */
const ALLOWED: Record<string, { request: ReturnType<typeof ask>; with?: object }[]> = {
  train: [{ request: train() }],
  upload: [{ request: ask('upload', { weight: 1, manifest: {} }) }],
  parcel: [{ request: ask('parcel') }],
  publish: [{ request: ask('publish') }],
  finish: [{ request: ask('finish') }],
  statistic: [{ request: train({ statistic: 'loss' }) }],
  vendi: [{ request: train({ vendi: true }) }],
  histogram: [{ request: train({ histogram: { of: 'data', noise: 0 }, bins: 3 }) }],
  points: [{ request: train({ histogram: { of: 'data', noise: 0 } }), with: { histogram: true } }],
  specialise: [{ request: ask('specialise') }],
  samples: [{ request: ask('samples') }],
  evaluate: [{ request: ask('evaluate') }, { request: ask('evaluate', { perImage: false }) }],
  perImage: [{ request: ask('evaluate', { perImage: true }) }],
  secureAggregation: ['keys', 'shares', 'consistency', 'unmask'].map((kind) => ({ request: ask(kind) })),
};

test('every line of allow has requests here, and allows or refuses them', (t) => {
  t.deepEqual(Object.keys(ALLOWED), Object.keys(defaultPolicy.allow));
  for (const [name, cases] of Object.entries(ALLOWED)) {
    for (const { request, with: others } of cases) {
      const yes = judge({ allow: { ...others, [name]: true } }, request);
      t.true(yes.allowed && yes.line.split(', ').includes(`allow.${name}: true`), `${name}: ${JSON.stringify(yes)}`);
      const no = judge({ allow: { ...others, [name]: false } }, request);
      t.is(short(no), `- allow.${name}: false`);
      t.regex((no as { words: string }).words, new RegExp(`^This site refuses ${request.kind}: .*allow\\.${name}: false\\)\\.$`));
    }
  }
});

test('by default nothing leaves that is an image, a point or a value of one image, nor the counts of bins that others choose', (t) => {
  const off = Object.entries(defaultPolicy.allow).filter(([, on]) => !on);
  t.deepEqual(
    off.map(([name]) => name),
    ['histogram', 'points', 'samples', 'perImage'],
  );
});

test('a probe is judged by all of its parts', (t) => {
  const all = { statistic: 'loss', vendi: true, histogram: { of: 'data', noise: 1 }, bins: 1 };
  const verdict = judge({ allow: { histogram: true } }, train(all));
  t.is(short(verdict), '+ allow.train: true, allow.statistic: true, allow.vendi: true, allow.histogram: true');
  t.is(short(judge({ allow: { histogram: true, vendi: false } }, train(all))), '- allow.vendi: false');
  t.is(short(judge({}, train({ vendi: false }))), '+ allow.train: true', 'what is not asked for needs no line');
});

test('a head that does not fit its schema gets around no line', (t) => {
  for (const histogram of [true, 1, 0, '', 'x', [], {}])
    t.is(short(judge({}, train({ histogram, bins: 1 }))), '- allow.histogram: false', JSON.stringify(histogram));
  for (const bins of [null, undefined, false])
    t.is(short(judge({ allow: { histogram: true } }, train({ histogram: {}, bins }))), '- allow.points: false', String(bins));
  for (const perImage of [1, 'yes', {}]) t.is(short(judge({}, ask('evaluate', { perImage }))), '- allow.perImage: false');
  for (const kind of ['images', '', 'constructor', '__proto__', 'toString', 'Train', 'train '])
    t.is(short(judge({}, ask(kind))), '- allow', kind);
  t.false(judge({}, ask('x'.repeat(1e6))).line.length > 100);
  for (const head of [[], { fit: null }, { fit: 'x' }, { fit: { probe: 'histogram' } }]) t.true(judge({}, ask('train', head)).allowed);
});

test('outside the hours it says when they begin again: today, tomorrow, the earliest', (t) => {
  const again = (hoursOfDay: string[], now: Date) => {
    const verdict = judge({ hoursOfDay }, train(), { now });
    return verdict.allowed ? undefined : verdict.again;
  };
  t.deepEqual(again(['22:00-06:00'], at(12, 0)), at(22, 0));
  t.deepEqual(again(['08:00-09:00'], at(12, 0)), at(8, 0, 11));
  t.deepEqual(again(['08:00-09:00', '13:15-14:00'], at(12, 0)), at(13, 15));
  t.deepEqual(again(['08:00-09:00'], new Date(2026, 11, 31, 12)), new Date(2027, 0, 1, 8));
  const other = judge({ rounds: 1 }, train(), { rounds: 1 });
  t.false('again' in other, 'a line that time does not change says nothing of time');
});

test('site.json: absent fields have defaults; what is unknown or does not fit is refused by its name', (t) => {
  t.deepEqual(policyOf({}), defaultPolicy);
  t.deepEqual(policyOf(JSON.parse(JSON.stringify(defaultPolicy))), defaultPolicy);
  t.deepEqual(policyOf({ allow: { points: true } }).allow, { ...defaultPolicy.allow, points: true });
  for (const [change, words] of [
    [{ budget: 1 }, /budget/],
    [{ allow: { imgaes: true } }, /imgaes/],
    [{ allow: { train: 'yes' } }, /allow\.train/],
    [{ rounds: 0 }, /rounds/],
    [{ rounds: 1.5 }, /rounds/],
    [{ smallestCohort: 0 }, /smallestCohort/],
    [{ megabytesSent: -1 }, /megabytesSent/],
    [{ trainingHours: 0 }, /trainingHours/],
    [{ memoryMegabytes: '1 GB' }, /memoryMegabytes/],
    [{ threads: 0 }, /threads/],
    [{ hoursOfDay: ['24:00-06:00'] }, /HH:MM-HH:MM/],
    [{ hoursOfDay: ['9:00-12:00'] }, /HH:MM-HH:MM/],
    [{ hoursOfDay: ['06:00-06:00'] }, /whole day/],
    [{ schema: 2 }, /schema 2/],
  ] as const) {
    const error = t.throws(() => policyOf(change));
    t.like(error, { name: 'PhoenixError', code: 'ERR_PHOENIX_CONFIG' });
    t.regex(error.message, words);
    t.regex(error.message, /^site\.json/);
  }
  t.throws(() => parsePolicy('site.json', '{'), { message: /not JSON/ });
});

test('every line has one line of explanation', (t) => {
  const lines = policyLines(policyOf({ rounds: 7, allow: { points: true } }));
  t.is(lines.length, Object.keys(defaultPolicy).length - 1 + Object.keys(defaultPolicy.allow).length);
  for (const { path, about } of lines) t.regex(about, /^[A-Z][^\n]*\.$/, path);
  t.is(lines.find(({ path }) => path === 'rounds')?.value, '7');
  t.is(lines.find(({ path }) => path === 'allow.points')?.value, 'true');
  t.is(new Set(lines.map(({ path }) => path)).size, lines.length);
});

const facts: RunFacts = { parameters: 5000, personal: 1000, compress: 'none', rounds: 10, cohort: 3 };

test('what leaves is never less than what is encoded, and with codecs of one size it is equal', async (t) => {
  const values = Float32Array.from({ length: 4000 }, (_, i) => Math.sin(i * i));
  for (const compress of ['none', 'bf16', 'int8', 'topk:0.001', 'topk:0.01', 'topk:0.05', 'topk:0.5', 'topk:1']) {
    const vector = fakeVector(values.length);
    vector.values.set(values);
    const { blob } = await encodeVector(vector, { compress });
    const { bytes } = whatLeaves(defaultPolicy, { ...facts, compress }).items.find(({ what }) => what.startsWith('update'))!;
    if (compress.startsWith('topk')) t.true(bytes >= blob.length && bytes <= blob.length + 64, `${compress}: ${bytes}, ${blob.length}`);
    else t.is(bytes, blob.length, compress);
  }
});

test('what leaves: no report is larger than was said', (t) => {
  const long = -1.2345678901234567e-100;
  const numbers = (count: number, value: number) => Array.from({ length: count }, () => value);
  const plain = {
    ...{ examples: 2 ** 53 - 1, shared: 2 ** 53 - 1, images: 2 ** 53 - 1, steps: 2 ** 53 - 1, loss: long, evalLoss: long },
    ...{ evalLossLocal: long, evalImages: 2 ** 53 - 1, deltaNorm: -long, seconds: -long, quality: long, vendi: 12345.678901234567 },
  };
  const parts = { statistic: true, vendi: true, times: 10 };
  const policy = policyOf({ allow: { histogram: true, points: true } });
  const sizeOf = (head: object) => encodeHead(message('report', 2 ** 31, report.parse(head))).length;
  const said = (probe: RunFacts['probe']) =>
    whatLeaves(policy, { ...facts, probe })
      .items.filter(({ what }) => !what.startsWith('update'))
      .reduce((sum, { bytes }) => sum + bytes, 0);
  t.true(sizeOf(plain) <= said(parts));
  t.true(sizeOf({ ...plain, histogram: numbers(MAX_BINS, -long) }) <= said({ ...parts, histogram: { bins: MAX_BINS } }));
  const features = 512;
  t.true(features <= MAX_FEATURES);
  t.true(
    sizeOf({ ...plain, points: Array.from({ length: MAX_POINTS }, () => numbers(features, long)) }) <=
      said({ ...parts, points: { features } }),
  );
});

test('what leaves: sums of what is allowed, and what will be refused', (t) => {
  const plain = whatLeaves(defaultPolicy, facts);
  t.deepEqual([plain.perRound, plain.inAll, plain.refusals], [17_000, 170_000, []]);
  const probed = { ...facts, probe: { vendi: true, histogram: { bins: 10 }, points: { features: 4 }, times: 2 } };
  const refused = whatLeaves(defaultPolicy, probed);
  t.deepEqual([refused.perRound, refused.inAll], [17_025, 170_050]);
  t.is(refused.refusals.length, 2);
  const open = whatLeaves(policyOf({ allow: { histogram: true, points: true } }), probed);
  t.deepEqual([open.perRound, open.inAll, open.refusals], [17_025 + 250 + 1600, 170_050 + 500 + 1600, []]);
  const strict = whatLeaves(policyOf({ rounds: 4, smallestCohort: 5, megabytesSent: 0.05 }), facts);
  t.is(strict.inAll, 68_000);
  t.deepEqual(strict.refusals, [
    'rounds of 3 sites (smallestCohort: 5)',
    'rounds after 4 of 10 (rounds: 4)',
    'what exceeds 50 kB, of 68 kB (megabytesSent: 0.05)',
  ]);
  t.deepEqual(leavingText(refused), [
    'sent 10 times: report: counts, losses, norm of the update, seconds, at most 1 kB (allow.train: true)',
    'sent 10 times: update: 4,000 parameters, none, at most 16 kB (allow.upload: true)',
    'sent 2 times: variety of samples of the model, at most 25 bytes (allow.vendi: true)',
    'in a round at most 17 kB, in the run at most 170 kB',
    'this site will refuse histogram of 10 bins (allow.histogram: false)',
    'this site will refuse up to 16 centres of clusters of its images (allow.points: false)',
  ]);
});
