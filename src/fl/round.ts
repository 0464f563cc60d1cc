/**
 * One round, from top to bottom: select → train → weigh → upload and add up → server step. State goes in and comes out; until the server
 * step nothing of it has changed, so a round that fails or is aborted leaves it as it was.
 */
import { createVector as nativeVector, type Vector } from '../bindings/vector.ts';
import { emaDecayOver } from '../ddpm/unet.ts';
import { PhoenixError } from '../errors.ts';
import { failureOf } from './failure.ts';
import { selectClients } from './select.ts';
import { applyServerStep, checkServerStep, type ServerStep, serverSteps } from './server-step.ts';
import { checkWeights } from './strategies/contract.ts';
import type { ClientStep, Failure, FederationState, Fit, Report, RoundRecord, Strategy, Transport, Weights } from './types.ts';
import { type CreateVector, decodeUpdate, type WeightedSum, weightedSum } from './vector.ts';

/** What a round works with besides the state. */
export type RoundIo = {
  transport: Transport;
  strategy: Strategy;
  fit: Omit<Fit, 'globalStep'>;
  seed: number | bigint;
  /** Share of the clients that a round selects, above 0 and at most 1. @default 1 */
  fraction?: number;
  /** @default add with lr 1 */
  serverStep?: ServerStep;
  /** Largest decay a step of the server's EMA, in [0,1); 0 = the EMA is the parameters. @default 0.9999 */
  emaDecay?: number;
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
    createVector = nativeVector,
    signal,
  } = io;
  checkServerStep(serverStep, state.serverMoments);
  if (!(emaDecay >= 0 && emaDecay < 1)) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `emaDecay must be in [0,1), not ${emaDecay}.`);
  const round = state.round + 1;
  const started = performance.now();
  const before = transport.traffic();

  const selected = selectClients(transport.clients, fraction, seed, round).map((client) => client.id);
  const { reports, failures } = await train(selected, round, state, io);
  if (reports.length === 0) throw nobodyCameThrough(round, failures);
  const weighed = strategy.weigh(reports, state.strategy);
  checkWeights(strategy.name, reports, weighed.weights);

  const sum = weightedSum(state.params.length, createVector);
  try {
    const delta = createVector(state.params.length);
    const arrived = await addUp(inOrder(selected, weighed.weights), round, sum, delta, failures, io).finally(() => delta.dispose());
    if (arrived.size === 0) throw nobodyCameThrough(round, failures);
    const mean = await sum.mean();
    if (!(await mean.isFinite()))
      throw new PhoenixError(
        'ERR_PHOENIX_NOT_FINITE',
        `The mean update of round ${round} overflows: some client's update is far too large.`,
      );
    await transport.finish(selected, round);
    signal?.throwIfAborted();

    const share = (client: string) => (arrived.get(client) ?? 0) / sum.weight();
    const steps = Math.max(1, Math.round(reports.reduce((total, report) => total + share(report.client) * report.steps, 0)));
    await applyServerStep(serverStep, state.params, mean, state.serverMoments);
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
      notes: weighed.notes ?? [],
    };
    return {
      state: { ...state, round, globalStep: state.globalStep + steps, images: state.images + images, strategy: weighed.state },
      record,
    };
  } finally {
    sum.dispose();
  }
}

/** Sends the tasks out; reports come back in the order of selection, whichever came first. */
async function train(
  selected: string[],
  round: number,
  state: FederationState,
  io: RoundIo,
): Promise<{ reports: Report[]; failures: Failure[] }> {
  const { transport, strategy, onStep, signal } = io;
  const fit: Fit = { ...io.fit, globalStep: state.globalStep };
  const outcomes = transport.train(
    selected,
    (client) => ({ round, fit: strategy.fit?.(fit, client, state.strategy) ?? fit, params: state.params }),
    { onStep, signal },
  );
  const reports: Report[] = [];
  const failures: Failure[] = [];
  for await (const outcome of outcomes) {
    if ('reason' in outcome) failures.push(outcome);
    else reports.push(outcome);
  }
  signal?.throwIfAborted();
  return { reports: inOrder(selected, reports), failures: inOrder(selected, failures) };
}

/** Adds w·δ of each client to `sum`, holding one δ at a time; who is lost goes to `failures`. Returns the weights of those that arrived. */
async function addUp(
  weights: Weights,
  round: number,
  sum: WeightedSum,
  delta: Vector,
  failures: Failure[],
  io: RoundIo,
): Promise<Map<string, number>> {
  const arrived = new Map<string, number>();
  for (const { client, weight } of weights) {
    if (weight === 0) continue;
    try {
      const update = await io.transport.upload(client, round, io.signal);
      await decodeUpdate(update, { client, round, into: delta });
    } catch (error) {
      failures.push(failureOf(error, { client, round, stage: 'upload' }, io.signal));
      continue;
    }
    await sum.add(delta, weight);
    arrived.set(client, weight);
  }
  return arrived;
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
