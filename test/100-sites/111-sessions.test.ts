/** Sites that train real Sessions, over a wire: the bytes of clients in one process. */
import test from 'ava';
import { createImages, createNativeSession } from '../../src/bindings/session.ts';
import { getBytes } from '../../src/bindings/vector.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import type { Failure } from '../../src/fl/protocol.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { keptEntry } from '../../src/fl/site/state.ts';
import { memoryStore, type Store } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import type { Transport } from '../../src/fl/transport.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { memoryHub } from '../../src/net/wires/memory.ts';
import { rng } from '../../src/rng.ts';
import { range } from '../support/fake-federation.ts';
import { testFit } from '../support/plain-fit.ts';
import { startCoordinator, startSite, testKeys } from '../support/sites.ts';

const SEED = 3;
const IDS = ['a', 'b', 'c'];
const model = unetModel(
  unetConfig({
    ...{ height: 8, width: 8, inChannels: 1, blockOutChannels: [8, 16], layersPerBlock: 1, attention: [false, true], normGroups: 4 },
    numClasses: 2,
  }),
);
const count = 60;
const draw = rng(1, 'pixels');
const pixels = Uint8Array.from({ length: count * 64 }, () => draw.int(256));
const classes = Int32Array.from({ length: count }, (_, i) => i % 2);
const images = await createImages({ pixels, count, height: 8, width: 8, channels: 1 });
const newSession = () => createNativeSession({ model, noise: noise(), threads: 1 });
const fit = {
  ...testFit({ epochs: 1 }, { flip: true }),
  optimizer: 'keep' as const,
  compress: 'int8',
  personal: ['conv_norm_out.*', 'conv_out.*'],
};

function clientOf(id: string, store: Store) {
  const at = IDS.indexOf(id);
  return createClient({
    id,
    session: newSession(),
    images,
    train: range(16 * at, 8 + 4 * at),
    heldOut: range(50, 5),
    classes,
    store,
    seed: SEED,
  });
}

/** Two rounds, then one more through a transport of its own, as after a restart of the coordinator. */
async function federate(transportOf: () => Promise<{ transport: Transport; close(): Promise<void> }>, stores: Map<string, Store>) {
  const session = newSession();
  const strategy = fedavg();
  const failures: Failure[] = [];
  let state = await initialState({ session, seed: SEED, strategy });
  for (const rounds of [2, 3]) {
    const { transport, close } = await transportOf();
    state = await runFederation(state, {
      ...{ transport, strategy, fit, rounds, seed: SEED, createVector: session.createVector, parameters: session.parameters },
      onRound: (_, record) => void failures.push(...record.failures),
    });
    await close();
  }
  const kept = IDS.map(async (id) => {
    const store = stores.get(id)!;
    return store.get(keptEntry(id, 'personal', await store.get(`${id}/kept`))!);
  });
  return { bytes: await Promise.all([getBytes(state.params), getBytes(state.ema), ...kept]), failures };
}

test('personal layers, int8, kept moments, and a coordinator that begins anew: the bytes of one process', async (t) => {
  const stores = () => new Map<string, Store>(IDS.map((id) => [id, memoryStore()]));
  const plainStores = stores();
  const transport = memoryTransport(IDS.map((id) => clientOf(id, plainStores.get(id)!)));
  const plain = await federate(async () => ({ transport, close: async () => {} }), plainStores);

  const hub = memoryHub();
  const keys = testKeys();
  const siteStores = stores();
  const sites = IDS.map((id) => startSite(hub.site(id), keys, clientOf(id, siteStores.get(id)!)));
  const spec = Buffer.from('the spec');
  const remote = await federate(() => startCoordinator(hub.coordinator(), keys, IDS, { spec }), siteStores);
  await Promise.all(sites.map(({ stop }) => stop()));
  t.deepEqual(remote, plain);
  t.deepEqual(plain.failures, []);
  t.true(plain.bytes.every((bytes) => bytes !== undefined && bytes.length > 0));
});
