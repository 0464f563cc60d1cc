/** Every method over a wire: the bytes, weights and decisions of one process, whatever the strategy, the filter and what is shared. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { createImages } from '../../src/bindings/session.ts';
import { getBytes } from '../../src/bindings/vector.ts';
import { ofSimulation, parseOptions } from '../../src/commands/options/index.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { pixels8 } from '../../src/ddpm/metrics/sources.ts';
import { unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { createSession } from '../../src/ddpm/session.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import { holdOut } from '../../src/fl/partition/index.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import type { RoundIo } from '../../src/fl/round.ts';
import { serverSteps } from '../../src/fl/server/server-step.ts';
import type { SharedSet } from '../../src/fl/server/sharing.ts';
import type { Probing } from '../../src/fl/server/supplies.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { splitParameters } from '../../src/fl/site/personal.ts';
import { memoryStore } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import { filtered } from '../../src/fl/strategies/filter.ts';
import { strategies } from '../../src/fl/strategies/index.ts';
import type { Strategy } from '../../src/fl/strategy.ts';
import type { Transport } from '../../src/fl/transport.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { everyPosition, sourceOfSet } from '../../src/images.ts';
import type { Spec } from '../../src/net/spec.ts';
import { siteRig, tinyFit, tinyNetwork, tinySpec } from '../support/site-rig.ts';

const DATA: Record<string, string> = { east: 'synthetic:17', north: 'synthetic:24', south: 'synthetic:31' };
const names = Object.keys(DATA);
const ROUNDS = 2;

const open = (path: string) => openDataset(path, { size: 8, channels: 1 });
const publicImages = await open('synthetic:20');
const set: SharedSet = { count: 20, pixels: publicImages.pixels, classes: publicImages.labels };
const shared: Spec['shared'] = { images: 20, each: 10, fingerprint: publicImages.fingerprint };
const sharing = { alpha: 0.5, set };
const probing: Probing = { every: 1, samples: 8, steps: 2, histogramOf: 'data', histogramNoise: 0, bins: 4 };
const features = { name: pixels8.name, fingerprint: pixels8.fingerprint };
const probed = { features, capabilities: ['probe/1'] };
const patterns = ['conv_norm_out.*', 'conv_out.*'];

type Method = { io?: Partial<RoundIo>; fit?: Partial<RoundIo['fit']>; strategy?: () => Strategy; spec?: Partial<Spec>; compress?: string };

const methods: Record<string, Method> = {
  'a shared set': { io: { sharing }, spec: { shared } },
  'personal layers, int8, kept moments': { fit: { personal: patterns, compress: 'int8', optimizer: 'keep' }, compress: 'int8' },
  'the largest values, tasks in bf16': { fit: { compress: 'topk:0.1' }, compress: 'topk:0.1', io: { taskCodec: 'bf16' } },
  'the median, over single updates': { strategy: () => strategies.median() },
  'a server step with moments': { io: { serverStep: serverSteps.adam, normBound: 1e3 } },
  'local work by drift': { io: { localWork: { target: 0.9, least: 0.5, most: 2 } } },
  'a filter by loss': {
    io: { probing },
    strategy: () => filtered(fedavg(), { kind: 'quarantine', statistic: 'loss', threshold: '1.001x', guard: false }) as Strategy,
    spec: probed,
  },
  'variety of samples': { io: { probing }, strategy: () => strategies.vendi(), spec: probed },
  'diversity, bins of what sites report': { io: { probing }, strategy: () => strategies.diversity(), spec: probed },
  'a filter by distance to the shared set': {
    io: { probing, sharing },
    strategy: () => filtered(fedavg(), { kind: 'disconnect', statistic: 'frechet-shared', threshold: '1.001x' }) as Strategy,
    spec: { ...probed, shared },
  },
};

type Outcome = { bytes: Buffer[]; records: RoundRecord[] };

async function federate(transport: Transport, spec: Spec, { io, fit, strategy = fedavg }: Method): Promise<Outcome> {
  using session = createSession({ model: unetModel(spec.unet), noise: noise(spec.noise), device: 'cpu', threads: 1 });
  const chosen = strategy();
  const state = await initialState({ session, seed: spec.seed, strategy: chosen, serverStep: io?.serverStep });
  const records: RoundRecord[] = [];
  const ended = await runFederation(state, {
    ...{ transport, strategy: chosen, rounds: ROUNDS, seed: spec.seed, parameters: session.parameters, createVector: session.createVector },
    ...io,
    fit: { ...tinyFit, ...fit },
    onRound: (_, record) => void records.push(record),
  });
  return { bytes: [Buffer.from(await getBytes(ended.params)), Buffer.from(await getBytes(ended.ema))], records };
}

/** The clients in one process, put together by hand. */
async function simulated(spec: Spec, method: Method): Promise<Outcome> {
  using session = createSession({ model: unetModel(spec.unet), device: 'cpu', threads: 1 });
  const clients = [];
  for (const id of names) {
    const dataset = await open(DATA[id]!);
    const room = spec.shared?.each ?? 0;
    const images = await createImages(dataset, session, room);
    const classes = Int32Array.from({ length: dataset.count + room }, (_, i) => dataset.labels![i] ?? 0);
    clients.push(
      createClient({
        ...{
          id,
          session,
          images,
          ...holdOut(everyPosition(dataset.count), spec.seed, id),
          classes,
          classCount: 10,
          sharedFrom: dataset.count,
        },
        ...{
          store: memoryStore(),
          seed: spec.seed,
          probing: { images: sourceOfSet(dataset), noise: noise(spec.noise), features: pixels8 },
        },
      }),
    );
  }
  return await federate(memoryTransport(clients), spec, method);
}

