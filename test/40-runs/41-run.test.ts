/** The run folder: killed anywhere, it continues to the same bytes; whatever goes wrong, the last commit stays. */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { PhoenixError, type PhoenixErrorCode } from '../../src/errors.ts';
import { freshFolder } from '../../src/files.ts';
import { rng } from '../../src/rng.ts';
import { openRun } from '../../src/run/folder.ts';
import { startRun } from '../../src/run/start.ts';
import { fakeConfig, fakeRun } from '../support/fake-run.ts';

const program = fileURLToPath(new URL('../support/fake-run.ts', import.meta.url));

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-run-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Every file under a folder with its content, but the lock. */
async function contents(dir: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile()) found[path.slice(dir.length + 1)] = (await readFile(path)).toString('base64');
  }
  return found;
}

async function refused(t: ExecutionContext, code: PhoenixErrorCode, message: RegExp, work: () => Promise<unknown>): Promise<void> {
  const error = await t.throwsAsync<PhoenixError>(work, { instanceOf: PhoenixError });
  t.is(error?.code, code);
  t.regex(error?.message ?? '', message);
}

/** Starts the fake program; resolves with how it ended. */
function child(...args: string[]): { lines: AsyncIterable<string>; kill(): void; ended: Promise<string | number | null> } {
  const running = spawn(process.execPath, ['--import=tsx', program, ...args], {
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise<string | number | null>((resolve) => {
    running.on('close', (exitCode, signal) => resolve(signal ?? exitCode));
  });
  return { lines: createInterface(running.stdout), kill: () => running.kill('SIGKILL'), ended };
}

/** The points of a whole run, in order, and the folder that it leaves. */
async function reference(dir: string, rounds: number): Promise<{ points: string[]; files: Record<string, string> }> {
  const points: string[] = [];
  await fakeRun(dir, { rounds, fault: (point) => void points.push(point) });
  return { points, files: await contents(dir) };
}

test('folders are made as deep as asked for; a place that takes none is an error, not a wait', async (t) => {
  const base = await temporary(t);
  const options = { resume: false, keep: 1, initial: {}, mayChange: [] };
  const run = await startRun(join(base, 'a/b/c'), fakeConfig, options);
  await run.close();
  t.true(existsSync(join(base, 'a/b/c/state.json')));
  if (existsSync('/proc/self'))
    await refused(t, 'ERR_PHOENIX_IO', /\/proc\/phoenix/, () => startRun('/proc/phoenix/run', fakeConfig, options));
  else t.log('SKIPPED: no /proc on this machine');
});

test('a run killed at any operation on the disk, and killed again, ends with the same bytes', async (t) => {
  const base = await temporary(t);
  const rounds = 2;
  const { points, files } = await reference(join(base, 'whole'), rounds);
  t.true(points.length > 60, `only ${points.length} points`);
  const dirs = points.map((_, i) => join(base, `at-${i + 1}`));
  // Every folder is stopped at its own point first, then where chance wants it.
  const random = rng(1, 'kills');
  const stops = [dirs.map((dir, i) => `${dir}:${i + 1}`)];
  for (let again = 0; again < 2; again++) stops.push(dirs.map((dir) => `${dir}:${1 + random.int(points.length)}`));
  for (const targets of stops) t.is(await child('stops', String(rounds), ...targets).ended, 'SIGKILL');
  for (const [i, dir] of dirs.entries()) {
    await fakeRun(dir, { rounds, resume: true });
    t.deepEqual(await contents(dir), files, `killed first at ${points[i]}`);
  }
});

test('a run killed from outside at any moment ends with the same bytes', async (t) => {
  const base = await temporary(t);
  const rounds = 60;
  const { files } = await reference(join(base, 'whole'), rounds);
  const dir = join(base, 'killed');
  let kills = 0;
  for (const patience of [1, 5, 2, 11]) {
    const running = child('rounds', String(rounds), dir);
    let seen = 0;
    for await (const _line of running.lines) if (++seen === patience) running.kill();
    if ((await running.ended) === 'SIGKILL') kills++;
  }
  t.is(kills, 4);
  await fakeRun(dir, { rounds, resume: true });
  t.deepEqual(await contents(dir), files);
});

test('a full disk at any operation is ERR_PHOENIX_IO, loses nothing and leaves nothing half-written', async (t) => {
  const base = await temporary(t);
  const rounds = 2;
  const { points, files } = await reference(join(base, 'whole'), rounds);
  for (const [i, point] of points.entries()) {
    const dir = join(base, `full-${i}`);
    let seen = 0;
    const fault = () => {
      if (seen++ === i) throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' });
    };
    await refused(t, 'ERR_PHOENIX_IO', /ENOSPC.*full.*resume/s, () => fakeRun(dir, { rounds, fault }));
    const left = existsSync(dir) ? Object.keys(await contents(dir)) : [];
    if (left.includes('state.json')) {
      const { round } = await openRun(dir);
      const later = left.filter((name) => Number(/[-.]([0-9]+)\./.exec(name)?.[1] ?? 0) > round);
      t.deepEqual(later, [], `${point}: files of a round that was not committed`);
      t.false(
        left.some((name) => name.endsWith('.tmp')),
        point,
      );
    } else t.deepEqual(left, [], point);
    await fakeRun(dir, { rounds, resume: true });
    t.deepEqual(await contents(dir), files, point);
  }
});

test('a real full disk', async (t) => {
  const base = await temporary(t);
  const disk = join(base, 'disk');
  await mkdir(disk);
  const mount = (...options: string[]) =>
    execFileSync('mount', ['-t', 'tmpfs', '-o', options.join(','), 'none', disk], { stdio: 'ignore' });
  try {
    mount('size=256k');
  } catch {
    t.log('SKIPPED: no small file system can be mounted here');
    t.pass();
    return;
  }
  t.teardown(() => execFileSync('umount', [disk]));
  const size = 3500;
  await fakeRun(join(base, 'whole'), { rounds: 6, size });
  const dir = join(disk, 'run');
  await refused(t, 'ERR_PHOENIX_IO', /disk is full/, () => fakeRun(dir, { rounds: 6, size }));
  const { round } = await openRun(dir);
  t.true(round >= 1 && round < 6);
  mount('remount', 'size=16m');
  await fakeRun(dir, { rounds: 6, size, resume: true });
  t.deepEqual(await contents(dir), await contents(join(base, 'whole')));
});

test('files of old rounds go, as keep says, and those of other people stay', async (t) => {
  const dir = join(await temporary(t), 'run');
  await fakeRun(dir, { rounds: 5 });
  const names = async () => (await readdir(dir)).filter((name) => /-\d/.test(name)).sort();
  t.deepEqual(await names(), ['checkpoint-4.safetensors', 'checkpoint-5.safetensors', 'moments-5.bin', 'samples-2.png', 'samples-4.png']);
  await writeFile(join(dir, 'notes-99.txt'), 'mine');
  await writeFile(join(dir, 'checkpoint-99.safetensors'), 'of a round that was killed');
  await fakeRun(dir, { rounds: 7, resume: true, keep: 1 });
  t.deepEqual(await names(), [
    'checkpoint-7.safetensors',
    'moments-7.bin',
    'notes-99.txt',
    'samples-2.png',
    'samples-4.png',
    'samples-6.png',
  ]);
  t.deepEqual((await readdir(join(dir, 'store'))).length, 3);
});

test('log.jsonl: a header, one line per round, cut back to the last commit', async (t) => {
  const dir = join(await temporary(t), 'run');
  await fakeRun(dir, { rounds: 2 });
  const path = join(dir, 'log.jsonl');
  const committed = await readFile(path, 'utf8');
  const lines = committed.trimEnd().split('\n');
  t.deepEqual(JSON.parse(lines[0]!), { schema: 1, kind: 'run', run: 'federate' });
  t.is(lines.length, 3);
  t.like(JSON.parse(lines[2]!), { kind: 'round', round: 2 });
  await writeFile(path, `${committed}{"kind":"round","round":3,"lo`);
  await fakeRun(dir, { rounds: 2, resume: true });
  t.is(await readFile(path, 'utf8'), committed);
});

test('an existing folder: without resume an error, with resume only if it holds a run', async (t) => {
  const base = await temporary(t);
  const dir = join(base, 'run');
  await fakeRun(dir, { rounds: 1 });
  const before = await contents(dir);
  await refused(t, 'ERR_PHOENIX_RUN', /holds a run already.*resume/, () => fakeRun(dir, { rounds: 2 }));
  t.deepEqual(await contents(dir), before);

  const other = join(base, 'other');
  await mkdir(other);
  await writeFile(join(other, 'config.json'), '{"mine": true}');
  for (const name of ['config.json', 'thesis.tex']) {
    await writeFile(join(other, name), '{"mine": true}');
    await refused(t, 'ERR_PHOENIX_RUN', /not empty/, () => fakeRun(other, { rounds: 1 }));
    await refused(t, 'ERR_PHOENIX_RUN', /damaged|no run folder/, () => fakeRun(other, { rounds: 1, resume: true }));
  }
  t.deepEqual((await readdir(other)).sort(), ['config.json', 'thesis.tex']);
  t.is(await readFile(join(other, 'config.json'), 'utf8'), '{"mine": true}');
  await refused(t, 'ERR_PHOENIX_RUN', /is a file/, () => fakeRun(join(other, 'thesis.tex'), { rounds: 1 }));
  await refused(t, 'ERR_PHOENIX_RUN', /no run folder/, () => openRun(other));
});

test('resume of nothing begins', async (t) => {
  const base = await temporary(t);
  await fakeRun(join(base, 'a'), { rounds: 2 });
  await fakeRun(join(base, 'b'), { rounds: 2, resume: true });
  t.deepEqual(await contents(join(base, 'b')), await contents(join(base, 'a')));
});

test('one run at a time; a lock whose process is gone is replaced', async (t) => {
  const dir = join(await temporary(t), 'run');
  const start = () => startRun(dir, fakeConfig, { resume: true, keep: 2, initial: null, mayChange: [], lock: { silence: 300 } });
  const first = await start();
  await refused(t, 'ERR_PHOENIX_RUN', new RegExp(`in use by process ${process.pid}`), () => start());
  const lock = JSON.parse(await readFile(join(dir, 'lock'), 'utf8'));
  await first.close();
  t.false(existsSync(join(dir, 'lock')));

  const leave = (changes: object) => writeFile(join(dir, 'lock'), JSON.stringify({ ...lock, ...changes }));
  if (lock.start !== '') {
    await leave({ start: '1' });
    await (await start()).close();
    await leave({ boot: 'an earlier one', pid: 1 });
    await (await start()).close();
    await leave({ boot: 'another', host: `not-${hostname()}` });
    await (await start()).close();
    await leave({ id: undefined, boot: 'another', host: `not-${hostname()}` });
    await refused(t, 'ERR_PHOENIX_RUN', /cannot be looked up from here.*delete .*lock/s, () => start());
  } else t.log('SKIPPED: this system does not say when a process started');
  await writeFile(join(dir, 'lock'), 'no lock');
  await refused(t, 'ERR_PHOENIX_RUN', /locked by an unknown process.*delete/s, () => start());
  t.is(await readFile(join(dir, 'lock'), 'utf8'), 'no lock');
  await rm(join(dir, 'lock'));

  const other = join(await temporary(t), 'run');
  const victim = child('rounds', '100000', other);
  for await (const _line of victim.lines) {
    await refused(t, 'ERR_PHOENIX_RUN', /in use by process/, () => fakeRun(other, { rounds: 1, resume: true }));
    break;
  }
  victim.kill();
  t.is(await victim.ended, 'SIGKILL');
  t.true(existsSync(join(other, 'lock')));
  await fakeRun(other, { rounds: 1, resume: true });
});

test('a resume with another configuration names what differs', async (t) => {
  const dir = join(await temporary(t), 'run');
  await fakeRun(dir, { rounds: 1 });
  const before = await contents(dir);
  const changed = (options: object, more: object = {}) => ({
    ...fakeConfig,
    options: { ...fakeConfig.options, ...options },
    ...more,
  });
  await refused(t, 'ERR_PHOENIX_RUN', /options\.lr was 0\.001 and is now 0\.1; options\.mu was nothing and is now 1/, () =>
    fakeRun(dir, { rounds: 2, resume: true, config: changed({ lr: 0.1, mu: 1 }) }),
  );
  await refused(t, 'ERR_PHOENIX_RUN', /data\.fingerprint.*data is not the same/, () =>
    fakeRun(dir, { rounds: 2, resume: true, config: changed({}, { data: { ...fakeConfig.data, fingerprint: 'beef' } }) }),
  );
  t.deepEqual(await contents(dir), before);
  await fakeRun(dir, { rounds: 2, resume: true, config: changed({ rounds: 2, threads: 1 }) });
  t.is((await openRun(dir)).round, 2);

  const elsewhere = changed({ rounds: 2, threads: 1 }, { build: { backend: 'fake', isa: 'avx2' } });
  const run = await startRun(dir, elsewhere, { resume: true, keep: 2, initial: null, mayChange: [] });
  t.regex(run.warnings.join(), /another build.*build\.isa was "portable" and is now "avx2"/);
  await run.close();
});

test('a damaged run folder is an error that names the file', async (t) => {
  const base = await temporary(t);
  const whole = join(base, 'whole');
  await fakeRun(whole, { rounds: 2 });
  const state = JSON.parse(await readFile(join(whole, 'state.json'), 'utf8'));
  const damage: [RegExp, (dir: string) => Promise<void>][] = [
    [
      /checkpoint-2\.safetensors is damaged.*sha256/,
      async (dir) => {
        const path = join(dir, 'checkpoint-2.safetensors');
        const bytes = await readFile(path);
        bytes[100]! ^= 1;
        await writeFile(path, bytes);
      },
    ],
    [/checkpoint-2\.safetensors is damaged.*bytes instead/, (dir) => truncate(join(dir, 'checkpoint-2.safetensors'), 10)],
    [/moments-2\.bin is damaged: it is missing/, (dir) => rm(join(dir, 'moments-2.bin'))],
    [/store.*is damaged: it is missing/, (dir) => rm(join(dir, 'store'), { recursive: true })],
    [/log\.jsonl is damaged.*were committed/, (dir) => truncate(join(dir, 'log.jsonl'), 10)],
    [/config\.json is damaged: it is not JSON/, (dir) => truncate(join(dir, 'config.json'), 10)],
    [
      /config\.json has schema 1; this version of Phoenix reads schema 2/,
      (dir) => writeFile(join(dir, 'config.json'), JSON.stringify({ ...fakeConfig, schema: 1 })),
    ],
    [/state\.json is damaged: it is not JSON/, (dir) => truncate(join(dir, 'state.json'), 10)],
    [/state\.json has schema 2/, (dir) => writeFile(join(dir, 'state.json'), JSON.stringify({ ...state, schema: 2 }))],
    [/state\.json is damaged/, (dir) => writeFile(join(dir, 'state.json'), JSON.stringify({ ...state, round: -1 }))],
    [
      /state\.json is damaged/,
      (dir) =>
        writeFile(
          join(dir, 'state.json'),
          JSON.stringify({ ...state, files: { '../../secret-1.txt': { sha256: '0'.repeat(64), bytes: 1 } } }),
        ),
    ],
    [
      /state\.json is damaged/,
      (dir) =>
        writeFile(
          join(dir, 'state.json'),
          JSON.stringify({ ...state, store: { x: { file: '../x.1.bin', sha256: '0'.repeat(64), bytes: 1 } } }),
        ),
    ],
    [/state\.json is damaged/, (dir) => writeFile(join(dir, 'state.json'), 'null')],
  ];
  for (const [i, [message, break_]] of damage.entries()) {
    const dir = join(base, `damaged-${i}`);
    await cp(whole, dir, { recursive: true });
    await break_(dir);
    const before = await contents(dir);
    await refused(t, 'ERR_PHOENIX_RUN', message, () => fakeRun(dir, { rounds: 3, resume: true }));
    t.deepEqual(await contents(dir), before);
  }
});

test('the store: staged until the commit, dropped without it', async (t) => {
  const dir = join(await temporary(t), 'run');
  const start = () => startRun(dir, fakeConfig, { resume: true, keep: 2, initial: null, mayChange: [] });
  const text = async (bytes: Promise<Uint8Array | undefined>) => (await bytes) && Buffer.from((await bytes)!).toString();
  const long = `${'é'.repeat(120)}/x`;

  const first = await start();
  await first.store.set('a/x', Buffer.from('one'));
  await first.store.set(long, Buffer.from('long'));
  t.is(await text(first.store.get('a/x')), 'one');
  await first.commit(null, { round: 1 });
  await first.store.set('a/x', Buffer.from('two'));
  await first.store.set('b/x', Buffer.from('new'));
  await first.store.delete(long);
  t.deepEqual(await first.store.keys(), ['a/x', 'b/x']);
  await first.close();

  const second = await start();
  t.deepEqual(await second.store.keys(), ['a/x', long]);
  t.is(await text(second.store.get('a/x')), 'one');
  t.is(await text(second.store.get(long)), 'long');
  t.is(await second.store.get('b/x'), undefined);
  await second.store.delete('a/x');
  await second.commit(null, { round: 2 });
  await second.close();

  const third = await start();
  t.deepEqual(await third.store.keys(), [long]);
  await third.close();
});

test('scratch lasts until the next commit, or the end', async (t) => {
  const dir = join(await temporary(t), 'run');
  const run = await startRun(dir, fakeConfig, { resume: true, keep: 2, initial: null, mayChange: [] });
  await run.scratch.set('a/x', Buffer.from('one'));
  await run.scratch.set('b/x', Buffer.from('two'));
  await run.store.set('a/x', Buffer.from('kept'));
  t.is(Buffer.from((await run.scratch.get('a/x'))!).toString(), 'one');
  await run.scratch.delete('b/x');
  t.deepEqual(await run.scratch.keys(), ['a/x']);
  await run.commit(null, { round: 1 });
  t.deepEqual(await run.scratch.keys(), []);
  t.is(await run.scratch.get('a/x'), undefined);
  t.deepEqual((await readdir(join(dir, 'store'))).length, 1, 'what was kept');
  await run.scratch.set('c/x', Buffer.from('three'));
  await run.close();
  t.deepEqual((await readdir(join(dir, 'store'))).length, 1);
});

test('a state that JSON does not keep is refused, and the run stays at its last round', async (t) => {
  const dir = join(await temporary(t), 'run');
  const run = await startRun(dir, fakeConfig, { resume: false, keep: 2, initial: { n: 0 }, mayChange: [] });
  for (const state of [{ n: Number.NaN }, { n: new Map() }, { n: undefined }, undefined]) {
    await refused(t, 'ERR_PHOENIX_CONFIG', /plain JSON/, () => run.commit(state, { round: 1 }));
  }
  t.is(run.round, 0);
  await run.commit({ n: 0.1 + 0.2 }, { round: 1 });
  t.deepEqual(run.state, { n: 0.1 + 0.2 });
  await run.close();
});

test('openRun shows the last commit, also of a run that is being written', async (t) => {
  const dir = join(await temporary(t), 'run');
  const run = await startRun(dir, fakeConfig, { resume: false, keep: 2, initial: null, mayChange: [] });
  t.like(await openRun(dir), { round: 0, checkpoint: undefined });
  await run.stage('checkpoint', (path) => writeFile(path, 'weights'));
  t.is((await openRun(dir)).checkpoint, undefined);
  await run.commit({ n: 1 }, { round: 1 });
  t.like(await openRun(dir), { round: 1, checkpoint: join(dir, 'checkpoint-1.safetensors'), state: { n: 1 } });
  await run.close();
});

test('fresh folders are numbered', async (t) => {
  const base = join(await temporary(t), 'runs', 'federate');
  t.is(await freshFolder(base), `${base}-1`);
  t.is(await freshFolder(base), `${base}-2`);
});
