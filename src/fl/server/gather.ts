/**
 * How long a round waits, and for whom. The decision is a pure function of the clock, of what has arrived and of when clients were last
 * heard of; `gather` asks it after every arrival and whenever it wants to be asked.
 */
import { PhoenixError } from '../../errors.ts';
import type { ClientId, Failure } from '../protocol.ts';
import { isFailure, type Reply } from '../transport.ts';

export type Waiting = {
  /** Share of the clients asked that is enough once `graceSeconds` or `deadlineSeconds` have passed, in (0,1]. @default one client */
  quorum?: number;
  /** How long the others are waited for once the quorum has answered. @default for all that are alive */
  graceSeconds?: number;
  /** The longest wait since the clients were asked. @default no limit */
  deadlineSeconds?: number;
  /** A client that was not heard of for this long is lost. @default clients are not lost by silence */
  lostAfterSeconds?: number;
};

/** Where a wait stands. Times are in milliseconds of one clock. */
export type Wait = {
  now: number;
  started: number;
  asked: ClientId[];
  /** When each client answered, or failed. */
  answered: Map<ClientId, number>;
  failed: Set<ClientId>;
  /** When a client was last heard of; undefined: it cannot vanish. */
  lastSeen(client: ClientId): number | undefined;
};

/** Which clients are given up, with the reason; whether the wait is over; and when to decide again if nothing arrives before. */
export type Verdict = { lost: Map<ClientId, string>; closed: boolean; wakeAt?: number };

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function checkWaiting({ quorum, graceSeconds, deadlineSeconds, lostAfterSeconds }: Waiting): void {
  const seconds = Object.entries({ graceSeconds, deadlineSeconds, lostAfterSeconds });
  const bad = seconds.find(([, value]) => value !== undefined && !(value >= 0));
  if (bad) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${bad[0]} must be a number of seconds of at least 0, not ${bad[1]}.`);
  if (quorum !== undefined && !(quorum > 0 && quorum <= 1))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `quorum must be above 0 and at most 1, not ${quorum}.`);
}

/** Clients whose answers are enough. */
export function quorumOf(asked: number, quorum: number | undefined): number {
  return Math.max(1, Math.ceil((quorum ?? 0) * asked));
}

export function judge({ now, started, asked, answered, failed, lastSeen }: Wait, waiting: Waiting): Verdict {
  const { quorum, graceSeconds, deadlineSeconds, lostAfterSeconds } = waiting;
  const lost = new Map<ClientId, string>();
  const times: number[] = [];
  for (const client of asked) {
    const seen = lastSeen(client);
    if (answered.has(client) || failed.has(client) || seen === undefined || lostAfterSeconds === undefined) continue;
    const until = Math.max(seen, started) + 1000 * lostAfterSeconds;
    if (now >= until) lost.set(client, `it was not heard of for ${lostAfterSeconds} seconds`);
    else times.push(until);
  }
  const missing = asked.filter((client) => !answered.has(client) && !failed.has(client) && !lost.has(client));
  const close = (why: string): Verdict => ({ lost: new Map([...lost, ...missing.map((client) => [client, why] as const)]), closed: true });
  if (missing.length === 0) return { lost, closed: true };

  const reached = [...answered.values()].sort((a, b) => a - b)[quorumOf(asked.length, quorum) - 1];
  if (reached !== undefined && graceSeconds !== undefined) {
    if (now >= reached + 1000 * graceSeconds) return close(`the quorum answered, and ${graceSeconds} seconds have passed since`);
    times.push(reached + 1000 * graceSeconds);
  }
  if (deadlineSeconds !== undefined) {
    if (now >= started + 1000 * deadlineSeconds) return close(`it did not answer within ${deadlineSeconds} seconds`);
    times.push(started + 1000 * deadlineSeconds);
  }
  return { lost, closed: false, ...(times.length > 0 && { wakeAt: Math.min(...times) }) };
}

export type GatherOptions = {
  round: number;
  /** The kind of the request, for failures. */
  kind: string;
  waiting: Waiting;
  lastSeen?(client: ClientId): number | undefined;
  signal?: AbortSignal;
};

/**
 * Takes outcomes until the wait is over, and leaves what is outstanding to be cancelled. A second outcome of a client is ignored. Replies
 * and failures are in the order of `asked`, whichever came first.
 * @throws what the outcomes throw; an abort rejects with the signal's reason
 */
export async function gather(
  asked: ClientId[],
  outcomes: AsyncIterable<Reply | Failure>,
  { round, kind, waiting, lastSeen = () => undefined, signal }: GatherOptions,
): Promise<{ replies: Reply[]; failures: Failure[] }> {
  checkWaiting(waiting);
  const started = performance.now();
  const answered = new Map<ClientId, number>();
  const replies: Reply[] = [];
  const failures: Failure[] = [];
  const iterator = outcomes[Symbol.asyncIterator]();
  let arrival: Promise<IteratorResult<Reply | Failure>> | undefined;
  try {
    while (asked.length > 0) {
      const now = performance.now();
      const failed = new Set(failures.map(({ client }) => client));
      const { lost, closed, wakeAt } = judge({ now, started, asked, answered, failed, lastSeen }, waiting);
      for (const [client, reason] of lost) failures.push({ client, round, stage: kind, reason });
      if (closed) break;
      arrival ??= iterator.next();
      const next = await orAt(arrival, wakeAt === undefined ? undefined : wakeAt - now);
      if (next === undefined) continue;
      arrival = undefined;
      if (next.done) {
        for (const client of asked)
          if (!answered.has(client) && !failed.has(client)) failures.push({ client, round, stage: kind, reason: 'no answer came' });
        break;
      }
      const { client } = next.value;
      if (!asked.includes(client) || answered.has(client) || failures.some((failure) => failure.client === client)) continue;
      if (isFailure(next.value)) failures.push(next.value);
      else {
        answered.set(client, performance.now());
        replies.push(next.value);
      }
    }
  } finally {
    arrival?.catch(() => {});
    await iterator.return?.();
  }
  signal?.throwIfAborted();
  return { replies: inOrder(asked, replies), failures: inOrder(asked, failures) };
}

/** What the promise gives, or undefined after so many milliseconds. */
async function orAt<T>(promise: Promise<T>, milliseconds: number | undefined): Promise<T | undefined> {
  if (milliseconds === undefined) return promise;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, Math.min(2 ** 31 - 1, Math.ceil(milliseconds)), undefined);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function inOrder<T extends { client: ClientId }>(ids: ClientId[], items: T[]): T[] {
  return items.toSorted((a, b) => ids.indexOf(a.client) - ids.indexOf(b.client));
}
