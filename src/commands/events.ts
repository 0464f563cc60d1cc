/** What a running training tells its caller. It never prints. */
import type { ReadProgress } from '../ddpm/data/index.ts';
import type { RoundRecord } from '../fl/protocol.ts';

/** Before the first step of this call. */
export type StartEvent = {
  kind: 'federate' | 'train';
  /** The run folder. */
  dir: string;
  /**
   * Rounds done before, more than 0 only for a resumed run, and in all; these are about right for a run of so many images, and absent for
   * an open one. A round of `train` is the training between two checkpoints.
   */
  round: number;
  rounds?: number;
  parameterCount: number;
  backend: string;
  /** The GPU, or why none is used. */
  device: string;
  threads: number;
};

/** After each native call of training, about 50 ms. */
export type StepEvent = {
  /** The round that is running, from 1, and rounds in all; absent for an open run. */
  round: number;
  rounds?: number;
  /** The client that is training, its 1-based position in this round, and the number of clients in the round. Absent for `train`. */
  client?: { id: string; number: number; of: number };
  /** Mean loss of the call's steps. */
  loss: number;
  imagesPerSecond: number;
  /** Images trained on since the run began, and expected in all; of an open run by the end of this round. */
  images: number;
  imagesPlanned: number;
};

export type MessageEvent = { level: 'info' | 'warning'; text: string };

/** While data is read. */
export type DataEvents = {
  /** After each image of a folder, and each that was read into memory: how far reading has come. */
  onRead?(progress: ReadProgress): void;
  onMessage?(event: MessageEvent): void;
  /** Stops; the call rejects with `signal.reason`. */
  signal?: AbortSignal;
};

/** Callbacks may be asynchronous: what one throws or rejects with stops the run, and is what the call rejects with. */
export type RunEvents = DataEvents & {
  onStart?(event: StartEvent): void;
  onStep?(event: StepEvent): void;
  /** After a round has been committed; the next round waits for it. */
  onRound?(record: RoundRecord): void;
  /** Stops the run within one native call; it rejects with `signal.reason`, and can be resumed from its last commit. */
  signal?: AbortSignal;
  /** For tests: called before every operation that changes the run folder. */
  fault?(point: string): void | Promise<void>;
};

export type RunResult = {
  /** The run folder. */
  dir: string;
  /** Rounds done in all. */
  rounds: number;
  /** Path of the last checkpoint. */
  checkpoint: string;
  /** Path of report.html. */
  report: string;
  /** Path of the last sample grid, if one was drawn in the last round. */
  samples?: string;
  /** What this call has done, one entry per round. */
  records: RoundRecord[];
};
