/** The beginning of a run: a new folder, or the last commit of one that is there, checked before anything is changed. */
import { createReadStream } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { PhoenixError } from '../errors.ts';
import { draftOf, makeFolder, type Point, readJson, remove, statusOf, syncFolder, writeWhole } from '../files.ts';
import { checkOutputFolder } from '../outputs.ts';
import { asJson, digest, type Run, replaceJson, sweep, writer } from './commit.ts';
import type { RunConfig } from './config.ts';
import { type Committed, fileName, HELD, type Held, heldCommit, jsonRules, namesIn, readConfig, runIo, stateSchema } from './folder.ts';
import { isLockFile, type LockOptions, takeLock } from './lock.ts';
import { beginLog, openLog } from './log-file.ts';

export type StartOptions = {
  /** Continue what is in the folder, if anything is. */
  resume: boolean;
  /** Checkpoints that stay, the last included; at least 1. */
  keep: number;
  /** Plain state of round 0. */
  initial: unknown;
  /** Paths into the configuration ('options.rounds') that a resume may give other values. */
  mayChange: readonly string[];
  /** The options that say how long the run is, and whether it is longer than it was when a commit was held: then it goes on from there. */
  length?: { options: readonly string[]; isLonger(than: Held['length']): boolean };
  /** How the lock of the folder is taken. */
  lock?: LockOptions;
  fault?: Point;
};

/** Whether a run leaves a file of this name behind if it is killed before its first commit. */
const isBeforeFirstCommit = (name: string) =>
  name === 'config.json' || name === 'log.jsonl' || ['config.json', 'state.json'].includes(draftOf(name) ?? '');

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
    const lock = await takeLock(dir, options.lock);
    let fresh = false;
    try {
      const begun = await checkContents(dir, options.resume);
      fresh = !begun;
      const { warnings, changed } = begun ? await compareConfig(dir, config, options.mayChange) : { warnings: [], changed: [] };
      const last = begun ? await readCommitted(dir, warnings) : undefined;
      const { found, held } = last ? await goBack(dir, last, { ...options, changed, warnings, point }) : {};
      if (!found) await replaceJson(join(dir, 'config.json'), config, point);
      const committed = found ?? (await begin(dir, config, options.initial, point));
      const opened = await openLog(dir, { bytes: committed.log, sha256: committed.logSha256 }, point);
      warnings.push(...opened.warnings);
      if (found) await replaceJson(join(dir, 'config.json'), config, point);
      if (!held) await remove(join(dir, HELD));
      await point('mkdir store');
      await makeFolder(join(dir, 'store'));
      await sweep(dir, { committed, held, keep: options.keep, point });
      return writer({ dir, committed, held, log: opened.log, warnings, changed, keep: options.keep, lock, point });
    } catch (error) {
      // A run that could not begin leaves the folder empty, so that it can be begun again.
      const left = (fresh && (await namesIn(dir))) || ['state.json'];
      if (!left.includes('state.json')) for (const name of left.filter(isBeforeFirstCommit)) await remove(join(dir, name));
      await lock.release();
      throw error;
    }
  });
}

/**
 * Checks before the work, and changes nothing: a run can be begun in this folder, or continued where `resume` is set.
 * @throws PhoenixError ERR_PHOENIX_RUN for a folder that holds something else, ERR_PHOENIX_IO for one that takes no files
 */
