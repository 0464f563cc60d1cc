/**
 * The folder of a federation, at its coordinator:
 *
 *   federation.json      the secrets of the coordinator, and who is enrolled (mode 0600)
 *   coordinator.json     where the live page of the running coordinator is, and which run it has
 *   orders.json          what the operator has told it: to pause, to stop
 *   engine/              configuration and store of the server: nothing that cannot be made again
 *   runs/<name>/         one run folder for each run
 *   runs/<name>.spec.json, runs/<name>.round.json   what sites were told, and who takes part in the round that is running
 *   runs/<name>.published.json   which sites have the model of which round
 *   models/<name>/       the newest published model, as sites without personal layers have it, and its page
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { PhoenixError } from '../../errors.ts';
import { exists, type JsonRules, makeFolder, readJson, writeWhole } from '../../files.ts';
import type { Book } from '../../net/connect.ts';
import { type Federation, federation } from '../../net/credentials.ts';
import { jsonRules } from '../../run/folder.ts';
import { takeLock } from '../../run/lock.ts';

const BOOK = 'federation.json';
/** How long a change of federation.json waits for another process that changes it, in milliseconds. */
const PATIENCE = 20_000;
/** How often federation.json is looked at for changes of other processes, in milliseconds. */
const LOOK_EVERY = 1000;

const rules: JsonRules = {
  code: 'ERR_PHOENIX_RUN',
  maxBytes: 64 << 20,
  advice: 'Restore it from a backup: without it no site of this federation can be reached.',
  version: 1,
};

export const places = {
  engine: (dir: string) => join(dir, 'engine'),
  run: (dir: string, run: string) => join(dir, 'runs', run),
  spec: (dir: string, run: string) => join(dir, 'runs', `${run}.spec.json`),
  round: (dir: string, run: string) => join(dir, 'runs', `${run}.round.json`),
  published: (dir: string, run: string) => join(dir, 'runs', `${run}.published.json`),
  models: (dir: string) => join(dir, 'models'),
  coordinator: (dir: string) => join(dir, 'coordinator.json'),
  orders: (dir: string) => join(dir, 'orders.json'),
};

/** Whether a folder holds a federation. */
export const isFederation = (dir: string): Promise<boolean> => exists(join(dir, BOOK));

/** @throws PhoenixError ERR_PHOENIX_RUN for a folder that holds no federation, or a damaged file */
export async function readFederation(dir: string): Promise<Federation> {
  if (!(await isFederation(dir)))
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${dir} holds no federation: there is no ${BOOK}. Begin one with: phoenix coordinator ${dir}.`,
    );
  return readJson(join(dir, BOOK), federation, rules);
}

/** The run that the coordinator of a folder has, or had last. @throws PhoenixError ERR_PHOENIX_RUN if it never had one */
export async function latestRun(dir: string): Promise<string> {
  const known = z.looseObject({ run: z.string().optional() });
  const path = places.coordinator(dir);
  const run = (await exists(path)) ? (await readJson(path, known, jsonRules)).run : undefined;
  if (run !== undefined && (await exists(places.run(dir, run)))) return run;
  throw new PhoenixError('ERR_PHOENIX_RUN', `No run of ${dir} has begun. Begin one with: phoenix coordinator ${dir}.`);
}

/** The folder of a run that a folder names: of a federation its newest run, else itself. @throws as latestRun */
export async function runIn(dir: string): Promise<string> {
  return (await isFederation(dir)) ? places.run(dir, await latestRun(dir)) : dir;
}

function write(dir: string, value: Federation): Promise<void> {
  return writeWhole(join(dir, BOOK), `${JSON.stringify(value, null, 1)}\n`, undefined, { mode: 0o600 });
}

/** Begins a federation in a folder. */
export async function beginFederation(dir: string, value: Federation): Promise<void> {
  await makeFolder(dir);
  await write(dir, value);
}

/** The book of a folder: several processes may change it, one after the other. */
export function bookOf(dir: string): Book {
  let last: Promise<unknown> = Promise.resolve();
  return {
    read: () => readFederation(dir),
    update(change) {
      const done = last.then(async () => {
        const lock = await patientLock(dir);
        try {
          const before = await readFederation(dir);
          const after = change(before);
          if (after !== before) await write(dir, after);
        } finally {
          await lock.release();
        }
      });
      last = done.catch(() => undefined);
      return done;
    },
  };
}

/** The lock of the folder, which is held for a moment at a time. */
async function patientLock(dir: string) {
  for (const until = performance.now() + PATIENCE; ; ) {
    try {
      return await takeLock(dir);
    } catch (error) {
      if (performance.now() > until || !(error instanceof PhoenixError && error.code === 'ERR_PHOENIX_RUN')) throw error;
      await delay(50);
    }
  }
}

/**
 * A federation as this process knows it: with its own changes at once, and with those of other processes soon.
 * @param first as it was read
 */
export function holdFederation(dir: string, first: Federation) {
  let now = first;
  const { read, update } = bookOf(dir);
  const book: Book = { read, update: (change) => update((before) => (now = change(before))) };
  return {
    now: () => now,
    book,
    /** Calls `changed` whenever another process has changed it. @returns what ends that */
    watch: (changed: (now: Federation, before: Federation) => Promise<void>) =>
      watchFile(join(dir, BOOK), async () => {
        const before = now;
        // In its turn: what was read earlier would take back a change that this process has made meanwhile.
        await book.update((value) => value);
        await changed(now, before);
      }),
  };
}

/** Calls `changed` when a file is another one than before. @returns what ends that */
function watchFile(path: string, changed: () => Promise<void>): () => void {
  let known: string | undefined;
  let busy = false;
  const look = async () => {
    if (busy) return;
    busy = true;
    try {
      const { mtimeMs, ino } = await stat(path);
      const now = `${mtimeMs} ${ino}`;
      if (known !== undefined && known !== now) await changed();
      known = now;
    } catch {
      // It is being replaced, or cannot be read just now: it is looked at again.
    } finally {
      busy = false;
    }
  };
  const timer = setInterval(look, LOOK_EVERY);
  void look();
  return () => clearInterval(timer);
}
