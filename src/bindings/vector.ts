/**
 * An opaque vector of float32 parameters in native memory (host or device). JavaScript sees scalars and handles: no loop over 35.7 M
 * values on the JS thread. All operations are asynchronous and run on a native thread.
 */
import { checkArguments } from '../arguments.ts';
import { addon } from './load.ts';
import type { NativeVector } from './native.ts';

export type Vector = NativeVector;

/** A new vector of `length` zeros. @throws PhoenixError ERR_PHOENIX_MEMORY */
export const createVector = (length: number): Vector => {
  checkArguments('createVector', { length }, { length: 'number' });
  return addon().createVector(length);
};

/** Makes a vector of zeros; which device it lies on is decided once, where a run begins. */
export type CreateVector = (length: number) => Vector;

/**
 * Values that cross between JavaScript and a vector at once: a model of 143 MB must not hold up the event loop. A multiple of 1024, so that
 * the blocks of int8 stay whole.
 */
export const PIECE = 2 ** 19;

/** The float32 bytes of [offset, offset+count). */
export async function getBytes(from: Vector, offset = 0, count = from.length): Promise<Uint8Array> {
  const bytes = new Uint8Array(4 * count);
  for (let at = 0; at < count; at += PIECE) bytes.set(await from.toBytes(offset + at, Math.min(PIECE, count - at)), 4 * at);
  return bytes;
}

/** Sets [offset, offset + bytes.length/4) of a vector from float32 bytes. */
export async function setBytes(bytes: Uint8Array, into: Vector, offset = 0): Promise<void> {
  for (let at = 0; at < bytes.length; at += 4 * PIECE) await into.fromBytes(bytes.subarray(at, at + 4 * PIECE), offset + at / 4);
}
