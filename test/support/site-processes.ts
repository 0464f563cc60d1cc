/**
 * A federation of processes that are killed: a server, a coordinator and three sites (site-process.ts). A moment is so many states after
 * the last kill, drawn by a seed, or the next time that a process comes to a named state.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beginFederation } from '../../src/commands/coordinator/folder.ts';
import { inviteSite, newFederation } from '../../src/net/credentials.ts';
import { rng } from '../../src/rng.ts';
import { openFileStore } from '../../src/run/file-store.ts';
import { freePorts } from './nats.ts';
import { type Committed, keptBytes, placesOf, SITES, vectorsIn } from './site-world.ts';

export type FromProcess = { state: string } | { trained: true } | { committed: Committed } | { done: true } | { trouble: string };
export type ToProcess = { dieAt: string; skip: number } | { killServer: true } | { stop: true };

/** States in which each role is to be killed. */
export const STATES: Record<'site' | 'coordinator' | 'server', string[]> = {
  site: ['enrol', 'idle', 'fetch', 'train', 'commit', 'say trained', 'wait', 'put', 'say uploaded'],
  coordinator: ['round.json', 'put', 'want train', 'reports', 'weigh', 'want upload', 'get', 'step', 'commit', 'want finish'],
  server: ['quiet', 'transfer'],
};
type Role = keyof typeof STATES;
const MOVING = new Set(['fetch', 'put', 'get']);

export type Ended = {
  /** Values of the model, and what each site keeps. */
  bytes: Uint8Array[];
  /** Trainings that came to their end, also those whose process was killed before they were on the disk. */
  trainings: number;
  kills: number;
  /** Kills by role and state, such as `site: train`; and how often the server's store was deleted with one. */
  hits: Record<string, number>;
  wipes: number;
  /** What each round came to. */
  commits: Committed[];
  /** What failed. */
  troubles: string[];
};

export type KillOptions = {
  rounds: number;
  seed: number;
  kills: number;
  /** Kills of each state that are forced where chance does not bring them. */
  least: number;
  onKill?(what: string, kills: number): void;
};

type Kid = { child: ChildProcess; state: string; exited: Promise<void> };

