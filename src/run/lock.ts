/**
 * One process at a time in a folder: a lock file that a killed process cannot leave behind for good. Its owner writes it anew every few
 * seconds. Where the owner's process can be looked up, that decides whether it lives; elsewhere (another container or machine) these
 * heartbeats do.
 */
import { randomUUID } from 'node:crypto';
import { type FileHandle, link, open, readFile, readlink, rename, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';
import { hasCode, patiently, remove, syncHandle } from '../files.ts';

const NAME = 'lock';
/** A lock that is not written anew for so long has no owner, in milliseconds; an owner writes six times as often. */
const SILENCE = 30_000;

/** Files of this module, one in the making or in removal included. */
export function isLockFile(name: string): boolean {
  return name === NAME || /^lock\.[0-9a-f-]{36}$/.test(name);
}

const ownerSchema = z.object({
  /** Tells two locks of one process apart. Owners of earlier versions have none, and no heartbeat. */
  id: z.string().optional(),
  pid: z.int().min(1),
  /**
   * When the process started, in clock ticks since boot; empty where the system does not say. Tells a process from a later one of the same
   * pid.
   */
  start: z.string(),
  /** Boot and process namespace in which the pid means something; empty where the system does not say. */
  boot: z.string(),
  namespace: z.string(),
  host: z.string(),
});
export type Owner = z.infer<typeof ownerSchema>;

export type Lock = {
  /** @throws PhoenixError ERR_PHOENIX_RUN if another process has taken the lock since */
  check(): Promise<void>;
  release(): Promise<void>;
};

export type LockOptions = {
  /** Take a lock whose owner cannot be looked up without waiting for its heartbeat. @default false */
  steal?: boolean;
  /** Milliseconds without a heartbeat after which an owner is gone. @default 30,000 */
  silence?: number;
};

/**
 * Takes the lock of a folder. A lock whose process is gone (killed, of an earlier boot, of a container that ended) is replaced.
 * @throws PhoenixError ERR_PHOENIX_RUN if another run holds it, or if that cannot be known; file system errors as they come
 */
export async function takeLock(dir: string, { steal = false, silence = SILENCE }: LockOptions = {}): Promise<Lock> {
  const path = join(dir, NAME);
  const mine = JSON.stringify({ id: randomUUID(), ...(await self()) });
  let handle: FileHandle | undefined;
  while (!handle) {
    handle = await created(path, mine);
    if (!handle) await removeIfStale(dir, steal, silence);
  }
  const stop = beat(handle, mine, silence / 6);
  return {
    async check() {
      if ((await readText(path)) === mine) return;
      throw new PhoenixError(
        'ERR_PHOENIX_RUN',
        `The lock of ${dir} was taken by another process while this one did not answer. It goes on there; this one stops.`,
      );
    },
    async release() {
      await stop();
      if ((await readText(path)) === mine) await remove(path);
    },
  };
}

/** Makes a file that is not there yet; undefined if it is. Of two processes only one succeeds. */
async function created(path: string, text: string): Promise<FileHandle | undefined> {
  const handle = await open(path, 'wx').catch((error) => {
    if (hasCode(error, 'EEXIST')) return undefined;
    throw error;
  });
  try {
    await handle?.write(text, 0);
    return handle;
  } catch (error) {
    await handle!.close();
    await remove(path);
    throw error;
  }
}

/**
 * Writes the lock anew every so many milliseconds, so that the clock of its file system marks it; through its handle, so that never another
 * one's is overwritten. @returns what ends it
 */
function beat(handle: FileHandle, text: string, every: number): () => Promise<void> {
  let last: Promise<unknown> = Promise.resolve();
  const timer = setInterval(() => {
    last = last
      .then(() => handle.write(text, 0))
      .then(() => syncHandle(handle))
      .catch(() => undefined);
  }, every);
  timer.unref();
  return async () => {
    clearInterval(timer);
    await last;
    await handle.close();
  };
}

/** What a lock says, and when it was last written, by the clock of its file system. */
type Found = { text: string; written: number };

/** @throws PhoenixError ERR_PHOENIX_RUN for a lock whose owner lives, or may live */
async function removeIfStale(dir: string, steal: boolean, silence: number): Promise<void> {
  const path = join(dir, NAME);
  const first = await readLock(path);
  if (!first) return;
  let found = first;
  for (let waited = 0; ; waited += silence / 20) {
    const said = ownerOf(found.text);
    const owner = typeof said === 'object' ? said : undefined;
    const state = stateOf(said, {
      here: await self(),
      start: owner && (await startOf(owner.pid)),
      beats: found.written !== first.written,
      quiet: (await clockOf(dir)) - found.written,
      silence,
    });
    if (state === 'gone' || (steal && state !== 'running')) return removeLock(dir, found.text);
    if (state === 'running')
      throw new PhoenixError(
        'ERR_PHOENIX_RUN',
        `${dir} is in use by process ${owner!.pid} on ${owner!.host}. Wait for it, stop it, or use another folder.`,
      );
    if (state === 'unknown' || waited > 2 * silence) {
      const whose = owner ? `process ${owner.pid} on ${owner.host}, which cannot be looked up from here` : 'an unknown process';
      throw new PhoenixError(
        'ERR_PHOENIX_RUN',
        `${dir} is locked by ${whose}. If no run is using the folder, take it with stealLock (--steal-lock), or delete ${path} and try again.`,
      );
    }
    await delay(silence / 20);
    const next = await readLock(path);
    if (!next) return;
    found = next;
  }
}

/** What is known when the owner of a lock is judged. */
export type Evidence = {
  here: Omit<Owner, 'id'>;
  /** When the process of the owner's pid started, if there is one here; empty where the system does not say. */
  start: string | undefined;
  /** Whether the lock was written again while it was watched. */
  beats: boolean;
  /** Milliseconds since it was last written, and after how many its owner is gone. */
  quiet: number;
  silence: number;
};

/**
 * Whether the owner of a lock lives. On the same boot and in the same process namespace its process says so. Everywhere else its heartbeat
 * does: 'waiting' until enough time has passed to know. An owner without a heartbeat, of an earlier version, is gone if its host has booted
 * since, and else unknown. So is a text that is no owner; an empty one was left by a kill and is judged by its age.
 */
export function stateOf(owner: Owner | 'empty' | undefined, evidence: Evidence): 'running' | 'gone' | 'waiting' | 'unknown' {
  const { here, start, beats, quiet, silence } = evidence;
  if (owner === undefined) return 'unknown';
  if (owner === 'empty') return quiet > silence ? 'gone' : 'waiting';
  if (owner.boot === here.boot && owner.namespace === here.namespace && (owner.boot !== '' || owner.host === here.host)) {
    if (start === undefined) return 'gone';
    return owner.start === '' || start === '' || start === owner.start ? 'running' : 'gone';
  }
  if (owner.id === undefined) return owner.host === here.host && owner.boot !== here.boot ? 'gone' : 'unknown';
  if (beats) return 'running';
  return quiet > silence ? 'gone' : 'waiting';
}

/** Moves a lock aside and removes it, unless it is not the one that was judged: another process has replaced that meanwhile. */
async function removeLock(dir: string, text: string): Promise<void> {
  const path = join(dir, NAME);
  const aside = join(dir, `${NAME}.${randomUUID()}`);
  try {
    await patiently(() => rename(path, aside));
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return;
    throw error;
  }
  // Back under its name as the same file, which its owner goes on to write; a new one where the file system has no links.
  const moved = await readText(aside);
  if (moved !== undefined && moved !== text)
    await link(aside, path)
      .catch((error) => (hasCode(error, 'EEXIST') ? undefined : writeFile(path, moved, { flag: 'wx' })))
      .catch(() => undefined);
  await remove(aside);
}

/** The owner that a lock names; undefined for a text that names none. */
function ownerOf(text: string): Owner | 'empty' | undefined {
  if (text === '') return 'empty';
  try {
    return ownerSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

/** A lock as its file system has it now: a file that is opened is asked for anew, also over a network. */
async function readLock(path: string): Promise<Found | undefined> {
  try {
    const handle = await open(path, 'r');
    try {
      return { written: (await handle.stat()).mtimeMs, text: await handle.readFile('utf8') };
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** What time it is for the file system of a folder, in milliseconds: other machines that write there may have other clocks. */
async function clockOf(dir: string): Promise<number> {
  const path = join(dir, `${NAME}.${randomUUID()}`);
  const handle = await open(path, 'wx');
  try {
    await handle.write('now');
    await syncHandle(handle).catch(() => undefined);
    return (await handle.stat()).mtimeMs;
  } finally {
    await handle.close();
    await remove(path);
  }
}

async function self(): Promise<Omit<Owner, 'id'>> {
  return {
    pid: process.pid,
    start: (await startOf(process.pid)) ?? '',
    boot: (await readText('/proc/sys/kernel/random/boot_id'))?.trim() ?? '',
    namespace: await readlink('/proc/self/ns/pid').catch(() => ''),
    host: hostname(),
  };
}

/**
 * Start time of a living process from /proc (proc_pid_stat(5), field 22), or '' where there is no /proc; undefined for a dead one or a
 * zombie.
 */
async function startOf(pid: number): Promise<string | undefined> {
  if ((await readText('/proc/self/stat')) === undefined) return isAlive(pid) ? '' : undefined;
  const stat = await readText(`/proc/${pid}/stat`);
  // The second field, the name in brackets, may hold spaces and brackets itself.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields && !['Z', 'X'].includes(fields[0]!) ? fields[19] : undefined;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return !hasCode(error, 'ESRCH');
  }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ESRCH')) return undefined;
    throw error;
  }
}
