/** Streams, signals and callbacks: what looks on at a run does not end it, and a callback that fails fails its call. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import { withCallbacks } from '../../src/callbacks.ts';
import { plainHyper } from '../../src/ddpm/fit.ts';
import { presets } from '../../src/ddpm/model/presets.ts';
import { experiment } from '../../src/experiment/experiment.ts';
import {
  createImages,
  createSession,
  drawSamples,
  federate,
  finetune,
  noise,
  openDataset,
  sample,
  sampleFiles,
  train,
  trainLocal,
  unetModel,
} from '../../src/index.ts';
import { openRun } from '../../src/run/folder.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-streams-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

const little = ['federate', '--data', 'synthetic:24', '--size', '8', '--clients', '2', '--samples', '2', '--sample-steps', '1'];

type Streams = { stdout?: number | 'pipe' | 'ignore'; stderr?: number | 'pipe' | 'ignore' };

/** Starts the command line, and stops reading of a piped stream after its first bytes. */
function start(args: string[], { stdout = 'ignore', stderr = 'ignore' }: Streams) {
  const child = spawn(process.execPath, ['--import=tsx', 'src/cli.ts', ...args, '--threads', '1', '--device', 'cpu'], {
    cwd: root,
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
    stdio: ['ignore', stdout, stderr],
  });
  let said = '';
  child.stderr?.on('data', (text) => {
    said += text;
  });
  const ended = new Promise<unknown>((resolve) => child.on('close', (code, signal) => resolve(signal ?? code)));
  return { child, ended, said: () => said };
}

test('P1: a run goes on whose reader has left, or whose streams lie on a full disk', async (t) => {
  const dir = await temporary(t);
  const full = existsSync('/dev/full') ? await open('/dev/full', 'w') : undefined;
  if (!full) t.log('SKIPPED in part: no /dev/full');
  const out = (name: string) => [...little, '--rounds', '3', '--json', '--out', join(dir, name)];
  const left = start(out('left'), { stdout: 'pipe' });
  left.child.stdout!.once('data', () => left.child.stdout!.destroy());
  const silent = start(out('silent'), { stderr: 'pipe' });
  silent.child.stderr!.once('data', () => silent.child.stderr!.destroy());
  const cases: [string, ReturnType<typeof start>, number][] = [
    ['left', left, 0],
    ['silent', silent, 0],
  ];
  if (full) {
    // What stdout was to hold is lost: the run is done, and the exit code says that its results are not all there.
    cases.push(['full', start(out('full'), { stdout: full.fd, stderr: 'pipe' }), 1]);
    cases.push(['mute', start(out('mute'), { stderr: full.fd }), 0]);
  }
  for (const [name, { ended, said }, code] of cases) {
    t.is(await ended, code, `${name}: ${said()}`);
    t.is((await openRun(join(dir, name))).round, 3, name);
    t.false((await readdir(join(dir, name))).includes('lock'), name);
    if (name === 'full') t.regex(said(), /stdout could not be written to .*ENOSPC/);
  }
  await full?.close();
});

test('P2: SIGHUP stops a run as SIGTERM does', async (t) => {
  const dir = join(await temporary(t), 'run');
  const { child, ended, said } = start([...little, '--rounds', '100000', '--out', dir], { stderr: 'pipe' });
  while (!existsSync(join(dir, 'checkpoint-1.safetensors')) && child.exitCode === null) await delay(50);
  child.kill('SIGHUP');
  t.is(await ended, 129);
  t.regex(said(), /Stopped. Continue with: .*--resume/);
  const names = await readdir(dir);
  t.false(
    names.some((name) => name === 'lock' || name.endsWith('.tmp')),
    names.join(),
  );
});

const away = new Error('the database is away');
const tiny = { data: 'synthetic:24', size: 8, samples: { count: 2, steps: 1 }, threads: 1, device: 'cpu', training: { batch: 8 } } as const;

