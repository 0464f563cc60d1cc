/**
 * What a coordinator knows of its sites, and what it has said to each: over all runs of a federation. What sites say is read here, once;
 * transports (remote.ts) and the page look at it.
 */
import { checkArguments } from '../arguments.ts';
import { PhoenixError } from '../errors.ts';
import { PROTOCOL } from '../fl/protocol.ts';
import {
  type Beat,
  type Has,
  hashName,
  readBeat,
  readHas,
  readHeader,
  readWant,
  type Signer,
  seal,
  unseal,
  type Verifier,
  versionsDiffer,
  type WantBody,
} from './protocol.ts';
import type { CoordinatorWire } from './wire.ts';

export type SitesOptions = {
  /** The version of Phoenix, such as 1.2.3. */
  phoenix: string;
  /** The coordinator's key. */
  key: Signer;
  /** The key of a site that is enrolled; undefined for any other. Asked for each value, so a site can be enrolled and revoked any time. */
  keyOf(site: string): Verifier | undefined;
  /** Called with each value that is not taken: forged, too long, or of a site that is not enrolled. */
  onIgnored?(site: string, why: string): void;
};

/** A site as it is known. */
export type SiteState = {
  id: string;
  /** What it said last; undefined if that could not be read. */
  has?: Has;
  /** Why it could not be read: another protocol, or nonsense. */
  unreadable?: string;
  beat?: Beat;
  /** When its last heartbeat came, in milliseconds of performance.now(); before the first, when this process began to listen. */
  lastSeen: number;
  /** What is wanted of it. */
  want?: WantBody;
};

export type Sites = {
  /** The sites that are enrolled and have said something, sorted by id. */
  all(): SiteState[];
  find(site: string): SiteState | undefined;
  /**
   * Says what is wanted of a site: a change of what was wanted before. Nothing is said if that is the same. Calls are done one after the
   * other. Returns the number of the want that says it. @throws what the wire throws; ERR_PHOENIX_ARGUMENT for too much at once
   */
  want(site: string, change: (before: WantBody | undefined) => WantBody): Promise<number>;
  /** Tells sites that there is nothing to do, or that they may not take part, with a word for programs and a text for people. */
  announce(is: 'idle' | 'refused', why: { reason: string; text: string }, sites?: string[]): Promise<void>;
  /** Calls the listener with each site of which something new is known. Returns what ends that. */
  listen(listener: (site: SiteState) => void): () => void;
  /** Resolves as soon as `check` is true; it is asked now, and whenever something new is known. An abort rejects with its reason. */
  until(check: () => boolean, signal?: AbortSignal): Promise<void>;
  wire: CoordinatorWire;
  phoenix: string;
};

/** What is kept of each site in addition to what others see. */
type Known = SiteState & {
  /** Numbers of the newest want said, and of the newest that the site has seen. */
  counter: number;
  seen: number;
  /** What was said last, as text, undefined if that is to be said again; and the hash of its bytes. */
  said?: string;
  saidName?: string;
  /** The end of all that is being said. */
  saying: Promise<unknown>;
};

/** Says what is wanted of each site, and goes on with what an earlier process wanted. */
function speaker(wire: CoordinatorWire, { phoenix, key, onIgnored }: SitesOptions) {
  const began = performance.now();
  const known = new Map<string, Known>();

  function find(id: string): Known {
    let site = known.get(id);
    if (!site) {
      site = { id, lastSeen: began, counter: 0, seen: 0, saying: Promise.resolve() };
      site.saying = restore(site).catch(() => {});
      known.set(id, site);
    }
    return site;
  }

  /** What was wanted before this process began. A value that is not ours says nothing. */
  async function restore(site: Known): Promise<void> {
    const last = await wire.lastWant(site.id);
    if (!last) return;
    try {
      const { counter, is, reason, text, run } = readWant(unseal('want', site.id, last, key));
      site.counter = Math.max(site.counter, counter);
      site.want = { is, reason, text, run };
      site.said = JSON.stringify(site.want);
      site.saidName = hashName(last);
    } catch (error) {
      onIgnored?.(site.id, textOf(error));
      return;
    }
    // The same once more, by this process: the wire says it again if the server loses it.
    await wire.want(site.id, last);
  }

  async function say(site: Known, change: (before: WantBody | undefined) => WantBody): Promise<number> {
    site.want = change(site.want);
    const text = JSON.stringify(site.want);
    if (text === site.said && site.counter >= site.seen) return site.counter;
    site.counter = Math.max(site.counter, site.seen) + 1;
    site.said = undefined;
    const bytes = seal('want', site.id, { protocol: PROTOCOL, phoenix, counter: site.counter, ...site.want }, key);
    site.saidName = hashName(bytes);
    await wire.want(site.id, bytes);
    site.said = text;
    return site.counter;
  }

  return {
    known,
    find,
    want(id: string, change: (before: WantBody | undefined) => WantBody): Promise<number> {
      const site = find(id);
      const said = site.saying.then(() => say(site, change));
      site.saying = said.catch(() => {});
      return said;
    },
  };
}

const textOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/**
 * Listens to the sites of a wire. A new process goes on with what was wanted before: it reads that from the wire.
 * @throws what the wire throws
 */
export async function openSites(wire: CoordinatorWire, options: SitesOptions): Promise<Sites> {
  checkArguments('openSites', { wire, options }, { wire: 'object', options: { phoenix: 'text', key: 'object', keyOf: 'function' } });
  const { phoenix, keyOf } = options;
  const { known, find, want } = speaker(wire, options);
  const listeners = new Set<(site: SiteState) => void>();
  const changed = (site: SiteState) => {
    for (const listener of [...listeners]) listener(site);
  };
  const taken = takers(options, {
    find,
    changed,
    again: (site) => {
      site.said = undefined;
      want(site.id, (before) => before!).catch(() => {});
    },
  });
  await wire.watchBeats(taken.beat);
  await wire.watchHas(taken.has);

  const all = () => [...known.values()].filter(({ id, has, unreadable }) => (has || unreadable) && keyOf(id));
  return {
    wire,
    phoenix,
    all: () => all().sort((a, b) => (a.id < b.id ? -1 : 1)),
    find: (site) => (keyOf(site) ? known.get(site) : undefined),
    want,
    async announce(is, { reason, text }, sites = all().map(({ id }) => id)) {
      await Promise.all(sites.map((id) => want(id, (before) => ({ ...before, is, reason, text }))));
      for (const id of sites) changed(find(id));
    },
    listen(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async until(check, signal) {
      signal?.throwIfAborted();
      if (check()) return;
      await new Promise<void>((resolve, reject) => {
        const end = (settle: () => void) => {
          listeners.delete(look);
          signal?.removeEventListener('abort', abort);
          settle();
        };
        const abort = () => end(() => reject(signal!.reason));
        const look = () => check() && end(resolve);
        listeners.add(look);
        signal?.addEventListener('abort', abort, { once: true });
      });
    },
  };
}

/** Take what comes from sites: nothing that they say throws. */
function takers(
  { phoenix, keyOf, onIgnored }: SitesOptions,
  { find, changed, again }: { find(id: string): Known; changed(site: Known): void; again(site: Known): void },
) {
  /** The value, if its sender is enrolled and has signed it; undefined for JSON that is none. */
  function unsealed(kind: 'has' | 'beat', id: string, bytes: Uint8Array): { value: unknown } | undefined {
    const key = keyOf(id);
    try {
      if (!key) throw new PhoenixError('ERR_PHOENIX_REFUSED', `Site ${id} is not enrolled.`);
      return { value: unseal(kind, id, bytes, key) };
    } catch (error) {
      if (error instanceof PhoenixError && error.code === 'ERR_PHOENIX_MESSAGE') return { value: undefined };
      onIgnored?.(id, textOf(error));
      return undefined;
    }
  }

  function readAs(id: string, value: unknown): Pick<SiteState, 'has' | 'unreadable'> {
    try {
      const theirs = readHeader('has', value);
      if (theirs.protocol !== PROTOCOL) return { unreadable: versionsDiffer(id, theirs, { protocol: PROTOCOL, phoenix }) };
      const has = readHas(value);
      if (!has.hello || has.hello.id === id) return { has };
      return { unreadable: `Site ${id} calls itself ${has.hello.id}.` };
    } catch (error) {
      return { unreadable: `What site ${id} says cannot be read: ${textOf(error)}` };
    }
  }

  return {
    has(id: string, bytes: Uint8Array): void {
      const opened = unsealed('has', id, bytes);
      if (!opened) return;
      const site = find(id);
      const { has, unreadable } = readAs(id, opened.value);
      if (has && has.seen < site.seen) {
        onIgnored?.(id, 'It has said something newer before.');
        return;
      }
      site.has = has;
      site.unreadable = unreadable;
      site.seen = has?.seen ?? site.seen;
      // It has seen a want that this process knows nothing of: the server has lost it. Ours needs a larger number to be obeyed.
      const isOther = site.seen > site.counter || (site.seen === site.counter && has?.sawName !== site.saidName);
      if (has && site.want && isOther) again(site);
      changed(site);
    },
    beat(id: string, bytes: Uint8Array): void {
      const opened = unsealed('beat', id, bytes);
      if (!opened) return;
      const site = find(id);
      try {
        site.beat = readBeat(opened.value);
      } catch (error) {
        onIgnored?.(id, textOf(error));
        return;
      }
      site.lastSeen = performance.now();
      changed(site);
    },
  };
}
