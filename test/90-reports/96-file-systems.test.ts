/** The file system or the machine is not a local one: links, fsync of folders and the process table are means, not needs. */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { parseOptions } from '../../src/commands/options/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { sampleFiles, train } from '../../src/index.ts';
import { type Evidence, type Owner, stateOf, takeLock } from '../../src/run/lock.ts';
import { startRun } from '../../src/run/start.ts';
import { fakeConfig, fakeRun } from '../support/fake-run.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const program = fileURLToPath(new URL('../support/fake-run.ts', import.meta.url));

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-systems-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Replaces calls of the C library by those of other file systems: ODD names the oddity. */
const SHIM = `#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int odd(const char* name) {
  const char* wanted = getenv("ODD");
  return wanted && strcmp(wanted, name) == 0;
}
static int fail(int code) {
  errno = code;
  return -1;
}
int link(const char* from, const char* to) {
  if (odd("link EPERM")) return fail(EPERM);
  if (odd("link ENOTSUP")) return fail(ENOTSUP);
  int (*real)(const char*, const char*) = dlsym(RTLD_NEXT, "link");
  int done = real(from, to);
  return done == 0 && odd("link lost") ? fail(EEXIST) : done;
}
static int synced(int fd, const char* name) {
  struct stat found;
  int isFolder = fstat(fd, &found) == 0 && S_ISDIR(found.st_mode);
  if (isFolder && odd("folder EINVAL")) return fail(EINVAL);
  if (isFolder && odd("folder ENOTSUP")) return fail(ENOTSUP);
  if (isFolder && odd("folder EPERM")) return fail(EPERM);
  if (odd("sync ENOSYS")) return fail(ENOSYS);
  if (isFolder && odd("folder EIO")) return fail(EIO);
  int (*real)(int) = dlsym(RTLD_NEXT, name);
  return real(fd);
}
int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }
int rename(const char* from, const char* to) {
  static int calls;
  int now = calls++;
  if (odd("rename EBUSY") && now % 3 == 1) return fail(EBUSY);
  if (odd("rename EPERM") && now % 2 == 0) return fail(EPERM);
  if (odd("rename ESTALE") && now % 4 != 0) return fail(ESTALE);
  if (odd("rename EACCES")) return fail(EACCES);
  int (*real)(const char*, const char*) = dlsym(RTLD_NEXT, "rename");
  return real(from, to);
}
int unlink(const char* path) {
  static int calls;
  if (odd("unlink EBUSY") && calls++ % 3 == 0) return fail(EBUSY);
  int (*real)(const char*) = dlsym(RTLD_NEXT, "unlink");
  return real(path);
}
`;

/** Runs the fake training, perhaps behind a shim; resolves with its exit code or signal, and what it said. */
function run(args: string[], env: NodeJS.ProcessEnv): Promise<{ code: unknown; said: string }> {
  const child = spawn(process.execPath, ['--import=tsx', program, ...args], {
    cwd: root,
    env: { ...process.env, NODE_NO_WARNINGS: '1', ...env },
  });
  let said = '';
  child.stdout.on('data', (text) => {
    said += text;
  });
  child.stderr.on('data', (text) => {
    said += text;
  });
  return new Promise((resolve) => child.on('close', (code, signal) => resolve({ code: signal ?? code, said })));
}

test('L1: a run needs no hard links, no fsync of folders, and no rename that succeeds at once', async (t) => {
  const dir = await temporary(t);
  const shim = join(dir, 'odd.so');
  await writeFile(join(dir, 'odd.c'), SHIM);
  try {
    if (process.platform !== 'linux') throw new Error('LD_PRELOAD is of Linux');
    execFileSync('cc', ['-shared', '-fPIC', '-o', shim, join(dir, 'odd.c'), '-ldl'], { stdio: 'pipe' });
  } catch (error) {
    t.log(`SKIPPED: no shim can be built here (${(error as Error).message.split('\n')[0]})`);
    return t.pass();
  }
  const rename = ['rename EBUSY', 'rename EPERM', 'rename ESTALE', 'unlink EBUSY'];
  const odd = ['link EPERM', 'link ENOTSUP', 'link lost', 'folder EINVAL', 'folder ENOTSUP', 'folder EPERM', 'sync ENOSYS', ...rename];
  await fakeRun(join(dir, 'plain'), { rounds: 2 });
  const expected = (await readdir(join(dir, 'plain'))).sort();
  const results = await Promise.all(
    odd.map(async (ODD, i) => ({ ODD, ...(await run(['rounds', '2', join(dir, `run-${i}`)], { LD_PRELOAD: shim, ODD })) })),
  );
  for (const [i, { ODD, code, said }] of results.entries()) {
    t.is(code, 0, `${ODD}: ${said}`);
    t.deepEqual((await readdir(join(dir, `run-${i}`))).sort(), expected, ODD);
  }
  // What is no habit of a file system stays an error; the shim is there at all.
  for (const ODD of ['folder EIO', 'rename EACCES']) {
    const { code, said } = await run(['rounds', '2', join(dir, `run-${ODD}`)], { LD_PRELOAD: shim, ODD });
    t.is(code, 1, ODD);
    t.regex(said, /EIO|EACCES|permission denied/);
  }
});

