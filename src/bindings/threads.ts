/** How many CPU threads a call uses that is not told. */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';

/** The text of a small file of the kernel; undefined where there is none. */
type Read = (path: string) => string | undefined;

const readSystem: Read = (path) => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
};

/** A path and all folders above it: '/a/b', '/a', '/'. */
const ancestors = (path: string): string[] => {
  const parts = path.split('/').filter(Boolean);
  return [...parts.map((_, i) => `/${parts.slice(0, parts.length - i).join('/')}`), '/'];
};

/** CPUs of a quota of microseconds per period; undefined where there is no quota. */
function cpus(quota: string | undefined, period: string | undefined): number | undefined {
  const [microseconds, every] = [Number(quota), Number(period)];
  return microseconds > 0 && every > 0 ? microseconds / every : undefined;
}

/**
 * The CPUs that Linux's control groups grant this process, which Node's availableParallelism does not count: the least of `cpu.max`
 * (version 2) or `cpu.cfs_quota_us` (version 1) of its group and the groups above it. Infinity where there is no limit, and elsewhere
 * than on Linux. Fractions are possible.
 */
export function cpuQuota(read: Read = readSystem): number {
  let least = Number.POSITIVE_INFINITY;
  for (const line of (read('/proc/self/cgroup') ?? '').split('\n')) {
    const [, controllers, group] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (group === undefined || controllers === undefined) continue;
    for (const folder of ancestors(group)) {
      if (controllers === '') {
        const [quota, period] = (read(join('/sys/fs/cgroup', folder, 'cpu.max')) ?? '').trim().split(/\s+/);
        least = Math.min(least, cpus(quota, period) ?? least);
      } else if (controllers.split(',').includes('cpu')) {
        for (const mount of [`/sys/fs/cgroup/${controllers}`, '/sys/fs/cgroup/cpu']) {
          const quota = read(join(mount, folder, 'cpu.cfs_quota_us'))?.trim();
          least = Math.min(least, cpus(quota, read(join(mount, folder, 'cpu.cfs_period_us'))?.trim()) ?? least);
        }
      }
    }
  }
  return least;
}

/**
 * Below this size of a network's first level, height · width · channels², more threads are no gain: starting them and waiting for them
 * takes longer than what they save. Measured: docs/performance.md, "Threads".
 */
const SMALL = 100_000;

export type ThreadRule = {
  /** Cores that this process may use. */
  cores: number;
  /** Of cpuQuota. */
  quota: number;
  /** Of the network; left out for work that is no network's. */
  network?: { height: number; width: number; channels: number };
};

/** Most threads that the addon takes. */
const MOST = 1024;

/** One thread for small networks, else the smaller of cores and quota, rounded down: 1 to 1024. */
export function threadsFor({ cores, quota, network }: ThreadRule): number {
  if (network && network.height * network.width * network.channels ** 2 < SMALL) return 1;
  return Math.max(1, Math.floor(Math.min(cores, quota, MOST)));
}

let limits: { cores: number; quota: number } | undefined;

/** threadsFor on this machine, which is looked at once. */
export function defaultThreads(network?: ThreadRule['network']): number {
  limits ??= { cores: availableParallelism(), quota: cpuQuota() };
  return threadsFor({ ...limits, network });
}
