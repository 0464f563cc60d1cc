/** Writing a run folder round by round: files are staged under the next round's names, and `commit` makes them count. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { PhoenixError } from '../errors.ts';
import { draft, draftOf, type Point, remove, sync, syncFolder, writeFresh, writeWhole } from '../files.ts';
import type { Store } from '../fl/store.ts';
import { type Committed, type FileKind, fileName, HELD, type Held, kinds, roundFile, runIo, runIoOptions } from './folder.ts';
import type { Lock } from './lock.ts';
import { appendToLog, cutLog, type Log } from './log-file.ts';

/** A run folder being written. */
export type Run = AsyncDisposable & {
  readonly dir: string;
  /** Rounds committed; what is staged belongs to the next. */
  readonly round: number;
  /** The plain state of the last commit. */
  readonly state: unknown;
  /** What a person should know about this resume: another build, for one. */
  readonly warnings: readonly string[];
  /** Paths into the configuration that have another value than before, as 'options.rounds'; none in a new run. */
  readonly changed: readonly string[];
  /** What belongs to clients. Changes count from the next commit on: a kill before it leaves the committed values. */
  readonly store: Store;
  /** What nobody needs after the next commit: it is gone then. */
  readonly scratch: Store;
  /** Path of a file of the committed round. */
  file(kind: FileKind): string | undefined;
  /** Has `write` make a file of the next round at the path it is given. */
  stage(kind: FileKind, write: (path: string) => Promise<void>): Promise<void>;
  /** Makes the next round: staged files, store, plain state and one line of the log, all or nothing. */
  commit(state: unknown, record: object): Promise<void>;
  /** Keeps the last commit with its files until another is held. May be called again for the same commit. */
  hold(length: Held['length']): Promise<void>;
  /** Releases the folder; what was staged and not committed is removed. */
  close(): Promise<void>;
};

/** Length and hash of a file. */
export async function digest(path: string): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { sha256: hash.digest('hex'), bytes };
}

const jsonText = (value: unknown) => `${JSON.stringify(value, null, 1)}\n`;

/** Writes a JSON file of a run whole or not at all. */
export function replaceJson(path: string, value: unknown, point: Point): Promise<void> {
  return writeWhole(path, jsonText(value), point, runIoOptions);
}

export type Sweep = { committed: Committed; held: Held | undefined; keep: number; point: Point };

/** Removes what neither the commit nor the held one refers to: of killed rounds, and of old ones. Only files that a run makes. */
export async function sweep(dir: string, { committed, held, keep, point }: Sweep): Promise<void> {
  const { round, files, store } = committed;
  const referredTo = new Set([store, held?.store ?? {}].flatMap(Object.values).map((entry) => entry.file));
  const unwanted = (await readdir(dir)).filter((name) => {
    if (['state.json', 'config.json', 'log.jsonl', HELD].includes(draftOf(name) ?? '')) return true;
    const [, kind, of] = roundFile.exec(name) ?? [];
    if (!kind || files[name] || held?.files[name]) return false;
    if (Number(of) >= round || name !== fileName(kind as FileKind, Number(of))) return true;
    return kinds[kind as FileKind].stays === 'last';
  });
  const checkpoints = (await readdir(dir)).filter(
    (name) => name.startsWith('checkpoint-') && !unwanted.includes(name) && !held?.files[name] && roundFile.test(name),
  );
  checkpoints.sort((a, b) => Number(roundFile.exec(b)![2]) - Number(roundFile.exec(a)![2]));
  const stored = (await readdir(join(dir, 'store'))).filter((name) => !referredTo.has(name)).map((name) => join('store', name));
  for (const name of [...unwanted, ...checkpoints.slice(keep), ...stored]) {
    await point(`remove ${name}`);
    await remove(join(dir, name));
  }
}

export function asJson(state: unknown): unknown {
  const text = JSON.stringify(state);
  const plain = text === undefined ? undefined : JSON.parse(text);
  if (plain !== undefined && isDeepStrictEqual(plain, state)) return plain;
  throw new PhoenixError(
    'ERR_PHOENIX_CONFIG',
    'The state of a run must be plain JSON (no undefined, NaN, Map, typed array or class), so that it can be saved and resumed. This holds for the state of a strategy too.',
  );
}

