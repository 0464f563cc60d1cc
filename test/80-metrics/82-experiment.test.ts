/** Experiments: the grid, equal work, intervals and gaps; the preset smoke, killed and continued; what the report holds; refusals. */
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { Dataset } from '../../src/ddpm/data/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { mostBytes } from '../../src/experiment/cost.ts';
import { type ExperimentEvents, experiment } from '../../src/experiment/experiment.ts';
import { type Arm, type Cell, equalWork, expandGrid, isMixture, knownArms, knownPartitions, parseGrid } from '../../src/experiment/grid.ts';
import { experimentPresets } from '../../src/experiment/presets.ts';
import { curvesOf, figureOf, resultsOf } from '../../src/experiment/results.ts';
import type { CellScore } from '../../src/experiment/store.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';

const small = {
  name: 'small',
  data: 'synthetic:200',
  clients: 4,
  rounds: 3,
  localImages: 20,
  options: { training: { batch: 16 } },
  arms: ['centralised', 'fedavg', 'fedavg-ema', 'fedavg-finetuned', { name: 'mine', options: { personal: 'norm-local' } }],
  partitions: ['iid', 'shards'],
  runs: [
    { arms: ['centralised', 'fedavg', 'fedavg-ema'], partitions: ['iid', 'shards'], seeds: [0, 1] },
    { arms: ['mine', 'fedavg-finetuned', 'fedavg'], partitions: ['shards'], seeds: [1, 2] },
  ],
  score: { samples: 50 },
};

test('the grid becomes cells: blocks united, one centralised cell per seed, one training for arms that differ in scoring only', (t) => {
  const cells = expandGrid(parseGrid(small, 'grid'));
  const ids = cells.map(({ id }) => id);
  t.is(new Set(ids).size, ids.length);
  // centralised 2; fedavg: iid 2, shards 3; fedavg-ema: 2 and 2; mine and fedavg-finetuned: 2 each
  t.is(ids.length, 2 + 5 + 4 + 2 + 2);
  t.true(ids.includes('centralised.s0') && ids.includes('mine.shards.s2') && !ids.includes('mine.iid.s1'));
  const trainingOf = (id: string) => cells.find((cell) => cell.id === id)!.training;
  t.is(trainingOf('fedavg-ema.shards.s1'), trainingOf('fedavg.shards.s1'));
  t.is(trainingOf('fedavg-finetuned.shards.s1'), trainingOf('fedavg.shards.s1'));
  t.not(trainingOf('mine.shards.s1'), trainingOf('fedavg.shards.s1'));
  t.not(trainingOf('fedavg.iid.s1'), trainingOf('fedavg.shards.s1'));
  t.is(new Set(cells.map(({ training }) => training)).size, 2 + 2 + 3 + 2);
});

test('every preset, arm and partition that is known is a valid grid', (t) => {
  for (const [name, preset] of Object.entries(experimentPresets)) {
    const grid = parseGrid(preset, name);
    t.is(grid.name, name);
    t.true(expandGrid(grid).length > 0);
  }
  const grid = parseGrid(
    {
      ...small,
      shareReal: true,
      arms: Object.keys(knownArms),
      partitions: Object.keys(knownPartitions),
      runs: [{ ...small.runs[0], arms: Object.keys(knownArms) }],
    },
    'all',
  );
  t.deepEqual(
    grid.arms.filter(isMixture).map(({ name }) => name),
    ['local-only', 'fedavg-finetuned', 'personal', 'composed', 'composed-finetuned'],
  );
});

test('the grids among the examples are valid', async (t) => {
  const folder = new URL('../../examples/', import.meta.url);
  const names = (await readdir(folder)).filter((name) => name.endsWith('.json'));
  t.true(names.length > 0);
  for (const name of names) t.true(expandGrid(parseGrid(JSON.parse(await readFile(new URL(name, folder), 'utf8')), name)).length > 0);
});

