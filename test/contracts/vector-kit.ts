/** What the tests of a Vector share: lengths, values, and how to read, make and refuse. */
import type { ExecutionContext } from 'ava';
import type { Vector } from '../../src/bindings/vector.ts';
import type { PhoenixErrorCode } from '../../src/errors.ts';
import { rng } from '../../src/rng.ts';

export type MakeVector = (length: number) => Vector;

export const lengths = [1, 1023, 1024, 1025];
/** Of float32 results whose last bit may be rounded otherwise. */
export const single = { relative: 1e-6, absolute: 1e-6 };

export const drawn = (length: number, ...name: (string | number)[]) => {
  const draw = rng(1, 'vectors', length, ...name);
  return Float32Array.from({ length }, () => draw.normal());
};
export const bytesOf = (values: ArrayLike<number>) => new Uint8Array(Float32Array.from(values).buffer);
export const read = async (vector: Vector) => new Float32Array((await vector.toBytes(0, vector.length)).slice().buffer);

/** Fails unless the call throws or rejects with that code. */
export async function refused(t: ExecutionContext, code: PhoenixErrorCode, call: () => unknown, about?: string) {
  await t.throwsAsync(async () => await call(), { code }, about);
}

export type Kit = {
  test: (title: string, body: (t: ExecutionContext) => Promise<void>) => void;
  make: MakeVector;
  of(values: ArrayLike<number>): Promise<Vector>;
};

/** The first 16 bytes of the largest values' encoding. */
export const header = (k: number, coding: number) => [k, 0, 0, 0, 0, 0, 0, 0, coding, 0, 0, 0, 0, 0, 0, 0];
