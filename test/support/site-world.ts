/** The small federation of the kill tests: three sites that train a tiny U-Net, with personal layers, kept moments and int8. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { createImages, createNativeSession } from '../../src/bindings/session.ts';
import { getBytes } from '../../src/bindings/vector.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { keptEntry } from '../../src/fl/site/state.ts';
import type { FederationState } from '../../src/fl/state.ts';
import { memoryStore, type Store } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { rng } from '../../src/rng.ts';
import { range } from './fake-federation.ts';
import { testFit } from './plain-fit.ts';

export const SITES = ['a', 'b', 'c'];
export const SEED = 3;
/** 177 thousand parameters: six chunks of a model, two of an update in int8. */
const model = unetModel(
  unetConfig({
    ...{ height: 8, width: 8, inChannels: 1, blockOutChannels: [16, 32], layersPerBlock: 1, attention: [false, true], normGroups: 4 },
    numClasses: 2,
  }),
);
export const newSession = () => createNativeSession({ model, noise: noise(), threads: 1 });
export type TinySession = ReturnType<typeof newSession>;
const fit = {
  ...testFit({ epochs: 1 }, { flip: true }),
  optimizer: 'keep' as const,
  compress: 'int8',
  personal: ['conv_norm_out.*', 'conv_out.*'],
};

export const federationOf = ({ createVector, parameters }: TinySession) => ({
  ...{ strategy: fedavg(), fit, seed: SEED, createVector, parameters },
});
export const beginState = (session: TinySession) => initialState({ session, seed: SEED, strategy: fedavg() });

/** The client of a site. */
export async function clientOf(id: string, store: Store, session: TinySession = newSession()) {
  const count = 60;
  const draw = rng(1, 'pixels');
  const pixels = Uint8Array.from({ length: count * 64 }, () => draw.int(256));
  const classes = Int32Array.from({ length: count }, (_, i) => i % 2);
  const images = await createImages({ pixels, count, height: 8, width: 8, channels: 1 });
  const at = SITES.indexOf(id);
  return createClient({ id, session, images, train: range(16 * at, 8 + 4 * at), heldOut: range(50, 5), classes, store, seed: SEED });
}

/** What a site keeps to itself, as its Store holds it. */
export async function keptBytes(id: string, store: Store): Promise<Uint8Array[]> {
  const kept = await store.get(`${id}/kept`);
  const entries = (['personal', 'residual', 'adam-m', 'adam-v'] as const).map((what) => store.get(keptEntry(id, what, kept)!));
  return (await Promise.all(entries)).map((bytes) => bytes!);
}

/** A round as it was committed: the hash of the model and its EMA, and each client with its weight and loss. */
export type Committed = { round: number; sha256: string; clients: string };

export async function committedOf({ params, ema }: FederationState, { round, clients }: RoundRecord): Promise<Committed> {
  const hash = createHash('sha256');
  for (const vector of [params, ema]) hash.update(await getBytes(vector));
  const words = clients.map(({ client, weight, loss }) => `${client} ${weight} ${loss}`);
  return { round, sha256: hash.digest('hex'), clients: words.join(', ') };
}

/** The same in one process that nobody disturbs: the values of the model, what each site keeps, and what each round came to. */
export async function undisturbedRun(rounds: number): Promise<{ bytes: Uint8Array[]; commits: Committed[] }> {
  const stores = SITES.map(() => memoryStore());
  const transport = memoryTransport(await Promise.all(SITES.map((id, i) => clientOf(id, stores[i]!))));
  const session = newSession();
  const commits: Committed[] = [];
  const onRound = async (state: FederationState, record: RoundRecord) => void commits.push(await committedOf(state, record));
  const state = await runFederation(await beginState(session), { ...federationOf(session), transport, rounds, onRound });
  const kept = await Promise.all(SITES.map((id, i) => keptBytes(id, stores[i]!)));
  return { bytes: [await getBytes(state.params), await getBytes(state.ema), ...kept.flat()], commits };
}

/** The state after a round as the bytes of one file, and back. */
export async function encodeState({ params, ema, serverMoments: _, ...plain }: FederationState): Promise<Uint8Array> {
  return Buffer.concat([await getBytes(params), await getBytes(ema), Buffer.from(JSON.stringify(plain))]);
}
export async function decodeState(session: TinySession, bytes: Uint8Array): Promise<FederationState> {
  const state = await beginState(session);
  const size = 4 * session.parameterCount;
  await state.params.fromBytes(bytes.slice(0, size), 0);
  await state.ema.fromBytes(bytes.slice(size, 2 * size), 0);
  return { ...state, ...JSON.parse(Buffer.from(bytes.subarray(2 * size)).toString()) };
}
export const vectorsIn = (state: Uint8Array): Uint8Array[] => {
  const size = 4 * newSession().parameterCount;
  return [state.subarray(0, size), state.subarray(size, 2 * size)];
};

/** Where each process keeps what it must not lose. */
export const placesOf = (folder: string) => ({
  federation: join(folder, 'federation'),
  engine: join(folder, 'engine'),
  coordinator: join(folder, 'coordinator'),
  state: join(folder, 'coordinator', 'state.bin'),
  invitation: (id: string) => join(folder, `${id}.phoenix`),
  credentials: (id: string) => join(folder, `${id}.json`),
  store: (id: string) => join(folder, `store-${id}`),
});