test('P4: a callback that throws, or whose promise rejects, rejects the call', async (t) => {
  const dir = await temporary(t);
  const failures: [string, () => never | Promise<never>][] = [
    [
      'throws',
      () => {
        throw away;
      },
    ],
    [
      'rejects',
      async () => {
        throw away;
      },
    ],
    [
      'rejects later',
      async () => {
        await delay(20);
        throw away;
      },
    ],
  ];
  const out = join(dir, 'run');
  await federate({ ...tiny, clients: 2, rounds: 1, out });
  const dataset = await openDataset('synthetic:24', { size: 8 });
  const unet = presets.tiny.unet({ height: 8, width: 8, channels: 3, classes: 0 });
  using session = createSession({ model: unetModel(unet), threads: 1, device: 'cpu' });
  using images = await createImages(dataset, session);
  const local = {
    ...{ session, images, indices: Int32Array.of(0, 1, 2), length: { epochs: 1 }, key: 1n },
    hyper: { ...plainHyper, lr: 1e-3, batch: 3, warmupSteps: 0 },
    position: { globalStep: 0, adamStep: 0, firstStep: 0 },
  };
  const photos = join(dir, 'photos');
  await mkdir(photos);
  const png = await sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
    .png()
    .toBuffer();
  for (const name of ['a.png', 'b.png', 'c.png']) await writeFile(join(photos, name), png);
  const grid = join(dir, 'g.json');
  const cell = { arms: ['fedavg'], partitions: ['iid'], seeds: [0] };
  const score = { samples: 50, steps: 1, classifierSteps: 1 };
  const about = { name: 'g', data: 'synthetic:60', size: 8, clients: 2, rounds: 1, localImages: 8, options: { training: { batch: 8 } } };
  await writeFile(grid, JSON.stringify({ ...about, arms: cell.arms, partitions: cell.partitions, runs: [cell], score }));
  const plan = { grid, out: join(dir, 'grid'), threads: 1, device: 'cpu', plan: true } as const;
  for (const [how, fails] of failures) {
    const calls: Record<string, () => Promise<unknown>> = {
      trainLocal: () => trainLocal({ ...local, onStep: fails }),
      drawSamples: () => drawSamples({ session, noise: noise(), count: 2, steps: 2, key: 1n, onProgress: fails }),
      openDataset: () => openDataset(photos, { onProgress: fails }),
      sample: () => sample({ source: out, n: 2, steps: 2, threads: 1 }, { onProgress: fails }),
      sampleFiles: () => sampleFiles({ source: out, n: 2, steps: 2, threads: 1, out: join(dir, `files ${how}`) }, { onProgress: fails }),
      finetune: () => finetune({ source: out, data: dataset, checkpoint: join(dir, 'x.safetensors'), threads: 1 }, { onStep: fails }),
      'experiment onPlan': () => experiment(plan, { onPlan: fails }),
      'experiment onMessage': () => experiment(plan, { onMessage: fails }),
    };
    for (const name of ['onStart', 'onStep', 'onRound', 'onMessage', 'onRead']) {
      const read = name === 'onRead' ? { data: photos, size: undefined } : {};
      calls[`federate ${name}`] = () =>
        federate({ ...tiny, clients: 2, rounds: 2, out: join(dir, `${how}-f-${name}`), ...read }, { [name]: fails });
      calls[`train ${name}`] = () => train({ ...tiny, epochs: 2, out: join(dir, `${how}-t-${name}`), ...read }, { [name]: fails });
    }
    for (const [name, call] of Object.entries(calls))
      t.is(await t.throwsAsync(call(), { any: true }, `${name} ${how}`), away, `${name} ${how}`);
  }
  // The rounds that were committed before are there, and the lock is not.
  const stopped = join(dir, 'rejects-f-onRound');
  t.is((await openRun(stopped)).round, 1);
  t.false((await readdir(stopped)).includes('lock'));
});

test('P4: what a callback returns, or its promise resolves with, is what the work gets', async (t) => {
  for (const onConfirm of [() => false, async () => true, async () => false]) {
    const given = await onConfirm();
    const asked: { onConfirm(): boolean | Promise<boolean>; signal?: AbortSignal } = { onConfirm };
    t.is(await withCallbacks('work', asked, async (guarded) => guarded.onConfirm()), given);
  }
});

test('N37: callbacks are waited for, and keep their object; a callback that is no function is refused', async (t) => {
  const seen: string[] = [];
  class Watcher {
    name = 'watcher';
    async onRound(): Promise<void> {
      await delay(10);
      seen.push(this.name);
    }
  }
  const watcher = new Watcher() as unknown as { onRound(): void; signal?: AbortSignal };
  t.is(
    await withCallbacks('work', watcher, async ({ onRound }) => {
      onRound();
      return 'done';
    }),
    'done',
  );
  t.deepEqual(seen, ['watcher']);
  const refused = { code: 'ERR_PHOENIX_ARGUMENT', message: /onStep must be a function, not 3/ };
  await t.throwsAsync(federate(tiny, { onStep: 3 } as never), refused);
  await t.throwsAsync(federate(tiny, null as never), { code: 'ERR_PHOENIX_ARGUMENT', message: /object of options or callbacks, not null/ });
  // A round of a run waits for what was said of the last one.
  const order: string[] = [];
  const dir = join(await temporary(t), 'run');
  const onRound = async ({ round }: { round: number }) => {
    order.push(`${round} begins`);
    await delay(30);
    order.push(`${round} ends`);
  };
  await federate({ ...tiny, clients: 2, rounds: 2, out: dir }, { onRound });
  t.deepEqual(order, ['1 begins', '1 ends', '2 begins', '2 ends']);
});
