/**
 * A Transport whose clients are sites behind a wire: what is asked of a client becomes a request that is open at its site, and the site's
 * last word says what has been answered. A request stays open, and its answer there, until the round's last request or one of another round
 * comes. A new process asks again what was asked before: what is answered already is taken from there, and what a site works on goes on.
 */
import { checkArguments } from '../arguments.ts';
import { PhoenixError } from '../errors.ts';
import { failureOf } from '../fl/failure.ts';
import type { ClientId, Failure, Hello } from '../fl/protocol.ts';
import type { AskOptions, Blob, Reply, Request, Transport } from '../fl/transport.ts';
import { blobOf, decodeHead, encodeHead, message } from '../fl/wire/message.ts';
import { arrivals, orAborted } from './arrivals.ts';
import { hashName, MAX_SPEC, type OpenRequest, type SiteAnswer, type WantBody } from './protocol.ts';
import type { SiteState, Sites } from './sites.ts';
import type { ByteBlob } from './wire.ts';

export type RemoteOptions = {
  /** The name of the run. */
  run: string;
  /** What a site must know to take part, at most 1 MiB. @default nothing */
  spec?: Uint8Array;
  /** Whether an enrolled site takes part in this run. @default all do */
  allowed?(site: string): boolean;
  /**
   * A site that was not heard of for this long is no client, and a blob that it should give is not waited for. How long a round waits for
   * an answer is decided by the round. @default 600
   */
  lostAfterSeconds?: number;
  /** The largest blob of a reply, in bytes. @default 2 GiB */
  maxReplyBytes?: number;
};

/** One request on its way to one site. `head`: as it is encoded; `name`: its hash. */
type Asked = { site: string; kind: string; round: number; name: string; head: string };

type Run = {
  sites: Sites;
  run: string;
  spec: { name: string; length: number } | undefined;
  lostAfter: number;
  maxReplyBytes: number;
  closed: AbortSignal;
};

/**
 * Clients are the sites that have accepted the run and its spec, sorted by id. The wire is the caller's to close.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a spec that is too long, and what the wire throws
 */
