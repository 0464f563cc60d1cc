/** sent.jsonl: a chain that shows every change; a process killed anywhere leaves it whole. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { appendFile, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { openSentLog, readSentLog, type Sent } from '../../src/net/sent-log.ts';

async function file(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-sent-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return join(dir, 'sent.jsonl');
}

const sent = (round: number, change: Partial<Sent> = {}): Sent => ({
  ...{ run: 'lung', round, kind: 'upload', bytes: 100 * round, sha256: createHash('sha256').update(`${round}`).digest('hex') },
  ...{ line: 'allow.upload: true' },
  ...change,
});
const clock = () => new Date(Date.UTC(2026, 2, 1));

/** A log of five lines, the fourth of another run, with names that JSON must escape. */
async function whole(t: ExecutionContext) {
  const path = await file(t);
  const log = await openSentLog(path, { clock });
  for (let round = 1; round <= 5; round++) await log.append(sent(round, round === 4 ? { run: 'a "b",\n"hash":"c' } : {}));
  return { path, log, lines: (await readFile(path, 'utf8')).trimEnd().split('\n') };
}

test('lines are chained, verified and added up by run', async (t) => {
  const { path, log, lines } = await whole(t);
  const read = await readSentLog(path);
  t.like(read, { unfinished: false, broken: undefined, head: log.head() });
  t.deepEqual(
    read.entries.map(({ round, bytes, line, time }) => [round, bytes, line, time]),
    [1, 2, 3, 4, 5].map((round) => [round, 100 * round, 'allow.upload: true', '2026-03-01T00:00:00.000Z']),
  );
  t.deepEqual(Object.fromEntries(read.totals), {
    lung: { messages: 4, bytes: 1100, rounds: 4 },
    'a "b",\n"hash":"c': { messages: 1, bytes: 400, rounds: 1 },
  });
  t.deepEqual(log.totals('lung'), { messages: 4, bytes: 1100, rounds: 4 });
  t.deepEqual(log.totals('none'), { messages: 0, bytes: 0, rounds: 0 });
  // The chain computed by hand: each line is hashed without its hash, which the next one names.
  let previous = '0'.repeat(64);
  for (const text of lines) {
    const { hash, ...rest } = JSON.parse(text);
    t.is(rest.previous, previous);
    t.is(hash, createHash('sha256').update(JSON.stringify(rest)).digest('hex'));
    previous = hash;
  }
  t.is((await stat(path)).mode & 0o777, process.platform === 'win32' ? 0o666 : 0o600);
});

test('a round counts once, however many messages left in it', async (t) => {
  const log = await openSentLog(await file(t), { clock });
  for (const kind of ['train', 'upload']) for (const round of [1, 2]) await log.append(sent(round, { kind, bytes: 1 }));
  t.deepEqual(log.totals('lung'), { messages: 4, bytes: 4, rounds: 2 });
});

test('a new process goes on with the chain', async (t) => {
  const { path } = await whole(t);
  const log = await openSentLog(path, { clock });
  t.deepEqual(log.totals('lung'), { messages: 4, bytes: 1100, rounds: 4 });
  await log.append(sent(6));
  const read = await readSentLog(path);
  t.is(read.entries.length, 6);
  t.is(read.broken, undefined);
});

test('appends at once are carried out one after the other', async (t) => {
  const path = await file(t);
  const log = await openSentLog(path);
  await Promise.all(Array.from({ length: 20 }, (_, i) => log.append(sent(i + 1))));
  const read = await readSentLog(path);
  t.is(read.broken, undefined);
  t.deepEqual(
    read.entries.map(({ round }) => round),
    Array.from({ length: 20 }, (_, i) => i + 1),
  );
});

test('every change is found in the first line that it touches', async (t) => {
  const { path, lines } = await whole(t);
  const found = async (changed: string[]) => {
    await writeFile(path, `${changed.join('\n')}\n`);
    return (await readSentLog(path)).broken?.line;
  };
  t.is(await found(lines), undefined);
  const other: Record<string, unknown> = { time: '2026-03-02T00:00:00.000Z', run: 'x', round: 9, kind: 'train', bytes: 1, line: 'y' };
  for (const key of Object.keys(JSON.parse(lines[0]!))) {
    for (const at of [0, 2, 4]) {
      const changed = { ...JSON.parse(lines[at]!), [key]: other[key] ?? 'f'.repeat(64) };
      t.is(await found(lines.with(at, JSON.stringify(changed))), at + 1, `${key} of line ${at + 1}`);
      const { [key]: _, ...without } = JSON.parse(lines[at]!);
      t.is(await found(lines.with(at, JSON.stringify(without))), at + 1, `line ${at + 1} without ${key}`);
    }
  }
  t.is(await found(lines.toSpliced(1, 1)), 2, 'a line removed');
  t.is(await found(lines.slice(1)), 1, 'the first line removed');
  t.is(await found(lines.toSpliced(2, 0, lines[2]!)), 4, 'a line twice');
  t.is(await found([lines[1]!, lines[0]!, ...lines.slice(2)]), 1, 'lines swapped');
  t.is(await found([...lines.slice(0, 3), lines[4]!, lines[3]!]), 4, 'the last lines swapped');
  t.is(await found(lines.with(3, lines[3]!.replace('{', '{ '))), 4, 'a blank');
  t.is(await found(lines.with(3, lines[3]!.replace(/\}$/, ' }'))), 4, 'a blank behind the hash');
  t.is(await found(lines.with(3, lines[3]!.replace('"bytes"', '"bytes":0,"bytes"'))), 4, 'a field twice');
  t.is(await found(lines.with(4, '')), 5, 'an empty line');
  t.is(await found(lines.with(4, 'null')), 5);
  // A line that is changed with its own hash breaks the next.
  const { hash: _, ...forged } = { ...JSON.parse(lines[1]!), bytes: 1 };
  const hash = createHash('sha256').update(JSON.stringify(forged)).digest('hex');
  t.is(await found(lines.with(1, JSON.stringify({ ...forged, hash }))), 3);
});

