/** The site as a function: it opens its home, says what it has, joins the runs that its coordinator wants it in, and answers. */

import { setMaxListeners } from 'node:events';
import { resolve } from 'node:path';
import { chooseBackend } from '../../bindings/session.ts';
import { PhoenixError } from '../../errors.ts';
import { exists, io, makeFolder } from '../../files.ts';
import { connectSite, type enrol } from '../../net/connect.ts';
import { type Invitation, type SiteCredentials, serverUrl } from '../../net/credentials.ts';
import { signerOf, verifierOf } from '../../net/jwt.ts';
import type { Policy } from '../../net/policy.ts';
import { runSite } from '../../net/site.ts';
import type { Joined, SiteEvent } from '../../net/site-state.ts';
import type { SiteWire } from '../../net/wire.ts';
import { openFileStore } from '../../run/file-store.ts';
import { type Lock, takeLock } from '../../run/lock.ts';
import type { DataEvents } from '../events.ts';
import { parseOptions, type Settings, type SiteOptions } from '../options/index.ts';
import { packageInfo } from '../package-info.ts';
import { describeSite } from './about.ts';
import { credentialsOf, openInvitation } from './enrol.ts';
import {
  findHome,
  type Home,
  homeBase,
  homeOf,
  isInvitation,
  makePolicy,
  readConfig,
  readPolicy,
  type SiteConfig,
  writeConfig,
  writeCredentials,
} from './home.ts';
import { joinRun, type Part, specOf } from './join.ts';
import { counted, forCoordinator, judgeRequest, leavingOf, openSends } from './judge.ts';
import { keepStatus } from './status.ts';

export type SiteEvents = DataEvents & {
  /** What happens: a run was joined, a request came, a step was made, the connection was lost. */
  onEvent?(event: SiteEvent): void;
};

export type RunningSite = {
  federation: string;
  site: string;
  /** The folder of the site. */
  home: string;
  /** Resolves when the site was stopped, by `stop` or the signal; rejects with what has ended it. */
  ended: Promise<void>;
  /** Ends what is going on within one native call. The next start goes on from there. */
  stop(): Promise<void>;
};

/** How a site reaches its coordinator. */
export type SiteNetwork = {
  enrol?: typeof enrol;
  connect(options: {
    credentials: SiteCredentials;
    save(credentials: SiteCredentials): Promise<void>;
    servers?: string[];
  }): Promise<SiteWire>;
};

/**
 * Starts a site, a new one by its invitation, and resolves once it listens to its coordinator; it waits for a connection. One process at a
 * time may run a site.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for options, ERR_PHOENIX_REFUSED for an invitation that is not valid (any more),
 * ERR_PHOENIX_NETWORK if the coordinator cannot be reached to enrol, ERR_PHOENIX_DATA, ERR_PHOENIX_CONFIG for site.json, ERR_PHOENIX_RUN if
 * the site is running already, ERR_PHOENIX_IO; `ended` also rejects with ERR_PHOENIX_REFUSED for credentials that were revoked
 */
export function createSite(options: SiteOptions, events: SiteEvents = {}): Promise<RunningSite> {
  return startSite(options, events, { connect: (given) => connectSite({ ...given, patient: true }) });
}

/** The same over a network that is given. */
export async function startSite(options: SiteOptions, events: SiteEvents, network: SiteNetwork): Promise<RunningSite> {
  const settings = parseOptions('site', options);
  const base = homeBase(settings.home);
  const invitation = isInvitation(settings.file) ? await openInvitation(settings.file) : undefined;
  const home = invitation ? homeOf(base, invitation.federation, invitation.site) : await findHome(base, settings.file);
  const lock = await io(home.dir, async () => {
    await makeFolder(home.dir);
    return takeLock(home.dir, { steal: settings.stealLock });
  });
  try {
    return await openSite(home, lock, settings, invitation, { events, network });
  } catch (error) {
    await lock.release();
    throw error;
  }
}

type Around = { events: SiteEvents; network: SiteNetwork };

