/**
 * A federation of the commands that people type: `phoenix coordinator` and `phoenix site`, each a process of its own, with a real
 * nats-server. Processes can be killed and started again; every wait rejects once a process has ended by itself.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beginFederation } from '../../src/commands/coordinator/folder.ts';
import { invite } from '../../src/commands/coordinator/members.ts';
import { newFederation } from '../../src/net/credentials.ts';
import { freePorts } from './nats.ts';

const cli = fileURLToPath(new URL('../../src/cli.ts', import.meta.url));
/** Lines of a process that are kept for errors. */
const KEPT_LINES = 30;

/** What a process says with --json, a line each. */
export type Line = { name: string; event: string; type?: string; kind?: string; round?: number; [more: string]: unknown };

export type CommandOptions = {
  /** The site's images by its id. */
  data: Record<string, string>;
  /** Options of the coordinator, but those of places and ports. */
  options: string[];
  /** Where all lies. @default a new folder, which is removed at the end */
  folder?: string;
  /** Where the coordinator and each site lie. @default `fed` and `homes/SITE` in the folder */
  places?: { federation?: string; home?(site: string): string };
  /** Name or address of the coordinator's machine. @default 127.0.0.1 */
  host?: string;
  /** URLs at which a site finds the server. @default as its invitation says */
  serverOf?(site: string, webSocketPort: number): Promise<string>;
  /** The command that a process is started by, such as `ip netns exec NAME`. @default none */
  prefix?(name: string): string[];
  /** Further arguments of node, such as `--import FILE`. @default none */
  node?(name: string): string[];
  onLine?(line: Line): void;
};

type Kid = { child: ChildProcess; exited: Promise<void>; isMeant: boolean; words: string[] };

export type Commands = Awaited<ReturnType<typeof startCommands>>;

