/**
 * How the updates of a round become one. An aggregator is invited while clients train, begins once weights are known, takes updates in the
 * order of selection, and finishes. What wraps one (a bound, noise, masks) is an aggregator too.
 */
import type { CreateVector, Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';
import { type ClientId, readReply, update } from '../protocol.ts';
import type { Store } from '../store.ts';
import { checkWeights } from '../strategies/contract.ts';
import type { Strategy, Weights } from '../strategy.ts';
import type { Blob } from '../transport.ts';
import { decodeVector } from '../wire/codec.ts';
import type { Ask } from './ask.ts';
import { weightedSum } from './sum.ts';
import { collectUpdates } from './updates.ts';

/** What a sum is of. */
export type Manifest = {
  round: number;
  /** From 1; more where an aggregator asked for another. */
  attempt: number;
  /** Values of an update. */
  length: number;
};

/** One client's reply to `upload` as it came; its head is for the aggregator to read. `norm`: ‖update‖₂ as the client's report says. */
export type Arrived = { client: ClientId; round: number; weight: number; head: object; blobs: Blob[]; norm?: number };

/** The update of the round, each client's share in it (sum 1), the norms of single updates where they are seen, and notes for the log. */
export type Aggregate = { mean: Vector; shares: Map<ClientId, number>; norms: Map<ClientId, number>; notes: string[] };

export type Aggregator = {
  /**
   * What it lets the server know of single clients: their updates; and the norms of these, measured where updates are seen, else as
   * reported.
   */
  shows: { singleUpdates: boolean; norms: boolean };
  /** Called when the cohort is selected; goes on while clients train, and may exchange messages. @default nothing */
  invite?(cohort: ClientId[], ask: Ask): Promise<void>;
  /** Begins a sum of these weights. What it returns goes to each client with its weight. */
  begin(weights: Weights, manifest: Manifest): Promise<Record<string, unknown>>;
  /** Takes one update. @throws PhoenixError ERR_PHOENIX_MESSAGE for one that must be left out */
  add(update: Arrived): Promise<void>;
  /** Ends the sum; may exchange messages. `again`: why another attempt is needed, over the clients that are left. */
  finish(ask: Ask): Promise<Aggregate | { again: string }>;
  /** Gives up what a sum that was not finished holds. */
  dispose(): Promise<void>;
};

export type AggregatorOptions = {
  strategy: Strategy;
  /** Largest ‖update‖₂; one above it is refused. */
  normBound: number;
  /** Keeps the updates of a round that are collected. */
  store: Store;
  createVector: CreateVector;
};

/** How far a measured norm may be from the reported one, relative to that. */
const NORM_TOLERANCE = 1e-4;

/**
 * Decodes one update into `into` and returns its norm.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE if it does not decode, is not finite, exceeds the bound, or has another norm than was reported
 */
async function measure({ client, round, head, blobs, norm: reported }: Arrived, into: Vector, normBound: number): Promise<number> {
  const refuse = (why: string): never => {
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `The update of client ${client} in round ${round} ${why}: it was refused.`);
  };
  await decodeVector(readReply(update, { kind: 'upload', client, head }), blobs, into);
  const norm = Math.sqrt(await into.dot(into));
  if (norm > normBound) refuse(`has the norm ${norm.toPrecision(4)}, of at most ${normBound}`);
  if (reported !== undefined && !(Math.abs(norm - reported) <= NORM_TOLERANCE * reported))
    refuse(`has the norm ${norm.toPrecision(6)}, but its report says ${reported.toPrecision(6)}`);
  return norm;
}

/** The aggregator that a strategy asks for: a running sum, or one that collects all updates. */
export function aggregatorFor(options: AggregatorOptions): Aggregator {
  return options.strategy.combine ? collectingAggregator(options) : summingAggregator(options);
}

/** Σ w·δ / Σ w over what arrives, holding one δ at a time. */
export function summingAggregator({ normBound, createVector }: Omit<AggregatorOptions, 'strategy' | 'store'>): Aggregator {
  let sum: ReturnType<typeof weightedSum> | undefined;
  let delta: Vector | undefined;
  let arrived: Weights = [];
  let norms = new Map<ClientId, number>();
  const freeDelta = () => {
    delta?.dispose();
    delta = undefined;
  };
  const free = async () => {
    freeDelta();
    sum?.dispose();
    sum = undefined;
  };
  return {
    shows: { singleUpdates: true, norms: true },
    async begin(_, { length }) {
      await free();
      arrived = [];
      norms = new Map();
      sum = weightedSum(length, createVector);
      delta = createVector(length);
      return {};
    },
    async add(update) {
      norms.set(update.client, await measure(update, delta!, normBound));
      await sum!.add(delta!, update.weight);
      arrived.push(update);
    },
    async finish() {
      freeDelta();
      const shares = new Map(arrived.map(({ client, weight }) => [client, weight / sum!.weight()]));
      const mean = await sum!.mean();
      sum = undefined;
      return { mean, shares, norms, notes: [] };
    },
    dispose: free,
  };
}

/** All updates at once, for a strategy that combines them. */
export function collectingAggregator({ strategy, normBound, store, createVector }: AggregatorOptions): Aggregator {
  let updates: ReturnType<typeof collectUpdates> | undefined;
  let delta: Vector | undefined;
  let norms = new Map<ClientId, number>();
  const free = async () => {
    delta?.dispose();
    delta = undefined;
    await updates?.drop();
    updates = undefined;
  };
  return {
    shows: { singleUpdates: true, norms: true },
    async begin(weights, { length }) {
      await free();
      norms = new Map();
      updates = collectUpdates(length, weights.length, store, createVector);
      delta = createVector(length);
      return {};
    },
    async add(update) {
      norms.set(update.client, await measure(update, delta!, normBound));
      await updates!.add(update.client, update.weight, delta!);
    },
    async finish() {
      delta!.dispose();
      delta = undefined;
      const { clients, weights } = updates!;
      const combined = await strategy.combine!(updates!);
      const counted = 'weights' in combined ? combined.weights : weights;
      const whole = counted.reduce((sum, weight) => sum + weight, 0);
      checkWeights(
        strategy.name,
        clients.map((client) => ({ client })),
        counted.map((weight, i) => ({ client: clients[i]!, weight: 'weights' in combined ? weight : weight / whole })),
      );
      const shares = new Map(clients.map((client, i) => [client, counted[i]! / whole]));
      const mean = 'mean' in combined ? combined.mean : await updates!.weightedMean(combined.weights);
      return { mean, shares, norms, notes: combined.notes ?? [] };
    },
    dispose: free,
  };
}
