/** The server between coordinator and sites: a nats-server that is found, configured, started, started again when it ends, and stopped. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { access, readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { PhoenixError } from '../errors.ts';
import { makeFolder, writeWhole } from '../files.ts';
import { type Federation, serverTokens } from './credentials.ts';
import { MAX_MESSAGE } from './subjects.ts';

/** Where a nats-server may lie that is not on PATH: Debian's is in /usr/sbin. */
const FOLDERS: Record<string, string[]> = {
  linux: ['/usr/sbin', '/usr/local/bin', '/usr/local/sbin', '/opt/nats-server', join(homedir(), 'go/bin'), join(homedir(), '.local/bin')],
  darwin: ['/opt/homebrew/bin', '/usr/local/bin', join(homedir(), 'go/bin')],
  win32: ['C:\\ProgramData\\chocolatey\\bin', 'C:\\Program Files\\nats-server', join(homedir(), 'go\\bin')],
};
const HOW_TO_INSTALL: Record<string, string> = {
  linux:
    'On Debian and Ubuntu: apt install nats-server. Elsewhere: put the file from https://github.com/nats-io/nats-server/releases on PATH.',
  darwin: 'With Homebrew: brew install nats-server.',
  win32: 'With Chocolatey: choco install nats-server.',
};
/** Longest wait for a server that starts, in milliseconds. */
const START_WITHIN = 30_000;
/** Longest wait before a server that ended is started again, in milliseconds. */
const LONGEST_PAUSE = 5000;
/**
 * Bytes that the quotas of all sites may add up to, 1 PiB. A server would take three quarters of the free disk for that, and refuse the
 * stream of a site whose quota does not fit, although sites use little of theirs and what has been read is deleted.
 */
const MAX_STORE = 2 ** 50;
/** Lines of the server's log that are kept for errors. */
const KEPT_LINES = 40;

const run = promisify(execFile);

export type Found = { path: string; version: [major: number, minor: number, patch: number] };

/** The version of a nats-server; undefined if it is none. */
async function versionOf(path: string): Promise<Found | undefined> {
  const { stdout } = await run(path, ['--version'], { timeout: 10_000 }).catch(() => ({ stdout: '' }));
  const [, ...numbers] = /nats-server: v(\d+)\.(\d+)\.(\d+)/.exec(stdout) ?? [];
  return numbers.length === 3 ? { path, version: numbers.map(Number) as Found['version'] } : undefined;
}

/**
 * Finds a nats-server of version 2.9 or newer: on PATH, or where installers put it.
 * @param given the one to use. @default the first that is found
 * @throws PhoenixError ERR_PHOENIX_CONFIG if there is none, with how to install it on this system
 */
export async function findServer(given?: string): Promise<Found> {
  const file = process.platform === 'win32' ? 'nats-server.exe' : 'nats-server';
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...(FOLDERS[process.platform] ?? [])].filter(Boolean);
  const older: string[] = [];
  for (const path of given ? [resolve(given)] : [...new Set(folders.map((folder) => join(folder, file)))]) {
    const there = await access(path).then(
      () => true,
      () => false,
    );
    const found = there ? await versionOf(path) : undefined;
    if (!found) continue;
    const [major, minor] = found.version;
    if (major > 2 || (major === 2 && minor >= 9)) return found;
    older.push(`${path} is ${found.version.join('.')}`);
  }
  const seen = older.length > 0 ? `only older ones were found (${older.join(', ')})` : given ? `${given} is none` : 'none was found';
  throw new PhoenixError(
    'ERR_PHOENIX_CONFIG',
    `The coordinator needs a nats-server of version 2.9 or newer, but ${seen}. ${HOW_TO_INSTALL[process.platform] ?? HOW_TO_INSTALL.linux} Sites need none.`,
  );
}

export type ServerOptions = {
  /** Port of TCP with TLS. @default 4222 */
  port?: number;
  /** Port of WebSocket with TLS. @default 8443 */
  webSocketPort?: number;
  /** Address to listen on. @default '0.0.0.0', all of IPv4 */
  host?: string;
  /** Files of a certificate that machines trust; without them, that of the federation is used. */
  tlsFiles?: { certificate: string; key: string };
  /** For one of several servers: where it meets the others (nats-route://HOST:PORT). */
  cluster?: { name: string; port: number; routes: string[] };
};