const here: Evidence['here'] = { pid: 7, start: '100', boot: 'boot', namespace: 'pid:[1]', host: 'worker-0' };
const owner: Owner = { ...here, id: 'x', pid: 3 };
const evidence: Evidence = { here, start: '100', beats: false, quiet: 0, silence: 30 };

test('L2: the rule by which the owner of a lock is judged', (t) => {
  const judged = (changes: Partial<Owner>, seen: Partial<Evidence> = {}) => stateOf({ ...owner, ...changes }, { ...evidence, ...seen });
  // On the same boot and in the same namespace the process table knows, whatever the host is called.
  t.is(judged({}), 'running');
  t.is(judged({ host: 'renamed' }), 'running');
  t.is(judged({}, { quiet: 1000 }), 'running');
  t.is(judged({}, { start: '200' }), 'gone');
  t.is(judged({}, { start: undefined, beats: true }), 'gone');
  // Elsewhere the heartbeat knows: another container of the same name, another machine, another boot.
  for (const elsewhere of [{ namespace: 'pid:[2]' }, { boot: 'other' }, { boot: 'other', host: 'worker-1' }, { boot: '', host: 'mac' }]) {
    t.is(judged(elsewhere), 'waiting');
    t.is(judged(elsewhere, { quiet: 31 }), 'gone');
    t.is(judged(elsewhere, { beats: true }), 'running');
  }
  // A lock of an earlier version has no heartbeat.
  t.is(judged({ id: undefined, namespace: 'pid:[2]' }, { quiet: 1000 }), 'unknown');
  t.is(judged({ id: undefined, boot: 'other' }), 'gone');
  // No owner at all, and a process that was killed while it wrote its name.
  t.is(stateOf(undefined, { ...evidence, quiet: 1000 }), 'unknown');
  t.is(stateOf('empty', evidence), 'waiting');
  t.is(stateOf('empty', { ...evidence, quiet: 31 }), 'gone');
});

test('L2: a lock of another container is taken when its heartbeat ends, or at once if that is asked for', async (t) => {
  const dir = await temporary(t);
  const path = join(dir, 'lock');
  const mine = await takeLock(dir);
  const { id, ...text } = JSON.parse(await readFile(path, 'utf8'));
  await mine.release();
  const elsewhere = JSON.stringify({ ...text, id, namespace: 'pid:[0]', boot: `${text.boot}x` });
  await writeFile(path, elsewhere);
  const started = performance.now();
  await (await takeLock(dir, { silence: 400 })).release();
  t.true(performance.now() - started >= 350);
  // A heartbeat from there.
  await writeFile(path, elsewhere);
  const beat = setInterval(() => void writeFile(path, elsewhere), 40);
  await t.throwsAsync(takeLock(dir, { silence: 400 }), { instanceOf: PhoenixError, message: /in use by process/ });
  clearInterval(beat);
  await delay(60);
  const taken = await takeLock(dir, { steal: true });
  // Not from a process that is known to run.
  await t.throwsAsync(takeLock(dir, { steal: true }), { message: /in use by process/ });
  await taken.release();
  t.deepEqual(await readdir(dir), []);
  // Its own heartbeat is seen, though a clock says that the lock is old.
  const live = await takeLock(dir, { silence: 300 });
  const before = new Date(Date.now() - 3_600_000);
  await utimes(path, before, before);
  await delay(200);
  const handle = await import('node:fs/promises').then(({ stat }) => stat(path));
  t.true(handle.mtimeMs > before.getTime() + 1000);
  await live.release();
});

