/**
 * A federation of fake clients whose processes are killed: nothing that a dead one does reaches its disk or the wire any more, and a new
 * one begins with what lies there.
 */
import type { Vector } from '../../src/bindings/vector.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { keptEntry } from '../../src/fl/site/state.ts';
import type { FederationState } from '../../src/fl/state.ts';
import { memoryStore, type Store } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import type { CoordinatorWire, SiteWire } from '../../src/net/wire.ts';
import { type Crossing, memoryHub } from '../../src/net/wires/memory.ts';
import { range } from './fake-federation.ts';
import { fakeImages, fakeSession } from './fake-session.ts';
import { fakeVector } from './fake-vector.ts';
import { testFit } from './plain-fit.ts';
import { startCoordinator, startSite, testKeys } from './sites.ts';

const SITES = { a: 10, b: 15, c: 20 } as const;
const SEED = 3;
const ids = Object.keys(SITES);
const fit = { ...testFit({ epochs: 2 }, { lr: 0.05 }), optimizer: 'keep' as const, compress: 'int8', personal: ['head'] };

/** Where a process can be killed. `who`: coordinator or a site's id. */
export type FaultPoint = { who: string; what: string };
/** What happens there. `lose`: the server loses its whole store. */
export type Fault = 'kill' | 'lose' | 'cut';

export type Ended = {
  /** Final values, and what each site keeps. */
  bytes: Uint8Array[];
  records: RoundRecord[];
  trainings: number;
  kills: number;
  /** Kills of a site between the beginning of a training and the end of its commit: that training is done again. */
  killedInTraining: number;
};

const bytesOf = (vector: Vector) => vector.toBytes(0, vector.length);
/** What a dead process still asks of its disk or its run fails: so all that it began ends. */
const gone = (): never => {
  throw new Error('this process is dead');
};

function clientOf(id: string, store: Store, onTrain: () => void) {
  const at = ids.indexOf(id);
  const session = fakeSession({ length: 6 });
  const { train } = session;
  session.train = (...given) => {
    if (given[1].firstStep === 0) onTrain();
    return train(...given);
  };
  const own = { train: range(50 * at, SITES[id as keyof typeof SITES]), heldOut: range(50 * at + 30, 3) };
  return createClient({ id, session, images: fakeImages(1000), ...own, store, seed: SEED, secret: 5n, createVector: fakeVector });
}

/** Whatever ends the federation: the values of the model, and what sites keep for themselves. */
async function finalBytes(state: FederationState, stores: Map<string, Store>): Promise<Uint8Array[]> {
  const kept = ids.flatMap((id) => (['personal', 'residual', 'adam-m', 'adam-v'] as const).map((what) => ({ id, what })));
  const ofSites = kept.map(async ({ id, what }) => {
    const store = stores.get(id)!;
    return (await store.get(keptEntry(id, what, await store.get(`${id}/kept`))!))!;
  });
  return Promise.all([bytesOf(state.params), bytesOf(state.ema), ...ofSites]);
}

const session = fakeSession({ length: 6 });
const begin = () => initialState({ session, seed: SEED, strategy: fedavg(), createVector: fakeVector });
const federation = { strategy: fedavg(), fit, seed: SEED, createVector: fakeVector, parameters: session.parameters };

/** The same federation in one process that nobody disturbs. */
export async function undisturbed(rounds: number): Promise<Ended> {
  const stores = new Map<string, Store>(ids.map((id) => [id, memoryStore()]));
  const records: RoundRecord[] = [];
  let trainings = 0;
  const transport = memoryTransport(ids.map((id) => clientOf(id, stores.get(id)!, () => trainings++)));
  const onRound = (_: FederationState, record: RoundRecord) => void records.push(record);
  const state = await runFederation(await begin(), { ...federation, transport, rounds, onRound });
  return { bytes: await finalBytes(state, stores), records, trainings, kills: 0, killedInTraining: 0 };
}

/** What a coordinator has committed. */
type Committed = { params: Uint8Array; ema: Uint8Array; plain: string };

async function commit({ params, ema, serverMoments: _, ...plain }: FederationState): Promise<Committed> {
  return { params: (await bytesOf(params)).slice(), ema: (await bytesOf(ema)).slice(), plain: JSON.stringify(plain) };
}

async function resume(disk: Committed | undefined): Promise<FederationState> {
  const state = await begin();
  if (!disk) return state;
  await state.params.fromBytes(disk.params, 0);
  await state.ema.fromBytes(disk.ema, 0);
  return { ...state, ...JSON.parse(disk.plain) };
}

/**
 * Runs it over a wire. `fault` is asked at each point what happens there.
 * @param rounds to be done in all
 */
