/**
 * One round, from top to bottom: select → supply → train → weigh → upload and aggregate → server step. State goes in and comes out; until
 * the server step nothing of it has changed, so a round that fails or is aborted leaves it as it was.
 */
import type { ParameterEntry } from '../bindings/native.ts';
import type { CreateVector } from '../bindings/vector.ts';
import { emaDecayOver, rateAt } from '../ddpm/fit.ts';
import { PhoenixError } from '../errors.ts';
import { failureOf } from './failure.ts';
import {
  type ClientId,
  checkHead,
  type Failure,
  type Fit,
  type Hello,
  type Report,
  type RoundRecord,
  readReply,
  report,
  type TaskCodec,
  task,
} from './protocol.ts';
import { type Aggregate, type Aggregator, type AggregatorOptions, aggregatorFor } from './server/aggregate.ts';
import { type Ask, askWithin } from './server/ask.ts';
import { checkWaiting, gather, inOrder, quorumOf, type Waiting } from './server/gather.ts';
import { adaptWork, checkLocalWork, coherenceOf, type LocalWork, limitWork, scaleWork } from './server/local-work.ts';
import { checkNeeds } from './server/needs.ts';
import { askedSteps, normaliseMean, normaliseWeights, type Steps } from './server/normalise.ts';
import { selectClients } from './server/select.ts';
import { applyServerStep, checkServerStep, rateOfRound, type ServerStep, serverSteps, startingPoint } from './server/server-step.ts';
import { learn, type Probing, probeDue, type Sharing, type SupplyOptions, suppliedFit, supply, withoutLost } from './server/supplies.ts';
import { type ParameterSplit, splitParameters } from './site/personal.ts';
import type { FederationState } from './state.ts';
import { memoryStore, type Store } from './store.ts';
import { checkWeights } from './strategies/contract.ts';
import type { Strategy, Weights } from './strategy.ts';
import type { ClientStep, Reply, Transport } from './transport.ts';
import { encodeVector } from './wire/codec.ts';

/** What a round works with in addition to the state. */
export type RoundIo = {
  transport: Transport;
  strategy: Strategy;
  fit: Omit<Fit, 'globalStep' | 'shared' | 'probe'>;
  seed: number | bigint;
  /** Makes vectors on the device that those of the state lie on. */
  createVector: CreateVector;
  /** How the parameters of a task are sent. @default 'float32' */
  taskCodec?: TaskCodec;
  /** Share of the clients that a round selects, above 0 and at most 1. @default 1 */
  fraction?: number;
  /** How long a round waits, and for whom. @default for all that are alive; one answer is enough */
  waiting?: Waiting;
  /** How updates become one. @default what the strategy needs: a running sum, or all updates at once */
  aggregator?(options: AggregatorOptions): Aggregator;
  /** @default add with lr 1 */
  serverStep?: ServerStep;
  /** Largest decay per step of the server's EMA, in [0,1); 0 = the EMA is the parameters. @default 0.9999 */
  emaDecay?: number;
  /** The model's parameters by name; needed iff `fit.personal` is set. */
  parameters?: ParameterEntry[];
  /** Largest ‖δ‖₂ of an update; one above it is refused. @default no bound */
  normBound?: number;
  /** What all clients get of a shared set. @default none */
  sharing?: Sharing;
  /** How clients are probed for what the strategy needs. @default not at all */
  probing?: Probing;
  /** Adapts the clients' local images to how well their updates agree. @default as the fit says */
  localWork?: LocalWork;
  /** Most local images of a client in the round that begins; undefined: as many as planned. @default as many as planned for all */
  mostImages?(client: Hello): number | undefined;
  /** Whether updates are averaged per local step (FedNova, see server/normalise.ts). @default false */
  normalise?: boolean;
  /**
   * Keeps the updates of a round for a strategy that combines them, and what is handed out to clients over rounds. @default memory, for
   * this call
   */
  store?: Store;
  onStep?(step: ClientStep): void;
  signal?: AbortSignal;
};

