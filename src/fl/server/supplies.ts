/**
 * What a round sends in addition to the model: shared images and bins to keep, and requests for client statistics. All of it follows from
 * the state and the options, so a resumed round hands out the same.
 */
import { type Features, featureMatrix, kMeans } from '../../ddpm/metrics/index.ts';
import { PhoenixError } from '../../errors.ts';
import type { ClientId, Failure, Fit, Probe, Report } from '../protocol.ts';
import { parcel } from '../protocol.ts';
import type { FederationState, Profiles, Sent } from '../state.ts';
import type { Store } from '../store.ts';
import type { Strategy } from '../strategy.ts';
import { message, packMessage, unpackMessage } from '../wire/message.ts';
import { decodeParcel, encodeParcel, type Parcel } from '../wire/parcel.ts';
import type { Ask } from './ask.ts';
import { type GatherOptions, gather } from './gather.ts';
import { pickShare, type SharedSet } from './sharing.ts';

export type Sharing = {
  /** Share of the set that each client receives, in (0,1]. */
  alpha: number;
} & (
  | { set: SharedSet }
  /** A set drawn from the model, anew every so many rounds; before that there is none. */
  | { every: number; draw(state: FederationState, round: number, signal?: AbortSignal): Promise<SharedSet> }
);

export type Probing = {
  /** Rounds from one probe of a client to the next. */
  every: number;
  samples: number;
  steps: number;
  histogramOf: 'data' | 'samples';
  histogramNoise: number;
  /** Bins wanted; fewer where there are fewer points to make them of. */
  bins: number;
  /** Features of what bins are to be made of, at the first round. @default bins are made of the points that clients report at first */
  reference?: Features;
};

export type SupplyOptions = {
  sharing?: Sharing;
  probing?: Probing;
  strategy: Strategy;
  store: Store;
  seed: number | bigint;
  /** How clients are asked, and how long they are waited for. */
  ask: Ask;
  wait: Omit<GatherOptions, 'kind'>;
};

/** What has been handed out; a part of FederationState. */
export type Supplied = Pick<FederationState, 'shared' | 'bins'>;

/** Entries of the Store: parcels whole. No client's id begins with a dot. */
const SHARED = '.supplies/shared';
const BINS = '.supplies/bins';

/**
 * Makes what is due and sends it to the selected clients that lack it. A client that cannot be reached, or refuses, is a Failure.
 * @throws PhoenixError ERR_PHOENIX_RUN if the Store lost what was made before
 */
export async function supply(
  state: FederationState,
  selected: ClientId[],
  io: SupplyOptions,
): Promise<{ supplied: Supplied; failures: Failure[] }> {
  const { sharing, probing, strategy, store, seed, wait } = io;
  const round = state.round + 1;
  const failures: Failure[] = [];

  let { shared, bins } = state;
  let wholeSet: () => Promise<SharedSet> = () => fetch(store, SHARED, 'shared');
  if (sharing && 'set' in sharing) {
    shared ??= { version: round, to: [] };
    wholeSet = async () => sharing.set;
  } else if (sharing && round > sharing.every && (!shared || round - shared.version >= sharing.every)) {
    shared = { version: round, to: [] };
    await keep(store, SHARED, { what: 'shared', version: round, ...(await sharing.draw(state, round, wait.signal)) });
  }
  if (!bins && probing?.reference && strategy.needs?.histogram) bins = await makeBins(probing.reference, round, probing.bins, store);

  const give = async <S extends Sent>(sent: S, parcelFor: (client: ClientId) => Promise<Parcel>): Promise<S> => {
    const lost = new Set(failures.map(({ client }) => client));
    const without = selected.filter((client) => !sent.to.includes(client) && !lost.has(client));
    const outcomes = io.ask(without, async ({ id }) => ({ kind: 'parcel', ...(await encodeParcel(await parcelFor(id))) }));
    const given = await gather(without, outcomes, { ...wait, kind: 'parcel' });
    failures.push(...given.failures);
    return { ...sent, to: [...sent.to, ...given.replies.map(({ client }) => client)] };
  };
  if (shared && sharing) {
    const { version } = shared;
    const set = once(wholeSet);
    shared = await give(shared, async (client) => ({
      what: 'shared',
      version,
      ...pickShare(await set(), sharing.alpha, seed, client, version),
    }));
  }
  if (bins) {
    const made = once(() => fetch(store, BINS, 'bins'));
    bins = await give(bins, made);
  }
  return { supplied: { ...(shared && { shared }), ...(bins && { bins }) }, failures };
}

/** A function that calls `make` when it is first called. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make();
    return made;
  };
}

/** What was handed out, less what went to clients that failed since: they may have lost it, and get it again. */
export function withoutLost({ shared, bins }: Supplied, failures: Failure[]): Supplied {
  const lost = new Set(failures.map((failure) => failure.client));
  const left = <S extends Sent>(sent: S): S => ({ ...sent, to: sent.to.filter((client) => !lost.has(client)) });
  return { ...(shared && { shared: left(shared) }), ...(bins && { bins: left(bins) }) };
}