test('a grid that does not fit is refused, and the error names what is wrong', (t) => {
  const refused = (change: object, message: RegExp) =>
    t.throws(() => parseGrid({ ...small, ...change }, 'grid'), { instanceOf: PhoenixError, message });
  refused({ rounds: 0 }, /rounds/);
  refused({ epochs: 3 }, /epochs/);
  refused({ name: '../elsewhere' }, /name of small letters/);
  refused({ arms: ['magic'] }, /no arm "magic".*centralised/);
  refused({ partitions: ['halves'] }, /no partition "halves".*dirichlet/);
  refused({ arms: [...small.arms, 'fedavg'] }, /"fedavg" is there twice/);
  refused({ runs: [{ arms: ['sharing'], partitions: ['iid'], seeds: [0] }] }, /runs ask for the arm "sharing"/);
  refused({ arms: [...small.arms, { name: 'bad', options: { cake: 1 } }] }, /the arm "bad": .*no option "cake"/);
  refused({ arms: [...small.arms, { name: 'bad', options: { shareBeta: 0.1 } }] }, /no option "shareBeta"\. It is sharing\.beta/);
  refused({ arms: [...small.arms, { name: 'bad', options: { personal: 'head' }, fineTune: 1 }] }, /pooled already/);
  refused({ arms: [...small.arms, { name: 'bad', train: 'central', options: { training: { mu: 1 } } }] }, /trained central/);
  refused({ partitions: ['iid', { name: 'shards', partition: 'shards:0' }] }, /shards:0/);
  refused({ score: { samples: 10 } }, /samples/);
});

test('equal work: the same images for every arm, in more rounds where fewer clients take part', (t) => {
  const grid = { rounds: 40, localImages: 600 };
  const all = equalWork(grid, 64, 10, 1);
  t.deepEqual(all, { clients: 10, perClient: 640, selected: 10, rounds: 40, total: 256_000, alone: 25_600 });
  const half = equalWork(grid, 64, 10, 0.5);
  t.deepEqual(half, { ...all, selected: 5, rounds: 80 });
  t.is(half.rounds * half.selected * half.perClient, all.total);
  t.is(all.alone * 10, all.total);
  // 3 of 7: not a whole number of rounds, so the last one goes beyond.
  const odd = equalWork(grid, 64, 7, 0.4);
  t.is(odd.total, 40 * 7 * 640);
  t.true(odd.rounds * odd.selected * odd.perClient >= odd.total && (odd.rounds - 1) * odd.selected * odd.perClient < odd.total);
});

test('intervals: the 95 % t-interval of the mean', (t) => {
  t.deepEqual(figureOf([3]), { mean: 3, n: 1 });
  // s = 1, so half = 4.303/√3
  const { mean, half, n } = figureOf([1, 2, 3]);
  t.is(mean, 2);
  t.is(n, 3);
  near(t, half, 4.303 / Math.sqrt(3), 1e-12);
});

