/** A federation on the fake engine, all in memory: clients a, b, c, … whose images are 50 positions apart. */

import { type FederationOptions, initialState, runFederation } from '../../src/fl/federation.ts';
import type { ServerStep } from '../../src/fl/server/server-step.ts';
import { type Client, type ClientOptions, createClient } from '../../src/fl/site/client.ts';
import { memoryStore } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import { type MemoryTransportOptions, memoryTransport } from '../../src/fl/transports/memory.ts';
import type { FederationState, RoundRecord, Store, Strategy } from '../../src/fl/types.ts';
import type { CreateVector } from '../../src/fl/wire/vector.ts';
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
  failures?: MemoryTransportOptions['failures'];
  handOver?: boolean;
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

export async function fakeFederation(
  ground: Ground,
  {
    sizes = ground.sizes,
    seed = 3,
    store = memoryStore(),
    strategy = fedavg(),
    serverStep,
    failures,
    handOver,
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
    return wrap(createClient({ id, session, images, train, heldOut, store, seed, secret: 5n, createVector, ...client(i) }));
  });
  const transport = memoryTransport(clients, { failures, handOver });
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
