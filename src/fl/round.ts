/**
 * One round, from top to bottom: select → supply → train → weigh → upload and add up (or combine) → server step. State goes in and comes out; until the server
 * step nothing of it has changed, so a round that fails or is aborted leaves it as it was.
 */
import type { ParameterEntry } from '../bindings/native.ts';
import { createVector as nativeVector, type Vector } from '../bindings/vector.ts';
import { emaDecayOver } from '../ddpm/fit.ts';
import { PhoenixError } from '../errors.ts';
import { failureOf } from './failure.ts';
import { adaptWork, checkLocalWork, coherenceOf, type LocalWork, scaleWork } from './server/local-work.ts';
import { selectClients } from './server/select.ts';
import { applyServerStep, checkServerStep, type ServerStep, serverSteps } from './server/server-step.ts';
import { learn, type Probing, probeDue, type Sharing, type SupplyOptions, suppliedFit, supply, withoutLost } from './server/supplies.ts';
import { collectUpdates } from './server/updates.ts';
import { splitParameters } from './site/personal.ts';
import { memoryStore } from './store.ts';
import { checkWeights } from './strategies/contract.ts';
import type {
  ClientInfo,
  ClientStep,
  Failure,
  FederationState,
  Fit,
  Report,
  RoundRecord,
  Store,
  Strategy,
  Task,
  Transport,
  Weights,
} from './types.ts';
import { type CreateVector, decodeUpdate, weightedSum } from './wire/vector.ts';

/** What a round works with besides the state. */
export type RoundIo = {
  transport: Transport;
  strategy: Strategy;
  fit: Omit<Fit, 'globalStep'>;
  /** How the parameters of a task are sent. @default 'float32' */
  taskCodec?: Task['codec'];
  seed: number | bigint;
  /** Share of the clients that a round selects, above 0 and at most 1. @default 1 */
  fraction?: number;
  /** @default add with lr 1 */
  serverStep?: ServerStep;
  /** Largest decay a step of the server's EMA, in [0,1); 0 = the EMA is the parameters. @default 0.9999 */
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
  /** Keeps the updates of a round for a strategy with `combine`, and what is handed out to clients over rounds. @default memory, for this call */
  store?: Store;
  /** @default native vectors */
  createVector?: CreateVector;
  onStep?(step: ClientStep): void;
  signal?: AbortSignal;
};

/**
 * Runs round `state.round + 1`. The vectors of the state are changed in place, at the very end.
 * @throws PhoenixError ERR_PHOENIX_ROUND if no client came through, ERR_PHOENIX_ARGUMENT for options out of range or bad weights of the
 * strategy, what the host throws (a full disk, say); an abort rejects with `signal.reason`
 */