export async function checkRunFolder(dir: string, resume: boolean): Promise<void> {
  await runIo(dir, () => checkContents(dir, resume));
  await checkOutputFolder(dir);
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
  const foreign = found.find((name) => !isBeforeFirstCommit(name));
  if (!begun && foreign)
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${dir} is no run folder: it holds ${foreign}, but no state.json. Choose another folder (--out).`,
    );
  if (!begun && found.includes('config.json')) await readConfig(dir);
  return begun;
}

async function begin(dir: string, config: RunConfig, initial: unknown, point: Point): Promise<Committed> {
  const { bytes: log, sha256: logSha256 } = await beginLog(dir, config.kind, point);
  const committed: Committed = { schema: 1, round: 0, log, logSha256, files: {}, store: {}, state: asJson(initial) };
  await replaceJson(join(dir, 'state.json'), committed, point);
  await syncFolder(dirname(resolve(dir)));
  return committed;
}

/** Value of every path into a JSON value, lists as one value each. */
function leaves(value: unknown, path = '', into = new Map<string, string>()): Map<string, string> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    for (const [key, child] of Object.entries(value)) leaves(child, path ? `${path}.${key}` : key, into);
  } else if (value !== undefined) into.set(path, JSON.stringify(value));
  return into;
}

/** What a resume finds changed: paths into the configuration, and warnings. */
type Compared = { warnings: string[]; changed: string[] };

/** @throws PhoenixError ERR_PHOENIX_RUN naming what differs and may not */
async function compareConfig(dir: string, config: RunConfig, mayChange: readonly string[]): Promise<Compared> {
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
  const warnings =
    builds.length > 0
      ? [`The run continues on another build, so its results may differ in the last bits: ${builds.map(say).join('; ')}.`]
      : [];
  return { warnings, changed: differing };
}

type GoBack = Compared & Pick<StartOptions, 'length'> & { point: Point };

/**
 * The commit that the run goes on from: the last one, or for a longer run the held one, which then becomes the last. The model of the last
 * one stays under another name. A commit that was held for another length is held no more.
 */
async function goBack(dir: string, last: Committed, options: GoBack): Promise<{ found: Committed; held?: Held }> {
  const { length, changed, warnings, point } = options;
  const held = await heldCommit(dir);
  if (!held) return { found: last };
  const isOther = length !== undefined && changed.some((name) => length.options.includes(name));
  if (held.round >= last.round) return { found: last };
  if (!isOther) return { found: last, held };
  if (!length.isLonger(held.length)) return { found: last };

  const files = [...Object.entries(held.files), ...Object.values(held.store).map((entry) => [`store/${entry.file}`, entry] as const)];
  for (const [name, file] of files) {
    const wrong = await damageOf(join(dir, name), file);
    if (wrong !== undefined && !name.startsWith('samples-')) throw damaged(join(dir, name), wrong);
  }
  const model = fileName('checkpoint', last.round);
  const kept = `ended-${last.round}.safetensors`;
  if (last.files[model]) await writeWhole(join(dir, kept), createReadStream(join(dir, model)), point);
  const { length: _, ...found } = held;
  await replaceJson(join(dir, 'state.json'), found, point);
  warnings.push(
    `The run is longer now, so it goes back to round ${held.round}, before its learning rate fell. The model of round ${last.round} stays as ${kept}.`,
  );
  return { found };
}

/**
 * The last commit. A sample grid that is missing or another is a warning: nothing is computed from it.
 * @throws PhoenixError ERR_PHOENIX_RUN if another file that it refers to is missing or not what it was
 */
async function readCommitted(dir: string, warnings: string[]): Promise<Committed> {
  const committed = await readJson(join(dir, 'state.json'), stateSchema, jsonRules);
  const files: Committed['files'] = {};
  for (const [name, file] of Object.entries(committed.files)) {
    const path = join(dir, name);
    const wrong = await damageOf(path, file);
    const isPicture = name.startsWith('samples-');
    if (wrong !== undefined && !isPicture) throw damaged(path, wrong);
    if (wrong !== undefined) warnings.push(`${path} ${wrong}. It is only a picture, so the run goes on.`);
    if (wrong !== MISSING) files[name] = file;
  }
  for (const entry of Object.values(committed.store)) {
    const path = join(dir, 'store', entry.file);
    const wrong = await damageOf(path, entry);
    if (wrong !== undefined) throw damaged(path, wrong);
  }
  return { ...committed, files };
}

const MISSING = 'is missing';

const damaged = (path: string, why: string) =>
  new PhoenixError('ERR_PHOENIX_RUN', `${path} is damaged: it ${why}. Restore it, or begin a new run.`);

/** What is wrong with a file that was committed; undefined if nothing is. */
async function damageOf(path: string, { bytes, sha256 }: { bytes: number; sha256: string }): Promise<string | undefined> {
  const found = await statusOf(path);
  if (!found) return MISSING;
  if (!found.isFile()) return 'is no plain file';
  if (found.size !== bytes) return `has ${found.size} bytes instead of ${bytes}`;
  return (await digest(path)).sha256 === sha256 ? undefined : 'does not hold what was committed (sha256)';
}
