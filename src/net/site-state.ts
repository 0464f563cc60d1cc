/** What a site has seen, wants and says: its side of protocol.ts. */
import { freemem } from 'node:os';
import { PhoenixError } from '../errors.ts';
import { PROTOCOL } from '../fl/protocol.ts';
import type { Client } from '../fl/site/client.ts';
import type { Store } from '../fl/store.ts';
import type { ClientStep } from '../fl/transport.ts';
import { decodeHead, type Head } from '../fl/wire/message.ts';
import type { Verdict } from './policy.ts';
import {
  type Beat,
  type Has,
  hashName,
  type OpenRequest,
  readHas,
  readHeader,
  readWant,
  type Signer,
  type SiteAnswer,
  seal,
  unseal,
  type Verifier,
  versionsDiffer,
  type Want,
} from './protocol.ts';
import type { Sent } from './sent-log.ts';
import type { Link, SiteWire } from './wire.ts';

/** A client of one run. `close`: called when the site takes part in another run, and at the end. */
export type Joined = { client: Client; close?(): Promise<void> };

export type SiteEvent =
  /** Takes part in a run, after its spec was accepted. */
  | { type: 'joined'; run: string }
  /** Begins to answer a request. */
  | { type: 'asked'; kind: string; round: number }
  | { type: 'step'; step: ClientStep }
  | { type: 'answered'; kind: string; round: number }
  /** Its policy forbids the request. */
  | { type: 'declined'; kind: string; round: number; line: string; reason: string }
  | { type: 'failed'; kind: string; round: number; reason: string }
  /** The request is no longer wanted: its round is over. */
  | { type: 'dropped'; kind: string; round: number }
  /** The coordinator has nothing to do, or refuses the site. */
  | { type: 'idle' | 'refused'; reason?: string; text?: string }
  /** What is wanted cannot be done: another protocol, or a run that the site cannot take part in. */
  | { type: 'problem'; text: string }
  /** A want that was not obeyed: forged, or older than another one. */
  | { type: 'ignored'; why: string }
  | { type: 'link'; link: Link };

export type SiteOptions = {
  /** The site's name, that of its client. */
  site: string;
  /** The version of Phoenix, such as 1.2.3; and what computes here. */
  phoenix: string;
  addon?: string;
  device?: string;
  /** What the site says of its data before there is a run: plain JSON of a few hundred bytes. */
  about?: Record<string, unknown>;
  key: Signer;
  /** The coordinator's key. */
  coordinator: Verifier;
  /** Makes the client of a run from its spec, if it has one. What it throws is said to the coordinator; the next want tries again. */
  join(run: string, spec: Uint8Array | undefined, signal: AbortSignal): Promise<Joined>;
  /** The policy: asked before anything of a request is read. @default everything is allowed */
  allow?(request: Head, run: string): Verdict | Promise<Verdict>;
  /**
   * Called, and waited for, before a reply leaves: what it throws ends the loop, and nothing leaves. `bytes`: of its head and blobs;
   * `sha256`: of its encoded head, which names the blobs by theirs. Failures and refusals, a line of text, are not replies.
   */
  onSent?(sent: Sent): void | Promise<void>;
  /**
   * Called, and waited for, before the site says something of itself that it has not said in this process: version, device, its data, and
   * how it introduces itself in a run. As onSent otherwise; the round is 0, the kind 'hello', `run` empty before the first.
   */
  onHello?(sent: Sent): void | Promise<void>;
  onEvent?(event: SiteEvent): void;
  /** @default 5 */
  beatSeconds?: number;
  /** Keeps the number of the newest want, so that a server cannot show an older one to a new process. @default memory */
  store?: Store;
  /** Ends the loop. */
  signal: AbortSignal;
};

/** What goes on at a site. */
export type Site = {
  wire: SiteWire;
  options: SiteOptions;
  /** The number and hash of the newest want that was looked at, also by an earlier process; and what of it is in the Store. */
  seen: number;
  sawName?: string;
  stored?: string;
  /** The want that is obeyed, and its hash. */
  want?: Want;
  wantName?: string;
  /** As what the site takes part: said by an earlier process, or by the client. */
  part: Pick<Has, 'run' | 'spec' | 'hello'>;
  joined?: Joined;
  problem?: string;
  /** What was said last of the site itself. */
  told?: string;
  /** The number of the want for which joining has failed. */
  failedAt?: number;
  /** Answers by the names of their requests, and the hashes of the replies that left before this process began. */
  answers: Map<string, SiteAnswer>;
  left: Map<string, string>;
  /** Whether answers were dropped, so that blobs can be forgotten. */
  hasDropped: boolean;
  /** What is being done. */
  work?: { isWanted(want: Want): boolean; stop: AbortController; beat: Omit<Beat, 'run' | 'freeMemory' | 'traffic'> };
  wake(): void;
  say(): void;
};

/** Where the Store keeps the number and hash of the newest want. No client's id begins with a dot. */
export const SEEN = '.net/seen';

/** Says what there is to say if it differs from what was said last, one after the other. */
export function speaker(make: () => Has, say: (has: Has) => Promise<void>, fail: (error: unknown) => void): () => void {
  let said: string | undefined;
  let saying = Promise.resolve();
  return () => {
    saying = saying
      .then(async () => {
        const has = make();
        const text = JSON.stringify(has);
        if (text === said) return;
        await say(has);
        said = text;
      })
      .catch(fail);
  };
}

