/**
 * The vocabulary of a federation: read this first, then round.ts.
 *
 * A round is two messages. The server sends a Task (parameters and Fit); each client trains and answers with a small Report. From the
 * reports alone the strategy weighs the clients; those with a weight then upload their Update: the encoded delta = after - before.
 */
import type { Vector } from '../bindings/vector.ts';

export type ClientId = string;

/** What the server knows of a client before it has trained. `examples`: images it trains on. */
export type ClientInfo = { id: ClientId; examples: number };

/** How clients train in one round; plain data, sent with the task. */
export type Fit = {
  /** Passes over the client's own images; each is ceil(examples/batch) full batches. Exactly one of `epochs` and `localImages` is set. */
  epochs?: number;
  /** Images drawn a round, rounded up to full batches. */
  localImages?: number;
  /** Images a step. */
  batch: number;
  /** Learning rate after warm-up. */
  lr: number;
  /** Steps of linear warm-up, counted in global local steps; 0 = none. */
  warmupSteps: number;
  beta1: number;
  beta2: number;
  /** Adam's eps (not privacy, not predicted noise). */
  adamEps: number;
  weightDecay: number;
  /** Largest gradient norm; 0 = off. */
  clip: number;
  flip: boolean;
  /** Min-SNR-γ loss weighting (Hang et al. 2023); 0 = off. */
  minSnrGamma: number;
  /** FedProx μ (Li et al. 2020); 0 = FedAvg. */
  mu: number;
  /** Whether Adam's moments start at zero each round or are kept by the client. */
  optimizer: 'reset' | 'keep';
  /** Steps the global model has behind it (mean over clients, summed over rounds): drives warm-up. */
  globalStep: number;
};

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
  /** Loss of the new local model on the client's held-out tenth with fixed t and noise; absent without a held-out part. */
  evalLoss?: number;
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
};

/** How tasks reach clients and updates come back. Every message is encoded, decoded and counted, in memory too. */
export type Transport = {
  clients: ClientInfo[];
  /** Sends the task to each id; yields outcomes as they come in, in any order. A dead client is a Failure, not an exception. */
  train(ids: ClientId[], task: (client: ClientInfo) => Task, signal?: AbortSignal): AsyncIterable<Report | Failure>;
  /** One client's encoded update of the round (see message.ts). Rejects when the client is gone. */
  upload(id: ClientId, round: number, signal?: AbortSignal): Promise<Uint8Array>;
  /** The round is over for these clients: unsent deltas may be dropped. */
  finish(ids: ClientId[], round: number): Promise<void>;
  /** Bytes of all messages so far. */
  traffic(): { bytesUp: number; bytesDown: number };
  close(): Promise<void>;
};

/** Where what belongs to a client is kept between calls: unsent delta, optimizer moments. Keys are `<client>/<what>`. */
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
  /** Steps of the global model so far: see Fit.globalStep. */
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
  round: number;
  loss: number;
  evalLoss: number | null;
  images: number;
  bytesUp: number;
  bytesDown: number;
  seconds: number;
  clients: (Report & { weight: number })[];
  failures: Failure[];
  notes: string[];
};
