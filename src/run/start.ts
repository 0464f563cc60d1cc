/** The beginning of a run: a new folder, or the last commit of one that is there, checked before anything is changed. */
import { stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { PhoenixError } from '../errors.ts';
import { makeFolder, type Point, readJson, remove, sync } from '../files.ts';
import { asJson, digest, type Run, replaceJson, sweep, writer } from './commit.ts';
import type { RunConfig } from './config.ts';
import { type Committed, jsonRules, namesIn, readConfig, runIo, stateSchema } from './folder.ts';
import { isLockFile, takeLock } from './lock.ts';
import { beginLog, cutLog } from './log-file.ts';

export type StartOptions = {
  /** Continue what is in the folder, if anything is. */
  resume: boolean;
  /** Checkpoints that stay, the last included; at least 1. */
  keep: number;
  /** Plain state of round 0. */
  initial: unknown;
  /** Paths into the configuration ('options.rounds') that a resume may give other values. */
  mayChange: readonly string[];
  fault?: Point;
};

/** What a run leaves behind if it is killed before its first commit. */
const beforeFirstCommit = ['config.json', 'config.json.tmp', 'log.jsonl', 'state.json.tmp'];

/**
 * Begins a run in a new or empty folder, or continues the one in it at its last commit.
 * @throws PhoenixError ERR_PHOENIX_RUN if the folder is in use, is not empty and `resume` is not set, is no run folder, is damaged, or
 * holds a run of another configuration (naming the fields); ERR_PHOENIX_IO
 */
export async function startRun(dir: string, config: RunConfig, options: StartOptions): Promise<Run> {
  return runIo(dir, async () => {
    const point = options.fault ?? (() => {});
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
      await replaceJson(join(dir, 'config.json'), config, point);
      const committed = found ?? (await begin(dir, config, options.initial, point));
      await point('truncate log.jsonl');
      await cutLog(dir, committed.log);
      await point('mkdir store');
      await makeFolder(join(dir, 'store'));
      await sweep(dir, committed, options.keep, point);
      return writer({ dir, committed, warnings, keep: options.keep, unlock, point });
    } catch (error) {
      // A run that could not begin leaves the folder empty, so that it can be begun again.
      if (fresh && !(await namesIn(dir))?.includes('state.json')) for (const name of beforeFirstCommit) await remove(join(dir, name));
      await unlock();
      throw error;
    }
  });
}

/** Whether the folder holds a run with a commit. */
async function checkContents(dir: string, resume: boolean): Promise<boolean> {
  const found = (await namesIn(dir))?.filter((name) => !isLockFile(name)) ?? [];
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
  if (!begun && found.includes('config.json')) await readConfig(dir);
  return begun;
}

async function begin(dir: string, config: RunConfig, initial: unknown, point: Point): Promise<Committed> {
  const log = await beginLog(dir, config.kind, point);
  const committed: Committed = { schema: 1, round: 0, log, files: {}, store: {}, state: asJson(initial) };
  await replaceJson(join(dir, 'state.json'), committed, point);
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
  const before = leaves(await readConfig(dir));
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
  const committed = await readJson(join(dir, 'state.json'), stateSchema, jsonRules);
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
