/**
 * A run folder: what a training has done so far, so that it can be killed at any moment and continued bit for bit.
 *
 *   config.json                    what the run is: options, data, model, clients, build
 *   log.jsonl                      {"schema":1,"kind":"run",…}, then one line {"kind":"round",…} a round
 *   checkpoint-<round>.safetensors the model; the newest few stay
 *   moments-<round>.bin            optimizer vectors; the last stays
 *   samples-<round>.png            sample grids; all stay
 *   store/<key>.<round>.bin        what belongs to clients
 *   state.json                     the one commit point
 *   lock                           who is writing
 *
 * Everything that a round writes goes under names of that round, which nothing refers to yet, and is brought to the disk (fsync); then
 * state.json, with the hashes of all of it and the length of the log, is renamed into place. Before the rename the run is at the old round,
 * after it at the new one; what is not referred to is removed.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';
import type { Store } from '../fl/types.ts';
import { isLockFile, takeLock } from './lock.ts';

/** The files of a round, and which stay when later rounds are committed. */
const kinds = {
  checkpoint: { extension: 'safetensors', stays: 'newest' },
  moments: { extension: 'bin', stays: 'last' },
  samples: { extension: 'png', stays: 'always' },
} as const;
export type FileKind = keyof typeof kinds;

const fileName = (kind: FileKind, round: number) => `${kind}-${round}.${kinds[kind].extension}`;
const roundFile = /^(checkpoint|moments|samples)-([0-9]{1,15})\./;