/** The configuration of a nats-server for a federation: also for one that is not started here. `folder`: where it keeps its files. */
export function serverConfig(federation: Federation, folder: string, version: Found['version'], options: ServerOptions = {}): string {
  const { port = 4222, webSocketPort = 8443, host = '0.0.0.0', cluster } = options;
  const files = options.tlsFiles ?? { certificate: join(folder, 'certificate.pem'), key: join(folder, 'key.pem') };
  const text = JSON.stringify;
  const { operator, systemAccount, accounts } = serverTokens(federation);
  const tls = `tls { cert_file: ${text(files.certificate)}, key_file: ${text(files.key)}, timeout: 20 }`;
  // Servers of a cluster trust the one certificate that all have.
  const among = tls.replace('{', `{ ca_file: ${text(files.certificate)},`);
  // Before 2.10 a server flushes every two minutes, and does not know the field. A lost store costs time, nothing else.
  const sync = version[0] > 2 || version[1] >= 10 ? ', sync_interval: always' : '';
  return [
    `server_name: ${text(`phoenix-${port}`)}`,
    `host: ${text(host)}`,
    `port: ${port}`,
    `max_payload: ${MAX_MESSAGE}`,
    'write_deadline: "30s"',
    'authorization { timeout: 20 }',
    `pid_file: ${text(join(folder, 'pid'))}`,
    `jetstream { store_dir: ${text(join(folder, 'store'))}, max_mem: 64MB, max_file: ${MAX_STORE}${sync} }`,
    tls,
    `websocket { host: ${text(host)}, port: ${webSocketPort}, handshake_timeout: "20s", ${tls} }`,
    ...(cluster
      ? [`cluster { name: ${text(cluster.name)}, host: ${text(host)}, port: ${cluster.port}, routes: ${text(cluster.routes)}, ${among} }`]
      : []),
    `operator: ${text(operator)}`,
    `system_account: ${text(systemAccount)}`,
    'resolver: MEMORY',
    `resolver_preload: {\n${Object.entries(accounts)
      .map(([key, token]) => `  ${key}: ${text(token)}`)
      .join('\n')}\n}`,
    '',
  ].join('\n');
}

export type EngineOptions = ServerOptions & {
  federation: Federation;
  /** Where the server keeps its configuration and store: nothing that cannot be made again. */
  folder: string;
  /** The nats-server to use. @default the first that is found */
  server?: string;
  /** Called with what the server warns of, and when it ended and is started again. */
  onTrouble?(line: string): void;
};

export type Engine = {
  version: string;
  /** URL for programs of this machine: tls://127.0.0.1:PORT. */
  url: string;
  /** Process of the server; changes when it is started again. */
  pid(): number | undefined;
  /** Makes the server know that keys were revoked: those are cut off at once. */
  reload(federation: Federation): Promise<void>;
  stop(): Promise<void>;
};

/** Ends a server of an earlier process that left it running. */
async function endLeftOver(folder: string): Promise<void> {
  const pid = Number(await readFile(join(folder, 'pid'), 'utf8').catch(() => ''));
  if (!Number.isInteger(pid) || pid <= 1 || process.platform === 'win32') return;
  const ours = async () =>
    (await run('ps', ['-o', 'args=', '-p', String(pid)]).catch(() => ({ stdout: '' }))).stdout.includes(join(folder, 'server.conf'));
  if (!(await ours())) return;
  process.kill(pid, 'SIGTERM');
  for (let tries = 0; tries < 200 && (await ours()); tries++) await delay(50);
}

/** What a server said when it ended before it was ready, with advice. */
function startError(lines: string[], { port = 4222, webSocketPort = 8443 }: ServerOptions): PhoenixError {
  const said = lines.filter((line) => /\[(ERR|FTL)\]|nats-server:/.test(line)).map((line) => line.replace(/^\[\d+\] \S+ \S+ /, ''));
  const inUse = lines.some((line) => /address already in use|Only one usage of each socket address/.test(line));
  const advice = inUse
    ? `Port ${port} or ${webSocketPort} is in use by another program (Debian's package starts a server of its own on 4222): choose other ports, or end that program.`
    : 'The folder of the engine holds nothing that cannot be made again: if its store is damaged, delete it.';
  return new PhoenixError('ERR_PHOENIX_NETWORK', `The nats-server did not start: ${said.join(' ') || 'it said nothing'}. ${advice}`);
}

