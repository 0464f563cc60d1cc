/**
 * `phoenix demo --sites N`: a whole federation on one machine. Real processes, a real nats-server, real invitations and keys; only the
 * network between the sites is missing. Every process that it starts is ended by it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import net from 'node:net';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { withCallbacks } from '../callbacks.ts';
import { type Dataset, openDataset } from '../ddpm/data/index.ts';
import { PhoenixError } from '../errors.ts';
import { freshFolder, makeFolder, statusOf, writeFresh, writeWholeFolder } from '../files.ts';
import { findServer } from '../net/engine.ts';
import { coordinate } from './coordinator/coordinator.ts';
import { invite } from './coordinator/members.ts';
import type { CoordinatorEvents } from './coordinator/presence.ts';
import type { FromSite } from './demo-site.ts';
import type { RunResult } from './events.ts';
import { type DemoOptions, demoOptions, OptionError, parseOptions, type Settings } from './options/index.ts';
import { type SentOfSite, siteLog } from './site/log.ts';

/** Where demos go unless told otherwise, with a number behind. */
const FOLDER = 'runs/demo';
/** Images of all sites together. */
const IMAGES = 2000;
/** Options of the simulated demo that this one has as well. */
const TAKEN = ['sites', 'rounds', 'epochs', 'limit', 'seed', 'samples', 'out'];
/** Longest wait for a site that was told to stop, in milliseconds. Then it is killed: nothing of it is needed any more. */
const PATIENCE = 10_000;

/** What a site has sent, by the kind of message, from its own log. */
export type SentByKind = Pick<SentOfSite, 'site' | 'path'> & { kinds: { kind: string; messages: number; bytes: number }[] };

export type DemoResult = RunResult & {
  /** The folder of the demo: the federation, the invitations, and the images and the home of each site. */
  folder: string;
  sent: SentByKind[];
};

/** Where things lie in the folder of a demo. */
const placesIn = (folder: string) => ({
  federation: join(folder, 'demo'),
  images: (site: string) => join(folder, 'images', site),
  invitation: (site: string) => join(folder, `${site}.phoenix`),
  homes: join(folder, 'sites'),
});

/**
 * Runs a federation of sites on this machine, and says what has left each.
 * @throws PhoenixError ERR_PHOENIX_CONFIG if no nats-server is found, with how to install one; ERR_PHOENIX_ARGUMENT for options that go
 * with simulated clients alone, or a folder that holds something; as `coordinate`; an abort rejects with `signal.reason`
 */
export function demoSites(options: DemoOptions, events: CoordinatorEvents = {}): Promise<DemoResult> {
  return withCallbacks('demo', events, (guarded) => runDemo(options, guarded));
}

