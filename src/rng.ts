/**
 * Random numbers of the host: streams of Philox4x32-10, keyed by what they are for, so that no draw depends on the order in which clients
 * finish. The words are those of native/kernels/philox.h.
 */

import { createHash } from 'node:crypto';
import { showArgument } from './arguments.ts';
import { PhoenixError } from './errors.ts';

/** The last counter word of every stream of this file: Purpose::host in philox.h. */
const HOST = 7;

/** High 32 bits of the 64-bit product of two 32-bit words, from 16-bit halves: every term stays below 2^53. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const cross = aLow * bHigh;
  const cross2 = aHigh * bLow;
  const middle = ((aLow * bLow) >>> 16) + (cross & 0xffff) + (cross2 & 0xffff);
  return (aHigh * bHigh + (cross >>> 16) + (cross2 >>> 16) + (middle >>> 16)) >>> 0;
}

function philoxBlock(key0: number, key1: number, c0: number, c1: number, c2: number, c3: number): [number, number, number, number] {
  for (let round = 0; round < 10; round++) {
    const next0 = multiplyHigh(0xcd9e8d57, c2) ^ c1 ^ key0;
    const next2 = multiplyHigh(0xd2511f53, c0) ^ c3 ^ key1;
    c1 = Math.imul(0xcd9e8d57, c2) >>> 0;
    c3 = Math.imul(0xd2511f53, c0) >>> 0;
    c0 = next0 >>> 0;
    c2 = next2 >>> 0;
    key0 = (key0 + 0x9e3779b9) >>> 0;
    key1 = (key1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/**
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", §3.3): four 32-bit words from a 64-bit key and the
 * counter words c0..c3, each in 0..2^32-1.
 */
export function philox(key: bigint, c0: number, c1: number, c2: number, c3: number): [number, number, number, number] {
  return philoxBlock(Number(key & 0xffffffffn), Number((key >> 32n) & 0xffffffffn), c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0);
}

/**
 * The 64-bit key of the stream (seed, purpose, client, round, …): the first eight bytes of the sha256 of the parts as a JSON list, which
 * tells 'a','b' from 'ab' and 1 from '1'. Equal seeds as number and bigint give equal keys.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a seed that is no (safe) integer, or a part that is no finite number or string
 */
export function streamKey(seed: number | bigint, ...parts: (string | number)[]): bigint {
  if (typeof seed !== 'bigint' && !Number.isSafeInteger(seed)) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `A seed must be an integer between -2^53 and 2^53 or a bigint, not ${showArgument(seed)}.`,
    );
  }
  const bad = parts.find((part) => typeof part !== 'string' && !Number.isFinite(part));
  if (bad !== undefined)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `A stream is named by strings and finite numbers, not by ${showArgument(bad)}.`);
  const digest = createHash('sha256')
    .update(JSON.stringify([BigInt(seed).toString(), ...parts]))
    .digest();
  return digest.readBigUInt64LE(0);
}

/** One stream of random numbers. Its draws depend on its name and on how many came before, on nothing else. */
export type Rng = {
  /** An integer in 0..2^32-1. */
  uint32(): number;
  /** A multiple of 2^-53 in [0,1). */
  uniform(): number;
  /** An unbiased integer in 0..n-1, n in 1..2^32. */
  int(n: number): number;
  /** Standard normal, by Box and Muller 1958. */
  normal(): number;
  /** Gamma with this shape (1e-300..1e300) and scale 1, by Marsaglia and Tsang 2000; a small shape may give 0. */
  gamma(shape: number): number;
  /** n shares ≥ 0 that sum to 1, symmetric Dirichlet(alpha), alpha in 1e-300..1e300: never NaN, however small alpha is. */
  dirichlet(alpha: number, n: number): Float64Array;
  /** The numbers 0..n-1 in random order (Fisher and Yates). */
  permutation(n: number): Int32Array;
  /** k different members of `array`, in the order that they have there. */
  pick<T>(array: readonly T[], k: number): T[];
};

/** 32-bit words of a key's stream, one after the other. */
function wordsOf(key: bigint): () => number {
  const key0 = Number(key & 0xffffffffn);
  const key1 = Number(key >> 32n);
  let block = 0;
  let words: number[] = [];
  let used = 4;
  return () => {
    if (used === 4) {
      words = philoxBlock(key0, key1, block >>> 0, Math.floor(block / 2 ** 32), 0, HOST);
      block++;
      used = 0;
    }
    return words[used++]!;
  };
}

/**
 * The logarithm of a gamma variate (Marsaglia and Tsang 2000), because for shapes below about 0.01 the variate itself underflows to 0 and
 * shares of such draws would be 0/0.
 */
function logOfGamma(shape: number, draw: Pick<Rng, 'uniform' | 'normal'>): number {
  if (!(shape >= 1e-300 && shape <= 1e300)) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `The shape of a gamma or Dirichlet distribution must be in 1e-300..1e300, not ${shape}.`,
    );
  }
  if (shape < 1) return logOfGamma(shape + 1, draw) + Math.log(1 - draw.uniform()) / shape; // §6
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = draw.normal();
    const root = 1 + c * x;
    const v = root * root * root;
    const u = 1 - draw.uniform();
    if (v > 0 && Math.log(u) < 0.5 * x * x + d - d * v + d * Math.log(v)) return Math.log(d * v);
  }
}

/** The stream of (seed, purpose, client, round, …). @throws PhoenixError ERR_PHOENIX_ARGUMENT, as do its draws when out of range */
export function rng(seed: number | bigint, ...parts: (string | number)[]): Rng {
  const uint32 = wordsOf(streamKey(seed, ...parts));

  function uniform(): number {
    const high = uint32() >>> 5;
    const low = uint32() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  function int(n: number): number {
    requireInteger('int(n)', n, 1, 2 ** 32);
    const limit = 2 ** 32 - (2 ** 32 % n);
    for (;;) {
      const word = uint32();
      if (word < limit) return word % n;
    }
  }

  function normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  }

  const gamma = (shape: number) => Math.exp(logOfGamma(shape, { uniform, normal }));

  function dirichlet(alpha: number, n: number): Float64Array {
    requireInteger('dirichlet(alpha, n)', n, 1, 2 ** 31 - 1);
    const logs = Float64Array.from({ length: n }, () => logOfGamma(alpha, { uniform, normal }));
    const largest = logs.reduce((a, b) => Math.max(a, b));
    const draws = logs.map((log) => Math.exp(log - largest));
    const sum = draws.reduce((a, b) => a + b);
    return draws.map((draw) => draw / sum);
  }

  function permutation(n: number): Int32Array {
    requireInteger('permutation(n)', n, 0, 2 ** 31 - 1);
    const order = Int32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = int(i + 1);
      const swapped = order[i]!;
      order[i] = order[j]!;
      order[j] = swapped;
    }
    return order;
  }

  function pick<T>(array: readonly T[], k: number): T[] {
    requireInteger(`pick(array of ${array.length}, k)`, k, 0, array.length);
    return Array.from(permutation(array.length).subarray(0, k).sort(), (i) => array[i]!);
  }

  return { uint32, uniform, int, normal, gamma, dirichlet, permutation, pick };
}

function requireInteger(what: string, value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${what} takes an integer in ${min}..${max}, not ${value}.`);
}