/** One process of the server. Resolves once it is ready. */
async function launch(path: string, config: string, options: EngineOptions) {
  const lines: string[] = [];
  const child = spawn(path, ['-c', config], { stdio: ['ignore', 'ignore', 'pipe'], windowsHide: true });
  const ended = new Promise<string>((done) => {
    child.once('error', (error) => done(error.message));
    child.once('exit', (code, signal) => done(signal ?? `exit code ${code}`));
  });
  const orphaned = () => child.kill('SIGKILL');
  process.once('exit', orphaned);
  ended.then(() => process.removeListener('exit', orphaned));
  const waiting = new Set<{ hear(line: string): void }>();
  let rest = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    const whole = (rest + text).split('\n');
    rest = whole.pop()!.slice(-10_000);
    for (const line of whole) {
      lines.push(line);
      for (const one of waiting) one.hear(line);
      if (/\[(WRN|ERR|FTL)\]/.test(line)) options.onTrouble?.(line.replace(/^\[\d+\] \S+ \S+ /, '').slice(0, 500));
    }
    lines.splice(0, lines.length - KEPT_LINES);
  });
  /** Whether the server says something like this before it says the other, ends, or the time is over. */
  const says = (pattern: RegExp, work: () => void = () => {}, otherwise?: RegExp) =>
    new Promise<boolean>((done) => {
      const settle = (is: boolean) => {
        clearTimeout(timer);
        waiting.delete(one);
        done(is);
      };
      const one = { hear: (line: string) => (pattern.test(line) ? settle(true) : otherwise?.test(line) && settle(false)) };
      const timer = setTimeout(() => settle(false), START_WITHIN);
      waiting.add(one);
      ended.then(() => settle(false));
      work();
    });
  if (!(await says(/Server is ready/))) {
    child.kill('SIGKILL');
    await ended;
    throw startError(lines, options);
  }
  return { child, ended, says };
}
type Running = {
  child: ChildProcess;
  ended: Promise<string>;
  says(pattern: RegExp, work?: () => void, otherwise?: RegExp): Promise<boolean>;
};

/**
 * Starts a nats-server and resolves once it is ready. If it ends, it is started again until stop() is called.
 * @throws PhoenixError ERR_PHOENIX_CONFIG if no server is found, ERR_PHOENIX_NETWORK if it does not start
 */
export async function startEngine(options: EngineOptions): Promise<Engine> {
  const { onTrouble, port = 4222 } = options;
  const folder = resolve(options.folder);
  const { path, version } = await findServer(options.server);
  const config = join(folder, 'server.conf');
  let stopping = false;
  const write = async (federation: Federation) => {
    await makeFolder(folder);
    if (federation.tls && !options.tlsFiles) {
      await writeWhole(join(folder, 'certificate.pem'), federation.tls.certificate);
      await writeWhole(join(folder, 'key.pem'), federation.tls.key, undefined, { mode: 0o600 });
    }
    await writeWhole(config, serverConfig(federation, folder, version, options), undefined, { mode: 0o600 });
  };
  await write(options.federation);
  await endLeftOver(folder);
  let running: Running = await launch(path, config, options);
  const end = async () => {
    running.child.kill('SIGTERM');
    await Promise.race([running.ended, delay(10_000, undefined, { ref: false })]);
    running.child.kill('SIGKILL');
    await running.ended;
  };
  const watch = async () => {
    for (let pause = 100; !stopping; ) {
      const how = await running.ended;
      if (stopping) return;
      onTrouble?.(`The server ended (${how}) and is started again.`);
      try {
        running = await launch(path, config, options);
        pause = 100;
        if (stopping) await end();
      } catch (error) {
        onTrouble?.((error as Error).message);
        await delay(pause);
        pause = Math.min(2 * pause, LONGEST_PAUSE);
      }
    }
  };
  const watching = watch();
  return {
    version: version.join('.'),
    url: `tls://127.0.0.1:${port}`,
    pid: () => running.child.pid,
    async reload(federation) {
      await write(federation);
      const hangUp = () => running.child.kill('SIGHUP');
      // Windows has no such signal: there the server starts again, as it does where it does not take the new configuration.
      if (process.platform === 'win32') await end();
      else if (!(await running.says(/Reloaded server configuration/, hangUp, /Failed to reload/))) await end();
    },
    async stop() {
      if (stopping) return watching;
      stopping = true;
      await end();
      await watching;
    },
  };
}
