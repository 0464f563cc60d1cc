/**
 * The vocabulary of a federation: read this first, then round.ts.
 *
 * A round is two messages. The server sends a Task (parameters and Fit); each client trains and answers with a small Report. From the
 * reports alone the strategy weighs the clients; those with a weight then upload their Update: the encoded delta = after - before.
 */
import type { Vector } from '../bindings/vector.ts';
import type { Hyper, Length } from '../ddpm/fit.ts';
import type { StepProgress } from '../ddpm/train.ts';

export type ClientId = string;

/** What the server knows of a client before it has trained. `examples`: images it trains on. */
export type ClientInfo = { id: ClientId; examples: number };

/** How clients train in one round; plain data, sent with the task. `globalStep` is the global model's: see FederationState. */
export type Fit = {
  hyper: Hyper;
  length: Length;
  /** Whether Adam's moments start at zero each round or are kept by the client. */
  optimizer: 'reset' | 'keep';
  /** How updates are compressed: none, bf16, int8 or topk:SHARE (see vector.ts). @default 'none' */
  compress?: string;
  /** Patterns of the parameters that each client keeps to itself (see personal.ts): tasks and updates hold the others only. @default none */
  personal?: string[];
  /** Version of the shared images to mix in, received before (see sharing.ts). @default none */
  shared?: number;
  /** What to find out besides training. @default nothing */
  probe?: Probe;
  globalStep: number;
};

/**
 * A statistic of a client's model, worked out by the client: precision (samples within the client's own held-out images, Kynkäänniemi et al. 2019; more
 * is better), loss on them, Fréchet distance of the samples to its own training images or to the shared images that it received (less is better).
 */
export type Statistic = 'precision' | 'loss' | 'frechet-own' | 'frechet-shared';

/** What a client is to find out about its images and its model after training: see probe.ts. */
export type Probe = {
  /** Samples to draw from its model, if anything here needs them, and the steps of the sampler. */
  samples: number;
  steps: number;
  statistic?: Statistic;
  /** Whether the Vendi score of the samples is wanted. */
  vendi?: boolean;
  /** Of what a histogram is wanted, and the standard deviation of the noise on each count. */
  histogram?: { of: 'data' | 'samples'; noise: number };
  /** Version of the bins of the histogram, received before; absent while there are none: then points to make bins of are wanted instead. */
  bins?: number;
};

/** `params`: the parameters that travel, as float32 or rounded to bfloat16. */
export type Task = { round: number; fit: Fit; params: Vector; codec?: 'float32' | 'bf16' };

/**
 * A task or an update on its way: its bytes; or, between two that share a process and a device, its head and the vector itself, which is as long as nobody
 * changes it. `length`: bytes of the message, whether they were made or not.
 */
export type VectorMessage = Uint8Array | HandedOver;
export type HandedOver = { head: Uint8Array; vector: Vector; length: number };

/** What a client says of its training. Small, JSON, and all that a strategy sees. */
export type Report = {
  client: ClientId;
  round: number;
  /** Images the client trains on, shared ones among them: FedAvg's weight. */
  examples: number;
  /** Shared images among `examples`; absent if none. */
  shared?: number;
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
  /** Answers to a probe. The value of the statistic asked for. */
  quality?: number;
  /** Effective number of different samples, 1 to their number. */
  vendi?: number;
  /** Images or samples in each bin; with noise neither whole numbers nor exact. */
  histogram?: number[];
  /** Centres of clusters of its images or samples in feature space, to make bins of. Only the round sees them: no strategy, no log. */
  points?: number[][];
  /** Wall time of the local training. */
  seconds: number;
};

/** A client that did not come through: it is left out and the round goes on. */
export type Failure = { client: ClientId; round: number; stage: 'train' | 'upload'; reason: string };

export type Weights = { client: ClientId; weight: number }[];

/** What was last learnt of a client by a probe, and in which round. */
export type Profile = { round: number; examples: number } & Pick<Report, 'quality' | 'vendi' | 'histogram'>;
export type Profiles = Record<ClientId, Profile>;

