/** federate, train and sample on the real engine: small runs from end to end, and bit-exact resumes. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import type { RunEvents, StepEvent } from '../../src/commands/events.ts';
import { federate } from '../../src/commands/federate.ts';
import type { FederateOptions, TrainOptions } from '../../src/commands/options/index.ts';
import { sample } from '../../src/commands/sample.ts';
import { train } from '../../src/commands/train.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { PhoenixError, type PhoenixErrorCode } from '../../src/errors.ts';
import type { Report } from '../../src/fl/protocol.ts';
import type { Strategy } from '../../src/fl/strategy.ts';
import { rng } from '../../src/rng.ts';
import { openRun } from '../../src/run/folder.ts';
import { near } from '../support/near.ts';

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-federate-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function refused(t: ExecutionContext, code: PhoenixErrorCode, message: RegExp, work: () => Promise<unknown>): Promise<void> {
  const error = await t.throwsAsync<PhoenixError>(work, { instanceOf: PhoenixError });
  t.is(error?.code, code);
  t.regex(error?.message ?? '', message);
}

/** Three clients with 16 images of 8×8 each: a round takes a moment. */
const little = {
  data: 'synthetic:48',
  size: 8,
  clients: 3,
  training: { batch: 4 },
  samples: { count: 4, steps: 2 },
  threads: 1,
} satisfies FederateOptions;
/** What has most state: kept client moments, server moments, clients that sit out. */
const stateful = {
  ...little,
  rounds: 4,
  optimizer: 'keep',
  serverStep: { kind: 'yogi' },
  fraction: 0.7,
  samples: { ...little.samples, every: 2 },
} satisfies FederateOptions;
const central = {
  data: 'synthetic:48',
  size: 8,
  training: { batch: 4 },
  samples: { count: 4, steps: 2 },
  threads: 1,
  epochs: 4,
} satisfies TrainOptions;

/** Checkpoints and grids by name. */
async function artefacts(dir: string): Promise<Record<string, string>> {
  const names = (await readdir(dir)).filter((name) => /\.(safetensors|png|bin)$/.test(name)).sort();
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, (await readFile(join(dir, name))).toString('base64')])));
}

/** Aborts while the n-th client of a round is training. */
function stopIn(round: number, client: number): RunEvents {
  const controller = new AbortController();
  const onStep = (event: StepEvent) => {
    if (event.round === round && (event.client?.number ?? 1) === client) controller.abort(new Error('stopped'));
  };
  return { onStep, signal: controller.signal };
}