/** What of a round does not depend on the clock and the wire. */
const comparable = ({ seconds: _, bytesUp: _up, bytesDown: _down, clients, ...rest }: RoundRecord) => ({
  ...rest,
  clients: clients.map(({ seconds: _seconds, ...client }) => client),
});

for (const [what, method] of Object.entries(methods))
  test.serial(`over a wire as in one process: ${what}`, async (t) => {
    using session = createSession({ model: unetModel(tinyNetwork), device: 'cpu', threads: 1 });
    const personal = method.fit?.personal && { patterns, values: splitParameters(session.parameters, patterns).personalCount };
    const { compress = 'none' } = method;
    const spec = await tinySpec({ ...method.spec, personal, plan: { rounds: ROUNDS, compress, cohort: 2 } });
    const rig = await siteRig(t);
    for (const name of names) {
      await rig.start({ file: await rig.invite(name), data: DATA[name], threads: 1 });
      const path = join(rig.dirOf(name), 'site.json');
      const policy = JSON.parse(await readFile(path, 'utf8'));
      await writeFile(path, JSON.stringify({ ...policy, allow: { ...policy.allow, histogram: true, points: true } }));
    }
    const { transport } = await rig.coordinate(spec, names);
    const over = await federate(transport, spec, method);
    const within = await simulated(spec, method);
    t.deepEqual(over.records.map(comparable), within.records.map(comparable));
    for (const [i, bytes] of within.bytes.entries()) t.true(over.bytes[i]!.equals(bytes));
    t.is(over.records.flatMap(({ failures }) => failures).length, 0);
    if (method.io?.sharing) t.true(over.records.every(({ clients }) => clients.every(({ shared: given }) => given === 10)));
    if (method.strategy && what.startsWith('a filter')) t.true(over.records.some(({ decisions }) => decisions?.length));
  });

test('options of a simulation are refused with the reason', (t) => {
  for (const [options, message] of [
    [{ clients: 3 }, /each names them with phoenix site --data/],
    [{ partition: 'iid' }, /Real sites have images of their own/],
    [{ limit: 10 }, /Real sites have images of their own/],
    [{ sharing: { beta: 0.1, consent: true } }, /no request exists by which one leaves.*--shared-data/],
    [{ resume: true }, /an option of the simulation/],
    [{ method: 'phoenix' }, /an option of the simulation/],
  ] as const)
    t.throws(() => parseOptions('coordinator', { federation: 'lung', ...options }), { code: 'ERR_PHOENIX_ARGUMENT', message });
  t.regex(ofSimulation('--share-real')!, /--shared-data/);
  t.is(ofSimulation('--rounds'), undefined);
  t.is(ofSimulation('--nonsense'), undefined);
});

test('what a strategy needs and the options do not give is refused before anything begins', (t) => {
  const target = { federation: 'lung', strategy: 'diversity', diversity: { target: 'shared' } };
  t.throws(() => parseOptions('coordinator', target), { code: 'ERR_PHOENIX_CONFIG', message: /shared/ });
  t.is(parseOptions('coordinator', { ...target, sharedData: 'x' }).sharedData, 'x');
  t.throws(() => parseOptions('coordinator', { federation: 'lung', epochs: 1, localImages: 5 }), { code: 'ERR_PHOENIX_CONFIG' });
});