/** What a filter did with a client, and why; part of the log. */
export type Decision = {
  client: ClientId;
  /** `keep`: its score is poor, but it stays for the reason given. */
  action: 'quarantine' | 'disconnect' | 'readmit' | 'keep';
  statistic: Statistic;
  value: number;
  /** Beyond this a score is poor. */
  limit: number;
  reason: string;
};

/** Which clients count, and how much. A strategy's state is plain JSON, so that it is part of the run's state. */
export type Strategy<State = unknown> = {
  name: string;
  /** What clients are to be probed for; `profiles` then hold the answers. @default nothing */
  needs?: { histogram?: boolean; vendi?: boolean; statistic?: Statistic };
  init(): State;
  /** Clients that are not to be selected, for good, or until they are due for a probe again. */
  absent?(state: State): Record<ClientId, 'disconnect' | 'quarantine'>;
  /** Changes to the common Fit for one client. */
  fit?(fit: Fit, client: ClientInfo, state: State): Fit;
  /**
   * Weights ≥ 0 that sum to 1, from reports alone; the order of reports does not matter. `profiles`: what is known of every client from its last
   * probe, that of this round included. `reference`: how many of the shared images lie in each bin, if the bins were made of these. `notes` and
   * `decisions` go to the log.
   */
  weigh(
    reports: Report[],
    state: State,
    profiles: Profiles,
    reference?: number[],
  ): { weights: Weights; state: State; notes?: string[]; decisions?: Decision[] };
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

/**
 * What a client gets to keep: its part of the shared images, or the centres of the bins. Sent once a version; a new one takes the place of the old.
 * `pixels`: count images in the clients' size; `classes`: one an image, for a class-conditional model. `centres`: rows·columns values, row by row.
 */
export type Parcel =
  | { kind: 'shared'; version: number; count: number; pixels: Uint8Array; classes?: Int32Array }
  | { kind: 'bins'; version: number; rows: number; columns: number; centres: Float32Array };

/** How tasks reach clients and updates come back. Every message is checked and counted, in memory too. */
export type Transport = {
  clients: ClientInfo[];
  /** Sends a client what it gets to keep, and resolves once it has it. Rejects when the client is gone or refuses it. */
  give(id: ClientId, parcel: Parcel, signal?: AbortSignal): Promise<void>;
  /**
   * Sends the task to each id; yields outcomes as they come in, in any order. A dead client is a Failure, not an exception; an abort
   * rejects with `signal.reason`. `onStep` is called as far as progress can be seen from here.
   */
  train(
    ids: ClientId[],
    task: (client: ClientInfo) => Task,
    options?: { onStep?(step: ClientStep): void; signal?: AbortSignal },
  ): AsyncIterable<Report | Failure>;
  /** One client's update of the round (see vector.ts). Rejects when the client is gone. */
  upload(id: ClientId, round: number, signal?: AbortSignal): Promise<VectorMessage>;
  /** The round is over for these clients: unsent deltas may be dropped. */
  finish(ids: ClientId[], round: number): Promise<void>;
  /** Bytes of all messages so far. */
  traffic(): { bytesUp: number; bytesDown: number };
  close(): Promise<void>;
};

/** Where what belongs to a client is kept between calls: unsent delta, shared images and bins that it received, what compression left out, personal layers, optimizer moments. Keys are `<client>/<what>`. */
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
  /** What is known of the clients from probes. */
  profiles: Profiles;
  /** Version of the shared images and the bins (the round in which they were made), and who has received it. What they are lies in the round's Store. */
  shared?: Sent;
  bins?: Sent & { count: number; reference?: number[] };
  /** Local work as a multiple of what the options say: see local-work.ts. */
  work: number;
};

export type Sent = { version: number; to: ClientId[] };

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
  /** What the filter decided. */
  decisions?: Decision[];
  /** Mean cosine between two updates (see local-work.ts), where there are two; and the local work of this round as a multiple of what the options say. */
  coherence?: number;
  work?: number;
};