export async function disturbed(rounds: number, fault: (point: FaultPoint) => Fault | undefined): Promise<Ended> {
  const keys = testKeys();
  const disks = new Map<string, Store>(ids.map((id) => [id, memoryStore()]));
  const records: RoundRecord[] = [];
  const lives = new Map<string, Life>();
  let [trainings, kills, killedInTraining] = [0, 0, 0];
  let committed: Committed | undefined;
  let end: (state: FederationState) => void;
  let fail: (error: unknown) => void;
  let isOver = false;
  const ended = new Promise<FederationState>((resolve, reject) => {
    end = resolve;
    fail = reject;
  });

  type Life = { wire: CoordinatorWire | SiteWire; isDead: boolean; isTraining: boolean; stop?(): Promise<void> };
  const hub = memoryHub({ before: (crossing) => crossed('before', crossing), after: (crossing) => crossed('after', crossing) });

  function crossed(when: string, { by = 'coordinator', verb, kind, piece }: Crossing): void {
    happen(by, `${when} ${verb}${kind ? ` ${kind}` : ''}${piece ? ' more' : ''}`);
  }
  function happen(who: string, what: string): void {
    const life = lives.get(who);
    const what_ = life && !life.isDead ? fault({ who, what }) : undefined;
    if (what_ === 'lose') hub.lose();
    if (what_ === 'cut') {
      hub.cut(life!.wire);
      setImmediate(() => !life!.isDead && hub.mend(life!.wire));
    }
    if (what_ !== 'kill') return;
    kills++;
    if (life!.isTraining) killedInTraining++;
    void bury(life!);
    setImmediate(() => start(who));
  }

  /** Its wire first: what it does on its way out reaches nobody. */
  async function bury(life: Life): Promise<void> {
    life.isDead = true;
    await life.wire.close();
    await life.stop?.();
  }

  /** A disk whose writes can be the last thing that a process does. */
  function diskOf(who: string, life: Life): Store {
    const disk = disks.get(who)!;
    const write =
      <A extends unknown[]>(verb: string, work: (...given: A) => Promise<void>) =>
      async (...given: A): Promise<void> => {
        happen(who, `before ${verb}`);
        if (life.isDead) gone();
        const written = work(...given);
        // The last write of a training names all that it has staged. It is done at once: a kill from here on finds it done.
        if (verb === 'set' && String(given[0]) === `${who}/kept`) life.isTraining = false;
        await written;
        happen(who, `after ${verb}`);
        if (life.isDead) gone();
      };
    return {
      get: async (key) => (life.isDead ? gone() : disk.get(key)),
      keys: async () => (life.isDead ? gone() : disk.keys()),
      set: write('set', disk.set),
      delete: write('delete', disk.delete),
    };
  }

  function start(who: string): void {
    if (isOver) return;
    const work = who === 'coordinator' ? startCoordinating() : startServing(who);
    work.catch((error) => !lives.get(who)!.isDead && fail(error));
  }
  async function startServing(id: string): Promise<void> {
    const life: Life = { wire: hub.site(id), isDead: false, isTraining: false };
    lives.set(id, life);
    const store = diskOf(id, life);
    const client = clientOf(id, store, () => {
      trainings++;
      life.isTraining = true;
    });
    const { ended: served, stop } = startSite(life.wire as SiteWire, keys, client, { store });
    life.stop = stop;
    await served.catch((error) => {
      if (!life.isDead) throw error;
    });
  }
  async function startCoordinating(): Promise<void> {
    const wire = hub.coordinator();
    const life: Life = { wire, isDead: false, isTraining: false };
    lives.set('coordinator', life);
    try {
      const { transport, sites } = await startCoordinator(wire, keys, ids, { spec: Buffer.from('the spec') });
      const onRound = async (state: FederationState, record: RoundRecord) => {
        happen('coordinator', 'before commit');
        if (life.isDead) gone();
        committed = await commit(state);
        records.push(record);
        happen('coordinator', 'after commit');
        if (life.isDead) gone();
      };
      let state = await resume(committed);
      while (state.round < rounds) {
        // A site that has just begun again, and whose last word the server has lost, takes part a moment later.
        await sites.until(() => transport.clients.length === ids.length);
        state = await runFederation(state, { ...federation, transport, rounds: state.round + 1, onRound });
      }
      if (!life.isDead) end(state);
    } catch (error) {
      if (!life.isDead) throw error;
    }
  }

  for (const who of [...ids, 'coordinator']) start(who);
  const state = await ended;
  isOver = true;
  fault = () => undefined;
  for (const life of lives.values()) await bury(life);
  return { bytes: await finalBytes(state, disks), records, trainings, kills, killedInTraining };
}
