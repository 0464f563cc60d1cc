/**
 * An opaque vector of float32 parameters in native memory (host or device). JavaScript sees scalars and handles: no loop over 35.7 M
 * values on the JS thread. All operations are asynchronous and run on a native thread.
 */
import { addon } from './load.ts';
import type { NativeVector } from './native.ts';

export type Vector = NativeVector;

/** A new vector of `length` zeros. @throws PhoenixError ERR_PHOENIX_MEMORY */
export const createVector = (length: number): Vector => addon().createVector(length);
