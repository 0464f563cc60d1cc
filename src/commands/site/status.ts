/** status.json: what a running site says of itself to other programs of its machine. */
import { z } from 'zod';
import { PhoenixError } from '../../errors.ts';
import { exists, readJson, writeWhole } from '../../files.ts';
import type { SiteEvent } from '../../net/site-state.ts';
import { parseOptions, type SiteStatusOptions } from '../options/index.ts';
import { asJson, findHome, type Home, homeBase, readCredentials } from './home.ts';

/** How often a running site writes it, in milliseconds, and after how long without that it is not running. */
const WRITE_EVERY = 15_000;
const SILENCE = 60_000;

const status = z.strictObject({
  schema: z.literal(1),
  /** UTC. */
  time: z.iso.datetime(),
  pid: z.int().min(1),
  /** `accepted`: the coordinator lets it take part; `refused`: it does not; `hindered`: the site cannot do what is wanted. */
  state: z.enum(['starting', 'accepted', 'refused', 'hindered', 'stopped']),
  connected: z.boolean(),
  run: z.string().optional(),
  round: z.int().min(1).optional(),
  /** What it does: joining, the kind of a request, or nothing. */
  work: z.string().optional(),
  /** What stands in the way. */
  text: z.string().optional(),
});
export type SiteStatus = z.infer<typeof status>;
type Said = Omit<SiteStatus, 'schema' | 'time' | 'pid'>;

/** The status after an event. */
export function statusAfter(before: Said, event: SiteEvent): Said {
  switch (event.type) {
    case 'joined':
      return { ...before, state: 'accepted', run: event.run, text: undefined };
    case 'asked':
      return { ...before, state: 'accepted', round: event.round, work: event.kind };
    case 'answered':
    case 'declined':
    case 'failed':
    case 'dropped':
      return { ...before, work: undefined };
    case 'idle':
      return { ...before, state: 'accepted', text: event.text };
    case 'refused':
      return { ...before, state: 'refused', text: event.text ?? event.reason };
    case 'problem':
      return { ...before, state: 'hindered', text: event.text };
    case 'link':
      return { ...before, connected: event.link.connected, text: event.link.connected ? undefined : event.link.why };
    default:
      return before;
  }
}

/** Keeps status.json up to date while a site runs; a disk that is full does not stop the site. */
export function keepStatus(home: Home) {
  let said: Said = { state: 'starting', connected: true };
  let last: Promise<unknown> = Promise.resolve();
  const write = () => {
    const content = asJson({ schema: 1, time: new Date().toISOString(), pid: process.pid, ...said });
    last = last.then(() => writeWhole(home.path('status.json'), content)).catch(() => undefined);
    return last;
  };
  const timer = setInterval(write, WRITE_EVERY);
  timer.unref();
  write();
  return {
    note(event: SiteEvent): void {
      const next = statusAfter(said, event);
      if (next === said) return;
      said = next;
      write();
    },
    async stop(): Promise<void> {
      clearInterval(timer);
      said = { state: 'stopped', connected: false };
      await write();
    },
  };
}

export type SiteHealth = {
  site: string;
  federation: string;
  home: string;
  /** Whether it has the rights of a site. */
  registered: boolean;
  running: boolean;
  /** Registered, running, connected, and let take part by the coordinator. */
  healthy: boolean;
  status?: SiteStatus;
  /** Why it is not healthy. */
  why?: string;
};

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for a site that is not on this machine, ERR_PHOENIX_RUN for a damaged status */
export async function siteStatus(options: SiteStatusOptions = {}): Promise<SiteHealth> {
  const settings = parseOptions('site status', options);
  const home = await findHome(homeBase(settings.home), settings.name);
  const path = home.path('status.json');
  const found = (await exists(path))
    ? await readJson(path, status, { code: 'ERR_PHOENIX_RUN', maxBytes: 100_000, advice: 'Start the site again.', version: 1 })
    : undefined;
  const registered = (await readCredentials(home))?.token !== undefined;
  const running = found !== undefined && found.state !== 'stopped' && Date.now() - Date.parse(found.time) < SILENCE;
  const { site, federation, dir } = home;
  const why = reasonOf(registered, running, found);
  return {
    site,
    federation,
    home: dir,
    registered,
    running,
    healthy: why === undefined,
    ...(found && { status: found }),
    ...(why && { why }),
  };
}

function reasonOf(registered: boolean, running: boolean, found: SiteStatus | undefined): string | undefined {
  if (!registered) return 'it has no rights yet: its invitation comes first';
  if (!running || !found) return 'it is not running';
  if (!found.connected) return `it has no connection${found.text ? `: ${found.text}` : ''}`;
  if (found.state === 'accepted') return undefined;
  if (found.state === 'starting') return 'it has not heard from the coordinator yet';
  return found.text ?? (found.state === 'refused' ? 'the coordinator refuses it' : 'it cannot do what is wanted');
}

/** A site that is not healthy, as an error: its exit code is what a health check looks at. */
export const notHealthy = ({ site, federation, why }: SiteHealth) =>
  new PhoenixError('ERR_PHOENIX_NETWORK', `The site ${site} of ${federation} does not take part: ${why}.`);