/** Everything that a site has before it listens. The lock is its own from then on. */
async function openSite(
  home: Home,
  lock: Lock,
  settings: Settings<'site'>,
  invitation: Invitation | undefined,
  { events, network }: Around,
): Promise<RunningSite> {
  const { signal } = events;
  const config = await settle(home, settings);
  await makePolicy(home);
  await readPolicy(home);
  const sends = await openSends(home.path('sent.jsonl'));
  const about = await describeSite(config.data, signal);
  const store = await openFileStore(home.path('store'));
  const device = chooseBackend(config.device);
  const credentials = await credentialsOf(home, config, invitation, network.enrol);
  signal?.throwIfAborted();
  const wire = await network.connect({ credentials, save: (renewed) => writeCredentials(home, renewed), servers: config.servers });
  const stopping = new AbortController();
  const ending = signal ? AbortSignal.any([signal, stopping.signal]) : stopping.signal;
  setMaxListeners(0, ending);
  const status = keepStatus(home);
  const joining = joiner(home, config, settings.dataChanged, { ...events, signal: ending });
  const work = async () => {
    try {
      await runSite(wire, {
        ...{
          site: home.site,
          phoenix: packageInfo().version,
          addon: device.backend,
          device: device.backend === 'cuda' ? device.why.slice(0, 200) : 'CPU',
          about,
          store,
        },
        ...{ key: signerOf(credentials.seed), coordinator: verifierOf(credentials.coordinator) },
        signal: ending,
        join: joining.join,
        async allow(request, run) {
          if (joining.part?.spec.run !== run) throw new PhoenixError('ERR_PHOENIX_INTERNAL', `The run ${run} was not joined.`);
          return judgeRequest(request, joining.part, await joining.policy(), sends);
        },
        async onHello(sent) {
          await lock.check();
          await sends.appendHello(sent);
        },
        async onSent(sent) {
          await lock.check();
          await sends.append(sent);
        },
        onEvent(event) {
          status.note(event);
          return events.onEvent?.(event);
        },
      });
    } finally {
      await wire.close();
      await status.stop();
      await lock.release();
    }
  };
  const ended = work();
  ended.catch(() => {});
  return {
    ...{ federation: home.federation, site: home.site, home: home.dir, ended },
    async stop() {
      stopping.abort(new PhoenixError('ERR_PHOENIX_DISPOSED', `The site ${home.site} was stopped.`));
      await ended;
    },
  };
}

/** What the site was given now, over what it was given before; written down. @throws PhoenixError ERR_PHOENIX_ARGUMENT */
async function settle(home: Home, { data, device, threads, features, server }: Settings<'site'>): Promise<SiteConfig> {
  const before = await readConfig(home);
  const absolute = async (path: string) => ((await exists(resolve(path))) ? resolve(path) : path);
  const images = data === undefined ? before?.data : await absolute(data);
  if (images === undefined)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'Where are the images of this site? Name them with data (--data PATH).');
  const config: SiteConfig = {
    ...before,
    ...{ schema: 1, data: images, device: device ?? before?.device ?? 'auto' },
    ...(threads !== undefined && { threads }),
    ...(features !== undefined && { features: await absolute(features) }),
    ...(server !== undefined && { servers: parseServers(server) }),
  };
  await writeConfig(home, config);
  return config;
}

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function parseServers(text: string): string[] {
  const servers = text.split(',').map((url) => url.trim());
  const wrong = servers.find((url) => !serverUrl.safeParse(url).success);
  if (wrong === undefined && servers.length <= 32) return servers;
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `option server must be wss://HOST:PORT or tls://HOST:PORT, up to 32 separated by commas, not ${JSON.stringify(wrong ?? text)}.`,
  );
}

/** Joins runs, one after the other. Other data than before are accepted once. */
function joiner(home: Home, config: SiteConfig, dataChanged: boolean, events: SiteEvents) {
  const tell = (text: string) => events.onMessage?.({ level: 'warning', text });
  const joining = {
    part: undefined as Part | undefined,
    /** The rules as they are now. What is wrong in them is said here, not to the coordinator. */
    policy: (): Promise<Policy> =>
      readPolicy(home).catch((error) => {
        tell((error as Error).message);
        throw new PhoenixError('ERR_PHOENIX_CONFIG', 'The rules of this site (site.json) cannot be read: it does nothing until they can.');
      }),
    async join(run: string, bytes: Uint8Array | undefined, signal: AbortSignal): Promise<Joined> {
      try {
        const spec = specOf(run, bytes, home);
        const policy = await joining.policy();
        const { height, width, channels } = spec.data;
        const features = Math.min(8, height) * Math.min(8, width) * channels;
        for (const text of leavingOf(policy, { spec, features }).text) events.onMessage?.({ level: 'info', text });
        const part = await joinRun(spec, { home, config, policy, dataChanged, events: { ...events, signal } });
        joining.part = part;
        const close = async () => {
          joining.part = undefined;
          await part.close();
        };
        return { client: counted(part, tell), close };
      } catch (error) {
        throw signal.aborted ? error : forCoordinator(error, `join the run ${run}`, tell);
      }
    },
  };
  return joining;
}
