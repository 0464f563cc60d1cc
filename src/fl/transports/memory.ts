/**
 * Clients in this process. They get and give what a network would carry, and its bytes are counted: head and blobs of each request down, of
 * each reply up. One client works at a time, in the order asked for.
 */
import { checkArguments } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import { failureOf } from '../failure.ts';
import type { ClientId, Failure } from '../protocol.ts';
import type { Client } from '../site/client.ts';
import type { Message, Reply, Transport } from '../transport.ts';
import { decodeHead, encodeHead, message } from '../wire/message.ts';

export type MemoryTransportOptions = {
  /**
   * Blobs are handed over as vectors where their codec allows that, instead of bytes; they are counted as if they were bytes. For clients
   * whose Sessions and the round's vectors are on one device that is not the host: then nothing is copied through the host. @default false
   */
  carriesVectors?: boolean;
};

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for two clients of one id */
export function memoryTransport(clients: Client[], options: MemoryTransportOptions = {}): Transport {
  checkArguments('memoryTransport', { clients, options }, { clients: 'list', options: 'object' });
  const { carriesVectors = false } = options;
  for (const client of clients) checkArguments('memoryTransport', { client }, { client: { hello: 'object', answer: 'function' } });
  const byId = new Map(clients.map((client) => [client.hello.id, client]));
  if (byId.size < clients.length)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${clients.length} clients have only ${byId.size} different ids.`);
  const traffic = { bytesUp: 0, bytesDown: 0 };

  function find(id: ClientId): Client {
    const client = byId.get(id);
    if (client) return client;
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `There is no client ${id}, only ${[...byId.keys()].slice(0, 10).join(', ')}.`);
  }

  /** What arrives of a message: its head as bytes and back, its blobs as they are. */
  function carry(sent: Message, way: keyof typeof traffic): Message {
    const head = encodeHead(sent);
    traffic[way] += sent.blobs.reduce((sum, { length }) => sum + length, head.length);
    return { ...decodeHead(head), blobs: sent.blobs };
  }

  return {
    clients: clients.map(({ hello }) => hello),
    carriesVectors,

    ask: (ids, request, { round, signal, onProgress }) =>
      oneByOne(ids.map(find), signal, async ({ hello: { id }, answer }, signal): Promise<Reply | Failure> => {
        let stage = 'request';
        try {
          const { kind, head, blobs, optional } = await request(id);
          stage = kind;
          signal.throwIfAborted();
          const answered = await answer(carry(message(kind, round, head, blobs, optional), 'bytesDown'), { onProgress, signal });
          const reply = carry(message(kind, round, answered.head, answered.blobs), 'bytesUp');
          return { client: id, head: reply.head, blobs: reply.blobs };
        } catch (error) {
          return failureOf(error, { client: id, round, stage }, signal);
        }
      }),

    traffic: () => ({ ...traffic }),
    close: async () => {},
  };
}

/**
 * What `work` gives for each item, one after the other. Leaving the loop early aborts the one that is running, and waits until it has
 * stopped.
 */
function oneByOne<T, R>(items: T[], outer: AbortSignal | undefined, work: (item: T, signal: AbortSignal) => Promise<R>): AsyncIterable<R> {
  return {
    [Symbol.asyncIterator]() {
      const left = new AbortController();
      const signal = outer ? AbortSignal.any([outer, left.signal]) : left.signal;
      let running: Promise<unknown> = Promise.resolve();
      let at = 0;
      return {
        async next() {
          if (left.signal.aborted || at === items.length) return { done: true, value: undefined };
          outer?.throwIfAborted();
          const result = work(items[at++]!, signal);
          running = result.catch(() => {});
          return { done: false, value: await result };
        },
        async return() {
          left.abort(new PhoenixError('ERR_PHOENIX_ROUND', 'The round no longer waits for this client.'));
          await running;
          return { done: true, value: undefined };
        },
      };
    },
  };
}
