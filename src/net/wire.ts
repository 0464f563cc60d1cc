/**
 * How a coordinator and its sites reach each other: last values, blobs and heartbeats. The coordinator says what it wants of a site, a site
 * says what it has; each is one value, and a new one replaces the old. Nothing is queued and nothing is delivered twice: whoever starts
 * again reads the last values and goes on. What either side has said and put stays there until it is replaced or forgotten: if the server
 * between them loses it, the wire says and puts it again.
 *
 * Each wire is held to the contract of test/contracts/wire.ts.
 */
import type { Blob } from '../fl/transport.ts';

/** Largest value of `want` and `has` in bytes: what fits into one message of a server that takes 2 MB, with room for its headers. */
export const MAX_VALUE = 1_900_000;
/** Largest heartbeat in bytes. */
export const MAX_BEAT = 4096;

/** A blob that travels as bytes. */
export type ByteBlob = Extract<Blob, { vector?: undefined }>;

export type TransferOptions = {
  signal?: AbortSignal;
  /** Called as pieces arrive, with the bytes so far. */
  onProgress?(bytes: number): void;
};

/** Whether the server can be reached; `why`: what stands in the way. */
export type Link = { connected: boolean; why?: string };

/** What both ends can do. */
type End = {
  /**
   * Makes a blob of this side readable for the other. What is there already is not sent again, so a put that was broken off goes on where
   * it stopped, also in a new process. Resolves once all of it is stored; rejects with the signal's reason, or with ERR_PHOENIX_NETWORK for
   * what the server refuses for good (a quota). While there is no connection it waits.
   */
  put(blob: ByteBlob, options?: TransferOptions): Promise<void>;
  /** Forgets the blobs of this side, but those with these names. */
  keep(names: ReadonlySet<string>): Promise<void>;
  /** Called when the connection is lost and when it is back. */
  onLink(listener: (link: Link) => void): void;
  /** Bytes of blobs, values and heartbeats so far: `up` from sites to the coordinator, `down` the other way. */
  traffic(): { bytesUp: number; bytesDown: number };
  /** Ends the connection; what is under way rejects with ERR_PHOENIX_DISPOSED. What was said and put stays at the server. */
  close(): Promise<void>;
};

export type CoordinatorWire = End & {
  /** Says what is wanted of a site. @throws PhoenixError ERR_PHOENIX_ARGUMENT for more than MAX_VALUE bytes */
  want(site: string, value: Uint8Array): Promise<void>;
  /** What was wanted of a site last, also by an earlier process; undefined if nothing ever was. */
  lastWant(site: string): Promise<Uint8Array | undefined>;
  /** What a site said last; undefined if it never said anything. */
  lastHas(site: string): Promise<Uint8Array | undefined>;
  /** Calls the listener with what each site said last, and then with each new value. */
  watchHas(listener: (site: string, value: Uint8Array) => void): Promise<void>;
  watchBeats(listener: (site: string, beat: Uint8Array) => void): Promise<void>;
  /**
   * The bytes of a blob that a site has put. Waits for one that is not there yet. @throws PhoenixError ERR_PHOENIX_MESSAGE for bytes that
   * have another sha256 or length
   */
  get(site: string, blob: { name: string; length: number }, options?: TransferOptions): Promise<Uint8Array>;
};

export type SiteWire = End & {
  /**
   * Says what this site has. @throws PhoenixError ERR_PHOENIX_REFUSED if another process has spoken as this site since,
   * ERR_PHOENIX_ARGUMENT for more than MAX_VALUE bytes
   */
  has(value: Uint8Array): Promise<void>;
  /** What was said last in this site's name. */
  lastHas(): Promise<Uint8Array | undefined>;
  /** Calls the listener with what the coordinator wanted last, and then with each new value. */
  watchWant(listener: (value: Uint8Array) => void): Promise<void>;
  /** A sign of life; lost without notice where there is no connection. */
  beat(value: Uint8Array): void;
  /** The bytes of a blob that the coordinator has put. As for CoordinatorWire.get. */
  get(blob: { name: string; length: number }, options?: TransferOptions): Promise<Uint8Array>;
};
