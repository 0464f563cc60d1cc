/** How requests reach clients and replies come back: one verb for every kind of message. */
import type { Vector } from '../bindings/vector.ts';
import type { StepProgress } from '../ddpm/train.ts';
import type { ClientId, Failure, Hello } from './protocol.ts';

/**
 * Bytes that belong to a message and travel apart from its head, under a name: `sha256:` and the hash in hex, so that what many are sent is
 * one blob. Within one process and device a blob may be the vector itself, under a name of this process, and valid until its owner writes
 * it again.
 */
export type Blob = {
  name: string;
  /** Length in bytes, whether they were made or not. */
  length: number;
} & ({ read(): Promise<Uint8Array>; vector?: undefined } | { vector: Vector });

/**
 * A message: `kind` is an open list (train, upload, parcel, finish; an aggregator may have more), `head` is plain JSON of the kind's
 * schema.
 */
export type Message = {
  kind: string;
  /** Every message belongs to a round, so that one that comes late is recognised. */
  round: number;
  /** Version of the protocol that the sender speaks. */
  protocol: number;
  /** Paths into `head` that a reader may leave out if it does not know them. */
  optional: string[];
  head: object;
  blobs: Blob[];
};

/** What is asked of a client. */
export type Request = {
  kind: string;
  head: object;
  blobs?: Blob[];
  optional?: string[];
  /** Whether nothing else that this client was asked in the round, nor an answer to it, is needed any more. @default false */
  last?: boolean;
};
export type Reply = { client: ClientId; head: object; blobs: Blob[] };

/** Progress of one client's training. */
export type ClientStep = StepProgress & { client: ClientId; round: number };

export type AskOptions = {
  round: number;
  /** An abort rejects with its reason. */
  signal?: AbortSignal;
  /** Called as far as progress can be seen from here. */
  onProgress?(step: ClientStep): void;
};

export type Transport = {
  clients: Hello[];
  /** Whether blobs travel as vectors of one device, not as bytes. */
  carriesVectors: boolean;
  /**
   * Sends each client its request (one that cannot be made is that client's Failure) and yields outcomes in the order of their arrival, one
   * for each id. A client that is lost or refuses is a Failure, not an exception; trouble of this machine (a full disk) is one. Leaving the
   * loop early cancels what is outstanding. How long to wait, and for whom, is decided around the loop (server/gather.ts), never here.
   */
  ask(ids: ClientId[], request: (id: ClientId) => Request | Promise<Request>, options: AskOptions): AsyncIterable<Reply | Failure>;
  /** When each client was last heard of, in milliseconds of performance.now(); absent where clients cannot vanish. */
  lastSeen?(id: ClientId): number | undefined;
  /** Bytes of all messages so far. */
  traffic(): { bytesUp: number; bytesDown: number };
  close(): Promise<void>;
};

export function isFailure(outcome: Reply | Failure): outcome is Failure {
  return typeof outcome === 'object' && outcome !== null && 'reason' in outcome;
}