export function hasOf({ options, seen, sawName, part, problem, answers }: Site): Has {
  const { phoenix, addon, device, about } = options;
  return { ...{ protocol: PROTOCOL, phoenix, addon, device, about, seen, sawName }, ...part, problem, answers: [...answers.values()] };
}

/** Says what the site has; what that tells of the site itself is logged before. */
export async function sayHas(site: Site, has: Has): Promise<void> {
  const { wire, options } = site;
  const { phoenix, addon, device, about, run = '', hello } = has;
  const told = JSON.stringify({ phoenix, addon, device, about, ...(hello && { run, hello }) });
  if (told !== site.told)
    await options.onHello?.({
      ...{ run: hello ? run : '', round: 0, kind: 'hello', bytes: Buffer.byteLength(told), sha256: hashName(told) },
      line: 'none: said when the site connects or joins',
    });
  site.told = told;
  await wire.has(seal('has', options.site, has, options.key));
}

export function sendBeat({ wire, options, part, work }: Site): void {
  const beat: Beat = { run: part.run, ...(work?.beat ?? { is: 'idle' }), freeMemory: freemem(), traffic: wire.traffic() };
  wire.beat(seal('beat', options.site, beat, options.key));
}

export const textOf = (error: unknown) => (error instanceof Error ? error.message : String(error)).slice(0, 2000);
const numberOf = (text: string | undefined) => (/^\d{1,15}$/.test(text ?? '') ? Number(text) : 0);

/** What an earlier process has seen and said. What is not signed by this site says nothing. */
export async function readOwn(site: Site): Promise<void> {
  const { wire, options } = site;
  site.stored = Buffer.from((await options.store?.get(SEEN)) ?? '').toString();
  const [number, name] = site.stored.split(' ');
  site.seen = numberOf(number);
  site.sawName = name;
  const last = await wire.lastHas();
  if (!last) return;
  try {
    const { seen, sawName, run, spec, hello, answers } = readHas(unseal('has', options.site, last, options.key));
    if (seen > site.seen) [site.seen, site.sawName] = [seen, sawName];
    site.part = { run, spec, hello };
    for (const answer of answers) {
      if (answer.is === 'reply') site.left.set(answer.request, hashName(answer.head));
      if (answer.is !== 'reply' || decodeHead(Buffer.from(answer.head)).blobs.length === 0) site.answers.set(answer.request, answer);
    }
  } catch (error) {
    options.onEvent?.({ type: 'ignored', why: `What was said in the name of this site is not its own: ${textOf(error)}` });
  }
}

/** Looks at a want, and obeys it if it is the coordinator's and newer than all before. */
export function takeWant(site: Site, bytes: Uint8Array): void {
  const { options } = site;
  const { onEvent } = options;
  const name = hashName(bytes);
  if (name === site.wantName) return;
  try {
    const value = unseal('want', options.site, bytes, options.coordinator);
    const { counter = 0, ...theirs } = readHeader('want', value);
    if (!(counter > site.seen || (counter === site.seen && name === site.sawName)))
      throw new PhoenixError('ERR_PHOENIX_REFUSED', 'It is old.');
    [site.seen, site.sawName, site.wantName] = [counter, name, name];
    site.want = undefined;
    if (theirs.protocol === PROTOCOL) {
      site.want = readWant(value);
      site.problem = undefined;
    } else site.problem = versionsDiffer(options.site, { protocol: PROTOCOL, phoenix: options.phoenix }, theirs);
  } catch (error) {
    if (site.wantName !== name) {
      onEvent?.({ type: 'ignored', why: textOf(error) });
      return;
    }
    site.problem = textOf(error);
  }
  if (site.problem !== undefined) onEvent?.({ type: 'problem', text: site.problem });
  dropUnwanted(site);
  const { is, reason, text } = site.want ?? { is: 'open' };
  if (is !== 'open') onEvent?.({ type: is, reason, text });
  site.wake();
  site.say();
}

/** The open requests by name. */
export function openRequests(want: Want | undefined): Map<string, OpenRequest> {
  const requests = want?.is === 'refused' ? [] : (want?.run?.requests ?? []);
  return new Map(requests.map((request) => [hashName(request.head), request]));
}

/** Drops answers that are not wanted, those of another run, and failures of an earlier attempt; stops work that is not wanted. */
function dropUnwanted(site: Site): void {
  const { want, part, answers, work } = site;
  if (want?.run && want.run.name !== part.run) {
    site.part = {};
    site.left.clear();
    site.hasDropped ||= answers.size > 0;
    answers.clear();
  }
  const wanted = openRequests(want);
  for (const [name, { is, attempt }] of answers) {
    const request = wanted.get(name);
    if (request && (is === 'reply' || attempt >= request.attempt)) continue;
    answers.delete(name);
    site.hasDropped = true;
  }
  if (work && !(want && work.isWanted(want)))
    work.stop.abort(new PhoenixError('ERR_PHOENIX_ROUND', 'The coordinator does not want this any more.'));
}

/** The first step of a training is a heartbeat of its own: who looks sees at once that it has begun. */
export function showStep(site: Site, step: ClientStep): void {
  const { work, options } = site;
  options.onEvent?.({ type: 'step', step });
  if (!work) return;
  const isFirst = work.beat.step === undefined;
  const { step: done, steps, loss, imagesPerSecond } = step;
  if (Number.isFinite(loss) && Number.isFinite(imagesPerSecond)) work.beat.step = { step: done, steps, loss, imagesPerSecond };
  if (isFirst) sendBeat(site);
}
