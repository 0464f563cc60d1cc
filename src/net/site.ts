/**
 * A site's loop: the coordinator says what it wants, the site answers each open request once and says what it has. A request is answered
 * after another, in the order wanted: a Client has one Session, and its state changes with each answer. What is no longer wanted is
 * dropped, also the work that is going on.
 *
 * Nothing is kept here between starts but the number of the newest want: a new process reads its own last word and what is wanted, and
 * goes on. Answers that were said stay; those whose blobs the wire may have to send again are asked of the Client again, which trains
 * nothing twice.
 */
import { checkArguments } from '../arguments.ts';
import { withCallbacks } from '../callbacks.ts';
import { PhoenixError } from '../errors.ts';
import { decodeHead, encodeHead, message } from '../fl/wire/message.ts';
import { orAborted } from './arrivals.ts';
import { type Has, hashName, type OpenRequest, type Want } from './protocol.ts';
import {
  hasOf,
  openRequests,
  readOwn,
  SEEN,
  type Site,
  type SiteOptions,
  sayHas,
  sendBeat,
  showStep,
  speaker,
  takeWant,
  textOf,
} from './site-state.ts';
import { MAX_VALUE, type SiteWire } from './wire.ts';

/**
 * Runs until the signal is aborted, then stops the work that is going on and resolves. The wire is the caller's to close.
 * @throws what the wire throws, such as ERR_PHOENIX_REFUSED where another process speaks as this site, and what the callbacks throw
 */
export async function runSite(wire: SiteWire, options: SiteOptions): Promise<void> {
  checkArguments(
    'runSite',
    { wire, options },
    {
      wire: 'object',
      options: { site: 'text', phoenix: 'text', key: 'object', coordinator: 'object', join: 'function', signal: 'object' },
    },
  );
  const { signal } = options;
  await withCallbacks('runSite', options, (guarded) => begin(wire, guarded)).catch((error) => {
    if (!signal.aborted || error !== signal.reason) throw error;
  });
}

async function begin(wire: SiteWire, options: SiteOptions): Promise<void> {
  const { signal, onEvent, beatSeconds = 5 } = options;
  const failed = new AbortController();
  const ended = AbortSignal.any([signal, failed.signal]);
  const site: Site = {
    ...{ wire, options: { ...options, signal: ended }, seen: 0, part: {}, answers: new Map(), left: new Map(), hasDropped: false },
    wake: () => {},
    say: speaker(
      (): Has => hasOf(site),
      (has) => sayHas(site, has),
      (error) => failed.abort(error),
    ),
  };
  await readOwn(site);
  wire.onLink((link) => onEvent?.({ type: 'link', link }));
  await wire.watchWant((bytes) => {
    if (!ended.aborted) takeWant(site, bytes);
  });
  site.say();
  sendBeat(site);
  const timer = setInterval(() => sendBeat(site), 1000 * beatSeconds);
  const stop = () => {
    site.work?.stop.abort(ended.reason);
    site.wake();
  };
  ended.addEventListener('abort', stop, { once: true });
  try {
    while (!ended.aborted) {
      const woken = new Promise<void>((resolve) => {
        site.wake = resolve;
      });
      if (!(await takeStep(site)) && !ended.aborted) await woken;
    }
    ended.throwIfAborted();
  } finally {
    clearInterval(timer);
    await site.joined?.close?.();
  }
}

/** The next thing to do; false if there is nothing. */
async function takeStep(site: Site): Promise<boolean> {
  const { wire, options, want, part } = site;
  const now = `${site.seen} ${site.sawName}`;
  if (options.store && site.stored !== now) {
    await options.store.set(SEEN, Buffer.from(now));
    site.stored = now;
  }
  if (site.hasDropped) {
    site.hasDropped = false;
    const heads = [...site.answers.values()].flatMap((answer) => (answer.is === 'reply' ? [decodeHead(Buffer.from(answer.head))] : []));
    await orAborted(wire.keep(new Set(heads.flatMap(({ blobs }) => blobs.map(({ name }) => name)))), options.signal);
  }
  const run = want?.run;
  if (!want || !run || want.is === 'refused' || site.failedAt === want.counter) return false;
  if (!site.joined || part.run !== run.name || part.spec !== run.spec?.name) {
    await join(site, want, run);
    return true;
  }
  const next = [...openRequests(want)].find(([name]) => !site.answers.has(name));
  if (!next) return false;
  await answerRequest(site, next[0], next[1], run.name);
  return true;
}

