/** Wires over a line: what waits for the connection, tries again, and says and puts again what the server lost. */
import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { PhoenixError } from '../../errors.ts';
import { type ByteBlob, type CoordinatorWire, type Link, MAX_BEAT, MAX_VALUE, type SiteWire, type TransferOptions } from '../wire.ts';
import type { Line, Owner, Said } from './line.ts';
import { type Persist, receiveBlob, sendBlob } from './transfer.ts';

/** How often the values are looked for that the server may have lost without a loss of the connection, in milliseconds. */
const LOOK_AGAIN = 30_000;
/** Longest wait before something is tried again, in milliseconds. */
const LONGEST_WAIT = 1000;
/** Values that are asked for at once. */
const AT_ONCE = 32;

const BLOB_NAME = /^sha256:[0-9a-f]{64}$/;

function checkSize(what: string, value: Uint8Array, most: number): void {
  if (value.length > most)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${what} of ${value.length} bytes was given; at most ${most} can be sent.`);
}

/** The outcome of `work`, or a rejection with the signal's reason. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}

/** What both ends share: patience with the line, the listeners, and the count of bytes. */
function createEnd(line: Line) {
  const ending = new AbortController();
  setMaxListeners(0, ending.signal);
  const listeners = new Set<(link: Link) => void>();
  const traffic = { bytesUp: 0, bytesDown: 0 };
  const mends: (() => Promise<void>)[] = [];
  const waiting = new Set<() => void>();
  let mending = Promise.resolve();

  const tell = (link: Link) => {
    for (const listener of listeners) listener(link);
  };
  /** Waits until the link changes, or this many milliseconds. */
  const change = async (wait: number | undefined, signal: AbortSignal) => {
    let done = () => {};
    const changed = new Promise<void>((resolve) => {
      done = resolve;
    });
    waiting.add(done);
    const timer = wait === undefined ? undefined : setTimeout(done, wait);
    try {
      await unlessAborted(changed, signal);
    } finally {
      clearTimeout(timer);
      waiting.delete(done);
    }
  };
  const persist: Persist = async (verb, signal = ending.signal) => {
    for (let wait = 20; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      signal.throwIfAborted();
      if (line.connected()) {
        try {
          return await unlessAborted(verb(), signal);
        } catch (error) {
          if (signal.aborted || error instanceof PhoenixError) throw error;
        }
      }
      await change(line.connected() ? wait : undefined, signal);
    }
  };
  /** Looks for what the server lost: one look at a time, another one if the connection came back meanwhile. */
  const mend = () => {
    mending = mending.then(async () => {
      const outcomes = await Promise.allSettled(mends.map((one) => one()));
      const failed = outcomes.find((one) => one.status === 'rejected');
      if (failed && !ending.signal.aborted) tell({ connected: line.connected(), why: (failed.reason as Error).message });
    });
  };
  const looking = setInterval(() => line.connected() && mend(), LOOK_AGAIN);
  looking.unref();
  line.onLink((link, ended) => {
    for (const done of waiting) done();
    if (ended) {
      clearInterval(looking);
      ending.abort(ended);
    } else if (link.connected) mend();
    tell(link);
  });
  return {
    line,
    persist,
    traffic,
    onMend: (work: () => Promise<void>) => void mends.push(work),
    /** The signal of something under way: the caller's, or the end of this wire. */
    within(signal?: AbortSignal) {
      const both = signal ? AbortSignal.any([ending.signal, signal]) : ending.signal;
      // Each piece under way listens.
      setMaxListeners(0, both);
      return both;
    },
    onLink: (listener: (link: Link) => void) => void listeners.add(listener),
    async close() {
      clearInterval(looking);
      ending.abort(new PhoenixError('ERR_PHOENIX_DISPOSED', 'This wire was closed.'));
      await line.close();
    },
  };
}
type End = ReturnType<typeof createEnd>;

/** Says the values of one subject: the newest, until it is stored. `exclusive`: only while no other process speaks there. */
function createSayer({ line, persist, onMend }: End, kind: 'want' | 'has', site: string, speaker: string, exclusive: boolean) {
  let newest: Said | undefined;
  let stored = 0;
  let sequence: number | undefined;
  let running: Promise<void> | undefined;

  const attempt = async () => {
    const said = newest!;
    if (exclusive) sequence ??= (await line.last(kind, site))?.sequence ?? 0;
    const given = await line.say(kind, site, said, exclusive ? sequence : undefined);
    if (given !== undefined) {
      sequence = given;
      stored = said.count;
      return;
    }
    const last = await line.last(kind, site);
    if (last?.speaker && last.speaker !== speaker)
      throw new PhoenixError(
        'ERR_PHOENIX_REFUSED',
        `Another process speaks as ${site}: the same credentials are in use twice. Stop one of them; if you know of only one, have the coordinator revoke this site.`,
      );
    // Nothing there: the server lost it. Something of this process: the answer to an earlier attempt was lost.
    sequence = last?.sequence ?? 0;
    stored = last?.count ?? 0;
  };
  const run = async () => {
    // A value that comes while an attempt ends is seen by the next look.
    while (newest && stored < newest.count) {
      running ??= persist(attempt).finally(() => {
        running = undefined;
      });
      await running;
    }
  };
  onMend(async () => {
    // What is just being said may have been stored before the loss, with its answer still on the way.
    await running?.catch(() => {});
    if (!newest) return;
    const last = await persist(() => line.last(kind, site));
    if (last?.speaker) return;
    stored = 0;
    sequence = last?.sequence ?? 0;
    await run();
  });
  return (value: Uint8Array): Promise<void> => {
    newest = { value, speaker, count: (newest?.count ?? 0) + 1 };
    return run();
  };
}

/** A value that a process said. */
const spokenValue = (said: Said | undefined) => (said?.speaker ? said.value : undefined);

/** Hands each new value on, once and in order: what the server repeats or what was overtaken is left out. */
function createHearer(listener: (site: string, value: Uint8Array) => void) {
  const heard = new Map<string, { speaker: string; count: number; gone: Set<string> }>();
  return (site: string, { value, speaker, count }: Said) => {
    if (!speaker) return;
    const before = heard.get(site) ?? { speaker, count: 0, gone: new Set<string>() };
    if (before.gone.has(speaker) || (before.speaker === speaker && count <= before.count)) return;
    if (before.speaker !== speaker) before.gone.add(before.speaker);
    heard.set(site, { speaker, count, gone: before.gone });
    listener(site, value);
  };
}

/** Blobs of one side: put until they are forgotten, got from the other side. */
function createBlobs({ line, persist, within, onMend }: End, own: Owner, sent: (bytes: number) => void, received: (bytes: number) => void) {
  const kept = new Map<string, ByteBlob>();
  const run = (owner: Owner, count: (bytes: number) => void, { signal, onProgress }: TransferOptions) => {
    let bytes = 0;
    const onPiece = (more: number) => {
      bytes += more;
      count(more);
      onProgress?.(bytes);
    };
    return { line, persist, owner, signal: within(signal), onPiece };
  };
  onMend(async () => {
    for (const blob of [...kept.values()]) if (kept.has(blob.name)) await sendBlob(blob, run(own, sent, {}));
  });
  return {
    async put(blob: ByteBlob, options: TransferOptions = {}): Promise<void> {
      if (!BLOB_NAME.test(blob.name))
        throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `A blob that travels is named sha256: and 64 hex digits, not ${blob.name}.`);
      // From now on, so that what is lost between the last look at it and the end of this call is sent again.
      kept.set(blob.name, blob);
      await sendBlob(blob, run(own, sent, options)).catch((error) => {
        kept.delete(blob.name);
        throw error;
      });
    },
    async keep(names: ReadonlySet<string>): Promise<void> {
      for (const name of kept.keys()) if (!names.has(name)) kept.delete(name);
      await persist(() => line.forget(own, names));
    },
    async get(owner: Owner, blob: { name: string; length: number }, options: TransferOptions = {}): Promise<Uint8Array> {
      if (!BLOB_NAME.test(blob.name)) throw new PhoenixError('ERR_PHOENIX_MESSAGE', `No blob can be named ${JSON.stringify(blob.name)}.`);
      return receiveBlob(blob, run(owner, received, options));
    },
  };
}

/** The coordinator's wire over a line. */
export function coordinatorEnd(line: Line): CoordinatorWire {
  const end = createEnd(line);
  const { persist, traffic } = end;
  const speaker = randomUUID();
  const sayers = new Map<string, (value: Uint8Array) => Promise<void>>();
  const down = (bytes: number) => {
    traffic.bytesDown += bytes;
  };
  const up = (bytes: number) => {
    traffic.bytesUp += bytes;
  };
  const { get, put, keep } = createBlobs(end, 'coordinator', down, up);
  return {
    put,
    keep,
    get: (site, blob, options) => get({ site }, blob, options),
    async want(site, value) {
      checkSize('A want', value, MAX_VALUE);
      const say = sayers.get(site) ?? createSayer(end, 'want', site, speaker, false);
      sayers.set(site, say);
      await say(value);
      down(value.length);
    },
    lastWant: async (site) => spokenValue(await persist(() => line.last('want', site))),
    lastHas: async (site) => spokenValue(await persist(() => line.last('has', site))),
    async watchHas(listener) {
      const hear = createHearer((site, value) => {
        up(value.length);
        listener(site, value);
      });
      const look = async () => {
        const sites = await persist(() => line.speakers());
        const next = async () => {
          for (let site = sites.pop(); site !== undefined; site = sites.pop()) {
            const asked = site;
            const last = await persist(() => line.last('has', asked));
            if (last) hear(asked, last);
          }
        };
        await Promise.all(Array.from({ length: AT_ONCE }, next));
      };
      line.hear('has', hear);
      end.onMend(look);
      await look();
    },
    async watchBeats(listener) {
      line.hearBeats((site, beat) => {
        if (beat.length > MAX_BEAT) return;
        up(beat.length);
        listener(site, beat);
      });
    },
    onLink: end.onLink,
    traffic: () => ({ ...traffic }),
    close: end.close,
  };
}

/** A site's wire over a line. */
export function siteEnd(line: Line, site: string): SiteWire {
  const end = createEnd(line);
  const { persist, traffic } = end;
  const say = createSayer(end, 'has', site, randomUUID(), true);
  const down = (bytes: number) => {
    traffic.bytesDown += bytes;
  };
  const up = (bytes: number) => {
    traffic.bytesUp += bytes;
  };
  const { get, put, keep } = createBlobs(end, { site }, up, down);
  return {
    put,
    keep,
    get: (blob, options) => get('coordinator', blob, options),
    async has(value) {
      checkSize('A has', value, MAX_VALUE);
      await say(value);
      up(value.length);
    },
    lastHas: async () => spokenValue(await persist(() => line.last('has', site))),
    async watchWant(listener) {
      const hear = createHearer((_, value) => {
        down(value.length);
        listener(value);
      });
      const look = async () => {
        const last = await persist(() => line.last('want', site));
        if (last) hear(site, last);
      };
      line.hear('want', hear);
      end.onMend(look);
      await look();
    },
    beat(value) {
      checkSize('A heartbeat', value, MAX_BEAT);
      if (!line.connected()) return;
      line.beat(site, value);
      up(value.length);
    },
    onLink: end.onLink,
    traffic: () => ({ ...traffic }),
    close: end.close,
  };
}