export async function remoteTransport(sites: Sites, options: RemoteOptions): Promise<Transport> {
  checkArguments('remoteTransport', { sites, options }, { sites: 'object', options: { run: 'text' } });
  const { run, allowed = () => true, lostAfterSeconds = 600, maxReplyBytes = 2 ** 31 } = options;
  if (options.spec && options.spec.length > MAX_SPEC)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The spec of run ${run} has ${options.spec.length} bytes, of at most ${MAX_SPEC}.`);
  const closing = new AbortController();
  const blob = options.spec && (await blobOf(options.spec));
  const spec = blob && { name: blob.name, length: blob.length };
  const io: Run = { sites, run, spec, lostAfter: 1000 * lostAfterSeconds, maxReplyBytes, closed: closing.signal };
  const blobs = keptBlobs(io);
  if (blob) await blobs.put(blob, io.closed);

  const introduce = (site: SiteState) => {
    if (allowed(site.id) && !takesPart(io, site) && site.want?.is !== 'refused')
      sites.want(site.id, (before) => ofRun(io, before)).catch(() => {});
  };
  const unlisten = sites.listen(introduce);
  for (const site of sites.all()) introduce(site);

  return {
    get clients(): Hello[] {
      const heard = ({ lastSeen }: SiteState) => performance.now() - lastSeen <= io.lostAfter;
      const present = sites.all().filter((site) => allowed(site.id) && takesPart(io, site) && site.want?.is !== 'refused' && heard(site));
      return present.map(({ has }) => has!.hello!);
    },
    carriesVectors: false,
    lastSeen: (id) => sites.find(id)?.lastSeen,

    ask(ids, request, asking) {
      const unknown = ids.find((id) => !sites.find(id));
      if (unknown !== undefined)
        throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `There is no site ${unknown} that is enrolled and has said anything.`);
      const outer = asking.signal ? AbortSignal.any([io.closed, asking.signal]) : io.closed;
      return arrivals<Reply | Failure>(outer, async (signal, add) => {
        await blobs.begin(asking.round, signal);
        const { waiting, end } = watchSteps(io, ids, asking);
        const works: Promise<unknown>[] = [];
        for (const id of ids) {
          const made = await requestOf(request, id);
          const work = askOne(io, blobs, { id, made, asking, signal }).finally(() => waiting.delete(id));
          add(work);
          works.push(work);
        }
        await Promise.allSettled(works);
        end();
      });
    },

    traffic: () => sites.wire.traffic(),
    async close() {
      closing.abort(new PhoenixError('ERR_PHOENIX_DISPOSED', `The transport of run ${run} was closed.`));
      unlisten();
    },
  };
}

const takesPart = ({ run, spec }: Run, { has }: SiteState) => has?.hello !== undefined && has.run === run && has.spec === spec?.name;

type OpenWant = WantBody & { run: NonNullable<WantBody['run']> };

/** What was wanted, as far as it is of this run. A site that is refused stays so. */
function ofRun({ run, spec }: Run, before: WantBody | undefined): OpenWant {
  const isOurs = before?.run?.name === run && before.run.spec?.name === spec?.name;
  const { is, reason, text } = before?.is === 'refused' ? before : { is: 'open' as const };
  return { is, reason, text, run: { name: run, ...(spec && { spec }), requests: isOurs ? before.run!.requests : [] } };
}

const roundOf = ({ head }: OpenRequest) => decodeHead(Buffer.from(head)).round;

/** The requests that are open once this one is. One that has failed before is a new attempt: the old answer is none to it. */
function withRequest(requests: OpenRequest[], { head, name, round }: Asked, last: boolean, answers: SiteAnswer[]): OpenRequest[] {
  const failed = answers.filter((answer) => answer.request === name && answer.is !== 'reply').map(({ attempt }) => attempt + 1);
  const before = requests.find((request) => request.head === head);
  const opened = { head, attempt: Math.max(before?.attempt ?? 0, ...failed) };
  if (last) return [opened];
  const others = requests.filter((request) => request === before || roundOf(request) === round);
  return before ? others.map((request) => (request === before ? opened : request)) : [...others, opened];
}

/** What the site has answered; undefined if nothing. */
function answerOf({ sites, run }: Run, { site: id, name }: Asked): SiteAnswer | undefined {
  const has = sites.find(id)?.has;
  return has?.run === run ? has.answers.find(({ request }) => request === name) : undefined;
}

/** The request, or the error of who should have made it. */
async function requestOf(request: (id: ClientId) => Request | Promise<Request>, id: ClientId): Promise<Request | { error: unknown }> {
  try {
    return await request(id);
  } catch (error) {
    return { error };
  }
}

type OneAsk = { id: ClientId; made: Request | { error: unknown }; asking: AskOptions; signal: AbortSignal };

async function askOne(io: Run, blobs: KeptBlobs, { id, made, asking, signal }: OneAsk): Promise<Reply | Failure> {
  const { round } = asking;
  let stage = 'request';
  try {
    if ('error' in made) throw made.error;
    const { kind, head, blobs: sent = [], optional, last = false } = made;
    stage = kind;
    signal.throwIfAborted();
    const encoded = Buffer.from(encodeHead(message(kind, round, head, sent, optional))).toString();
    const asked: Asked = { site: id, kind, round, name: hashName(encoded), head: encoded };
    for (const blob of sent) await blobs.put(blob, signal);
    const answer = await openUntilAnswered(io, asked, last, signal);
    if (answer.is !== 'reply')
      return { client: id, round, stage, reason: answer.reason, ...(answer.is === 'refused' && { refused: answer.line }) };
    const reply = decodeHead(Buffer.from(answer.head));
    if (reply.kind !== kind || reply.round !== round)
      throw new PhoenixError(
        'ERR_PHOENIX_MESSAGE',
        `Site ${id} answered the request ${kind} with a ${reply.kind} of round ${reply.round}.`,
      );
    return { client: id, head: reply.head, blobs: reply.blobs.map((blob) => replyBlob(io, asked, blob, asking.signal)) };
  } catch (error) {
    return failureOf(error, { client: id, round, stage }, signal);
  }
}

/** Opens the request at its site, and waits for the answer. Without a reply it is closed again: a site stops work that is not done. */
async function openUntilAnswered(io: Run, asked: Asked, last: boolean, signal: AbortSignal): Promise<SiteAnswer> {
  const { sites, closed } = io;
  let answer: SiteAnswer | undefined;
  let attempt = 0;
  try {
    const number = await sites.want(asked.site, (before) => {
      const { run, ...body } = ofRun(io, before);
      const has = sites.find(asked.site)?.has;
      const requests = withRequest(run.requests, asked, last, has?.run === io.run ? has.answers : []);
      attempt = requests.find(({ head }) => head === asked.head)!.attempt;
      return { ...body, run: { ...run, requests } };
    });
    await sites.until(() => {
      const found = answerOf(io, asked);
      if (found && (found.is === 'reply' || found.attempt >= attempt)) answer = found;
      else {
        const reason = hindrance(sites.find(asked.site), asked.site, number);
        if (reason !== undefined) answer = { is: 'failed', request: asked.name, attempt, reason };
      }
      return answer !== undefined;
    }, signal);
    return answer!;
  } finally {
    const without = (before: WantBody | undefined) => {
      const body = ofRun(io, before);
      return { ...body, run: { ...body.run, requests: body.run.requests.filter(({ head }) => head !== asked.head) } };
    };
    // A process that ends does not take back what it has asked: the next one goes on with it.
    if (answer?.is !== 'reply' && !closed.aborted) sites.want(asked.site, without).catch(() => {});
  }
}

/** Why no answer can come. */
function hindrance(site: SiteState | undefined, id: string, number: number): string | undefined {
  if (!site) return `Site ${id} is not enrolled any more.`;
  if (site.unreadable !== undefined) return site.unreadable;
  if (site.want?.is === 'refused') return `Site ${id} may not take part: ${site.want.text ?? site.want.reason ?? 'no reason was given'}.`;
  return site.has && site.has.seen >= number ? site.has.problem : undefined;
}

/** A blob of a reply, read when it is needed. @throws PhoenixError ERR_PHOENIX_MESSAGE for one that is too large or has no hash */
function replyBlob(io: Run, asked: Asked, { name, length }: { name: string; length: number }, outer: AbortSignal | undefined): Blob {
  const { sites, lostAfter, maxReplyBytes, closed } = io;
  const refused = length > maxReplyBytes ? `at most ${maxReplyBytes} bytes are taken` : name.startsWith('local:') && 'it has no SHA-256';
  if (refused)
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Site ${asked.site} answered with the blob ${name} of ${length} bytes: ${refused}.`);

  async function read(): Promise<Uint8Array> {
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, closed, ...(outer ? [outer] : [])]);
    let heard = performance.now();
    const stopIfLost = () => {
      const answer = answerOf(io, asked);
      if (answer && answer.is !== 'reply') stop.abort(new PhoenixError('ERR_PHOENIX_MESSAGE', answer.reason));
      if (performance.now() - Math.max(heard, sites.find(asked.site)?.lastSeen ?? 0) <= lostAfter) return;
      const why = `Site ${asked.site} was not heard of for ${lostAfter / 1000} seconds, and its blob ${name} is not there.`;
      stop.abort(new PhoenixError('ERR_PHOENIX_MESSAGE', why));
    };
    const timer = setInterval(stopIfLost, 1000);
    const end = sites.listen(stopIfLost);
    const onProgress = () => {
      heard = performance.now();
    };
    try {
      return await sites.wire.get(asked.site, { name, length }, { signal, onProgress });
    } finally {
      clearInterval(timer);
      end();
    }
  }
  return { name, length, read };
}

