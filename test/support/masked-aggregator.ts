/**
 * A sum under masks that cancel, as secure aggregation makes it, but with keys that hide nothing: it proves that the interface carries
 * messages at both ends, weights at the client, and clients that are lost after they were counted on. Values are whole multiples of 2^-24,
 * modulo 2^32.
 */
import type { CreateVector } from '../../src/bindings/vector.ts';
import { PhoenixError } from '../../src/errors.ts';
import type { Aggregator, Arrived } from '../../src/fl/server/aggregate.ts';
import type { Ask } from '../../src/fl/server/ask.ts';
import type { Answer, Client } from '../../src/fl/site/client.ts';
import { isFailure, type Message, type Reply } from '../../src/fl/transport.ts';
import { blobOf, readBlob } from '../../src/fl/wire/message.ts';
import { rng } from '../../src/rng.ts';

const SCALE = 2 ** 24;

/** The mask that `own` adds for each of its peers: what one of a pair adds, the other takes off. */
function maskOf(own: string, peers: string[], secrets: Record<string, number>, length: number): Uint32Array {
  const mask = new Uint32Array(length);
  for (const peer of peers.filter((id) => id !== own)) {
    const [first, second] = own < peer ? [own, peer] : [peer, own];
    const draw = rng(secrets[first]! + secrets[second]!, first, second);
    for (let i = 0; i < length; i++) mask[i]! += (own < peer ? 1 : -1) * draw.int(2 ** 32);
  }
  return mask;
}

/** A client with the other half: it hands out a key, masks its weighted update, and unmasks for peers that were lost. */
export function maskedClient(client: Client, log: string[] = []): Client {
  const { id } = client.hello;
  const secret = rng(1, id).int(2 ** 31);
  const own: Record<string, (request: Message) => Promise<Answer>> = {
    keys: async () => ({ head: { secret }, blobs: [] }),
    async upload(request) {
      const { weight, manifest } = request.head as { weight: number; manifest: { peers: string[]; secrets: Record<string, number> } };
      const plain = await client.answer({ ...request, head: { weight, manifest: {} } });
      const { count } = plain.head as { count: number };
      const values = new Float32Array((await readBlob(plain.blobs[0], Infinity)).slice().buffer);
      const masked = maskOf(id, manifest.peers, manifest.secrets, count);
      values.forEach((value, i) => {
        masked[i]! += Math.round(weight * value * SCALE);
      });
      return { head: { count }, blobs: [await blobOf(new Uint8Array(masked.buffer))] };
    },
    async unmask(request) {
      const { lost, secrets, count } = request.head as { lost: string[]; secrets: Record<string, number>; count: number };
      return { head: {}, blobs: [await blobOf(new Uint8Array(maskOf(id, lost, secrets, count).buffer))] };
    },
  };
  return {
    hello: { ...client.hello, capabilities: [...client.hello.capabilities, 'secagg/1'] },
    async answer(request, options) {
      log.push(`${request.kind} ${id}`);
      return own[request.kind] ? own[request.kind]!(request) : client.answer(request, options);
    },
  };
}

async function answersOf(outcomes: ReturnType<Ask>): Promise<Reply[]> {
  const replies = [];
  for await (const outcome of outcomes) if (!isFailure(outcome)) replies.push(outcome);
  return replies;
}

/** `again`: how many attempts it asks for before it is content. `norms`: whether it lets the server know reported norms. */
export function maskedAggregator({
  createVector,
  again = 0,
  norms = true,
}: {
  createVector: CreateVector;
  again?: number;
  norms?: boolean;
}): Aggregator {
  const secrets: Record<string, number> = {};
  let peers: string[] = [];
  let arrived: { client: string; weight: number }[] = [];
  let sum = new Uint32Array(0);
  const take = (bytes: Uint8Array, sign: 1 | -1) => {
    const values = new Uint32Array(bytes.slice().buffer);
    for (let i = 0; i < sum.length; i++) sum[i]! += sign * values[i]!;
  };
  return {
    shows: { singleUpdates: false, norms },
    async invite(cohort, ask) {
      for (const { client, head } of await answersOf(ask(cohort, () => ({ kind: 'keys', head: {} }))))
        secrets[client] = (head as { secret: number }).secret;
    },
    async begin(weights, { length }) {
      peers = weights.map(({ client }) => client);
      arrived = [];
      sum = new Uint32Array(length);
      return { peers, secrets };
    },
    async add({ client, weight, head, blobs }: Arrived) {
      if ((head as { count?: number }).count !== sum.length)
        throw new PhoenixError('ERR_PHOENIX_MESSAGE', `The masked update of ${client} has another length.`);
      take(await readBlob(blobs[0], 4 * sum.length), 1);
      arrived.push({ client, weight });
    },
    async finish(ask) {
      if (again-- > 0) return { again: 'it wants another attempt' };
      const lost = peers.filter((peer) => !arrived.some(({ client }) => client === peer));
      const ids = arrived.map(({ client }) => client);
      if (lost.length > 0)
        for (const { blobs } of await answersOf(ask(ids, () => ({ kind: 'unmask', head: { lost, secrets, count: sum.length } }))))
          take(await readBlob(blobs[0], 4 * sum.length), -1);
      const total = arrived.reduce((all, { weight }) => all + weight, 0);
      const mean = createVector(sum.length);
      const values = Float32Array.from(new Int32Array(sum.buffer), (value) => value / SCALE / total);
      await mean.fromBytes(new Uint8Array(values.buffer), 0);
      return { mean, shares: new Map(arrived.map(({ client, weight }) => [client, weight / total])), norms: new Map(), notes: [] };
    },
    async dispose() {},
  };
}