/** Starts processes again that end, and counts what they tell. */
async function family(rounds: number) {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-kills-'));
  const places = placesOf(folder);
  const [port, webSocketPort] = (await freePorts(2)) as [number, number];
  let federation = newFederation({ name: 'lung', servers: [`wss://127.0.0.1:${webSocketPort}`, `tls://127.0.0.1:${port}`] });
  for (const id of SITES) {
    const made = inviteSite(federation, id);
    federation = made.federation;
    await writeFile(places.invitation(id), JSON.stringify(made.invitation), { mode: 0o600 });
  }
  await beginFederation(places.federation, federation);

  const kids = new Map<string, Kid>();
  const listeners = new Set<() => void>();
  const seen = {
    trainings: 0,
    states: 0,
    done: false,
    commits: [] as Committed[],
    troubles: [] as string[],
    broken: undefined as string | undefined,
  };
  let last: { name: string; state: string } = { name: '', state: '' };
  const changed = () => {
    for (const listener of listeners) listener();
  };
  const program = join(import.meta.dirname, 'site-process.ts');
  function start(name: string, dieAt = ''): void {
    const args = [name, folder, port, webSocketPort, rounds, dieAt].map(String);
    const child = fork(program, args, { execArgv: ['--import=tsx'], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const exited = new Promise<void>((resolve) => void child.once('exit', () => resolve()));
    const kid: Kid = { child, state: 'start', exited };
    kids.set(name, kid);
    child.on('message', (message: FromProcess) => {
      if ('state' in message) {
        kid.state = message.state;
        last = { name, state: message.state };
        seen.states++;
      } else if ('trained' in message) seen.trainings++;
      else if ('committed' in message) seen.commits[message.committed.round - 1] = message.committed;
      else if ('trouble' in message) seen.troubles.push(message.trouble);
      else if ('done' in message) seen.done = true;
      changed();
    });
    child.once('exit', (code) => {
      if (code) seen.broken = `${name} ended with code ${code}: ${seen.troubles.join('; ')}`;
      changed();
    });
  }
  /** Resolves once `check` is true, and rejects once a process has ended by itself. */
  const until = (check: () => boolean) =>
    new Promise<void>((resolve, reject) => {
      const look = () => {
        if (!seen.broken && !check()) return;
        listeners.delete(look);
        if (seen.broken) reject(new Error(seen.broken));
        else resolve();
      };
      listeners.add(look);
      look();
    });
  const send = (name: string, message: ToProcess) => kids.get(name)!.child.send(message, () => {});
  async function kill(name: string): Promise<void> {
    const { child, exited } = kids.get(name)!;
    child.kill('SIGKILL');
    await exited;
  }
  /** Kills the server and the process that watches it. */
  async function killEngine(): Promise<void> {
    await kill('server');
    const pid = Number(await readFile(join(places.engine, 'pid'), 'utf8').catch(() => ''));
    try {
      if (pid > 1) process.kill(pid, 'SIGKILL');
    } catch {
      // It had ended before.
    }
  }
  async function finish(): Promise<Uint8Array[]> {
    for (const name of ['coordinator', ...SITES]) await kill(name);
    await close();
    const kept = await Promise.all(SITES.map(async (id) => keptBytes(id, await openFileStore(places.store(id)))));
    return [...vectorsIn(await readFile(places.state)), ...kept.flat()];
  }
  async function close(): Promise<void> {
    for (const name of kids.keys()) if (name !== 'server') await kill(name);
    if (kids.has('server')) await killEngine();
  }
  const remove = () => rm(folder, { recursive: true, force: true });
  return { start, kill, killEngine, send, until, finish, close, remove, kids, seen, places, last: () => last };
}

/** Runs the federation, and kills. Two kills of the server, at a third and two thirds of all, also delete its store. */
export async function killedRun(options: KillOptions): Promise<Ended> {
  const { rounds, seed, kills: most, least, onKill } = options;
  const all = await family(rounds);
  const { seen, kids } = all;
  const draw = rng(seed, 'kills');
  const hits: Record<string, number> = {};
  let kills = 0;
  let wipes = 0;
  const count = (role: Role, state: string) => {
    const name = `${role}: ${state}`;
    hits[name] = (hits[name] ?? 0) + 1;
    onKill?.(name, ++kills);
  };
  const wanting = () =>
    (Object.keys(STATES) as Role[]).flatMap((role) =>
      STATES[role].filter((state) => (hits[`${role}: ${state}`] ?? 0) < least).map((state) => ({ role, state })),
    );
  /** Waits until a process has killed itself at the state that it was told, and starts it again. */
  async function killedAt(name: string, state: string): Promise<void> {
    const { child } = kids.get(name)!;
    await all.until(() => seen.done || child.signalCode !== null);
    if (child.signalCode === null) return;
    count(name === 'coordinator' ? 'coordinator' : 'site', state);
    all.start(name);
  }
  async function force(name: string, state: string): Promise<void> {
    all.send(name, { dieAt: state, skip: draw.int(2) });
    await killedAt(name, state);
  }
  const isWipeDue = () => wipes < 2 && kills >= ((wipes + 1) * most) / 3;
  async function killServer(state?: string): Promise<void> {
    const isMoving = () => MOVING.has(all.last().state);
    if (state) await all.until(() => isMoving() === (state === 'transfer') || seen.done);
    if (seen.done) return;
    const now = isMoving() ? 'transfer' : 'quiet';
    const isWipe = isWipeDue();
    if (!isWipe && kids.get('server')!.state === 'ready' && draw.int(2) === 0) all.send('server', { killServer: true });
    else {
      await all.killEngine();
      if (isWipe) {
        await rm(join(all.places.engine, 'store'), { recursive: true, force: true });
        wipes++;
      }
      all.start('server');
    }
    count('server', now);
  }
  async function killAny(): Promise<void> {
    const who = ['server', 'coordinator', ...SITES][draw.int(5)]!;
    if (who === 'server') return killServer();
    const { state } = kids.get(who)!;
    await all.kill(who);
    count(who === 'coordinator' ? 'coordinator' : 'site', state);
    all.start(who);
  }

  try {
    for (const name of ['server', 'coordinator', ...SITES]) all.start(name, least > 0 && SITES.includes(name) ? 'enrol' : undefined);
    if (least > 0) await Promise.all(SITES.map((id) => killedAt(id, 'enrol')));
    while (kills < most && !seen.done) {
      const from = seen.states + 1 + draw.int(6);
      await all.until(() => seen.states >= from || seen.done);
      if (seen.done) break;
      const missing = wanting();
      const next = missing[draw.int(Math.max(1, missing.length))];
      if (isWipeDue()) await killServer();
      else if (!next || draw.int(2) === 0) await killAny();
      else if (next.role === 'server') await killServer(next.state);
      else if (next.state !== 'enrol') await force(next.role === 'coordinator' ? 'coordinator' : SITES[draw.int(3)]!, next.state);
    }
    await all.until(() => seen.done);
    return { bytes: await all.finish(), trainings: seen.trainings, kills, hits, wipes, commits: seen.commits, troubles: seen.troubles };
  } finally {
    await all.close();
    await all.remove();
  }
}