/** Whether a client is to be probed in this round: when it never was, or long enough ago, or has no histogram though there are bins. */
export function probeDue(client: ClientId, round: number, profiles: Profiles, every: number, needsHistogram: boolean): boolean {
  const profile = profiles[client];
  return !profile || round - profile.round >= every || (needsHistogram && !profile.histogram);
}

/** The fit with the shared images and the probe that are due. */
export function suppliedFit(fit: Fit, client: ClientId, state: FederationState, { shared, bins }: Supplied, io: SupplyOptions): Fit {
  const needs = io.strategy.needs ?? {};
  const { probing } = io;
  const round = state.round + 1;
  let probe: Probe | undefined;
  if (probing && Object.keys(needs).length > 0 && probeDue(client, round, state.profiles, probing.every, !!needs.histogram)) {
    const { samples, steps, histogramOf, histogramNoise } = probing;
    probe = {
      samples,
      steps,
      statistic: needs.statistic,
      vendi: needs.vendi || undefined,
      histogram: needs.histogram ? { of: histogramOf, noise: histogramNoise } : undefined,
      bins: needs.histogram ? bins?.version : undefined,
    };
  }
  return { ...fit, ...(shared && { shared: shared.version }), ...(probe && { probe }) };
}

/**
 * Takes what clients have found out into the profiles; points that they report become bins, if there are none yet. A histogram over other
 * bins than the client was given makes its report a Failure.
 */
export async function learn(
  answers: Report[],
  profiles: Profiles,
  { bins: given }: Supplied,
  io: SupplyOptions,
): Promise<{ reports: Report[]; profiles: Profiles; bins?: Supplied['bins']; refused: Failure[] }> {
  const known: Profiles = { ...profiles };
  const reports: Report[] = [];
  const refused: Failure[] = [];
  const points: number[][] = [];
  for (const { points: reported, ...report } of answers) {
    const { client, round, examples, quality, vendi, histogram } = report;
    if (histogram && histogram.length !== given?.count) {
      const reason = `its histogram has ${histogram.length} bins instead of ${given?.count ?? 'none'}`;
      refused.push({ client, round, stage: 'train', reason });
      continue;
    }
    reports.push(report);
    points.push(...(reported ?? []));
    if (quality === undefined && vendi === undefined && !histogram && !reported) continue;
    known[client] = asJson({ round, examples, quality, vendi, histogram: histogram ?? profiles[client]?.histogram });
  }
  const made = !given && io.probing && points.length > 0 ? await binsOfPoints(points, answers[0]!.round, io.probing.bins, io.store) : given;
  return { reports, profiles: known, ...(made && { bins: made }), refused };
}

/** Points of another length than most are left out: some client has other features than the rest. */
async function binsOfPoints(points: number[][], version: number, count: number, store: Store): Promise<Supplied['bins']> {
  const votes = new Map<number, number>();
  for (const { length } of points) votes.set(length, (votes.get(length) ?? 0) + 1);
  const [columns] = [...votes].reduce((most, vote) => (vote[1] > most[1] ? vote : most));
  const usual = points.filter((point) => point.length === columns);
  const { reference: _, ...made } = await makeBins(featureMatrix(Float64Array.from(usual.flat()), columns), version, count, store);
  return made;
}

/** Without the fields that are undefined: a state is plain JSON. */
const asJson = <T extends object>(value: T): T => Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as T;

async function makeBins(from: Features, version: number, count: number, store: Store): Promise<NonNullable<Supplied['bins']>> {
  const { centres, assignment } = await kMeans(from, Math.min(count, from.rows));
  const { rows, columns } = centres;
  await keep(store, BINS, { what: 'bins', version, rows, columns, centres: Float32Array.from(centres.data) });
  const reference = Array<number>(rows).fill(0);
  for (const bin of assignment) reference[bin]!++;
  return { version, to: [], count: rows, reference };
}

async function keep(store: Store, key: string, made: Parcel): Promise<void> {
  const { head, blobs } = await encodeParcel(made);
  await store.set(key, await packMessage(message('parcel', made.version, head, blobs)));
}

async function fetch<W extends Parcel['what']>(store: Store, key: string, what: W): Promise<Parcel & { what: W }> {
  const bytes = await store.get(key);
  const kept = bytes && unpackMessage(bytes);
  const made = kept && (await decodeParcel(parcel.parse(kept.head), kept.blobs));
  if (made?.what === what) return made as Parcel & { what: W };
  throw new PhoenixError('ERR_PHOENIX_RUN', `The run has lost its ${key}: begin a new run.`);
}