async function runDemo(options: DemoOptions, events: CoordinatorEvents): Promise<DemoResult> {
  const settings = settingsOf(options);
  await findServer();
  const folder = settings.out ?? (await freshFolder(FOLDER));
  if (settings.out !== undefined && (await statusOf(folder)))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${folder} is there already: name a new folder (--out).`);
  await makeFolder(folder);
  const places = placesIn(folder);
  const sites = Array.from({ length: settings.sites! }, (_, i) => `site-${i + 1}`);
  await writeImages(sites, settings, places, events);

  // Whatever ends the federation ends the sites, and a site that ends by itself ends the federation.
  const ending = new AbortController();
  const signal = events.signal ? AbortSignal.any([events.signal, ending.signal]) : ending.signal;
  const processes: SiteProcess[] = [];
  const [port, tcpPort] = (await freePorts(2)) as [number, number];
  try {
    const result = await coordinate(coordinatorOptions(settings, { federation: places.federation, port, tcpPort }), {
      ...events,
      signal,
      async onReady(event) {
        await events.onReady?.(event);
        for (const site of sites) {
          await invite({ federation: places.federation, site, out: places.invitation(site) });
          const run = startSite([places.invitation(site), places.images(site), places.homes]);
          run.ended.then((why) => ending.abort(new PhoenixError('ERR_PHOENIX_NETWORK', `The site ${site} has ended: ${why}.`)));
          processes.push(run);
        }
      },
    });
    if (!result) throw new PhoenixError('ERR_PHOENIX_RUN', `The demo in ${folder} was told to stop.`);
    await Promise.all(processes.map(({ stop }) => stop()));
    return { ...result, folder, sent: await Promise.all(sites.map((site) => sentOf(site, places.homes))) };
  } finally {
    await Promise.all(processes.map(({ stop }) => stop()));
  }
}

/** @throws OptionError for options that this demo does not take */
function settingsOf(options: DemoOptions): Settings<'demo'> {
  const others = Object.keys(options).filter((name) => !TAKEN.includes(name));
  if (others.length > 0)
    throw new OptionError(
      'ERR_PHOENIX_ARGUMENT',
      `The demo with sites takes no ${others.join(', ')}, which only simulated clients have here. Run phoenix coordinator for a federation of your own.`,
    );
  return parseOptions('demo', { ...demoOptions, ...options });
}

/** The same model and the same training as in the simulated demo. */
function coordinatorOptions(
  { sites, rounds, epochs, seed, samples, preset, prediction, schedule, training, serverStep }: Settings<'demo'>,
  where: object,
) {
  const { mu: _, ...learning } = training;
  return {
    ...{ ...where, host: 'localhost', pagePort: 0, run: 'run-1', sites, yes: true },
    ...{ rounds, epochs, seed, preset, prediction, schedule, serverStep, classConditional: true },
    ...{ training: learning, samples },
  } as Parameters<typeof coordinate>[0];
}

/** The built-in shapes as folders of PNG files, one folder for each class; each site has classes that the others have not. */
async function writeImages(
  sites: string[],
  { limit }: Settings<'demo'>,
  { images }: ReturnType<typeof placesIn>,
  { signal }: CoordinatorEvents,
): Promise<void> {
  const dataset = await openDataset(`synthetic:${limit ?? IMAGES}`, { signal });
  for (const [number, site] of sites.entries())
    await writeWholeFolder(images(site), async (dir) => {
      for (let i = 0; i < dataset.count; i++)
        if (dataset.labels![i]! % sites.length === number) {
          signal?.throwIfAborted();
          await writeImage(dataset, i, dir);
        }
    });
}

async function writeImage({ pixels, labels, classNames, height, width, channels }: Dataset, i: number, dir: string): Promise<void> {
  const bytes = height * width * channels;
  const folder = join(dir, classNames[labels![i]!]!);
  await makeFolder(folder);
  const raw = { height, width, channels: channels as 1 | 3 };
  const png = await sharp(pixels.subarray(i * bytes, (i + 1) * bytes), { raw })
    .png()
    .toBuffer();
  await writeFresh(join(folder, `${i}.png`), png);
}

type SiteProcess = {
  /** Why the process has ended though nobody has stopped it; never resolves otherwise. */
  ended: Promise<string>;
  stop(): Promise<void>;
};

function startSite(args: string[]): SiteProcess {
  const program = fileURLToPath(new URL(`./demo-site${extname(import.meta.url)}`, import.meta.url));
  // A group of its own: Ctrl-C reaches the demo alone, which then ends its sites.
  const child: ChildProcess = spawn(process.execPath, [...process.execArgv, program, ...args], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    detached: process.platform !== 'win32',
    windowsHide: true,
  });
  let why = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (why = (why + text).slice(-2000)));
  child.on('message', (message: FromSite) => {
    if ('failed' in message) why = message.failed;
  });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const exited = new Promise<string>((resolve) => {
    child.once('error', ({ message }) => resolve(message));
    child.once('exit', (code, signal) => resolve(why.trim() || (signal ?? `exit code ${code}`)));
  });
  exited.then(() => process.removeListener('exit', kill));
  let isStopping = false;
  return {
    ended: new Promise((resolve) => exited.then((reason) => isStopping || resolve(reason))),
    async stop() {
      isStopping = true;
      if (child.connected) child.disconnect();
      const late = setTimeout(kill, PATIENCE);
      await exited;
      clearTimeout(late);
    },
  };
}

/** Ports of this machine that are free now. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => net.createServer());
  await Promise.all(servers.map((server) => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))));
  const ports = servers.map((server) => (server.address() as net.AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

async function sentOf(site: string, home: string): Promise<SentByKind> {
  const { entries, path } = await siteLog({ name: site, home });
  const kinds = new Map<string, { kind: string; messages: number; bytes: number }>();
  for (const { kind, bytes } of entries) {
    const before = kinds.get(kind) ?? { kind, messages: 0, bytes: 0 };
    kinds.set(kind, { kind, messages: before.messages + 1, bytes: before.bytes + bytes });
  }
  return { site, path, kinds: [...kinds.values()] };
}
