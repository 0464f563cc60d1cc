/** Blobs in pieces, several under way at once: as many as the line carries well. */
import { createHash } from 'node:crypto';
import { PhoenixError } from '../../errors.ts';
import type { ByteBlob } from '../wire.ts';
import { type Line, type Owner, PIECE } from './line.ts';

/** Largest blob in bytes. */
const MAX_BLOB = 2 ** 32;
/** Most pieces under way. */
const MAX_WINDOW = 32;
/** A piece that takes longer, in milliseconds, says that the line is full. */
const SLOW = 2000;

/** Bounds of how long a piece may take, in milliseconds. */
const LONGEST = 60_000;
const SHORTEST = 15_000;

/**
 * Does a verb of the line until it succeeds, waiting while there is no connection; rejects with what is for good, or the signal's reason.
 */
export type Persist = <T>(verb: () => Promise<T>, signal?: AbortSignal) => Promise<T>;

/**
 * How many pieces are under way: grows from 2 while a piece takes less than 2 s, and is halved by one that fails, so that a thin line is
 * not filled with repeats.
 */
export function createWindow(now: () => number = () => performance.now()) {
  let size = 2;
  let typical = 0;
  let measured = 0;
  return {
    size: () => Math.floor(size),
    /** How long a piece may take, in milliseconds: long, since a repeat makes a full line fuller. */
    patience: () => (measured < 8 ? LONGEST : Math.min(LONGEST, Math.max(SHORTEST, 30 * typical))),
    async measure<T>(work: () => Promise<T>): Promise<T> {
      const begun = now();
      try {
        const result = await work();
        const took = now() - begun;
        typical += (took - typical) / Math.min(++measured, 8);
        if (took < SLOW) size = Math.min(MAX_WINDOW, size + 1 / Math.floor(size));
        else size = Math.max(1, size - 1 / Math.floor(size));
        return result;
      } catch (error) {
        size = Math.max(1, size / 2);
        throw error;
      }
    },
  };
}

/** Does the work on every number of the list, as many at once as the window says. The first failure ends it. */
async function windowed(numbers: number[], window: { size(): number }, work: (number: number) => Promise<void>): Promise<void> {
  let next = 0;
  const running = new Set<Promise<void>>();
  try {
    while (next < numbers.length || running.size > 0) {
      while (next < numbers.length && running.size < window.size()) {
        const one: Promise<void> = work(numbers[next++]!).finally(() => running.delete(one));
        running.add(one);
      }
      await Promise.race(running);
    }
  } catch (error) {
    next = numbers.length;
    await Promise.allSettled(running);
    throw error;
  }
}

/** Lengths of the pieces of a blob: how many, and of each. */
function piecesOf(length: number) {
  if (!Number.isSafeInteger(length) || length < 0 || length > MAX_BLOB)
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `A blob of ${length} bytes cannot travel; at most ${MAX_BLOB} can.`);
  const count = Math.ceil(length / PIECE);
  return { count, lengthOf: (piece: number) => Math.min(PIECE, length - piece * PIECE) };
}

export type Transfer = {
  line: Line;
  persist: Persist;
  owner: Owner;
  signal?: AbortSignal;
  /** Called with the bytes of each piece that arrived. */
  onPiece(bytes: number): void;
};

/** Stores the pieces of a blob that are not there. */
export async function sendBlob(blob: ByteBlob, { line, persist, owner, signal, onPiece }: Transfer): Promise<void> {
  const { count, lengthOf } = piecesOf(blob.length);
  const window = createWindow();
  let bytes: Uint8Array | undefined;
  // Once more when all are sent: the server may have lost the first while the last were on their way.
  for (;;) {
    const there = await persist(() => line.pieces(owner, blob.name), signal);
    const missing = Array.from({ length: count }, (_, piece) => piece).filter((piece) => !there.has(piece));
    if (missing.length === 0) return;
    const whole = bytes ?? (await blob.read());
    bytes = whole;
    if (whole.length !== blob.length)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The blob ${blob.name} has ${whole.length} bytes, not ${blob.length}.`);
    await windowed(missing, window, async (piece) => {
      const part = whole.subarray(piece * PIECE, piece * PIECE + lengthOf(piece));
      await persist(() => window.measure(() => line.store(owner, blob.name, piece, part, window.patience())), signal);
      onPiece(part.length);
    });
  }
}

/** A piece that is not there yet is asked for again. */
class Missing extends Error {}

/** Loads the pieces of a blob, and waits for those that are not there yet. @throws PhoenixError ERR_PHOENIX_MESSAGE for other bytes */
export async function receiveBlob(
  { name, length }: { name: string; length: number },
  { line, persist, owner, signal, onPiece }: Transfer,
): Promise<Uint8Array> {
  const { count, lengthOf } = piecesOf(length);
  const refuse = (why: string): never => {
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `The blob ${name} was changed on its way: ${why}.`);
  };
  // Made when the first piece is there: who only promises a blob takes no memory.
  let bytes: Uint8Array | undefined;
  const hash = createHash('sha256');
  const arrived = new Set<number>();
  let hashed = 0;
  const window = createWindow();
  const numbers = Array.from({ length: count }, (_, piece) => piece);
  await windowed(numbers, window, async (piece) => {
    const part = await persist(async () => {
      const found = await window.measure(() => line.load(owner, name, piece, window.patience()));
      if (!found) throw new Missing(`${name} is not there yet`);
      return found;
    }, signal);
    if (part.length !== lengthOf(piece)) refuse(`a piece has ${part.length} bytes, not ${lengthOf(piece)}`);
    bytes ??= new Uint8Array(length);
    bytes.set(part, piece * PIECE);
    arrived.add(piece);
    for (; arrived.has(hashed); hashed++) hash.update(bytes.subarray(hashed * PIECE, hashed * PIECE + lengthOf(hashed)));
    onPiece(part.length);
  });
  const found = `sha256:${hash.digest('hex')}`;
  return found === name ? (bytes ?? new Uint8Array(0)) : refuse(`its name is not ${found}`);
}
