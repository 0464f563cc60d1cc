/**
 * Clients in this process. They get and give what a network would carry, and its bytes are counted: a parcel down for each that is given one, a task down
 * and a report up for each client that trains, an update up for each that is asked. One client trains at a time, in the order asked for.
 */
import { PhoenixError } from '../../errors.ts';
import { failureOf } from '../failure.ts';
import type { Client } from '../site/client.ts';
import type { ClientId, Failure, Report, Transport } from '../types.ts';
import { decodeReport } from '../wire/message.ts';
import { encodeParcel } from '../wire/parcel.ts';
import { encodeTask, handOverTask } from '../wire/vector.ts';

export type MemoryTransportOptions = {
  /**
   * Tasks and updates are handed over as vectors where their codec allows that, instead of bytes; they are counted as if they were bytes. For clients whose
   * Sessions and the round's vectors are of one device that is not the host: then nothing is copied through the host, and the updates of a round lie
   * on the device instead of in the Store. @default false
   */
  handOver?: boolean;
  /** For tests: these clients die at this stage of this round, after the work and before the answer. */
  failures?: Omit<Failure, 'reason'>[];
};

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for two clients of one id */
export function memoryTransport(clients: Client[], { handOver = false, failures = [] }: MemoryTransportOptions = {}): Transport {
  const byId = new Map(clients.map((client) => [client.info.id, client]));
  if (byId.size < clients.length)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${clients.length} clients have only ${byId.size} different ids.`);
  let bytesUp = 0;
  let bytesDown = 0;

  function find(id: ClientId): Client {
    const client = byId.get(id);
    if (!client)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `There is no client ${id}, only ${[...byId.keys()].slice(0, 10).join(', ')}.`);
    return client;
  }

  function dieIfAsked(client: ClientId, round: number, stage: Failure['stage']): void {
    if (failures.some((failure) => failure.client === client && failure.round === round && failure.stage === stage)) {
      throw new Error(`the client died at ${stage}`);
    }
  }

  return {
    clients: clients.map((client) => client.info),

    async give(id, parcel, signal) {
      signal?.throwIfAborted();
      const message = encodeParcel(parcel);
      bytesDown += message.length;
      await find(id).receive(message);
    },

    async *train(ids, task, { onStep, signal } = {}) {
      for (const client of ids.map(find)) {
        signal?.throwIfAborted();
        const { id } = client.info;
        const asked = task(client.info);
        const { round } = asked;
        const message = await (handOver ? handOverTask : encodeTask)(asked);
        bytesDown += message.length;
        let outcome: Report | Failure;
        try {
          const answer = await client.train(message, { onStep, signal });
          dieIfAsked(id, round, 'train');
          bytesUp += answer.length;
          outcome = decodeReport(answer, { client: id, round });
        } catch (error) {
          outcome = failureOf(error, { client: id, round, stage: 'train' }, signal);
        }
        yield outcome;
      }
    },

    async upload(id, round, signal) {
      signal?.throwIfAborted();
      const client = find(id);
      dieIfAsked(id, round, 'upload');
      const update = await client.upload(round);
      bytesUp += update.length;
      return update;
    },

    async finish(ids, round) {
      for (const client of ids.map(find)) await client.finish(round);
    },

    traffic: () => ({ bytesUp, bytesDown }),
    close: async () => {},
  };
}