export async function runRound(state: FederationState, io: RoundIo): Promise<{ state: FederationState; record: RoundRecord }> {
  const {
    transport,
    strategy,
    seed,
    fraction = 1,
    serverStep = serverSteps.add,
    emaDecay = 0.9999,
    normBound = Infinity,
    createVector = nativeVector,
    store = memoryStore(),
    localWork,
    signal,
  } = io;
  if (localWork) checkLocalWork(localWork);
  checkServerStep(serverStep, state.serverMoments);
  if (!(emaDecay >= 0 && emaDecay < 1)) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `emaDecay must be in [0,1), not ${emaDecay}.`);
  if (!(normBound > 0)) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `normBound must be above 0, not ${normBound}.`);
  const round = state.round + 1;
  const started = performance.now();
  const before = transport.traffic();

  const split = io.fit.personal && splitParameters(io.parameters ?? [], io.fit.personal);
  const selected = selectClients(present(state, io), fraction, seed, round).map((client) => client.id);
  const supplies: SupplyOptions = { ...io, store };
  const { supplied, failures: unsupplied } = await supply(state, selected, supplies);
  const params = split ? createVector(split.sharedCount) : state.params;
  if (split) await params.gather(state.params, split.shared);
  const fitOf = (client: ClientInfo): Fit => {
    const fit: Fit = { ...io.fit, globalStep: state.globalStep };
    const own = strategy.fit?.(fit, client, state.strategy) ?? fit;
    return suppliedFit(localWork ? scaleWork(own, client, state.work) : own, client.id, state, supplied, supplies);
  };
  const asked = selected.filter((client) => !unsupplied.some((failure) => failure.client === client));
  const answers = await train(asked, round, fitOf, params, io).finally(() => split && params.dispose());
  const failures = inOrder(selected, [...unsupplied, ...answers.failures]);
  const { reports, profiles, bins, refused } = await learn(answers.reports, state.profiles, supplied, supplies);
  failures.push(...refused);
  if (reports.length === 0) throw nobodyCameThrough(round, failures);
  const weighed = strategy.weigh(reports, state.strategy, profiles, bins?.reference);
  checkWeights(strategy.name, reports, weighed.weights);

  const weights = inOrder(selected, weighed.weights).filter(({ weight }) => weight > 0);
  const length = split?.sharedCount ?? state.params.length;
  const { mean, shares, norms, notes } = await (strategy.combine
    ? combine(strategy, weights, round, length, failures, { ...io, store })
    : addUp(weights, round, length, failures, io));
  try {
    if (!(await mean.isFinite()))
      throw new PhoenixError(
        'ERR_PHOENIX_NOT_FINITE',
        `The mean update of round ${round} overflows: some client's update is far too large.`,
      );
    await transport.finish(selected, round);
    signal?.throwIfAborted();

    const share = (client: string) => shares.get(client) ?? 0;
    const coherence = coherenceOf(
      [...norms].map(([client, norm]) => share(client) * norm),
      Math.sqrt(await mean.dot(mean)),
    );
    const steps = Math.max(1, Math.round(reports.reduce((total, report) => total + share(report.client) * report.steps, 0)));
    const update = split ? createVector(state.params.length) : mean;
    try {
      if (split) await update.scatter(mean, split.shared);
      await applyServerStep(serverStep, state.params, update, state.serverMoments);
    } finally {
      if (split) update.dispose();
    }
    await state.ema.interpolate(state.params, 1 - emaDecayOver(state.globalStep, steps, emaDecay));

    const after = transport.traffic();
    const images = reports.reduce((total, report) => total + report.images, 0);
    const record: RoundRecord = {
      round,
      loss: reports.reduce((total, report) => total + report.loss * report.images, 0) / images,
      evalLoss: heldOutMean(reports, 'evalLoss'),
      evalLossLocal: heldOutMean(reports, 'evalLossLocal'),
      images,
      bytesUp: after.bytesUp - before.bytesUp,
      bytesDown: after.bytesDown - before.bytesDown,
      seconds: (performance.now() - started) / 1000,
      clients: reports.map((report) => ({ ...report, weight: share(report.client) })),
      failures,
      notes: [...(weighed.notes ?? []), ...notes],
      ...(weighed.decisions?.length && { decisions: weighed.decisions }),
      ...(coherence !== undefined && { coherence }),
      work: state.work,
    };
    return {
      state: {
        ...state,
        round,
        globalStep: state.globalStep + steps,
        images: state.images + images,
        strategy: weighed.state,
        profiles,
        ...withoutLost({ ...supplied, bins }, answers.failures),
        work: localWork ? adaptWork(state.work, coherence, localWork) : state.work,
      },
      record,
    };
  } finally {
    mean.dispose();
  }
}

/** The clients that may be selected: all but those disconnected, or in quarantine and not due for a probe. */
function present(state: FederationState, { transport, strategy, probing }: RoundIo): ClientInfo[] {
  const absent = strategy.absent?.(state.strategy) ?? {};
  const due = (id: string) => probing !== undefined && probeDue(id, state.round + 1, state.profiles, probing.every, false);
  return transport.clients.filter(({ id }) => absent[id] === undefined || (absent[id] === 'quarantine' && due(id)));
}

/** Sends the tasks out; reports come back in the order of selection, whichever came first. */
async function train(
  selected: string[],
  round: number,
  fitOf: (client: ClientInfo) => Fit,
  params: Vector,
  { transport, taskCodec: codec, onStep, signal }: RoundIo,
): Promise<{ reports: Report[]; failures: Failure[] }> {
  const outcomes = transport.train(selected, (client) => ({ round, fit: fitOf(client), params, codec }), { onStep, signal });
  const reports: Report[] = [];
  const failures: Failure[] = [];
  for await (const outcome of outcomes) {
    if ('reason' in outcome) failures.push(outcome);
    else reports.push(outcome);
  }
  signal?.throwIfAborted();
  return { reports: inOrder(selected, reports), failures: inOrder(selected, failures) };
}

