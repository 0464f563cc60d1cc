/** A federation on the fake engine, all in memory: clients a, b, c, … whose images are 50 positions apart. */

import type { CreateVector } from '../../src/bindings/vector.ts';
import { type FederationOptions, initialState, runFederation } from '../../src/fl/federation.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import type { ServerStep } from '../../src/fl/server/server-step.ts';
import { type Answer, type Client, type ClientOptions, createClient } from '../../src/fl/site/client.ts';
import type { FederationState } from '../../src/fl/state.ts';
import { memoryStore, type Store } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import type { Strategy } from '../../src/fl/strategy.ts';
import type { Message, Transport } from '../../src/fl/transport.ts';
import { type MemoryTransportOptions, memoryTransport } from '../../src/fl/transports/memory.ts';
import { fakeImages, fakeSession } from './fake-session.ts';
import { fakeVector } from './fake-vector.ts';

export const range = (from: number, count: number) => Int32Array.from({ length: count }, (_, i) => from + i);

/** What a test may ask for. */
export type FakeFederation = {
  /** Images that each client trains on. */
  sizes?: number[];
  seed?: number;
  store?: Store;
  strategy?: Strategy;
  serverStep?: ServerStep;
  failures?: Death[];
  carriesVectors?: boolean;
  /** @default memoryTransport */
  transport?(clients: Client[], options: MemoryTransportOptions): Transport | Promise<Transport>;
  /** The clients' vectors; the server's are fake ones. */
  createVector?: CreateVector;
  /** In place of what client i would be made of. */
  client?(i: number): Partial<ClientOptions>;
  wrap?(client: Client): Client;
};

/** What all federations of a chapter have. `parameters`: of the model; `heldOut`: images of each client behind those that it trains on. */
export type Ground = {
  parameters: number;
  images: number;
  sizes: number[];
  heldOut: number;
  options: Pick<FederationOptions, 'fit'> & Partial<FederationOptions>;
};

/** A client dies at this stage of this round: after its training and before the answer, or before its update is sent. */
export type Death = { client: string; round: number; stage: 'train' | 'upload' };

export function dying(client: Client, deaths: Death[]): Client {
  const answer: Client['answer'] = async (request, options) => {
    const death = deaths.find(
      ({ client: id, round, stage }) => id === client.hello.id && round === request.round && stage === request.kind,
    );
    if (death?.stage !== 'upload') {
      const answered = await client.answer(request, options);
      if (!death) return answered;
    }
    throw new Error(`the client died at ${request.kind}`);
  };
  return { ...client, answer };
}

/** A client whose answers to requests of a kind are changed. */
export function changed(client: Client, kind: string, change: (answer: Answer, request: Message) => Answer | Promise<Answer>): Client {
  return {
    ...client,
    answer: async (request, options) => {
      const answer = await client.answer(request, options);
      return request.kind === kind ? change(answer, request) : answer;
    },
  };
}

export async function fakeFederation(
  ground: Ground,
  {
    sizes = ground.sizes,
    seed = 3,
    store = memoryStore(),
    strategy = fedavg(),
    serverStep,
    failures = [],
    carriesVectors,
    transport: transportOf = memoryTransport,
    createVector = fakeVector,
    client = () => ({}),
    wrap = (made) => made,
  }: FakeFederation,
) {
  const session = fakeSession({ length: ground.parameters });
  const images = fakeImages(ground.images);
  const clients = sizes.map((size, i) => {
    const [train, heldOut] = [range(50 * i, size), range(50 * i + size, ground.heldOut)];
    const id = String.fromCharCode(97 + i);
    return dying(
      wrap(createClient({ id, session, images, train, heldOut, store, seed, secret: 5n, createVector, ...client(i) })),
      failures,
    );
  });
  const transport = await transportOf(clients, { carriesVectors });
  const state = await initialState({ session, seed, strategy, serverStep, createVector: fakeVector });
  const records: RoundRecord[] = [];
  const run = (rounds: number, options: Partial<FederationOptions> = {}, from: FederationState = state) =>
    runFederation(from, {
      ...{ transport, strategy, rounds, seed, serverStep, createVector: fakeVector },
      onRound: (_, record) => void records.push(record),
      ...ground.options,
      ...options,
    });
  return { session, images, clients, transport, state, store, records, run };
}
