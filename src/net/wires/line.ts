/**
 * The server between coordinator and sites as one of them sees it: few verbs, each tried once. ends.ts makes a wire of it, which waits,
 * tries again and mends what the server lost.
 */
import type { Link } from '../wire.ts';

/** Bytes of a piece of a blob; the last one may be shorter. Small, since a lost packet on a thin line delays a whole piece. */
export const PIECE = 128 * 1024;

/**
 * A value as it lies at the server. `speaker`: the process that said it, empty for what no process said: a server answers to any subject
 * that a hostile client names; `count`: how many it had said in its life, this one included.
 */
export type Said = { value: Uint8Array; speaker: string; count: number };
/** `sequence`: its number at the server. */
export type Stored = Said & { sequence: number };

/** Whose blobs: of the coordinator, or of this site. */
export type Owner = 'coordinator' | { site: string };

/**
 * A verb that fails with a PhoenixError failed for good; any other error means that it should be tried again. The server may forget
 * everything at any time.
 */
export type Line = {
  /** Whether the server can be reached. */
  connected(): boolean;
  /** Called when the connection is lost, when it is back, and when it ended for good: with the error that says why. */
  onLink(listener: (link: Link, ended?: Error) => void): void;
  last(kind: 'want' | 'has', site: string): Promise<Stored | undefined>;
  /**
   * Replaces the last value and gives its number.
   * @param expected number of the last value; 0: there is none. If it is another one, nothing is said and undefined returned
   */
  say(kind: 'want' | 'has', site: string, said: Said, expected?: number): Promise<number | undefined>;
  /** Calls the listener with each new value that is said: of this site, or of all at the coordinator. None that lay there before. */
  hear(kind: 'want' | 'has', listener: (site: string, said: Said) => void): void;
  /** The sites that have said something. */
  speakers(): Promise<string[]>;
  beat(site: string, value: Uint8Array): void;
  hearBeats(listener: (site: string, value: Uint8Array) => void): void;
  /** The numbers of the pieces of a blob that are there. */
  pieces(owner: Owner, name: string): Promise<ReadonlySet<number>>;
  /** @param within how long it may take, in milliseconds */
  store(owner: Owner, name: string, piece: number, bytes: Uint8Array, within: number): Promise<void>;
  load(owner: Owner, name: string, piece: number, within: number): Promise<Uint8Array | undefined>;
  /** Forgets all blobs but these. */
  forget(owner: Owner, but: ReadonlySet<string>): Promise<void>;
  close(): Promise<void>;
};