/** Passes the steps of heartbeats on, for the sites that are waited for. */
function watchSteps({ sites, run }: Run, ids: ClientId[], { round, onProgress }: AskOptions): { waiting: Set<ClientId>; end(): void } {
  const waiting = new Set(ids);
  const known = new Map(ids.map((id) => [id, sites.find(id)?.beat]));
  const end = sites.listen(({ id, beat }) => {
    if (!waiting.has(id) || known.get(id) === beat) return;
    known.set(id, beat);
    if (beat?.run === run && beat.round === round && beat.step) onProgress?.({ ...beat.step, client: id, round });
  });
  return { waiting, end };
}

type KeptBlobs = {
  /** To be called before anything is asked in a round: what no open request names any more is forgotten. */
  begin(round: number, signal: AbortSignal): Promise<void>;
  /** Puts a blob once, however many sites are sent it. */
  put(blob: Blob, signal: AbortSignal): Promise<void>;
};

function keptBlobs({ sites, spec, closed }: Run): KeptBlobs {
  /** What was put, or is being put. */
  const puts = new Map<string, Promise<void>>();
  let current: number | undefined;
  let swept = Promise.resolve();
  return {
    async begin(round, signal) {
      const isNext = current !== undefined && current !== round;
      current = round;
      // What an earlier process has put is kept until the round after: it is what this one asks with.
      if (!isNext) return;
      const requests = sites.all().flatMap(({ want }) => want?.run?.requests ?? []);
      const named = requests.flatMap(({ head }) => decodeHead(Buffer.from(head)).blobs.map(({ name }) => name));
      const names = new Set([...(spec ? [spec.name] : []), ...named]);
      for (const name of puts.keys()) if (!names.has(name)) puts.delete(name);
      swept = sites.wire.keep(names);
      await orAborted(swept, signal);
    },
    async put(blob, signal) {
      if (blob.vector) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'A vector of this process cannot be sent to a site: encode it.');
      await orAborted(swept, signal);
      let put = puts.get(blob.name);
      if (!put) {
        put = sites.wire.put(blob as ByteBlob, { signal: closed });
        puts.set(blob.name, put);
        put.catch(() => puts.delete(blob.name));
      }
      await orAborted(put, signal);
    },
  };
}