export type RoundDone = {
  state: FederationState;
  record: RoundRecord;
  /**
   * Tells the clients that the round is over: to be called once it is committed. A client that cannot be reached learns it from the next
   * task.
   */
  finish(): Promise<void>;
};

/** Most attempts at a sum that an aggregator may ask for. */
const MAX_ATTEMPTS = 5;

/**
 * Runs round `state.round + 1`. The vectors of the state are changed in place, at the very end.
 * @throws PhoenixError ERR_PHOENIX_ROUND if too few clients finished, ERR_PHOENIX_ARGUMENT for options out of range or bad weights of the
 * strategy, ERR_PHOENIX_CONFIG for parts that cannot be combined, what the host throws (a full disk, say); an abort rejects with
 * `signal.reason`
 */
export async function runRound(state: FederationState, options: RoundIo): Promise<RoundDone> {
  const io = checked(state, options);
  const { transport, strategy, seed, fraction, waiting, signal, localWork } = io;
  const round = state.round + 1;
  const begun = { seconds: performance.now() / 1000, ...transport.traffic() };
  const split = io.fit.personal && splitParameters(io.parameters ?? [], io.fit.personal);
  const ask = askWithin(transport, { round, signal, onProgress: io.onStep });
  const wait = { round, waiting, lastSeen: transport.lastSeen, signal };
  const aggregator = io.aggregator(io);
  checkNeeds(partiesOf(io), { shows: aggregator.shows, probes: io.probing !== undefined, weightedMean: strategy.combine === undefined });
  try {
    // Select clients, and give them what they are to keep.
    const selected = selectClients(present(state, io), fraction, seed, round).map(({ id }) => id);
    const supplies: SupplyOptions = { ...io, ask, wait };
    const { supplied, failures } = await supply(state, selected, supplies);

    // Train: one model for all, a fit for each. The aggregator may exchange messages meanwhile.
    const cohort = selected.filter((id) => !failures.some(({ client }) => client === id));
    const fits = new Map<ClientId, Fit>();
    const fitOf = (client: Hello): Fit => {
      const fit: Fit = { ...io.fit, globalStep: state.globalStep };
      const own = strategy.fit?.(fit, client, state.strategy) ?? fit;
      const limited = limitWork(localWork ? scaleWork(own, client, state.work) : own, client, io.mostImages?.(client));
      fits.set(client.id, limited);
      return suppliedFit(limited, client.id, state, supplied, supplies);
    };
    const [trained] = await Promise.all([train(state, { cohort, fitOf, split, ask, wait }, io), aggregator.invite?.(cohort, ask)]);
    failures.push(...trained.failures);

    // Weigh, from the reports alone.
    const normal = io.normalise ? askedSteps(trained.reports, fits) : undefined;
    failures.push(...(normal?.failures ?? []));
    const counted = trained.reports.filter(({ client }) => normal?.steps.has(client) ?? true);
    const { reports, profiles, bins, refused } = await learn(counted, state.profiles, supplied, supplies);
    failures.push(...refused);
    if (reports.length < quorumOf(selected.length, waiting.quorum)) throw tooFewCameThrough(round, inOrder(selected, failures));
    const weighed = strategy.weigh(reports, state.strategy, profiles, bins?.reference);
    checkWeights(strategy.name, reports, weighed.weights);
    const counting = inOrder(selected, weighed.weights).filter(({ weight }) => weight > 0);
    const weights = normal ? normaliseWeights(counting, normal.steps) : counting;

    // Upload and aggregate.
    const length = split?.sharedCount ?? state.params.length;
    const sum = await aggregate(aggregator, { round, length, weights, reports, failures, ask, wait });

    // Step: from here on the state changes.
    const { steps, coherence } = await step(state, sum, { reports, split, shows: aggregator.shows, made: normal?.steps }, io).finally(() =>
      sum.mean.dispose(),
    );
    const record = recordOf(io, begun, { state, reports, failures: inOrder(selected, failures), weighed, sum, coherence });
    const next: FederationState = {
      ...state,
      round,
      globalStep: state.globalStep + steps,
      images: state.images + record.images,
      strategy: weighed.state,
      profiles,
      ...withoutLost({ ...supplied, bins }, trained.failures),
      work: localWork ? adaptWork(state.work, coherence, localWork) : state.work,
    };
    const over = () =>
      gather(
        selected,
        ask(selected, () => ({ kind: 'finish', head: {}, last: true })),
        { ...wait, kind: 'finish' },
      );
    return { state: next, record, finish: async () => void (await over()) };
  } finally {
    await aggregator.dispose();
  }
}