/** Largest config.json or state.json that is read, in bytes. */
const MAX_JSON = 256 << 20;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const referred = z.object({ sha256, bytes: z.int().min(0) });
const stateSchema = z.object({
  schema: z.literal(1),
  round: z.int().min(0),
  /** Length of log.jsonl in bytes. */
  log: z.int().min(0),
  files: z.record(z.string().regex(/^(checkpoint|moments|samples)-[0-9]{1,15}\.[a-z]+$/), referred),
  /** Key of the Store → its file. */
  store: z.record(z.string(), referred.extend({ file: z.string().regex(/^[A-Za-z0-9%._~!'()*-]+\.[0-9]{1,15}\.bin$/) })),
  state: z.unknown(),
});
type Committed = z.infer<typeof stateSchema>;

const configSchema = z.looseObject({ schema: z.literal(1), kind: z.enum(['federate', 'train']), build: z.record(z.string(), z.unknown()) });

/** What a run is, as config.json holds it: plain JSON. `build` is where it was computed, and the rest must be equal for a resume. */
export type RunConfig = z.infer<typeof configSchema>;

/** A run folder as it was last committed, to look at. */
export type RunView = {
  dir: string;
  config: RunConfig;
  /** Rounds committed. */
  round: number;
  /** Path of the newest checkpoint; absent before the first round. */
  checkpoint?: string;
  /** The plain state of the last commit. */
  state: unknown;
  /** Path of each entry of the Store, by key. */
  stored: Record<string, string>;
};

export type StartOptions = {
  /** Continue what is in the folder, if anything is. */
  resume: boolean;
  /** Checkpoints that stay, the last included; at least 1. */
  keep: number;
  /** Plain state of round 0. */
  initial: unknown;
  /** Paths into the configuration ('options.rounds') that a resume may give other values. */
  mayChange: readonly string[];
  /** Called before every operation that changes the disk, with its name: tests stop the process or throw here. */
  fault?(point: string): void | Promise<void>;
};

/** A run folder being written. */
export type Run = AsyncDisposable & {
  readonly dir: string;
  /** Rounds committed; what is staged belongs to the next. */
  readonly round: number;
  /** The plain state of the last commit. */
  readonly state: unknown;
  /** What a person should know about this resume: another build, for one. */
  readonly warnings: readonly string[];
  /** What belongs to clients. Changes count from the next commit on: a kill before it leaves the committed values. */
  readonly store: Store;
  /** Path of a file of the committed round. */
  file(kind: FileKind): string | undefined;
  /** Has `write` make a file of the next round at the path it is given. */
  stage(kind: FileKind, write: (path: string) => Promise<void>): Promise<void>;
  /** Makes the next round: staged files, store, plain state and one line of the log, all or nothing. */
  commit(state: unknown, record: object): Promise<void>;
  /** Releases the folder; what was staged and not committed is removed. */
  close(): Promise<void>;
};

const hasCode = (error: unknown, ...codes: string[]) => codes.includes((error as NodeJS.ErrnoException)?.code ?? '');

/** File system errors as ERR_PHOENIX_IO with advice; what Phoenix has raised already stays as it is. */
export async function io<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (!(cause instanceof Error) || typeof (cause as NodeJS.ErrnoException).syscall !== 'string') throw cause;
    const advice = hasCode(cause, 'ENOSPC', 'EDQUOT') ? ' The disk is full: make room and resume the run; nothing of it is lost.' : '';
    throw new PhoenixError('ERR_PHOENIX_IO', `Cannot write or read ${path}: ${cause.message}.${advice}`, { cause });
  }
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function digest(path: string): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { sha256: hash.digest('hex'), bytes };
}

async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  const { size } = await stat(path);
  const damaged = (why: string, cause?: unknown) =>
    new PhoenixError('ERR_PHOENIX_RUN', `${path} is damaged: ${why}. Restore it, or begin a new run.`, { cause });
  if (size > MAX_JSON) throw damaged(`it has ${size} bytes, more than ${MAX_JSON}`);
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    throw damaged('it is no JSON', cause);
  }
  const version = (value as { schema?: unknown } | null)?.schema;
  if (typeof version === 'number' && version !== 1) {
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${path} has schema ${version}; this version of Phoenix reads schema 1. Use the version that wrote it.`,
    );
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw damaged(z.prettifyError(parsed.error).replaceAll('\n', ' '), parsed.error);
  return parsed.data;
}

/** The names in a folder, sorted; undefined if there is none. */
async function list(dir: string): Promise<string[] | undefined> {
  try {
    return (await readdir(dir)).sort();
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    if (hasCode(error, 'ENOTDIR'))
      throw new PhoenixError('ERR_PHOENIX_RUN', `${dir} is a file, and a run needs a folder. Choose another one.`, { cause: error });
    throw error;
  }
}

/**
 * Reads what a run folder holds as of its last commit; a run that is being written may be read.
 * @throws PhoenixError ERR_PHOENIX_RUN if it is no run folder or damaged, ERR_PHOENIX_IO
 */
export async function openRun(dir: string): Promise<RunView> {
  return io(dir, async () => {
    if (!(await list(dir))?.includes('state.json'))
      throw new PhoenixError('ERR_PHOENIX_RUN', `${dir} is no run folder: it has no state.json.`);
    const { round, files, store, state } = await readJson(join(dir, 'state.json'), stateSchema);
    const config = await readJson(join(dir, 'config.json'), configSchema);
    const name = fileName('checkpoint', round);
    const stored = Object.fromEntries(Object.entries(store).map(([key, { file }]) => [key, join(dir, 'store', file)]));
    return { dir, config, round, checkpoint: files[name] && join(dir, name), state, stored };
  });
}

/** Makes a folder and those it lies in. (mkdir's `recursive` never ends where the parent is there and still answers ENOENT, as in /proc.) */
async function makeFolder(dir: string): Promise<void> {
  const path = resolve(dir);
  try {
    await mkdir(path);
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return;
    const parent = dirname(path);
    if (!hasCode(error, 'ENOENT') || (await list(parent)) !== undefined) throw error;
    await makeFolder(parent);
    await makeFolder(path);
  }
}

/** Makes the first folder of `base`-1, `base`-2, … that is not there yet. @throws PhoenixError ERR_PHOENIX_IO */
export async function freshFolder(base: string): Promise<string> {
  return io(base, async () => {
    await makeFolder(dirname(base));
    for (let n = 1; ; n++) {
      try {
        await mkdir(`${base}-${n}`);
        return `${base}-${n}`;
      } catch (error) {
        if (!hasCode(error, 'EEXIST')) throw error;
      }
    }
  });
}

/** What a run leaves behind if it is killed before its first commit. */
const beforeFirstCommit = ['config.json', 'config.json.tmp', 'log.jsonl', 'state.json.tmp'];

/**
 * Begins a run in a new or empty folder, or continues the one in it at its last commit.
 * @throws PhoenixError ERR_PHOENIX_RUN if the folder is in use, is not empty and `resume` is not set, is no run folder, is damaged, or holds a
 * run of another configuration (naming the fields); ERR_PHOENIX_IO
 */
export async function startRun(dir: string, config: RunConfig, options: StartOptions): Promise<Run> {
  return io(dir, async () => {
    const point = async (name: string) => options.fault?.(name);
    await checkContents(dir, options.resume);
    await point('mkdir');
    await makeFolder(dir);
    await point('lock');
    const unlock = await takeLock(dir);
    let fresh = false;
    try {
      const begun = await checkContents(dir, options.resume);
      fresh = !begun;
      const warnings = begun ? await compareConfig(dir, config, options.mayChange) : [];
      const found = begun ? await readCommitted(dir) : undefined;
      await replace(dir, 'config.json', config, point);
      const committed = found ?? (await begin(dir, config, options.initial, point));
      await point('truncate log.jsonl');
      await truncate(join(dir, 'log.jsonl'), committed.log);
      await point('mkdir store');
      await makeFolder(join(dir, 'store'));
      await sweep(dir, committed, options.keep, point);
      return writer(dir, committed, warnings, options.keep, unlock, point);
    } catch (error) {
      // A run that could not begin leaves the folder empty, so that it can be begun again.
      if (fresh && !(await list(dir))?.includes('state.json'))
        for (const name of beforeFirstCommit) await rm(join(dir, name), { force: true });
      await unlock();
      throw error;
    }
  });
}

type Point = (name: string) => Promise<void>;

/** Whether the folder holds a run with a commit. */
async function checkContents(dir: string, resume: boolean): Promise<boolean> {
  const found = (await list(dir))?.filter((name) => !isLockFile(name)) ?? [];
  if (found.length === 0) return false;
  const begun = found.includes('state.json');
  if (!resume) {
    const what = begun ? 'holds a run already: continue it with resume (--resume), or' : 'exists and is not empty:';
    throw new PhoenixError('ERR_PHOENIX_RUN', `${dir} ${what} choose another folder (--out).`);
  }
  const foreign = found.find((name) => !beforeFirstCommit.includes(name));
  if (!begun && foreign)
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${dir} is no run folder: it holds ${foreign}, but no state.json. Choose another folder (--out).`,
    );
  if (!begun && found.includes('config.json')) await readJson(join(dir, 'config.json'), configSchema);
  return begun;
}

/** Brings a JSON file to the disk under a temporary name. */
async function draft(dir: string, name: string, value: unknown, point: Point): Promise<void> {
  const path = join(dir, `${name}.tmp`);
  try {
    await point(`write ${name}`);
    await writeFile(path, `${JSON.stringify(value, null, 1)}\n`);
    await point(`fsync ${name}`);
    await sync(path);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
}

/** Renames a draft into place: the moment in which it counts. */
async function publish(dir: string, name: string, point: Point): Promise<void> {
  const path = join(dir, name);
  try {
    await point(`rename ${name}`);
    await rename(`${path}.tmp`, path);
  } catch (error) {
    await rm(`${path}.tmp`, { force: true });
    throw error;
  }
}

/** Writes a JSON file whole or not at all. */
async function replace(dir: string, name: string, value: unknown, point: Point): Promise<void> {
  await draft(dir, name, value, point);
  await publish(dir, name, point);
  await point('fsync the folder');
  await sync(dir);
}

async function begin(dir: string, config: RunConfig, initial: unknown, point: Point): Promise<Committed> {
  const header = `${JSON.stringify({ schema: 1, kind: 'run', run: config.kind })}\n`;
  await point('write log.jsonl');
  await writeFile(join(dir, 'log.jsonl'), header);
  await point('fsync log.jsonl');
  await sync(join(dir, 'log.jsonl'));
  const committed: Committed = { schema: 1, round: 0, log: Buffer.byteLength(header), files: {}, store: {}, state: asJson(initial) };
  await replace(dir, 'state.json', committed, point);
  await sync(dirname(resolve(dir)));
  return committed;
}

/** Value of every path into a JSON value, lists as one value each. */
function leaves(value: unknown, path = '', into = new Map<string, string>()): Map<string, string> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    for (const [key, child] of Object.entries(value)) leaves(child, path ? `${path}.${key}` : key, into);
  } else if (value !== undefined) into.set(path, JSON.stringify(value));
  return into;
}

