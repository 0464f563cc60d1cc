/**
 * The vocabulary of a federation: read this first, then round.ts.
 *
 * A round is two messages. The server sends a Task (parameters and Fit); each client trains and answers with a small Report. From the
 * reports alone the strategy weighs the clients; those with a weight then upload their Update: the encoded delta = after - before.
 */
import type { Vector } from '../bindings/vector.ts';
import type { LocalFit, StepProgress } from '../ddpm/train.ts';

export type ClientId = string;

/** What the server knows of a client before it has trained. `examples`: images it trains on. */
export type ClientInfo = { id: ClientId; examples: number };

/** How clients train in one round; plain data, sent with the task. `globalStep` is the global model's: see FederationState. */
export type Fit = Omit<LocalFit, 'emaDecay'> & {
  /** Whether Adam's moments start at zero each round or are kept by the client. */
  optimizer: 'reset' | 'keep';
  /** How updates are compressed: none, bf16, int8 or topk:SHARE (see vector.ts). @default 'none' */
  compress?: string;
  /** Patterns of the parameters that each client keeps to itself (see personal.ts): tasks and updates hold the others only. @default none */
  personal?: string[];
};

/** `params`: the parameters that travel. */
export type Task = { round: number; fit: Fit; params: Vector };

/** What a client says of its training. Small, JSON, and all that a strategy sees. */
export type Report = {
  client: ClientId;
  round: number;
  /** Images the client trains on: FedAvg's weight. */
  examples: number;
  /** Images drawn this round (steps · batch), and optimizer steps made. */
  images: number;
  steps: number;
  /** Mean loss over the round's steps. */
  loss: number;
  /** Loss of the global model as received on the client's held-out tenth, with fixed t and noise; absent without a held-out part. */
  evalLoss?: number;
  /** The same of the client's model after training. */
  evalLossLocal?: number;
  /** Held-out images that both are a mean over; 0 without a held-out part. */
  evalImages: number;
  /** ‖after - before‖₂ */
  deltaNorm: number;
  /** Wall time of the local training. */
  seconds: number;
};

/** A client that did not come through: it is left out and the round goes on. */
export type Failure = { client: ClientId; round: number; stage: 'train' | 'upload'; reason: string };

export type Weights = { client: ClientId; weight: number }[];

/** Which clients count, and how much. A strategy's state is plain JSON, so that it is part of the run's state. */
export type Strategy<State = unknown> = {
  name: string;
  init(): State;
  /** Changes to the common Fit for one client. */
  fit?(fit: Fit, client: ClientInfo, state: State): Fit;
  /** Weights ≥ 0 that sum to 1, from reports alone; the order of reports does not matter. `notes` go to the log. */
  weigh(reports: Report[], state: State): { weights: Weights; state: State; notes?: string[] };
  /** Takes the place of the weighted mean of the updates that arrived. It needs all of them at once, so no secure aggregation. */
  combine?(updates: Updates): Promise<Combined>;
};

/** The updates of a round that arrived, in the order of selection, for a strategy that combines them. */
export type Updates = {
  clients: ClientId[];
  /** The weights that the strategy gave them, above 0. */
  weights: number[];
  /** ‖δ_i - δ_j‖², n·n values. */
  squaredDistances(): Promise<Float64Array>;
  /** The mean of each coordinate without its `trim` lowest and highest values, 2·trim < n. */
  trimmedMean(trim: number): Promise<Vector>;
};

/** Weights ≥ 0 of the updates with the sum 1, or the combined update itself, which the round then owns. `notes` go to the log. */
export type Combined = ({ weights: number[] } | { mean: Vector }) & { notes?: string[] };

/** Progress of one client's training. */
export type ClientStep = StepProgress & { client: ClientId; round: number };

/** How tasks reach clients and updates come back. Every message is encoded, decoded and counted, in memory too. */
export type Transport = {
  clients: ClientInfo[];
  /**
   * Sends the task to each id; yields outcomes as they come in, in any order. A dead client is a Failure, not an exception; an abort
   * rejects with `signal.reason`. `onStep` is called as far as progress can be seen from here.
   */
  train(
    ids: ClientId[],
    task: (client: ClientInfo) => Task,
    options?: { onStep?(step: ClientStep): void; signal?: AbortSignal },
  ): AsyncIterable<Report | Failure>;
  /** One client's encoded update of the round (see vector.ts). Rejects when the client is gone. */
  upload(id: ClientId, round: number, signal?: AbortSignal): Promise<Uint8Array>;
  /** The round is over for these clients: unsent deltas may be dropped. */
  finish(ids: ClientId[], round: number): Promise<void>;
  /** Bytes of all messages so far. */
  traffic(): { bytesUp: number; bytesDown: number };
  close(): Promise<void>;
};

/** Where what belongs to a client is kept between calls: unsent delta, what compression left out, personal layers, optimizer moments. Keys are `<client>/<what>`. */
export type Store = {
  get(key: string): Promise<Uint8Array | undefined>;
  set(key: string, bytes: Uint8Array): Promise<void>;
  delete(key: string): Promise<void>;
  keys(): Promise<string[]>;
};

export type ServerStepKind = 'add' | 'momentum' | 'adam' | 'yogi';

/** Everything that the next round depends on (and the clients' Store): vectors and plain data. */
export type FederationState = {
  /** Rounds done. */
  round: number;
  /** Steps the global model has behind it: the weighted mean over the clients of a round, rounded, summed over rounds. */
  globalStep: number;
  /** Images seen by all clients so far. */
  images: number;
  params: Vector;
  /** Server-side EMA of the global parameters. */
  ema: Vector;
  /** Moments of the server optimizer; empty for 'add'. */
  serverMoments: Vector[];
  strategy: unknown;
};

/** One line of log.jsonl. */
export type RoundRecord = {
  /** From 1. */
  round: number;
  /** Σ loss·images / Σ images over the clients that trained. */
  loss: number;
  /** Held-out loss of the global model that the round began with, mean over images; null where nobody holds images out. */
  evalLoss: number | null;
  /** The same of the clients' models after training. */
  evalLossLocal: number | null;
  /** Images drawn by the clients that trained. */
  images: number;
  bytesUp: number;
  bytesDown: number;
  seconds: number;
  /** Who trained, with the weight that the update got: 0 if it was lost. */
  clients: (Report & { weight: number })[];
  failures: Failure[];
  notes: string[];
};