/** The last commit of a run, and what has been written since under the names of the next round. */
type Pending = {
  dir: string;
  point: Point;
  lock: Lock;
  committed: Committed;
  held: Held | undefined;
  keep: number;
  log: Log;
  staged: FileKind[];
  /** Changes of the store: key → file, or undefined for a deleted key. */
  changed: Map<string, string | undefined>;
  /** What is in scratch: key → file. */
  scratch: Map<string, string>;
};

const nextRound = ({ committed }: Pending) => committed.round + 1;
const stagedPath = (pending: Pending, kind: FileKind) => join(pending.dir, fileName(kind, nextRound(pending)));
const storePath = ({ dir }: Pending, file: string) => join(dir, 'store', file);
const storeFile = ({ changed, committed }: Pending, key: string) => (changed.has(key) ? changed.get(key) : committed.store[key]?.file);

async function readStored(pending: Pending, file: string | undefined): Promise<Uint8Array | undefined> {
  return file === undefined ? undefined : readFile(storePath(pending, file));
}

/**
 * A key as a file name. File systems want at most 255 bytes, and half of a surrogate pair has no encoding: such keys go by their hash.
 */
function newStoreFile(pending: Pending, key: string): string {
  const isText = Buffer.from(key).toString() === key;
  const encoded = isText ? encodeURIComponent(key) : '';
  const fits = encoded.length > 0 && encoded.length <= 200;
  const name = fits
    ? encoded
    : createHash('sha256')
        .update(isText ? key : Buffer.from(key, 'utf16le'))
        .digest('hex');
  return `${name}.${nextRound(pending)}.bin`;
}

function storeOf(pending: Pending): Store {
  const { dir, point } = pending;
  return {
    get: (key) => runIo(dir, () => readStored(pending, storeFile(pending, key))),
    set: (key, bytes) =>
      runIo(dir, async () => {
        const file = newStoreFile(pending, key);
        try {
          await point(`write store ${key}`);
          await writeFresh(storePath(pending, file), bytes);
        } catch (error) {
          await remove(storePath(pending, file));
          pending.changed.delete(key);
          throw error;
        }
        pending.changed.set(key, file);
      }),
    delete: (key) =>
      runIo(dir, async () => {
        const file = pending.changed.get(key);
        if (file !== undefined) {
          await point(`remove store ${key}`);
          await remove(storePath(pending, file));
        }
        pending.changed.set(key, undefined);
      }),
    keys: async () =>
      [...new Set([...Object.keys(pending.committed.store), ...pending.changed.keys()])]
        .filter((key) => storeFile(pending, key) !== undefined)
        .sort(),
  };
}

/** Its files lie in the folder of the store; no commit refers to them, so the next one sweeps them away. */
function scratchOf(pending: Pending): Store {
  const { dir, point, scratch } = pending;
  return {
    get: (key) => runIo(dir, () => readStored(pending, scratch.get(key))),
    set: (key, bytes) =>
      runIo(dir, async () => {
        const file = newStoreFile(pending, `scratch ${key}`);
        scratch.set(key, file);
        await point(`write scratch ${key}`);
        await writeFresh(storePath(pending, file), bytes);
      }),
    delete: (key) =>
      runIo(dir, async () => {
        const file = scratch.get(key);
        if (file !== undefined) await remove(storePath(pending, file));
        scratch.delete(key);
      }),
    keys: async () => [...scratch.keys()].sort(),
  };
}

/** Removes what was written since the last commit; nothing in a folder that another process has taken over. */
async function drop(pending: Pending): Promise<void> {
  const isMine = await pending.lock.check().then(
    () => true,
    () => false,
  );
  if (!isMine) return;
  const stored = [...pending.changed.values(), ...pending.scratch.values()]
    .filter((file) => file !== undefined)
    .map((file) => storePath(pending, file));
  for (const path of [...pending.staged.map((kind) => stagedPath(pending, kind)), ...stored]) await remove(path).catch(() => {});
  await cutLog(pending.dir, pending.log).catch(() => {});
  pending.staged = [];
  pending.changed = new Map();
  pending.scratch.clear();
}

