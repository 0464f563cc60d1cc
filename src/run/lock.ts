/** One process at a time in a folder: a lock file that a killed process cannot leave behind for good. */
import { randomUUID } from 'node:crypto';
import { link, readFile, readlink, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';

const NAME = 'lock';

/** Files of this module, a lock in the making or in removal included. */
export function isLockFile(name: string): boolean {
  return name === NAME || /^lock\.[0-9a-f-]{36}$/.test(name);
}

const ownerSchema = z.object({
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
type Owner = z.infer<typeof ownerSchema>;

/**
 * Takes the lock of a folder. A lock whose process is gone (killed, or of an earlier boot) is replaced.
 * @returns what releases it
 * @throws PhoenixError ERR_PHOENIX_RUN if another run holds it, or if that cannot be known; file system errors as they come
 */
export async function takeLock(dir: string): Promise<() => Promise<void>> {
  const path = join(dir, NAME);
  const mine = JSON.stringify(await self());
  const draft = join(dir, `${NAME}.${randomUUID()}`);
  try {
    await writeFile(draft, mine);
    // A link appears whole or not at all, and never replaces: of two processes only one succeeds.
    while (!(await linked(draft, path))) await removeIfStale(dir, path);
  } finally {
    await rm(draft, { force: true });
  }
  return async () => {
    if ((await readText(path)) === mine) await rm(path, { force: true });
  };
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function removeIfStale(dir: string, path: string): Promise<void> {
  const found = await readText(path);
  if (found === undefined) return;
  const owner = parseOwner(found);
  const state = owner ? await stateOf(owner) : 'unknown';
  if (state === 'running') {
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${dir} is in use by process ${owner!.pid} on ${owner!.host}. Wait for it, stop it, or use another folder.`,
    );
  }
  if (state === 'unknown') {
    const whose = owner ? `process ${owner.pid} on ${owner.host}, which cannot be looked up from here` : 'an unknown process';
    throw new PhoenixError('ERR_PHOENIX_RUN', `${dir} is locked by ${whose}. If no run is using the folder, delete ${path} and try again.`);
  }
  // Between reading and removing, another process may have replaced the stale lock: take it aside first and look again.
  const aside = join(dir, `${NAME}.${randomUUID()}`);
  try {
    await rename(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  if ((await readText(aside)) !== found) await linked(aside, path);
  await rm(aside, { force: true });
}

function parseOwner(text: string): Owner | undefined {
  try {
    return ownerSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

async function stateOf(owner: Owner): Promise<'running' | 'gone' | 'unknown'> {
  const here = await self();
  if (owner.host === here.host && owner.boot !== here.boot) return 'gone';
  if (owner.boot !== here.boot || owner.namespace !== here.namespace || (owner.boot === '' && owner.host !== here.host)) return 'unknown';
  const start = await startOf(owner.pid);
  if (start !== undefined) return start === owner.start ? 'running' : 'gone';
  if (owner.start !== '') return 'gone';
  try {
    process.kill(owner.pid, 0);
    return 'running';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH' ? 'gone' : 'running';
  }
}

async function self(): Promise<Owner> {
  return {
    pid: process.pid,
    start: (await startOf(process.pid)) ?? '',
    boot: (await readText('/proc/sys/kernel/random/boot_id'))?.trim() ?? '',
    namespace: await readlink('/proc/self/ns/pid').catch(() => ''),
    host: hostname(),
  };
}

/**
 * Start time of a living process from /proc (proc_pid_stat(5), field 22); undefined for a dead one, a zombie, or where there is no /proc.
 */
async function startOf(pid: number): Promise<string | undefined> {
  const stat = await readText(`/proc/${pid}/stat`);
  // The second field, the name in brackets, may hold spaces and brackets itself.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields && !['Z', 'X'].includes(fields[0]!) ? fields[19] : undefined;
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}