test('a federation from end to end', async (t) => {
  const dir = join(await temporary(t), 'run');
  const seen: string[] = [];
  let last: StepEvent | undefined;
  const result = await federate(
    { ...little, partition: 'shards:2', rounds: 2, out: dir },
    {
      onStart: ({ rounds, parameterCount }) => seen.push(`start ${rounds} ${parameterCount > 100_000}`),
      onStep: (event) => {
        last = event;
      },
      onRound: ({ round }) => seen.push(`round ${round}`),
    },
  );
  t.deepEqual(seen, ['start 2 true', 'round 1', 'round 2']);
  t.like(last, { round: 2, rounds: 2, client: { number: 3, of: 3 } });
  t.is(last?.images, last?.imagesPlanned);
  t.is(result.rounds, 2);
  t.is(result.dir, dir);
  for (const path of [result.checkpoint, result.report, result.samples!]) t.true(existsSync(path), path);
  t.is((await sharp(result.samples).metadata()).format, 'png');

  const { config } = await openRun(dir);
  const { clients } = config;
  t.deepEqual(
    clients.map(({ id, examples, heldOut }) => [id, examples, heldOut]),
    [
      ['client-1', 15, 1],
      ['client-2', 15, 1],
      ['client-3', 15, 1],
    ],
  );
  t.is(
    clients.flatMap((client) => client.histogram!).reduce((a, b) => a + b),
    48,
  );
  t.is(config.data.classNames.length, 10);

  const lines = (await readFile(join(dir, 'log.jsonl'), 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  t.like(lines[0], { schema: 1, kind: 'run' });
  for (const [i, line] of lines.slice(1).entries()) {
    t.is(line.round, i + 1);
    const reports: Report[] = line.clients;
    const images = reports.reduce((sum, report) => sum + report.images, 0);
    t.is(line.images, images);
    near(t, line.loss, reports.reduce((sum, report) => sum + report.loss! * report.images, 0) / images, 1e-9);
    t.true(line.evalLoss > 0 && line.seconds > 0);
    // A task down and an update up for each of three clients: four bytes a parameter and a little.
    const models = 3 * 4 * config.parameterCount;
    for (const bytes of [line.bytesUp, line.bytesDown]) t.true(bytes > models && bytes < models + 20_000);
  }
});

test('a federation that is stopped and resumed, again and again, ends with the same bytes', async (t) => {
  const base = await temporary(t);
  await federate({ ...stateful, out: join(base, 'whole') });
  const dir = join(base, 'stopped');
  for (const [round, client] of [
    [1, 1],
    [2, 2],
    [2, 1],
    [4, 2],
  ] as const) {
    const error = await t.throwsAsync(() => federate({ ...stateful, out: dir, resume: true }, stopIn(round, client)));
    t.is(error?.message, 'stopped');
    t.is((await openRun(dir)).round, round - 1);
  }
  // Another number of threads, to the same bits.
  const { rounds, records } = await federate({ ...stateful, out: dir, resume: true, threads: 2 });
  t.is(rounds, 4);
  t.deepEqual(
    records.map((record) => record.round),
    [4],
  );
  const expected = await artefacts(join(base, 'whole'));
  // Those of round 2 are held: there the learning rate began to fall.
  t.deepEqual(Object.keys(expected), [
    'checkpoint-2.safetensors',
    'checkpoint-3.safetensors',
    'checkpoint-4.safetensors',
    'moments-2.bin',
    'moments-4.bin',
    'samples-2.png',
    'samples-4.png',
  ]);
  t.deepEqual(await artefacts(dir), expected);
});

/** The whole method, and the other one of each of its choices. */
const methods = {
  plain: stateful,
  phoenix: {
    ...little,
    method: 'phoenix',
    sharing: { consent: true },
    rounds: 4,
    fraction: 0.7,
    probe: { every: 2, samples: 8, steps: 2 },
    filter: { threshold: '1x' },
  },
  'the other choices': {
    ...little,
    rounds: 5,
    sharing: { beta: 0.2, source: 'synthetic', every: 2 },
    strategy: 'vendi',
    filter: { kind: 'disconnect', by: 'frechet-own', threshold: '1x' },
    histogram: { of: 'samples' },
    classConditional: true,
    compress: { updates: 'topk:0.1' },
    localWork: { target: 0.9 },
    probe: { every: 2, samples: 8, steps: 2 },
  },
} satisfies Record<string, FederateOptions>;

for (const [name, options] of Object.entries(methods)) {
  test(`a federation killed by SIGKILL ends with the same bytes: ${name}`, async (t) => {
    const base = await temporary(t);
    const whole = await federate({ ...options, out: join(base, 'whole') });
    t.true(whole.records.every(({ failures }) => failures.length === 0));
    const dir = join(base, 'killed');
    const program = `
    import { federate } from ${JSON.stringify(new URL('../../src/commands/federate.ts', import.meta.url).href)};
    let points = 0;
    const fault = () => { if (++points === Number(process.argv[2])) process.kill(process.pid, 'SIGKILL'); };
    await federate(JSON.parse(process.argv[1]), { fault });`;
    for (const point of [25, 60, 31]) {
      const text = JSON.stringify({ ...options, out: dir, resume: true });
      const child = spawn(process.execPath, ['--import=tsx', '--input-type=module', '-e', program, text, String(point)], {
        stdio: 'inherit',
      });
      t.is(await new Promise((resolve) => child.on('close', (exitCode, signal) => resolve(signal ?? exitCode))), 'SIGKILL');
    }
    await federate({ ...options, out: dir, resume: true });
    t.deepEqual(await artefacts(dir), await artefacts(join(base, 'whole')));
    const [killed, uninterrupted] = await Promise.all([dir, join(base, 'whole')].map(openRun));
    t.deepEqual(killed!.state, uninterrupted!.state);
  });
}

test('a site whose images are noise is left out by its loss, once no guard keeps it for the bins that nobody else has', async (t) => {
  const data = await temporary(t);
  const random = rng(0, 'stripes and noise');
  const record = (site: number) => {
    const phase = random.int(8);
    const stripes = (i: number) => (Math.floor(((i % 16) + phase) / 4) % 2 === 0 ? 60 : 200);
    return Buffer.from([site, 0, ...Array.from({ length: 256 }, (_, i) => (site === 3 ? random.int(256) : stripes(i)))]);
  };
  const records = Buffer.concat([0, 1, 2, 3].flatMap((site) => Array.from({ length: 60 }, () => record(site))));
  await writeFile(
    join(data, 'meta.json'),
    JSON.stringify({ sites: ['a', 'b', 'c', 'broken'], classes: ['one'], record: 'site, class, 16x16 gray' }),
  );
  for (const part of ['train', 'test']) await writeFile(join(data, `x_${part}.bin`), records);
  const model = { preset: 'tiny', prediction: 'v', schedule: 'cosine', training: { batch: 16, lr: 0.004 } } as const;
  const filter = { kind: 'quarantine', by: 'loss', threshold: '1.5x', guard: false } as const;
  const { records: rounds } = await federate({
    ...{ data, partition: 'site', rounds: 3, localImages: 160, out: join(data, 'run') },
    ...model,
    filter,
    probe: { every: 2 },
  });
  const decisions = rounds.flatMap((round) => round.decisions ?? []);
  t.deepEqual(
    decisions.map(({ client, action, statistic }) => [client, action, statistic]),
    [['broken', 'quarantine', 'loss']],
  );
  t.is(rounds.at(-1)!.clients.find(({ client }) => client === 'broken')!.weight, 0);
});

test('a run that is done stays as it is, and more rounds go on from it', async (t) => {
  const dir = join(await temporary(t), 'run');
  await federate({ ...little, rounds: 1, out: dir });
  const before = await artefacts(dir);
  const again = await federate({ ...little, rounds: 1, out: dir, resume: true });
  t.deepEqual(again.records, []);
  t.deepEqual(await artefacts(dir), before);
  t.is((await federate({ ...little, rounds: 2, out: dir, resume: true })).rounds, 2);

  await refused(t, 'ERR_PHOENIX_RUN', /options\.training\.lr was nothing and is now 0\.5.*/, () =>
    federate({ ...little, rounds: 2, training: { batch: 4, lr: 0.5 }, out: dir, resume: true }),
  );
  await refused(t, 'ERR_PHOENIX_RUN', /data is not the same/, () =>
    federate({ ...little, data: 'synthetic:50', rounds: 2, out: dir, resume: true }),
  );
  await refused(t, 'ERR_PHOENIX_RUN', /holds a run already/, () => federate({ ...little, out: dir }));
});

test('bad input is refused before there is a run folder', async (t) => {
  const base = await temporary(t);
  const out = join(base, 'run');
  await refused(t, 'ERR_PHOENIX_CONFIG', /shards/, () => federate({ ...little, partition: 'shards:11', out }));
  await refused(t, 'ERR_PHOENIX_CONFIG', /49 clients/, () => federate({ ...little, clients: 49, out }));
  await refused(t, 'ERR_PHOENIX_DATA', /nowhere/, () => federate({ ...little, data: join(base, 'nowhere'), out }));
  const dataset = { ...(await openDataset('synthetic:20', { size: 8 })), labels: undefined };
  await refused(t, 'ERR_PHOENIX_CONFIG', /labelled/, () => federate({ data: dataset, classConditional: true, out }));
  await refused(t, 'ERR_PHOENIX_CONFIG', /limit with a Dataset: size, limit and range go with the path/, () =>
    federate({ data: dataset, limit: 10, out }),
  );
  t.false(existsSync(out));
});

test('a full disk while a client trains ends the run with its own error, and the run goes on later', async (t) => {
  const base = await temporary(t);
  await federate({ ...little, rounds: 2, out: join(base, 'whole') });
  const dir = join(base, 'full');
  let writes = 0;
  const fault = (point: string) => {
    if (!point.startsWith('write scratch') || ++writes !== 5) return;
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' });
  };
  await refused(t, 'ERR_PHOENIX_IO', /disk is full/, () => federate({ ...little, rounds: 2, out: dir }, { fault }));
  t.is((await openRun(dir)).round, 1);
  await federate({ ...little, rounds: 2, out: dir, resume: true });
  t.deepEqual(await artefacts(dir), await artefacts(join(base, 'whole')));
});

test('a strategy and a dataset of one own', async (t) => {
  const dir = join(await temporary(t), 'run');
  const onlyFirst: Strategy<{ rounds: number }> = {
    name: 'only-first',
    init: () => ({ rounds: 0 }),
    weigh: (reports, state) => ({
      weights: reports.map(({ client }) => ({ client, weight: client === 'client-1' ? 1 : 0 })),
      state: { rounds: state.rounds + 1 },
      notes: ['the others only watch'],
    }),
  };
  const data = await openDataset('synthetic:30', { size: 8 });
  const { records } = await federate({
    data,
    clients: 2,
    rounds: 2,
    training: { batch: 4 },
    samples: { every: 0 },
    strategy: onlyFirst as Strategy,
    out: dir,
  });
  t.deepEqual(
    records.map((record) => record.clients.map(({ weight }) => weight)),
    [
      [1, 0],
      [1, 0],
    ],
  );
  t.deepEqual(records[0]!.notes, ['the others only watch']);
  const { state, config } = await openRun(dir);
  t.like(state, { strategy: { rounds: 2 } });
  t.like(config.options, { strategy: 'only-first' });
});

test('central training that is stopped and resumed ends with the same bytes', async (t) => {
  const base = await temporary(t);
  const { records } = await train({ ...central, out: join(base, 'whole') });
  t.deepEqual(
    records.map(({ round, images }) => [round, images]),
    [1, 2, 3, 4].map((round) => [round, 44]),
  );
  t.is(records[1]!.evalLoss, records[0]!.evalLossLocal!);
  const dir = join(base, 'stopped');
  for (const round of [2, 3])
    await t.throwsAsync(() => train({ ...central, out: dir, resume: true }, stopIn(round, 1)), { message: 'stopped' });
  await train({ ...central, out: dir, resume: true });
  t.deepEqual(await artefacts(dir), await artefacts(join(base, 'whole')));

  const cut = await train({ ...central, epochs: 1, commitImages: 10, out: join(base, 'cut') });
  t.deepEqual(
    cut.records.map(({ images }) => images),
    [12, 12, 12, 12],
  );
  await refused(t, 'ERR_PHOENIX_RUN', /kind was "train" and is now "federate"/, () => federate({ ...little, out: dir, resume: true }));
});

test('every kind of model trains and is drawn from: prediction, schedule, classes', async (t) => {
  const base = await temporary(t);
  const dir = join(base, 'run');
  const grid = join(base, 'grid.png');
  await train({
    ...central,
    epochs: 1,
    prediction: 'v',
    schedule: 'cosine',
    classConditional: true,
    training: { batch: 4, minSnrGamma: 5, flip: true },
    samples: { ...central.samples, scheduler: 'ddpm' },
    out: dir,
  });
  const all = await sample({ source: dir, n: 10, steps: 2, batch: 3, grid });
  t.deepEqual([...all.classes!], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  t.deepEqual([all.count, all.height, all.width, all.channels, all.pixels.length], [10, 8, 8, 3, 10 * 8 * 8 * 3]);
  t.is((await sharp(grid).metadata()).format, 'png');
  const one = await sample({ source: dir, n: 2, steps: 2, class: 3 });
  t.deepEqual([...one.classes!], [3, 3]);
  await refused(t, 'ERR_PHOENIX_ARGUMENT', /There is no class "10": the classes are "disc", /, () => sample({ source: dir, class: 10 }));
});

test('samples: from a run folder or its checkpoint, EMA or raw, whatever the batch', async (t) => {
  const base = await temporary(t);
  const dir = join(base, 'run');
  const { checkpoint } = await federate({ ...little, rounds: 2, out: dir });
  const options = { n: 5, steps: 3, threads: 1 };
  const ema = await sample({ ...options, source: dir });
  t.is(ema.weights, 'ema');
  t.is(ema.checkpoint, checkpoint);
  t.is(ema.grid, undefined);
  t.deepEqual((await sample({ ...options, source: checkpoint, batch: 2 })).pixels, ema.pixels);
  const raw = await sample({ ...options, source: dir, raw: true });
  t.is(raw.weights, 'raw');
  t.notDeepEqual(raw.pixels, ema.pixels);
  t.notDeepEqual((await sample({ ...options, source: dir, seed: 1 })).pixels, ema.pixels);

  await refused(t, 'ERR_PHOENIX_ARGUMENT', /not class-conditional/, () => sample({ source: dir, class: 0 }));
  await refused(t, 'ERR_PHOENIX_IO', /./, () => sample({ ...options, source: join(base, 'nothing.safetensors') }));
  await writeFile(join(base, 'model.bin'), 'a pickle');
  await refused(t, 'ERR_PHOENIX_CHECKPOINT', /pickle|safetensors/, () => sample({ ...options, source: join(base, 'model.bin') }));
  await t.throwsAsync(() => federate({ ...little, out: join(base, 'young') }, stopIn(1, 1)));
  await refused(t, 'ERR_PHOENIX_RUN', /no checkpoint yet/, () => sample({ ...options, source: join(base, 'young') }));
  await refused(t, 'ERR_PHOENIX_IO', /ENOTDIR|ENOENT/, () => sample({ ...options, source: dir, grid: join(base, 'missing', 'grid.png') }));
});

test('site partition: one client per site, by name', async (t) => {
  const base = await openDataset('synthetic:40', { size: 8 });
  const data = { ...base, sites: Int32Array.from({ length: 40 }, (_, i) => (i % 3 === 0 ? 0 : 2)), siteNames: ['north', 'empty', 'south'] };
  const dir = join(await temporary(t), 'run');
  const { records } = await federate({
    data,
    partition: 'site',
    rounds: 1,
    localImages: 8,
    training: { batch: 4 },
    samples: { every: 0 },
    out: dir,
  });
  t.deepEqual(
    records[0]!.clients.map(({ client, images }) => [client, images]),
    [
      ['north', 8],
      ['south', 8],
    ],
  );
  await refused(t, 'ERR_PHOENIX_CONFIG', /2 sites/, () => federate({ data, partition: 'site', clients: 5, out: `${dir}-2` }));
});
