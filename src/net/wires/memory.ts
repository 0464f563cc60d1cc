/** Wires within one process: for tests, with what can go wrong between machines. */
import { PhoenixError } from '../../errors.ts';
import type { CoordinatorWire, Link, SiteWire } from '../wire.ts';
import { coordinatorEnd, siteEnd } from './ends.ts';
import type { Line, Owner, Said, Stored } from './line.ts';

/** One verb on its way to the server: what is asked, by whom, and about what. */
export type Crossing = {
  verb: 'last' | 'say' | 'speakers' | 'pieces' | 'store' | 'load' | 'forget';
  /** The site whose end asks; undefined: the coordinator. */
  by?: string;
  kind?: 'want' | 'has';
  /** Whose value. */
  site?: string;
  /** Of a blob. */
  name?: string;
  piece?: number;
};

/** What goes wrong between the ends and the server. */
export type Faults = {
  /** Called before the server does it; a promise holds it back, and an end that is cut meanwhile fails. */
  before?(crossing: Crossing): void | Promise<void>;
  /** Called after the server did it: an end that is cut here does not know that it was done. */
  after?(crossing: Crossing): void | Promise<void>;
  /** The bytes of a value or piece as they arrive. */
  change?(crossing: Crossing, bytes: Uint8Array): Uint8Array;
  /** Most bytes of blobs that one owner may store. @default any */
  quota?: number;
};

export type MemoryHub = {
  /** A wire of the coordinator; each call is a process of its own. */
  coordinator(): CoordinatorWire;
  /** A wire of this site; each call is a process of its own. */
  site(id: string): SiteWire;
  /** Takes the connection of one wire away, or of all. */
  cut(wire?: CoordinatorWire | SiteWire): void;
  /** Gives the connection back. */
  mend(wire?: CoordinatorWire | SiteWire): void;
  /** The server starts again and has lost its whole store: every connection breaks and comes back. */
  lose(): void;
  /** Ends the connection of one wire for good, as a server does whose credentials were revoked. */
  expel(wire: CoordinatorWire | SiteWire, error: Error): void;
  /** Changes what goes wrong from now on. */
  fail(faults: Faults): void;
};

/** One end's connection to the hub. */
type Plug = {
  site?: string;
  connected: boolean;
  closed: boolean;
  links: ((link: Link, ended?: Error) => void)[];
  hears: { kind: 'want' | 'has'; listener: (site: string, said: Said) => void }[];
  beats: ((site: string, value: Uint8Array) => void)[];
};

const keyOf = (owner: Owner) => (owner === 'coordinator' ? '' : owner.site);