/** Makes a federation with its sites invited; nothing is started yet. */
export async function startCommands(given: CommandOptions) {
  const { data, options, host = '127.0.0.1', prefix = () => [], node = () => [], onLine } = given;
  const folder = given.folder ?? (await mkdtemp(join(tmpdir(), 'phoenix-commands-')));
  const federation = given.places?.federation ?? join(folder, 'lung');
  const homeOf = given.places?.home ?? ((site) => join(folder, 'homes', site));
  const [port, tcpPort] = (await freePorts(2)) as [number, number];
  const servers = [`wss://${host}:${port}`, `tls://${host}:${tcpPort}`];
  await beginFederation(federation, newFederation({ name: 'lung', servers }));
  await mkdir(join(folder, 'invitations'), { recursive: true });
  const ids = Object.keys(data);
  const urls = new Map<string, string>();
  if (given.serverOf) for (const site of ids) urls.set(site, await given.serverOf(site, port));
  for (const site of ids) await invite({ federation, site, out: join(folder, 'invitations', `${site}.phoenix`) });

  const kids = new Map<string, Kid>();
  const lines: Line[] = [];
  const enrolled = new Set<string>();
  const listeners = new Set<() => void>();
  let broken: string | undefined;
  const changed = () => {
    for (const listener of [...listeners]) listener();
  };
  const serverPid = () => {
    try {
      return Number(readFileSync(join(federation, 'engine', 'pid'), 'utf8'));
    } catch {
      return 0;
    }
  };
  const killPid = (pid: number) => {
    try {
      if (pid > 1) process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
  };
  // A test that is broken off leaves nothing running.
  const killAll = () => {
    for (const { child } of kids.values()) killPid(child.pid ?? 0);
    killPid(serverPid());
  };
  process.once('exit', killAll);

  const argumentsOf = (name: string): string[] => {
    if (name === 'coordinator') {
      const ports = ['--port', String(port), '--tcp-port', String(tcpPort), '--page-port', '0'];
      return ['coordinator', federation, '--yes', '--sites', String(ids.length), ...ports, ...options];
    }
    const url = urls.get(name);
    const file = enrolled.has(name) ? [] : [join(folder, 'invitations', `${name}.phoenix`), '--data', data[name]!];
    return ['site', ...file, '--home', homeOf(name), '--threads', '1', ...(url ? ['--server', url] : [])];
  };

  /** Starts the coordinator or a site: again with what it was given before. */
  function start(name: string): void {
    const [command, ...before] = [...prefix(name), process.execPath];
    const child = spawn(command!, [...before, ...node(name), '--import=tsx', cli, ...argumentsOf(name), '--json'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const exited = new Promise<void>((resolve) => void child.once('close', () => resolve()));
    const kid: Kid = { child, exited, isMeant: false, words: [] };
    kids.set(name, kid);
    const splitter = (take: (line: string) => void) => {
      let rest = '';
      return (text: string) => {
        const whole = (rest + text).split('\n');
        rest = whole.pop()!;
        whole.filter(Boolean).forEach(take);
      };
    };
    const hear = splitter((text) => {
      const line = { name, ...JSON.parse(text) } as Line;
      if (line.event === 'start' && name !== 'coordinator') enrolled.add(name);
      lines.push(line);
      onLine?.(line);
      changed();
    });
    const note = splitter((text) => {
      kid.words.push(text);
      kid.words.splice(0, kid.words.length - KEPT_LINES);
    });
    child.stdout!.setEncoding('utf8').on('data', hear);
    child.stderr!.setEncoding('utf8').on('data', note);
    child.once('error', (error) => {
      broken ??= `${name} did not start: ${error.message}`;
      changed();
    });
    child.once('close', (code, signal) => {
      const isDone = name === 'coordinator' && code === 0;
      if (!kid.isMeant && !isDone) broken ??= `${name} ended (${signal ?? code}): ${kid.words.join('\n')}`;
      changed();
    });
  }

  /** Resolves once `check` is true; rejects once a process has ended by itself. */
  const until = (check: () => boolean) =>
    new Promise<void>((resolve, reject) => {
      const look = () => {
        if (broken === undefined && !check()) return;
        listeners.delete(look);
        if (broken === undefined) resolve();
        else reject(new Error(broken));
      };
      listeners.add(look);
      look();
    });
  async function end(name: string, signal: NodeJS.Signals): Promise<void> {
    const kid = kids.get(name);
    if (!kid) return;
    kid.isMeant = true;
    kid.child.kill(signal);
    await kid.exited;
  }

  return {
    folder,
    federation,
    homeOf,
    port,
    tcpPort,
    ids,
    lines,
    start,
    until,
    serverPid,
    /** Starts the coordinator, and each site once the server is there: a site that has not enrolled yet does not wait for it. */
    async startAll() {
      start('coordinator');
      await until(() => lines.some(({ name, event }) => name === 'coordinator' && event === 'ready'));
      for (const id of ids) start(id);
    },
    /** Kills a process, and resolves once it has ended. `server`: the coordinator starts it again. */
    async kill(name: string): Promise<void> {
      if (name === 'server') killPid(serverPid());
      else await end(name, 'SIGKILL');
    },
    /** A process may end by itself from here on. @returns whether it has */
    mayEnd(name: string): () => boolean {
      const kid = kids.get(name)!;
      kid.isMeant = true;
      return () => kid.child.exitCode !== null || kid.child.signalCode !== null;
    },
    signal: (name: string, signal: NodeJS.Signals) => kids.get(name)!.child.kill(signal),
    /** The last words of a process on stderr. */
    words: (name: string) => kids.get(name)?.words ?? [],
    exited: (name: string) => kids.get(name)!.exited,
    isDone: () => lines.some(({ name, event }) => name === 'coordinator' && event === 'done'),
    runFolder: join(federation, 'runs', 'run-1'),
    async close(): Promise<void> {
      await Promise.all(ids.map((id) => end(id, 'SIGTERM')));
      await end('coordinator', 'SIGTERM');
      killAll();
      process.removeListener('exit', killAll);
      if (given.folder === undefined) await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The names and hashes of a run's checkpoint files. */
export async function checkpointHashes(runFolder: string): Promise<Record<string, string>> {
  const names = (await readdir(runFolder)).filter((name) => name.endsWith('.safetensors')).sort();
  const hashes: Record<string, string> = {};
  for (const name of names)
    hashes[name] = createHash('sha256')
      .update(await readFile(join(runFolder, name)))
      .digest('hex');
  return hashes;
}