/** The update of a round, what each client's share in it is (sum 1), ‖δ‖ of each as it arrived, and notes for the log. */
type Mean = { mean: Vector; shares: Map<string, number>; norms: Map<string, number>; notes: string[] };

/** Σ w·δ / Σ w over what arrives, holding one δ at a time. */
async function addUp(weights: Weights, round: number, length: number, failures: Failure[], io: RoundIo): Promise<Mean> {
  const sum = weightedSum(length, io.createVector);
  const arrived: Weights = [];
  try {
    const norms = await receive(weights, round, length, failures, io, async (client, weight, delta) => {
      await sum.add(delta, weight);
      arrived.push({ client, weight });
    });
    const shares = new Map(arrived.map(({ client, weight }) => [client, weight / sum.weight()]));
    return { mean: await sum.mean(), shares, norms, notes: [] };
  } catch (error) {
    sum.dispose();
    throw error;
  }
}

/** What the strategy makes of all updates. */
async function combine(
  strategy: Strategy,
  weights: Weights,
  round: number,
  length: number,
  failures: Failure[],
  io: RoundIo,
): Promise<Mean> {
  const updates = collectUpdates(length, weights.length, io.store ?? memoryStore(), io.createVector ?? nativeVector);
  try {
    const norms = await receive(weights, round, length, failures, io, updates.add);
    const combined = await strategy.combine!(updates);
    const counted = 'weights' in combined ? combined.weights : updates.weights;
    checkWeights(
      strategy.name,
      updates.clients.map((client) => ({ client })),
      counted.map((weight, i) => ({ client: updates.clients[i]!, weight: 'weights' in combined ? weight : weight / total(counted) })),
    );
    const shares = new Map(updates.clients.map((client, i) => [client, counted[i]! / total(counted)]));
    const mean = 'mean' in combined ? combined.mean : await updates.weightedMean(combined.weights);
    return { mean, shares, norms, notes: combined.notes ?? [] };
  } finally {
    await updates.drop();
  }
}

const total = (values: number[]) => values.reduce((sum, value) => sum + value, 0);

/**
 * Asks each client for its update and hands it to `take`; who is lost or refused goes to `failures`. Returns the norms of those that arrived.
 * @throws PhoenixError if none did
 */
async function receive(
  weights: Weights,
  round: number,
  length: number,
  failures: Failure[],
  io: RoundIo,
  take: (client: string, weight: number, delta: Vector) => Promise<void>,
): Promise<Map<string, number>> {
  const { transport, normBound = Infinity, createVector = nativeVector, signal } = io;
  const norms = new Map<string, number>();
  const delta = createVector(length);
  try {
    for (const { client, weight } of weights) {
      let norm: number;
      try {
        const update = await transport.upload(client, round, signal);
        await decodeUpdate(update, { client, round, into: delta });
        norm = Math.sqrt(await delta.dot(delta));
        if (norm > normBound) {
          throw new PhoenixError(
            'ERR_PHOENIX_MESSAGE',
            `The update of client ${client} in round ${round} has the norm ${norm.toPrecision(4)}, of at most ${normBound}: it was refused.`,
          );
        }
      } catch (error) {
        failures.push(failureOf(error, { client, round, stage: 'upload' }, signal));
        continue;
      }
      await take(client, weight, delta);
      norms.set(client, norm);
    }
  } finally {
    delta.dispose();
  }
  if (norms.size === 0) throw nobodyCameThrough(round, failures);
  return norms;
}

const inOrder = <T extends { client: string }>(ids: string[], items: T[]): T[] =>
  items.toSorted((a, b) => ids.indexOf(a.client) - ids.indexOf(b.client));

function heldOutMean(reports: Report[], key: 'evalLoss' | 'evalLossLocal'): number | null {
  const held = reports.filter((report) => report[key] !== undefined && report.evalImages > 0);
  if (held.length === 0) return null;
  const images = held.reduce((total, report) => total + report.evalImages, 0);
  return held.reduce((total, report) => total + report[key]! * report.evalImages, 0) / images;
}

function nobodyCameThrough(round: number, failures: Failure[]): PhoenixError {
  const reasons = failures.slice(0, 5).map(({ client, stage, reason }) => `${client} (${stage}): ${reason}`);
  const more = failures.length > 5 ? `; and ${failures.length - 5} more` : '';
  return new PhoenixError(
    'ERR_PHOENIX_ROUND',
    `No client came through round ${round}, so the model stays as it was. ${reasons.join('; ')}${more}`,
  );
}