/** A server in this process. Long: the verbs share what it holds. */
export function memoryHub(given: Faults = {}): MemoryHub {
  let faults = given;
  const values = { want: new Map<string, Stored>(), has: new Map<string, Stored>() };
  const blobs = new Map<string, Map<string, Map<number, Uint8Array>>>();
  const plugs = new Map<CoordinatorWire | SiteWire, Plug>();
  let sequence = 0;

  const setLink = (plug: Plug, link: Link, ended?: Error) => {
    if (plug.closed || (plug.connected === link.connected && !ended)) return;
    plug.connected = link.connected;
    for (const listener of plug.links) listener(link, ended);
  };
  const chosen = (wire?: CoordinatorWire | SiteWire) => (wire ? [plugs.get(wire)!] : [...plugs.values()]);
  const cut = (wire?: CoordinatorWire | SiteWire) => {
    for (const plug of chosen(wire)) setLink(plug, { connected: false, why: 'the connection was cut' });
  };
  const mend = (wire?: CoordinatorWire | SiteWire) => {
    for (const plug of chosen(wire)) setLink(plug, { connected: true });
  };
  const blobsOf = (owner: Owner) => {
    const found = blobs.get(keyOf(owner)) ?? new Map<string, Map<number, Uint8Array>>();
    blobs.set(keyOf(owner), found);
    return found;
  };
  const cross = async <T>(plug: Plug, crossing: Crossing, work: () => T): Promise<T> => {
    const check = () => {
      if (!plug.connected || plug.closed) throw new Error('no connection');
    };
    const whole = { by: plug.site, ...crossing };
    await Promise.resolve();
    check();
    await faults.before?.(whole);
    check();
    const result = work();
    await faults.after?.(whole);
    check();
    return result;
  };
  const changed = (crossing: Crossing, bytes: Uint8Array) => faults.change?.(crossing, bytes) ?? bytes;

  const store = (owner: Owner, crossing: Crossing, bytes: Uint8Array) => {
    const own = blobsOf(owner);
    let used = 0;
    for (const pieces of own.values()) for (const one of pieces.values()) used += one.length;
    if (used + bytes.length > (faults.quota ?? Infinity))
      throw new PhoenixError('ERR_PHOENIX_NETWORK', `The server stores at most ${faults.quota} bytes of one side.`);
    const pieces = own.get(crossing.name!) ?? new Map<number, Uint8Array>();
    own.set(crossing.name!, pieces.set(crossing.piece!, changed(crossing, bytes.slice())));
  };
  const say = (crossing: Crossing, kind: 'want' | 'has', site: string, said: Said, expected?: number) => {
    if (expected !== undefined && expected !== (values[kind].get(site)?.sequence ?? 0)) return undefined;
    const stored = { ...said, value: changed(crossing, said.value.slice()), sequence: ++sequence };
    values[kind].set(site, stored);
    for (const { connected, closed, hears, site: of } of plugs.values())
      if (connected && !closed && (of === undefined || of === site))
        for (const one of hears) if (one.kind === kind) queueMicrotask(() => one.listener(site, stored));
    return stored.sequence;
  };
  const lineOf = (plug: Plug): Line => ({
    connected: () => plug.connected,
    onLink: (listener) => void plug.links.push(listener),
    last: (kind, site) => cross(plug, { verb: 'last', kind, site }, () => values[kind].get(site)),
    say(kind, site, said, expected) {
      const crossing: Crossing = { verb: 'say', kind, site };
      return cross(plug, crossing, () => say(crossing, kind, site, said, expected));
    },
    hear: (kind, listener) => void plug.hears.push({ kind, listener }),
    speakers: () => cross(plug, { verb: 'speakers' }, () => [...values.has.keys()]),
    beat(site, value) {
      for (const { connected, beats } of plugs.values())
        if (connected) for (const listener of beats) queueMicrotask(() => listener(site, value));
    },
    hearBeats: (listener) => void plug.beats.push(listener),
    pieces: (owner, name) => cross(plug, { verb: 'pieces', name }, () => new Set(blobsOf(owner).get(name)?.keys())),
    store(owner, name, piece, bytes) {
      const crossing: Crossing = { verb: 'store', name, piece };
      return cross(plug, crossing, () => store(owner, crossing, bytes));
    },
    load(owner, name, piece) {
      const crossing: Crossing = { verb: 'load', name, piece };
      return cross(plug, crossing, () => {
        const bytes = blobsOf(owner).get(name)?.get(piece);
        return bytes && changed(crossing, bytes.slice());
      });
    },
    forget: (owner, but) =>
      cross(plug, { verb: 'forget' }, () => {
        for (const name of blobsOf(owner).keys()) if (!but.has(name)) blobsOf(owner).delete(name);
      }),
    async close() {
      plug.closed = true;
      plug.connected = false;
    },
  });
  const newPlug = (site?: string): Plug => ({ site, connected: true, closed: false, links: [], hears: [], beats: [] });
  const join = <W extends CoordinatorWire | SiteWire>(plug: Plug, wire: W): W => {
    plugs.set(wire, plug);
    return wire;
  };
  return {
    coordinator() {
      const plug = newPlug();
      return join(plug, coordinatorEnd(lineOf(plug)));
    },
    site(id) {
      const plug = newPlug(id);
      return join(plug, siteEnd(lineOf(plug), id));
    },
    cut,
    mend,
    lose() {
      cut();
      values.want.clear();
      values.has.clear();
      blobs.clear();
      mend();
    },
    expel: (wire, error) => setLink(plugs.get(wire)!, { connected: false, why: error.message }, error),
    fail(next) {
      faults = next;
    },
  };
}
