/** Asking clients within a round. */
import { PhoenixError } from '../../errors.ts';
import { type ClientId, type Failure, type Hello, missingCapability } from '../protocol.ts';
import type { AskOptions, Reply, Request, Transport } from '../transport.ts';

/** What a transport's `ask` does, of one round. A client that lacks the capability for its request is a Failure, and is not asked. */
export type Ask = (ids: ClientId[], request: (client: Hello) => Request | Promise<Request>) => AsyncIterable<Reply | Failure>;

export function askWithin(transport: Transport, options: AskOptions): Ask {
  const hellos = new Map(transport.clients.map((client) => [client.id, client]));
  return (ids, request) =>
    transport.ask(
      ids,
      async (id) => {
        const client = hellos.get(id)!;
        const asked = await request(client);
        const missing = missingCapability(client, asked);
        if (missing === undefined) return asked;
        throw new PhoenixError(
          'ERR_PHOENIX_MESSAGE',
          `Client ${id} lacks the capability ${missing}, which the request ${asked.kind} needs: update the client, or leave it out.`,
        );
      },
      options,
    );
}