test('gap closed, share of bytes and the difference from the tuned mixture, on the seeds that all have', (t) => {
  const grid = parseGrid(small, 'grid');
  const cells = expandGrid(grid);
  const score = (id: string, fd: number, bytes: number, classes = 5): CellScore => {
    const cell = cells.find((entry) => entry.id === id) as Cell;
    const metrics = { fd_own_50: fd, classes_own_50: classes };
    const standing = { round: 3, images: 384, bytesUp: bytes, bytesDown: bytes };
    const points = [{ ...standing, metrics: { fd_own_50: 2 * fd } }];
    const final = { ...standing, metrics, clients: [], decisions: [], mixture: isMixture(cell.arm) ? [] : undefined };
    return { schema: 1, cell: id, arm: cell.arm.name, partition: cell.partition?.name, seed: cell.seed, points, final };
  };
  const scores = [
    score('centralised.s0', 10, 0, 9),
    score('centralised.s1', 10, 0, 9),
    score('fedavg-ema.shards.s0', 30, 100),
    score('fedavg-ema.shards.s1', 50, 100),
    score('mine.shards.s1', 20, 50, 4),
    score('mine.shards.s2', 1000, 50, 4),
    score('fedavg-finetuned.shards.s1', 25, 100, 6),
  ];
  const [result, ...more] = resultsOf(grid, cells, scores);
  t.is(more.length, 0); // no federated cell of iid is scored
  t.is(result!.partition.name, 'shards');
  const row = (name: string) => result!.rows.find(({ arm }) => arm.name === name)!;
  t.is(row('fedavg-ema').metrics.fd_own_50!.mean, 40);
  t.deepEqual(row('fedavg-ema').closed, {});
  // Of seed 1 alone: (50 - 20)/(50 - 10) and (4 - 5)/(9 - 5).
  t.deepEqual(row('mine').closed, { fd_own_50: 0.75, classes_own_50: -0.25 });
  t.is(row('mine').bytesShare, 0.5);
  t.deepEqual(row('mine').besideTuned, { fd_own_50: -5, classes_own_50: -2 });
  t.deepEqual(row('mine').seeds, [1, 2]);
  t.is(row('centralised').bytesShare, undefined);
  const { curves } = curvesOf(grid, scores, 'fd')!;
  t.deepEqual(curves.find(({ arm }) => arm === 'fedavg-ema')!.points, [{ round: 3, images: 384, bytes: 200, value: 80 }]);
});

