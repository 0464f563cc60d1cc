/** Which sites are there, waiting for them, and telling them that there is nothing to do. */
import { orAborted } from '../../net/arrivals.ts';
import type { Federation as Secrets } from '../../net/credentials.ts';
import type { Sites } from '../../net/sites.ts';
import type { Spec } from '../../net/spec.ts';
import type { RunEvents } from '../events.ts';
import type { Settings } from '../options/index.ts';
import type { Ordered } from './orders.ts';
import { aboutOf, type Present } from './plan.ts';
import type { Keeper } from './view.ts';

/** Seconds without a heartbeat, of one every five, after which a site is not told what it would have to confirm. */
const GONE = 15;
/** How long the confirmations of sites are waited for, in milliseconds. */
const TELL_WITHIN = 10_000;

export type CoordinatorEvents = RunEvents & {
  /** The server listens, and the page is there. */
  onReady?(event: { page: string; servers: string[]; version: string }): void;
  /** Whether the run is to begin as its spec says; `text`: the spec in lines. Not asked with `yes`. @default yes */
  onConfirm?(text: string[], spec: Spec): Promise<boolean> | boolean;
};

/** What is there while a coordinator runs. */
export type Running = {
  dir: string;
  settings: Settings<'coordinator'>;
  events: CoordinatorEvents;
  sites: Sites;
  orders: Ordered;
  keep: Keeper;
  secrets(): Secrets;
  /** When this process began to listen to sites, in milliseconds of performance.now(). */
  began: number;
};

/** The sites that are there and say what they have. */
function presentSites(sites: Sites, lostAfterSeconds: number): Present[] {
  return sites.all().flatMap(({ id, has, beat, lastSeen }) => {
    const about = aboutOf(has?.about);
    return about && beat && performance.now() - lastSeen <= 1000 * lostAfterSeconds ? [{ id, about }] : [];
  });
}

/**
 * Sites that have neither joined the run nor said that they cannot: those that are there, and those of `took` that may come back. One that
 * has said nothing yet counts as heard of when this process began.
 */
export function joiningSites({ sites, settings, secrets, began }: Running, took: string[]): string[] {
  const there = sites.all().flatMap(({ id, beat }) => (beat ? [id] : []));
  return [...new Set([...there, ...took])].filter((id) => {
    const { has, want, unreadable, lastSeen = began } = sites.find(id) ?? {};
    const isLost = performance.now() - lastSeen > 1000 * settings.lostAfter;
    const hasJoined = has?.run === settings.run && has.hello !== undefined;
    const cannot = isLost || want?.is === 'refused' || unreadable !== undefined || has?.problem !== undefined;
    return secrets().sites[id] !== undefined && !hasJoined && !cannot;
  });
}

/** As sites.until, and the clock looks as well: silence and invitations come without a word from a site. */
export async function untilLater(sites: Sites, check: () => boolean, signal?: AbortSignal): Promise<void> {
  while (!check()) {
    const tick = AbortSignal.timeout(1000);
    await sites.until(check, signal ? AbortSignal.any([signal, tick]) : tick).catch((error) => {
      signal?.throwIfAborted();
      if (!tick.aborted) throw error;
    });
  }
}

/** Waits for the sites that the run begins with. */
export async function gatherSites({ settings, sites, keep, events, secrets }: Running): Promise<Present[]> {
  const wanted = () => settings.sites ?? Math.max(2, Object.keys(secrets().sites).length);
  const present = () => presentSites(sites, settings.lostAfter);
  let said = '';
  const check = () => {
    const there = present();
    const missing = Object.keys(secrets().sites).filter((id) => !there.some((site) => site.id === id));
    const text = `${there.length} of ${wanted()} sites are there${missing.length > 0 ? `; missing: ${missing.slice(0, 10).join(', ')}` : ''}`;
    if (text !== said) events.onMessage?.({ level: 'info', text });
    said = text;
    keep.set({ waiting: { what: 'sites', sites: missing } });
    return there.length >= wanted();
  };
  await untilLater(sites, check, events.signal);
  keep.set({ waiting: undefined });
  return present();
}

/**
 * Tells all sites that there is nothing to do, and why. Waits until those that are there have taken it in, ten seconds at most: a
 * coordinator that ends then leaves no site without a word.
 */
export async function tellAll(sites: Sites, reason: string, text: string): Promise<void> {
  const limit = AbortSignal.timeout(TELL_WITHIN);
  const said = sites
    .all()
    .map(async ({ id }) => ({ id, number: await sites.want(id, (before) => ({ ...before, is: 'idle', reason, text })) }));
  const isTold = ({ id, number }: { id: string; number: number }) => {
    const site = sites.find(id);
    if (!site?.beat || !site.has || performance.now() - site.lastSeen > 1000 * GONE) return true;
    return site.has.seen >= number;
  };
  try {
    const told = await orAborted(Promise.all(said), limit);
    await untilLater(sites, () => told.every(isTold), limit);
  } catch (error) {
    if (!limit.aborted) throw error;
  }
}

/** What sites that were told to wait are told again: that the run goes on. */
export async function reopen(sites: Sites): Promise<void> {
  const open = ({ id }: { id: string }) =>
    sites.want(id, (before) => (before?.is === 'idle' && before.reason !== 'done' ? { is: 'open', run: before.run } : before!));
  await Promise.all(
    sites
      .all()
      .filter(({ want }) => want?.is === 'idle')
      .map(open),
  );
}

/** While the federation is paused, no new round begins. Sites that take part are told so. */
export async function whilePaused({ dir, settings, sites, orders, keep, events }: Running): Promise<void> {
  if (!orders.isPaused()) return;
  const text = `The federation is paused. It goes on with: phoenix resume ${dir}.`;
  keep.note('info', text);
  events.onMessage?.({ level: 'info', text });
  keep.set({ state: 'paused', waiting: undefined });
  const why = { reason: 'paused', text: 'The coordinator has paused the run. It goes on with the next round once it is resumed.' };
  const check = () => {
    const unaware = sites.all().filter(({ want, has }) => want?.is === 'open' && has?.run === settings.run && has.hello !== undefined);
    if (unaware.length > 0)
      sites
        .announce(
          'idle',
          why,
          unaware.map(({ id }) => id),
        )
        .catch(() => {});
    return !orders.isPaused();
  };
  await untilLater(sites, check, events.signal);
  keep.note('info', 'The federation is resumed.');
  keep.set({ state: 'running' });
  await reopen(sites);
}

/** With `stay`: waits, with server and page, until it is told to stop. The run is done, whatever ends this. */
export async function stay({ settings, sites, events }: Running): Promise<void> {
  if (!settings.stay) return;
  events.onMessage?.({ level: 'info', text: 'Server and page stay until phoenix stop or Ctrl-C.' });
  await untilLater(sites, () => false, events.signal).catch((error) => {
    if (error !== events.signal?.reason) throw error;
  });
}