async function filesOnDisk(pending: Pending): Promise<Committed['files']> {
  const files: Committed['files'] = {};
  for (const kind of pending.staged) {
    const path = stagedPath(pending, kind);
    const name = fileName(kind, nextRound(pending));
    await pending.point(`fsync ${name}`);
    await sync(path);
    files[name] = await digest(path);
  }
  return files;
}

async function storeOnDisk(pending: Pending): Promise<Committed['store']> {
  const entries = { ...pending.committed.store };
  for (const [key, file] of pending.changed) {
    if (file === undefined) {
      delete entries[key];
      continue;
    }
    const path = storePath(pending, file);
    await pending.point(`fsync store ${key}`);
    await sync(path);
    entries[key] = { file, ...(await digest(path)) };
  }
  await syncFolder(join(pending.dir, 'store'));
  return entries;
}

/** The one commit point: state.json is renamed into place when all that it refers to is on the disk. */
async function commit(pending: Pending, state: unknown, record: object): Promise<void> {
  const { dir, point } = pending;
  const path = join(dir, 'state.json');
  let upcoming: Committed;
  let log: Log;
  try {
    const plain = asJson(state);
    await pending.lock.check();
    const files = await filesOnDisk(pending);
    const store = await storeOnDisk(pending);
    const appended = await appendToLog(dir, pending.log, record, point);
    const { bytes, sha256: logSha256 } = appended.mark;
    log = appended.log;
    upcoming = { schema: 1, round: nextRound(pending), log: bytes, logSha256, files, store, state: plain };
    const publish = await draft(path, jsonText(upcoming), point);
    await pending.lock.check();
    await publish();
  } catch (error) {
    await drop(pending);
    throw error;
  }
  pending.committed = upcoming;
  pending.log = log;
  pending.staged = [];
  pending.changed = new Map();
  pending.scratch.clear();
  await point('fsync the folder');
  await syncFolder(dir);
  await sweep(dir, pending);
}

async function hold(pending: Pending, length: Held['length']): Promise<void> {
  const { dir, point, committed, lock } = pending;
  await lock.check();
  const held: Held = { ...committed, length };
  if (isDeepStrictEqual(held, pending.held)) return;
  await replaceJson(join(dir, HELD), held, point);
  pending.held = held;
}

export type WriterOptions = {
  dir: string;
  /** The last commit, and the held one. */
  committed: Committed;
  held: Held | undefined;
  log: Log;
  warnings: string[];
  changed: string[];
  /** Checkpoints that stay. */
  keep: number;
  /** Of the folder; released at the end. */
  lock: Lock;
  point: Point;
};

/** A run that goes on from a commit. */
export function writer({ dir, committed, held, log, warnings, changed, keep, lock, point }: WriterOptions): Run {
  const pending: Pending = { dir, point, lock, committed, held, keep, log, staged: [], changed: new Map(), scratch: new Map() };
  const close = async () => {
    await drop(pending);
    await lock.release();
  };
  return {
    dir,
    get round() {
      return pending.committed.round;
    },
    get state() {
      return pending.committed.state;
    },
    warnings,
    changed,
    store: storeOf(pending),
    scratch: scratchOf(pending),
    file(kind) {
      const name = fileName(kind, pending.committed.round);
      return pending.committed.files[name] && join(dir, name);
    },
    stage: (kind, write) => {
      const path = stagedPath(pending, kind);
      return runIo(path, async () => {
        await lock.check();
        pending.staged.push(kind);
        await point(`write ${fileName(kind, nextRound(pending))}`);
        await write(path);
      });
    },
    commit: (state, record) => runIo(dir, () => commit(pending, state, record)),
    hold: (length) => runIo(dir, () => hold(pending, length)),
    close,
    [Symbol.asyncDispose]: close,
  };
}