type CheckedIo = RoundIo &
  Required<Pick<RoundIo, 'fraction' | 'waiting' | 'aggregator' | 'serverStep' | 'emaDecay' | 'normBound' | 'store'>>;

/** The options with their defaults. @throws PhoenixError ERR_PHOENIX_ARGUMENT for one out of range */
function checked(state: FederationState, options: RoundIo): CheckedIo {
  const { fraction = 1, waiting = {}, aggregator = aggregatorFor, serverStep = serverSteps.add, store = memoryStore() } = options;
  const { emaDecay = 0.9999, normBound = Infinity, localWork } = options;
  if (localWork) checkLocalWork(localWork);
  checkWaiting(waiting);
  checkServerStep(serverStep, state.serverMoments);
  if (!(emaDecay >= 0 && emaDecay < 1)) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `emaDecay must be in [0,1), not ${emaDecay}.`);
  if (!(normBound > 0)) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `normBound must be above 0, not ${normBound}.`);
  return { ...options, fraction, waiting, aggregator, serverStep, emaDecay, normBound, store };
}

/** What looks at clients in a round, with what it needs to see. */
function partiesOf({ strategy, localWork, normalise, serverStep }: CheckedIo) {
  return [
    { name: `Strategy ${strategy.name}`, needs: { ...strategy.needs, ...(strategy.combine && { singleUpdates: true }) } },
    ...(localWork ? [{ name: 'Local work by drift', needs: { norms: true } }] : []),
    ...(normalise ? [{ name: 'Averaging per local step (normalise)', needs: { weightedMean: true } }] : []),
    ...(serverStep.lr === 'fedexp' ? [{ name: 'FedExP', needs: { norms: true } }] : []),
  ];
}

/** The clients that may be selected: all but those disconnected, or in quarantine and not due for a probe. */
function present(state: FederationState, { transport, strategy, probing }: RoundIo): Hello[] {
  const absent = strategy.absent?.(state.strategy) ?? {};
  const due = (id: string) => probing !== undefined && probeDue(id, state.round + 1, state.profiles, probing.every, false);
  return transport.clients.filter(({ id }) => absent[id] === undefined || (absent[id] === 'quarantine' && due(id)));
}

type Wait = SupplyOptions['wait'];
type Training = { cohort: ClientId[]; fitOf(client: Hello): Fit; split: ParameterSplit | undefined; ask: Ask; wait: Wait };

/** Sends the model to the cohort, encoded once; reports come back in the order of selection, whichever came first. */
async function train(
  { params: committed, serverMoments, round: done }: FederationState,
  { cohort, fitOf, split, ask, wait }: Training,
  { transport, taskCodec = 'float32', serverStep, createVector }: CheckedIo,
): Promise<{ reports: Report[]; failures: Failure[] }> {
  const ahead = await startingPoint(serverStep, committed, serverMoments, createVector);
  const whole = ahead ?? committed;
  const params = split ? createVector(split.sharedCount) : whole;
  try {
    if (split) await params.gather(whole, split.shared);
    const compress = taskCodec === 'bf16' ? 'bf16' : 'none';
    const { head: model, blob } = await encodeVector(params, { compress, asVector: transport.carriesVectors });
    const request = (client: Hello) => ({ kind: 'train', head: checkHead(task, 'task', { fit: fitOf(client), model }), blobs: [blob] });
    const { replies, failures } = await gather(cohort, ask(cohort, request), { ...wait, kind: 'train' });
    return readReports(replies, failures, done + 1);
  } finally {
    if (split) params.dispose();
    ahead?.dispose();
  }
}