test('a broken chain is not gone on with', async (t) => {
  const { path, lines } = await whole(t);
  await writeFile(path, `${lines.toSpliced(1, 1).join('\n')}\n`);
  const error = await t.throwsAsync(openSentLog(path));
  t.like(error, { code: 'ERR_PHOENIX_RUN' });
  t.regex(error!.message, /damaged at line 2/);
  t.is((await readFile(path, 'utf8')).split('\n').length, 5, 'the file is left as evidence');
});

test('stopped after any byte: only the line in work is lost, and the chain goes on', async (t) => {
  const { path } = await whole(t);
  const content = await readFile(path);
  const start = content.subarray(0, content.length - 1).lastIndexOf(10) + 1;
  for (let length = start; length <= content.length; length += length > start + 3 && length < content.length - 70 ? 40 : 1) {
    await writeFile(path, content.subarray(0, length));
    const cut = await readSentLog(path);
    t.is(cut.entries.length, length === content.length ? 5 : 4);
    t.is(cut.unfinished, length > start && length < content.length);
    t.is(cut.broken, undefined);
    const log = await openSentLog(path, { clock });
    await log.append(sent(5));
    t.like(await readSentLog(path), { broken: undefined, unfinished: false });
  }
});

test('SIGKILL at every point: the log is whole, and another process goes on with it', async (t) => {
  const program = fileURLToPath(new URL('../support/sent-writer.ts', import.meta.url));
  const run = async (path: string, lines: number, kill: number) => {
    const child = spawn(process.execPath, ['--import=tsx', program, path, String(lines), String(kill)], { stdio: 'inherit' });
    const [code, signal] = await once(child, 'exit');
    return signal ?? code;
  };
  for (const [kill, left] of [
    [1, 0],
    [2, 1],
    [3, 1],
    [4, 2],
  ] as const) {
    const path = await file(t);
    t.is(await run(path, 2, kill), 'SIGKILL', `point ${kill}`);
    const read = await readSentLog(path);
    t.is(read.broken, undefined);
    t.is(read.entries.length, left, `point ${kill}`);
    t.is(await run(path, 2, 0), 0);
    t.like(await readSentLog(path), { broken: undefined, unfinished: false });
    t.is((await readSentLog(path)).entries.length, left + 2);
  }
});

test('a disk that refuses a line leaves the log as it was', async (t) => {
  const path = await file(t);
  let full = '';
  const log = await openSentLog(path, {
    async point(name) {
      if (!full || !name.startsWith(full)) return;
      if (full === 'fsync') await appendFile(path, 'half a line');
      throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    },
  });
  await log.append(sent(1));
  for (const at of ['append', 'fsync']) {
    full = at;
    const error = await t.throwsAsync(log.append(sent(2)));
    t.like(error, { code: 'ERR_PHOENIX_IO' });
    t.regex(error!.message, /nothing is sent/);
    t.is((await readSentLog(path)).entries[0]!.round, 1);
  }
  full = '';
  await log.append(sent(3));
  const read = await readSentLog(path);
  t.is(read.broken, undefined);
  t.deepEqual(
    read.entries.map(({ round }) => round),
    [1, 3],
  );
  t.deepEqual(log.totals('lung'), { messages: 2, bytes: 400, rounds: 2 });
});

test('another program that writes the same log is noticed', async (t) => {
  const { path, log } = await whole(t);
  const other = await openSentLog(path);
  await other.append(sent(6));
  t.like(await t.throwsAsync(log.append(sent(7))), { code: 'ERR_PHOENIX_RUN' });
  t.is((await readSentLog(path)).entries.length, 6);
});

test('what makes no line is refused and changes nothing', async (t) => {
  const { path, log } = await whole(t);
  for (const change of [{ sha256: 'x' }, { bytes: -1 }, { round: 1.5 }, { kind: '' }, { run: 'x'.repeat(201) }])
    t.like(await t.throwsAsync(log.append(sent(6, change))), { code: 'ERR_PHOENIX_ARGUMENT' });
  t.is((await readSentLog(path)).entries.length, 5);
});

test('no file is an empty log; a folder is an error', async (t) => {
  const path = await file(t);
  t.like(await readSentLog(path), { entries: [], head: '0'.repeat(64), unfinished: false });
  t.like(await t.throwsAsync(readSentLog(join(path, '..'))), { code: 'ERR_PHOENIX_IO' });
});
