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
 *   before-fall.json               the commit after which the learning rate began to fall: where a longer run goes on
 *   ended-<round>.safetensors      the model of an end that a longer run went back from
 *   finish.json                    the request to finish, while it is not yet followed
 *   lock                           the process that is writing
 *
 * Everything that a round writes goes under names of that round, which nothing refers to yet, and is brought to the disk (fsync); then
 * state.json, with the hashes of all of it, is renamed into place. Before the rename the run is at the old round,
 * after it at the new one; files without a reference are removed.
 */

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { checkArguments } from '../arguments.ts';
import { PhoenixError } from '../errors.ts';
import { exists, hasCode, type IoOptions, io, type JsonRules, readJson } from '../files.ts';
import { CONFIG_SCHEMA, type RunConfig, runConfigSchema } from './config.ts';
import type { LogMark } from './log-file.ts';

/** The files of a round, and which stay when later rounds are committed. */
export const kinds = {
  checkpoint: { extension: 'safetensors', stays: 'newest' },
  moments: { extension: 'bin', stays: 'last' },
  samples: { extension: 'png', stays: 'always' },
} as const;
export type FileKind = keyof typeof kinds;

export function fileName(kind: FileKind, round: number) {
  return `${kind}-${round}.${kinds[kind].extension}`;
}
export const roundFile = /^(checkpoint|moments|samples)-([0-9]{1,15})\./;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const referred = z.object({ sha256, bytes: z.int().min(0) });
export const stateSchema = z.object({
  schema: z.literal(1),
  round: z.int().min(0),
  /** Length of log.jsonl in bytes, and its hash, which runs of earlier versions lack. */
  log: z.int().min(0),
  logSha256: sha256.optional(),
  files: z.record(z.string().regex(/^(checkpoint|moments|samples)-[0-9]{1,15}\.[a-z]+$/), referred),
  /** Key of the Store → its file. */
  store: z.record(z.string(), referred.extend({ file: z.string().regex(/^[A-Za-z0-9%._~!'()*-]+\.[0-9]{1,15}\.bin$/) })),
  state: z.unknown(),
});
export type Committed = z.infer<typeof stateSchema>;

/** A commit that is kept when later ones are made, with the length of the run as it was then. */
const heldSchema = stateSchema.extend({ length: z.object({ unit: z.enum(['rounds', 'images']), total: z.int().min(1) }) });
export type Held = z.infer<typeof heldSchema>;
export const HELD = 'before-fall.json';

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
  /** What the last commit says of log.jsonl: its length then, and its hash. */
  log: LogMark;
  /** Path of each entry of the Store, by key. */
  stored: Record<string, string>;
};

/** How config.json and state.json are refused. */
export const jsonRules: JsonRules = {
  code: 'ERR_PHOENIX_RUN',
  maxBytes: 256 << 20,
  advice: 'Restore it, or begin a new run.',
  version: 1,
};

export const runIoOptions: IoOptions = { whenFull: 'make room and resume the run; nothing of it is lost' };

/** Work on the files of a run: what the file system refuses is ERR_PHOENIX_IO, with what that means for the run. */
export function runIo<T>(path: string, work: () => Promise<T>): Promise<T> {
  return io(path, work, runIoOptions);
}

/** The names in a folder, sorted; undefined if there is none. */
export async function namesIn(dir: string): Promise<string[] | undefined> {
  try {
    return (await readdir(dir)).sort();
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    if (hasCode(error, 'ENOTDIR'))
      throw new PhoenixError('ERR_PHOENIX_RUN', `${dir} is a file, and a run needs a folder. Choose another one.`, { cause: error });
    throw error;
  }
}

/** config.json of a run folder. @throws PhoenixError ERR_PHOENIX_RUN for a damaged file, or one of another version */
export async function readConfig(dir: string): Promise<RunConfig> {
  const path = join(dir, 'config.json');
  if (!(await exists(path)))
    throw new PhoenixError('ERR_PHOENIX_RUN', `${path} is missing, so nobody knows what this run is. Restore it, or begin a new run.`);
  return readJson(path, runConfigSchema, { ...jsonRules, version: CONFIG_SCHEMA });
}

/** The commit that a run folder holds, if its learning rate has begun to fall. @throws PhoenixError ERR_PHOENIX_RUN for a damaged file */
export async function heldCommit(dir: string): Promise<Held | undefined> {
  const path = join(dir, HELD);
  return (await exists(path)) ? readJson(path, heldSchema, jsonRules) : undefined;
}

/** Whether a folder holds a run with a commit. */
export function isRunFolder(dir: string): Promise<boolean> {
  return exists(join(dir, 'state.json'));
}

/**
 * Reads what a run folder holds as of its last commit; a run that is being written may be read.
 * @throws PhoenixError ERR_PHOENIX_RUN if it is no run folder or damaged, ERR_PHOENIX_IO
 */
export async function openRun(dir: string): Promise<RunView> {
  checkArguments('openRun', { dir }, { dir: 'text' });
  return runIo(dir, async () => {
    if (!(await namesIn(dir))?.includes('state.json'))
      throw new PhoenixError('ERR_PHOENIX_RUN', `${dir} is no run folder: it has no state.json.`);
    const { round, log: bytes, logSha256, files, store, state } = await readJson(join(dir, 'state.json'), stateSchema, jsonRules);
    const config = await readConfig(dir);
    const name = fileName('checkpoint', round);
    const stored = Object.fromEntries(Object.entries(store).map(([key, { file }]) => [key, join(dir, 'store', file)]));
    const log = { bytes, sha256: logSha256 };
    return { dir, config, round, checkpoint: files[name] && join(dir, name), state, log, stored };
  });
}
