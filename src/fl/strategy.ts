/**
 * Strategies: which clients count, and how much. A strategy sees reports, never a vector, unless it declares that it combines updates
 * itself.
 */
import type { Vector } from '../bindings/vector.ts';
import type { ClientId, Decision, Fit, Hello, Report, Statistic } from './protocol.ts';
import type { Profiles } from './state.ts';

export type Weights = { client: ClientId; weight: number }[];

/**
 * What a strategy, a filter or the control of local work needs to see. It decides which of them can be combined with which aggregation: see
 * server/needs.ts.
 */
export type Needs = {
  /** A histogram over bins, a Vendi score, or a statistic of every client, from probes. */
  histogram?: boolean;
  vendi?: boolean;
  statistic?: Statistic;
  /** A set of images that all clients share: any, or one of real images. */
  sharedSet?: 'any' | 'real';
  /** A global model in which every layer is trained: no personal layers. */
  wholeModel?: boolean;
  /** Each update by itself. */
  singleUpdates?: boolean;
  /** The norm of each update. */
  norms?: boolean;
  /** That updates become one by weights. */
  weightedMean?: boolean;
};

/** A strategy's state is plain JSON, so that it is part of the run's state. */
export type Strategy<State = unknown> = {
  name: string;
  /** @default nothing */
  needs?: Needs;
  init(): State;
  /** Clients that are not to be selected, for good, or until they are due for a probe again. */
  absent?(state: State): Record<ClientId, 'disconnect' | 'quarantine'>;
  /** Changes to the common Fit for one client. */
  fit?(fit: Fit, client: Hello, state: State): Fit;
  /**
   * Weights ≥ 0 that sum to 1, from reports alone; the order of reports does not matter. `profiles`: what is known of every client from its
   * last probe, that of this round included. `reference`: how many of the shared images lie in each bin, if the bins were made of these.
   * `notes` and `decisions` go to the log.
   */
  weigh(
    reports: Report[],
    state: State,
    profiles: Profiles,
    reference?: number[],
  ): { weights: Weights; state: State; notes?: string[]; decisions?: Decision[] };
  /** Takes the place of the weighted mean of the updates that arrived. Its strategy declares `singleUpdates`. */
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