/** Replies that do not fit are failures. */
function readReports(replies: Reply[], failures: Failure[], round: number): { reports: Report[]; failures: Failure[] } {
  const reports: Report[] = [];
  for (const { client, head } of replies) {
    try {
      reports.push({ client, round, ...readReply(report, { kind: 'train', client, head }) });
    } catch (error) {
      failures.push(failureOf(error, { client, round, stage: 'train' }, undefined));
    }
  }
  return { reports, failures };
}

type Uploads = { round: number; length: number; weights: Weights; reports: Report[]; failures: Failure[]; ask: Ask; wait: Wait };

/**
 * Asks all clients with a weight for their updates, and adds these up in the order of selection. What is lost or refused goes to
 * `failures`, and counts no more.
 * @throws PhoenixError ERR_PHOENIX_ROUND if no update arrived, or the aggregator asks for too many attempts
 */
async function aggregate(aggregator: Aggregator, { round, length, weights, reports, failures, ask, wait }: Uploads): Promise<Aggregate> {
  const norms = new Map(reports.map(({ client, deltaNorm }) => [client, deltaNorm]));
  let left = weights;
  for (let attempt = 1; ; attempt++) {
    const manifest = await aggregator.begin(left, { round, attempt, length });
    const weightOf = new Map(left.map(({ client, weight }) => [client, weight]));
    const ids = [...weightOf.keys()];
    const outcomes = ask(ids, ({ id }) => ({ kind: 'upload', head: { weight: weightOf.get(id)!, manifest } }));
    const uploads = await gather(ids, outcomes, { ...wait, kind: 'upload' });
    failures.push(...uploads.failures);
    const arrived: Weights = [];
    for (const { client, head, blobs } of uploads.replies) {
      const weight = weightOf.get(client)!;
      try {
        await aggregator.add({ client, round, weight, head, blobs, norm: norms.get(client) });
        arrived.push({ client, weight });
      } catch (error) {
        failures.push(failureOf(error, { client, round, stage: 'upload' }, wait.signal));
      }
    }
    if (arrived.length === 0) throw tooFewCameThrough(round, failures);
    const sum = await aggregator.finish(ask);
    if (!('again' in sum)) return sum;
    if (attempt === MAX_ATTEMPTS)
      throw new PhoenixError('ERR_PHOENIX_ROUND', `Round ${round} could not be summed in ${attempt} attempts: ${sum.again}.`);
    const total = arrived.reduce((all, { weight }) => all + weight, 0);
    left = arrived.map(({ client, weight }) => ({ client, weight: weight / total }));
  }
}

/**
 * Moves the global parameters by the mean update, and the EMA after them. Returns the steps that this counts for, and how well the updates
 * agree.
 * @throws PhoenixError ERR_PHOENIX_NOT_FINITE, before anything has changed
 */