/** @returns warnings. @throws PhoenixError ERR_PHOENIX_RUN naming what differs */
async function compareConfig(dir: string, config: RunConfig, mayChange: readonly string[]): Promise<string[]> {
  const before = leaves(await readJson(join(dir, 'config.json'), configSchema));
  const now = leaves(config);
  const differing = [...new Set([...before.keys(), ...now.keys()])].filter((path) => before.get(path) !== now.get(path));
  const say = (path: string) => {
    const [was, is] = [before.get(path), now.get(path)].map((text) =>
      text === undefined ? 'nothing' : text.length > 60 ? `${text.slice(0, 60)}…` : text,
    );
    return `${path} was ${was} and is now ${is}`;
  };
  const within = (path: string, prefixes: readonly string[]) => prefixes.some((prefix) => path === prefix || path.startsWith(`${prefix}.`));
  const wrong = differing.filter((path) => !within(path, ['build', ...mayChange]));
  if (wrong.length > 0) {
    const more = wrong.length > 6 ? `; and ${wrong.length - 6} more` : '';
    const hint = wrong.includes('data.fingerprint') ? ' The data is not the same.' : '';
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${dir} holds a run of another configuration: ${wrong.slice(0, 6).map(say).join('; ')}${more}.${hint} Resume with the values that it began with, or choose another folder (--out).`,
    );
  }
  const builds = differing.filter((path) => within(path, ['build']));
  return builds.length > 0
    ? [`The run continues on another build, so its results may differ in the last bits: ${builds.map(say).join('; ')}.`]
    : [];
}

/** The last commit. @throws PhoenixError ERR_PHOENIX_RUN if a file that it refers to is missing or not what it was */
async function readCommitted(dir: string): Promise<Committed> {
  const committed = await readJson(join(dir, 'state.json'), stateSchema);
  const { log, files, store } = committed;
  const damaged = (path: string, why: string) =>
    new PhoenixError('ERR_PHOENIX_RUN', `${path} is damaged: ${why}. Restore it, or begin a new run.`);
  const size = await stat(join(dir, 'log.jsonl')).then(
    (found) => found.size,
    () => 0,
  );
  if (size < log) throw damaged(join(dir, 'log.jsonl'), `it has ${size} bytes, but ${log} were committed`);
  const expected = [...Object.entries(files), ...Object.values(store).map((entry) => [join('store', entry.file), entry] as const)];
  for (const [name, { sha256, bytes }] of expected) {
    const path = join(dir, name);
    const length = await stat(path).then(
      (found) => found.size,
      () => undefined,
    );
    if (length === undefined) throw damaged(path, 'it is missing');
    if (length !== bytes) throw damaged(path, `it has ${length} bytes instead of ${bytes}`);
    if ((await digest(path)).sha256 !== sha256) throw damaged(path, 'its content is not what was committed (sha256)');
  }
  return committed;
}

/** Removes what the commit does not refer to: of killed rounds, and of old ones. Only files that a run makes. */
async function sweep(dir: string, { round, files, store }: Committed, keep: number, point: Point): Promise<void> {
  const referredTo = new Set(Object.values(store).map((entry) => entry.file));
  const unwanted = (await readdir(dir)).filter((name) => {
    if (name === 'state.json.tmp' || name === 'config.json.tmp') return true;
    const [, kind, of] = roundFile.exec(name) ?? [];
    if (!kind || files[name]) return false;
    if (Number(of) >= round || name !== fileName(kind as FileKind, Number(of))) return true;
    return kinds[kind as FileKind].stays === 'last';
  });
  const checkpoints = (await readdir(dir)).filter(
    (name) => name.startsWith('checkpoint-') && !unwanted.includes(name) && roundFile.test(name),
  );
  checkpoints.sort((a, b) => Number(roundFile.exec(b)![2]) - Number(roundFile.exec(a)![2]));
  const stored = (await readdir(join(dir, 'store'))).filter((name) => !referredTo.has(name)).map((name) => join('store', name));
  for (const name of [...unwanted, ...checkpoints.slice(keep), ...stored]) {
    await point(`remove ${name}`);
    await rm(join(dir, name), { force: true });
  }
}

function asJson(state: unknown): unknown {
  const text = JSON.stringify(state);
  const plain = text === undefined ? undefined : JSON.parse(text);
  if (plain !== undefined && isDeepStrictEqual(plain, state)) return plain;
  throw new PhoenixError(
    'ERR_PHOENIX_CONFIG',
    'The state of a run must be plain JSON (no undefined, NaN, Map, typed array or class), so that it can be saved and continued. A strategy keeps its state so.',
  );
}

function writer(dir: string, initial: Committed, warnings: string[], keep: number, unlock: () => Promise<void>, point: Point): Run {
  let committed = initial;
  let staged: FileKind[] = [];
  /** Changes of the store since the commit: key → file, or undefined for a deleted key. */
  let changed = new Map<string, string | undefined>();

  const next = () => committed.round + 1;
  // Encoded keys are at most 255 bytes with what comes after them, as file systems want it; longer ones go by their hash.
  const newStoreFile = (key: string) => {
    const name = encodeURIComponent(key);
    return `${name.length <= 200 ? name : createHash('sha256').update(key).digest('hex')}.${next()}.bin`;
  };
  const storePath = (file: string) => join(dir, 'store', file);
  const storeFile = (key: string) => (changed.has(key) ? changed.get(key) : committed.store[key]?.file);

  const store: Store = {
    get: (key) =>
      io(dir, async () => {
        const file = storeFile(key);
        return file === undefined ? undefined : readFile(storePath(file));
      }),
    set: (key, bytes) =>
      io(dir, async () => {
        const file = newStoreFile(key);
        try {
          await point(`write store ${key}`);
          await writeFile(storePath(file), bytes);
        } catch (error) {
          await rm(storePath(file), { force: true });
          changed.delete(key);
          throw error;
        }
        changed.set(key, file);
      }),
    delete: (key) =>
      io(dir, async () => {
        const file = changed.get(key);
        if (file !== undefined) {
          await point(`remove store ${key}`);
          await rm(storePath(file), { force: true });
        }
        changed.set(key, undefined);
      }),
    keys: async () =>
      [...new Set([...Object.keys(committed.store), ...changed.keys()])].filter((key) => storeFile(key) !== undefined).sort(),
  };

  async function removeStaged(): Promise<void> {
    const files = [...changed.values()].filter((file) => file !== undefined).map(storePath);
    for (const path of [...staged.map((kind) => join(dir, fileName(kind, next()))), ...files])
      await rm(path, { force: true }).catch(() => {});
    await truncate(join(dir, 'log.jsonl'), committed.log).catch(() => {});
    staged = [];
    changed = new Map();
  }

  async function close(): Promise<void> {
    await removeStaged();
    await unlock();
  }

  async function filesOnDisk(): Promise<Committed['files']> {
    const files: Committed['files'] = {};
    for (const kind of staged) {
      const name = fileName(kind, next());
      await point(`fsync ${name}`);
      await sync(join(dir, name));
      files[name] = await digest(join(dir, name));
    }
    return files;
  }

  async function storeOnDisk(): Promise<Committed['store']> {
    const entries = { ...committed.store };
    for (const [key, file] of changed) {
      if (file === undefined) {
        delete entries[key];
        continue;
      }
      await point(`fsync store ${key}`);
      await sync(storePath(file));
      entries[key] = { file, ...(await digest(storePath(file))) };
    }
    await sync(join(dir, 'store'));
    return entries;
  }

  async function appendLog(line: string): Promise<number> {
    const handle = await open(join(dir, 'log.jsonl'), 'a');
    try {
      await point('append log.jsonl');
      await handle.truncate(committed.log);
      await handle.writeFile(line);
      await point('fsync log.jsonl');
      await handle.sync();
    } finally {
      await handle.close();
    }
    return committed.log + Buffer.byteLength(line);
  }

  return {
    dir,
    get round() {
      return committed.round;
    },
    get state() {
      return committed.state;
    },
    warnings,
    store,
    file(kind) {
      const name = fileName(kind, committed.round);
      return committed.files[name] && join(dir, name);
    },
    stage: (kind, write) =>
      io(join(dir, fileName(kind, next())), async () => {
        staged.push(kind);
        await point(`write ${fileName(kind, next())}`);
        await write(join(dir, fileName(kind, next())));
      }),
    commit: (state, record) =>
      io(dir, async () => {
        let upcoming: Committed;
        try {
          const plain = asJson(state);
          const files = await filesOnDisk();
          const store = await storeOnDisk();
          const log = await appendLog(`${JSON.stringify({ kind: 'round', ...record })}\n`);
          upcoming = { schema: 1, round: next(), log, files, store, state: plain };
          await draft(dir, 'state.json', upcoming, point);
          await publish(dir, 'state.json', point);
        } catch (error) {
          await removeStaged();
          throw error;
        }
        committed = upcoming;
        staged = [];
        changed = new Map();
        await point('fsync the folder');
        await sync(dir);
        await sweep(dir, committed, keep, point);
      }),
    close,
    [Symbol.asyncDispose]: close,
  };
}