const inFolder = async (t: ExecutionContext, body: (folder: string) => Promise<void>) => {
  t.timeout(600_000);
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-experiment-'));
  try {
    await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
};

/**
 * All that an experiment has found, by file. Bytes are left out: messages hold the seconds that a client took, so a few of them depend on
 * the clock; so do the places of charts over bytes.
 */
const findings = async (dir: string) => {
  const names = [...(await readdir(join(dir, 'scores'))).map((name) => join('scores', name)), 'report.md', 'report.html', 'results.json'];
  const read = async (name: string) => {
    const content = await readFile(join(dir, name));
    if (name.endsWith('.json')) return JSON.parse(content.toString(), (key, value) => (key.startsWith('bytes') ? undefined : value));
    return name.endsWith('.html') ? content.toString().replaceAll(/<svg.*?<\/svg>/gs, '') : content.toString('base64');
  };
  return Object.fromEntries(await Promise.all(names.sort().map(async (name) => [name, await read(name)])));
};

type Plan = Parameters<NonNullable<ExperimentEvents['onPlan']>>[0];
type ResultRow = { arm: { name: string }; images: { mean: number }; bytes: { mean: number; n: number } };

/** Calls `stop` at the note of progress number `count` with that label. */
const stopAfter = (count: number, label: RegExp, stop: () => void): ExperimentEvents => {
  let seen = 0;
  return { onProgress: (progress) => void (label.test(progress.label) && ++seen === count && stop()) };
};

/** Stops a smoke experiment in a training, in a drawing, after a cell, in a later training, then by its time. */
async function breakOff(t: ExecutionContext, out: string) {
  const stops: ((stop: () => void) => ExperimentEvents)[] = [
    (stop) => stopAfter(3, /training$/, stop),
    (stop) => stopAfter(1, /fedavg.*drawing$/, stop),
    (stop) => ({ onCell: stop }),
    (stop) => stopAfter(2, /composed.*training$/, stop),
  ];
  for (const events of stops) {
    const controller = new AbortController();
    const stop = () => controller.abort(new Error('enough'));
    await t.throwsAsync(experiment({ grid: 'smoke', out }, { ...events(stop), signal: controller.signal }), { message: 'enough' });
  }
  const early = await experiment({ grid: 'smoke', out, stopAfter: 0 });
  t.true(early.done > 0 && early.done < early.cells);
  t.regex(await readFile(early.markdown!, 'utf8'), /the experiment has not ended/);
}

function checkPages(t: ExecutionContext, markdown: string, page: string, cells: number) {
  for (const part of [
    '## shards: shards:2',
    '## iid: iid',
    'fd_own_60',
    'classes_own_60',
    '± ',
    'pooled samples of 4 clients',
    'Who was filtered',
    'client-4',
    '(pooled samples)',
  ])
    t.true(markdown.includes(part), part);
  t.true(page.includes('data:image/png;base64,') && page.includes('<svg'));
  for (const axis of ['images', 'rounds', 'bytes']) t.true(page.includes(`fd_own_50 over ${axis}`), axis);
  // What classes are told by, and that shared images are public, is said where the figures are read.
  for (const text of [page, markdown]) {
    t.regex(text, /\d+\.\d % of them are classified correctly/);
    t.regex(text, /Images are shared in composed: .* public/);
  }
  t.is(page.match(/<figure>/g)!.length, cells);
}

function checkRows(t: ExecutionContext, rows: ResultRow[], plan: Plan) {
  // All arms have drawn as many images, but for a round of unequal size, and the epoch of 90 images, in batches of 16, that four clients
  // tune for.
  for (const { arm, images } of rows) {
    const expected = arm.name === 'fedavg-finetuned' ? 512 + 4 * 96 : 512;
    near(t, images.mean, expected, arm.name === 'composed' ? 256 : 0, arm.name);
  }
  // Of the federations, each once; their messages' headers and probes come on top.
  const sent = rows
    .filter(({ arm }) => ['fedavg-ema', 'composed'].includes(arm.name))
    .reduce((sum, { bytes }) => sum + bytes.mean * bytes.n, 0);
  t.true(sent > 0.5 * plan.bytes && sent < 1.05 * plan.bytes, `${sent} of ${plan.bytes}`);
}

test('smoke: killed in trainings and between scores, then continued, it finds the same; the report holds it all', (t) =>
  inFolder(t, async (folder) => {
    const [whole, broken] = [join(folder, 'whole'), join(folder, 'broken')];
    const messages: string[] = [];
    let plan: Plan | undefined;
    const result = await experiment(
      { grid: 'smoke', out: whole },
      {
        onPlan: (planned) => (plan = planned),
        onMessage: ({ text }) => messages.push(text),
      },
    );
    t.is(result.done, result.cells);
    t.like(plan!, { cells: result.cells, done: 0, imagesPerCell: 4 * 4 * 32 });
    t.true(plan!.secondsLeft > 0 && plan!.bytes > 0);
    t.true(
      messages.some((text) => /^Real training images become public/.test(text)),
      'the grid consents, and the experiment says so',
    );
    const compared = (said: string[]) => said.find((text) => /compared with 400 test images/.test(text));
    t.regex(compared(messages)!, /in 64 features of own: \d+\.\d % of them are classified correctly/);

    await breakOff(t, broken);
    const continued = await experiment({ grid: 'smoke', out: broken });
    t.is(continued.done, continued.cells);
    t.deepEqual(await findings(broken), await findings(whole));

    checkPages(t, await readFile(result.markdown!, 'utf8'), await readFile(result.report!, 'utf8'), result.cells);
    const { results } = JSON.parse(await readFile(join(whole, 'results.json'), 'utf8'));
    checkRows(
      t,
      results.flatMap(({ rows }: { rows: ResultRow[] }) => rows),
      plan!,
    );

    // A finished experiment does nothing but write its report anew.
    const repeated: string[] = [];
    const again = await experiment({ grid: 'smoke', out: whole }, { onMessage: ({ text }) => repeated.push(text) });
    t.is(again.done, again.cells);
    t.is(compared(repeated), compared(messages));
    t.deepEqual(await findings(whole), await findings(broken));
  }));

test('killed by SIGKILL at any point, --resume finds the same', (t) =>
  inFolder(t, async (folder) => {
    const file = join(folder, 'grid.json');
    const runs = [{ arms: ['fedavg-ema', 'composed'], partitions: ['shards'], seeds: [0] }];
    await writeFile(file, JSON.stringify({ ...(experimentPresets.smoke as object), runs }));
    const [whole, killed] = [join(folder, 'whole'), join(folder, 'killed')];
    await experiment({ grid: file, out: whole });
    const program = `
    import { experiment } from ${JSON.stringify(new URL('../../src/experiment/experiment.ts', import.meta.url).href)};
    let calls = 0;
    const onProgress = () => { if (++calls === Number(process.argv[2])) process.kill(process.pid, 'SIGKILL'); };
    await experiment(JSON.parse(process.argv[1]), { onProgress });`;
    const options = { grid: file, out: killed, resume: true };
    let kills = 0;
    for (const point of [3, 40, 25, 60]) {
      const child = spawn(
        process.execPath,
        ['--import=tsx', '--input-type=module', '-e', program, JSON.stringify(options), String(point)],
        {
          stdio: 'inherit',
        },
      );
      if ((await new Promise((resolve) => child.on('close', (exitCode, signal) => resolve(signal ?? exitCode)))) === 'SIGKILL') kills++;
    }
    t.true(kills >= 2, `${kills} kills`);
    const { done, cells } = await experiment(options);
    t.is(done, cells);
    t.deepEqual(await findings(killed), await findings(whole));
  }));

test('the bytes of a plan are a bound, also where rounds become shorter and images are shared', async (t) => {
  const dataset = { count: 1000, height: 4, width: 4, channels: 1 } as Dataset;
  const work = equalWork({ rounds: 40, localImages: 64 }, 64, 10, 0.5);
  const most = (options: Arm['options']) =>
    mostBytes({ name: 'mine', train: 'federated', options, weights: 'ema', fineTune: 0 }, work, 100, dataset);
  t.is(most({}), 80 * 5 * 800);
  t.is(most({ compress: { updates: 'bf16', tasks: 'bf16' } }), 80 * 5 * 400);
  t.is(most({ localWork: { target: 0.1, least: 0.25 } }), 320 * 5 * 800);
  t.is(most({ sharing: { beta: 0.1, alpha: 0.5 } }), 80 * 5 * 800 + 50 * 16 * 10);
  t.is(most({ sharing: { beta: 0.1, alpha: 0.5, source: 'synthetic', every: 10 } }), 80 * 5 * 800 + 50 * 16 * 10 * 8);
});

test('a site that nobody trained on: half of its test images to learn it from, the other half to be compared with', (t) =>
  inFolder(t, async (folder) => {
    // Two sites of bright stripes, one class across and one down; a third, in the test images alone, of dark ones.
    const data = join(folder, 'sites');
    const random = rng(0, 'three sites');
    const record = (site: number, label: number) => {
      const stripe = (at: number) => (Math.floor((at + site) / 4) % 2 === 0 ? 60 : 0) + random.int(20);
      const pixels = Array.from({ length: 256 }, (_, i) => (site === 2 ? 0 : 150) + stripe(label === 0 ? Math.floor(i / 16) : i % 16));
      return Buffer.from([site, label, ...pixels]);
    };
    const records = (counts: number[]) =>
      Buffer.concat(counts.flatMap((count, site) => Array.from({ length: count }, (_, i) => record(site, i % 2))));
    const meta = { sites: ['north', 'south', 'west'], classes: ['across', 'down'], record: 'site, class, 16x16 gray' };
    await mkdir(data);
    await writeFile(join(data, 'meta.json'), JSON.stringify(meta));
    await writeFile(join(data, 'x_train.bin'), records([64, 64, 0]));
    await writeFile(join(data, 'x_test.bin'), records([30, 30, 80]));
    const grid = {
      ...(experimentPresets.smoke as object),
      data,
      rounds: 3,
      localImages: 128,
      arms: ['fedavg-ema', 'fedavg-finetuned', { name: 'kept', options: { personal: 'head' } }],
      partitions: ['site'],
      runs: [{ arms: ['fedavg-ema', 'fedavg-finetuned', 'kept'], partitions: ['site'], seeds: [0] }],
    };
    const file = join(folder, 'grid.json');
    await writeFile(file, JSON.stringify(grid));
    const messages: string[] = [];
    const { done } = await experiment({ grid: file, out: join(folder, 'out') }, { onMessage: ({ text }) => messages.push(text) });
    t.is(done, 3);
    t.regex(messages[1]!, /compared with 60 test images, and with 40 of sites that nobody trains on/);
    const unseen = async (arm: string) => {
      const score = JSON.parse(await readFile(join(folder, 'out', 'scores', `${arm}.site.s0.json`), 'utf8'));
      return score.final.metrics.fd_own_60_unseen_sites as number;
    };
    const [global, tuned, kept] = [await unseen('fedavg-ema'), await unseen('fedavg-finetuned'), await unseen('kept')];
    t.true(tuned < global && kept < global);
    t.deepEqual(
      (await readdir(join(folder, 'out', 'scores'))).filter((name) => name.endsWith('.safetensors')),
      [],
    );
  }));

test('what an experiment cannot do is refused before anything is trained', (t) =>
  inFolder(t, async (folder) => {
    const file = join(folder, 'grid.json');
    const out = join(folder, 'out');
    const refused = async (grid: unknown, code: PhoenixError['code'], message: RegExp, more = {}) => {
      await writeFile(file, typeof grid === 'string' ? grid : JSON.stringify(grid));
      await t.throwsAsync(experiment({ grid: file, out, ...more }), { instanceOf: PhoenixError, code, message });
    };
    await refused('{', 'ERR_PHOENIX_ARGUMENT', /not JSON/);
    await refused({ ...small, data: undefined }, 'ERR_PHOENIX_ARGUMENT', /names no data/);
    await refused(
      { ...small, partitions: ['iid', 'site'], runs: [{ arms: ['fedavg'], partitions: ['site'], seeds: [0] }] },
      'ERR_PHOENIX_CONFIG',
      /by site, but the images have none/,
    );
    const unequal = [
      { name: 'iid', partition: 'iid' },
      { name: 'shards', partition: 'shards:2', clients: 5 },
    ];
    await refused({ ...small, partitions: unequal }, 'ERR_PHOENIX_CONFIG', /unequal work/);
    await t.throwsAsync(experiment({ grid: 'nothing', out }), { code: 'ERR_PHOENIX_ARGUMENT', message: /smoke, fashion/ });
    await t.throwsAsync(experiment({ grid: join(folder, 'none.json'), out }), { code: 'ERR_PHOENIX_IO' });
    await t.throwsAsync(experiment({ grid: 'fashion', out }), { code: 'ERR_PHOENIX_ARGUMENT', message: /--data/ });

    await writeFile(file, JSON.stringify(small));
    const plan = await experiment({ grid: file, out, plan: true });
    t.deepEqual(plan, { dir: out, cells: 15, done: 0 });
    await refused({ ...small, rounds: 4 }, 'ERR_PHOENIX_RUN', /differs in grid\.rounds/);
    await refused(small, 'ERR_PHOENIX_RUN', /differs in data/, { data: 'synthetic:300' });

    // An arm may join those that are there, but none may change or leave.
    const more = { ...small, shareReal: true, arms: [...small.arms, 'sharing'] };
    await writeFile(file, JSON.stringify(more));
    t.deepEqual(await experiment({ grid: file, out, plan: true }), { dir: out, cells: 15, done: 0 });
    await refused(small, 'ERR_PHOENIX_RUN', /differs in grid\.arms/);
    const mine = { name: 'mine', options: { personal: 'fedper' } };
    await refused({ ...more, arms: [...more.arms.slice(0, 4), mine, 'sharing'] }, 'ERR_PHOENIX_RUN', /differs in grid\.arms/);
  }));