test('L2: a folder of samples whose lock was left in another container is taken at once if that is asked for', async (t) => {
  const dir = await temporary(t);
  const out = join(dir, 'drawn');
  const place = { threads: 1, device: 'cpu' } as const;
  const { checkpoint } = await train({ ...place, data: 'synthetic:24', size: 8, epochs: 1, samples: { every: 0 }, out: join(dir, 'run') });
  const drawing = { source: checkpoint, out, steps: 1, ...place };
  await sampleFiles({ ...drawing, n: 1 });
  const mine = await takeLock(out);
  const { id: _, ...owner } = JSON.parse(await readFile(join(out, 'lock'), 'utf8'));
  await mine.release();
  // An owner of an earlier version, without heartbeats: nothing tells whether it lives.
  await writeFile(join(out, 'lock'), JSON.stringify({ ...owner, namespace: 'pid:[0]' }));
  await t.throwsAsync(sampleFiles({ ...drawing, n: 2 }), { code: 'ERR_PHOENIX_RUN', message: /stealLock \(--steal-lock\)/ });
  t.like(await sampleFiles({ ...drawing, n: 2, stealLock: true }), { count: 2, drawn: 1 });
  t.false((await readdir(out)).includes('lock'));
  const alone = () => parseOptions('sample', { source: checkpoint, grid: 'x.png', stealLock: true });
  t.throws(alone, { code: 'ERR_PHOENIX_CONFIG', message: /--steal-lock.* goes with out \(--out\)/ });
});

test('L2: a run killed in a container goes on in the next one of the same name', async (t) => {
  const dir = await temporary(t);
  const inside = (hostname: string, command: string) =>
    execFileSync('unshare', ['-p', '-f', '--mount-proc', '--uts', 'bash', '-c', `hostname ${hostname}; ${command}`], {
      cwd: root,
      env: { ...process.env, NODE_NO_WARNINGS: '1' },
      stdio: 'pipe',
    });
  try {
    inside('worker-0', 'true');
  } catch {
    t.log('SKIPPED: no process namespace can be made here (that takes root)');
    return t.pass();
  }
  const fake = `${process.execPath} --import=tsx ${program}`;
  const out = join(dir, 'run');
  inside('worker-0', `${fake} rounds 100000 ${out} > ${dir}/said & until [ -s ${dir}/said ]; do sleep 0.1; done; kill -9 $!`);
  const first = JSON.parse(await readFile(join(out, 'lock'), 'utf8'));
  t.is(first.host, 'worker-0');
  // Half a minute has passed.
  const before = new Date(Date.now() - 31_000);
  await utimes(join(out, 'lock'), before, before);
  const { round } = JSON.parse(await readFile(join(out, 'state.json'), 'utf8'));
  inside('worker-0', `${fake} rounds ${round + 1} ${out}`);
  t.is(JSON.parse(await readFile(join(out, 'state.json'), 'utf8')).round, round + 1);
});

test('N36: a run whose lock was taken over stops, and leaves what the other process writes', async (t) => {
  const dir = join(await temporary(t), 'run');
  const options = { resume: true, keep: 2, initial: { n: 0 }, mayChange: [] };
  const asleep = await startRun(dir, fakeConfig, options);
  await asleep.commit({ n: 1 }, { round: 1 });
  // It sleeps in another container, so its lock is taken.
  const path = join(dir, 'lock');
  await writeFile(path, (await readFile(path, 'utf8')).replace(/"namespace":"[^"]*"/, '"namespace":"pid:[0]"'));
  const other = await startRun(dir, fakeConfig, { ...options, lock: { steal: true } });
  await other.commit({ n: 2 }, { round: 2 });
  await t.throwsAsync(
    asleep.stage('checkpoint', async () => t.fail()),
    { code: 'ERR_PHOENIX_RUN', message: /taken by another process/ },
  );
  await t.throwsAsync(asleep.commit({ n: 9 }, { round: 2 }), { code: 'ERR_PHOENIX_RUN', message: /this one stops/ });
  await asleep.close();
  await other.commit({ n: 3 }, { round: 3 });
  await other.close();
  const again = await startRun(dir, fakeConfig, options);
  t.deepEqual([again.round, again.state], [3, { n: 3 }]);
  await again.close();
});