async function join(site: Site, want: Want, run: NonNullable<Want['run']>): Promise<void> {
  const { wire, options } = site;
  const stop = new AbortController();
  const isSame = (other: Want) => other.run?.name === run.name && other.run.spec?.name === run.spec?.name && other.is !== 'refused';
  site.work = { stop, isWanted: isSame, beat: { is: 'joining' } };
  try {
    await site.joined?.close?.();
    site.joined = undefined;
    const spec = run.spec && (await wire.get(run.spec, { signal: stop.signal }));
    const joined = await options.join(run.name, spec, stop.signal);
    site.joined = joined;
    const { hello } = joined.client;
    if (hello.id !== options.site)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The client of site ${options.site} calls itself ${hello.id}: give it the site's id.`);
    site.part = { run: run.name, spec: run.spec?.name, hello };
    options.onEvent?.({ type: 'joined', run: run.name });
  } catch (error) {
    if (stop.signal.aborted) return;
    if (error instanceof PhoenixError && error.code === 'ERR_PHOENIX_DISPOSED') throw error;
    site.part = {};
    site.problem = textOf(error);
    site.failedAt = want.counter;
    options.onEvent?.({ type: 'problem', text: site.problem });
  } finally {
    site.work = undefined;
    site.say();
  }
}

/** Answers one request: the policy first, then the client; what is to leave is logged before it does. */
async function answerRequest(site: Site, name: string, { head: encoded, attempt }: OpenRequest, run: string): Promise<void> {
  const { wire, options, joined } = site;
  const { allow, onSent, onEvent } = options;
  const stop = new AbortController();
  const { signal } = stop;
  let what = { kind: 'request', round: 1 };
  const set = (
    answer: { is: 'reply'; head: string } | { is: 'failed'; reason: string } | { is: 'refused'; line: string; reason: string },
  ) => site.answers.set(name, { request: name, attempt: openRequests(site.want).get(name)?.attempt ?? attempt, ...answer });
  try {
    const head = decodeHead(Buffer.from(encoded));
    const { kind, round } = head;
    what = { kind, round };
    site.work = { stop, isWanted: (want) => openRequests(want).has(name), beat: { is: 'working', kind, round } };
    onEvent?.({ type: 'asked', kind, round });
    const left = site.left.get(name);
    const verdict = left === undefined && allow ? await allow(head, run) : { allowed: true as const, line: '' };
    signal.throwIfAborted();
    if (!verdict.allowed) {
      set({ is: 'refused', line: verdict.line, reason: verdict.words });
      onEvent?.({ type: 'declined', kind, round, line: verdict.line, reason: verdict.words });
      return;
    }
    const blobs = head.blobs.map((blob) => ({ ...blob, read: () => wire.get(blob, { signal }) }));
    const answer = await joined!.client.answer({ ...head, blobs }, { signal, onProgress: (step) => showStep(site, step) });
    const reply = Buffer.from(encodeHead(message(kind, round, answer.head, answer.blobs))).toString();
    const sha256 = hashName(reply);
    const bytes = answer.blobs.reduce((sum, { length }) => sum + length, Buffer.byteLength(reply));
    signal.throwIfAborted();
    if (left !== sha256) await onSent?.({ run, round, kind, bytes, sha256, line: verdict.line });
    for (const blob of answer.blobs) {
      signal.throwIfAborted();
      if (blob.vector) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'A vector of this process cannot be sent: it is to be encoded.');
      await wire.put(blob, { signal });
    }
    signal.throwIfAborted();
    set({ is: 'reply', head: reply });
    const room = MAX_VALUE - 1000;
    if (Buffer.byteLength(JSON.stringify(hasOf(site))) > room)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The answers of site ${options.site} take more than ${room} bytes together.`);
    onEvent?.({ type: 'answered', kind, round });
  } catch (error) {
    if (!signal.aborted) {
      if (error instanceof PhoenixError && error.code === 'ERR_PHOENIX_DISPOSED') throw error;
      set({ is: 'failed', reason: textOf(error) });
      onEvent?.({ type: 'failed', ...what, reason: textOf(error) });
    } else if (!options.signal.aborted) onEvent?.({ type: 'dropped', ...what });
  } finally {
    site.work = undefined;
    site.say();
  }
}