async function step(
  state: FederationState,
  { mean, shares, norms }: Aggregate,
  { reports, split, shows, made }: { reports: Report[]; split: ParameterSplit | undefined; shows: Aggregator['shows']; made?: Steps },
  { serverStep, emaDecay, createVector, signal }: CheckedIo,
): Promise<{ steps: number; coherence: number | undefined }> {
  if (!(await mean.isFinite())) {
    const round = state.round + 1;
    throw new PhoenixError('ERR_PHOENIX_NOT_FINITE', `The mean update of round ${round} overflows: some client's update is far too large.`);
  }
  signal?.throwIfAborted();
  const share = (client: ClientId) => shares.get(client) ?? 0;
  const meanNorm = Math.sqrt(await mean.dot(mean));
  const reported = reports.flatMap(({ client, deltaNorm }) => (deltaNorm === undefined ? [] : ([[client, deltaNorm]] as const)));
  const known = shows.singleUpdates ? [...norms] : shows.norms ? reported : [];
  const updates = known.map(([client, norm]) => ({ weight: share(client), norm }));
  const parts = updates.map(({ weight, norm }) => weight * norm);
  const { scale, effectiveSteps } = made
    ? normaliseMean(shares, made)
    : { scale: 1, effectiveSteps: reports.reduce((total, { client, steps }) => total + share(client) * steps, 0) };
  const steps = Math.max(1, Math.round(effectiveSteps));
  const update = split ? createVector(state.params.length) : mean;
  try {
    if (scale !== 1) await mean.scale(scale);
    if (split) await update.scatter(mean, split.shared);
    await applyServerStep(serverStep, rateOfRound(serverStep, updates, meanNorm), state.params, update, state.serverMoments);
  } finally {
    if (split) update.dispose();
  }
  await state.ema.interpolate(state.params, 1 - emaDecayOver(state.globalStep, steps, emaDecay));
  return { steps, coherence: coherenceOf(parts, meanNorm) };
}

type Course = {
  state: FederationState;
  reports: Report[];
  failures: Failure[];
  weighed: ReturnType<Strategy['weigh']>;
  sum: Aggregate;
  coherence: number | undefined;
};

/** What the log keeps of a round that began at `begun`. */
function recordOf(
  { transport, fit: { fall } }: RoundIo,
  begun: { seconds: number; bytesUp: number; bytesDown: number },
  { state, reports, failures, weighed, sum, coherence }: Course,
): RoundRecord {
  const { bytesUp, bytesDown } = transport.traffic();
  return {
    round: state.round + 1,
    loss: meanLoss(reports),
    evalLoss: heldOutMean(reports, 'evalLoss'),
    evalLossLocal: heldOutMean(reports, 'evalLossLocal'),
    images: reports.reduce((total, { images }) => total + images, 0),
    bytesUp: bytesUp - begun.bytesUp,
    bytesDown: bytesDown - begun.bytesDown,
    seconds: performance.now() / 1000 - begun.seconds,
    clients: reports.map((report) => ({ ...report, weight: sum.shares.get(report.client) ?? 0 })),
    failures,
    notes: [...(weighed.notes ?? []), ...sum.notes],
    ...(weighed.decisions?.length && { decisions: weighed.decisions }),
    ...(coherence !== undefined && { coherence }),
    work: state.work,
    ...(fall && { rate: rateAt(fall.to, fall.share) }),
  };
}

/** Σ loss·images / Σ images over the clients that reported their loss; null if none did. */
function meanLoss(reports: Report[]): number | null {
  const told = reports.filter(({ loss }) => loss !== undefined);
  const images = told.reduce((total, report) => total + report.images, 0);
  return told.length === 0 ? null : told.reduce((total, report) => total + report.loss! * report.images, 0) / images;
}

function heldOutMean(reports: Report[], key: 'evalLoss' | 'evalLossLocal'): number | null {
  const held = reports.filter((report) => report[key] !== undefined && report.evalImages > 0);
  if (held.length === 0) return null;
  const images = held.reduce((total, report) => total + report.evalImages, 0);
  return held.reduce((total, report) => total + report[key]! * report.evalImages, 0) / images;
}

function tooFewCameThrough(round: number, failures: Failure[]): PhoenixError {
  const reasons = failures.slice(0, 5).map(({ client, stage, reason }) => `${client} (${stage}): ${reason}`);
  const more = failures.length > 5 ? `; and ${failures.length - 5} more` : '';
  return new PhoenixError(
    'ERR_PHOENIX_ROUND',
    `Too few clients finished round ${round}, so the model is unchanged. ${reasons.join('; ')}${more}`,
  );
}
