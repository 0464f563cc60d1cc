/**
 * A Vector in JavaScript, so that tests need no addon: all operations of a NativeVector, its errors' codes and its bytes included
 * (test/contracts/vector.ts holds both to the same). It differs in one thing: calls end at once, so none finds it busy.
 */
import type { Vector } from '../../src/bindings/vector.ts';
import { PhoenixError, type PhoenixErrorCode } from '../../src/errors.ts';

export type FakeVector = Vector & { values: Float32Array };

/** Fake vectors alive, and the most there were at once. */
export const alive = { now: 0, most: 0 };

const INT8_BLOCK = 1024;
const int8Bytes = (count: number) => count + 4 * Math.ceil(count / INT8_BLOCK);

function refuse(code: PhoenixErrorCode, message: string): never {
  throw new PhoenixError(code, message);
}

/** Values of a vector in use. @throws PhoenixError ERR_PHOENIX_ARGUMENT, ERR_PHOENIX_DISPOSED */
export function valuesOf(vector: Vector): Float32Array {
  const values = (vector as Partial<FakeVector> | undefined)?.values;
  return values ?? refuse('ERR_PHOENIX_ARGUMENT', 'expected a fake Vector');
}

const single = new Float32Array(1);
const word = new Uint32Array(single.buffer);
const fromBfloat16 = (half: number): number => {
  word[0] = half << 16;
  return single[0]!;
};
/** Rounded to nearest, ties to even; a NaN stays one. */
const toBfloat16 = (value: number): number => {
  single[0] = value;
  if (Number.isNaN(single[0])) return 0x7fc0;
  return (word[0]! + 0x7fff + ((word[0]! >>> 16) & 1)) >>> 16;
};
const fromHalf = (bits: number): number => {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const subnormal = fraction * 2 ** -24;
  const special = fraction ? Number.NaN : Number.POSITIVE_INFINITY;
  const size = exponent === 0 ? subnormal : exponent === 31 ? special : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
};
const roundToEven = (value: number): number => {
  const down = Math.floor(value);
  const part = value - down;
  return part < 0.5 || (part === 0.5 && down % 2 === 0) ? down : down + 1;
};
const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

// ---- codecs, as ops.h states them

function encodeInt8(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(int8Bytes(values.length));
  const view = viewOf(bytes);
  for (let from = 0, at = 0; from < values.length; from += INT8_BLOCK, at += INT8_BLOCK + 4) {
    const block = values.subarray(from, from + INT8_BLOCK);
    const scale = Math.fround(Math.max(0, ...block.filter((value) => !Number.isNaN(value)).map(Math.abs)) / 127);
    view.setFloat32(at, scale, true);
    for (const [i, value] of block.entries()) {
      const q = scale > 0 ? roundToEven(Math.fround(value / scale)) : 0;
      view.setInt8(at + 4 + i, q >= -127 ? Math.min(q, 127) : -127);
    }
  }
  return bytes;
}

function decodeInt8(bytes: Uint8Array, into: Float32Array): void {
  const view = viewOf(bytes);
  for (let from = 0, at = 0; from < into.length; from += INT8_BLOCK, at += INT8_BLOCK + 4) {
    const scale = view.getFloat32(at, true);
    if (!(scale >= 0 && scale < Infinity)) refuse('ERR_PHOENIX_SHAPE', `expected scales that are finite and at least 0, got ${scale}`);
    for (let i = from; i < Math.min(into.length, from + INT8_BLOCK); i++) {
      const q = view.getInt8(at + 4 + i - from);
      if (q === -128) refuse('ERR_PHOENIX_SHAPE', 'expected bytes in -127..127, got -128');
      into[i] = scale * q;
    }
  }
}

/** Gaps between neighbouring indices as LEB128. */
function gapsOf(indices: number[]): number[] {
  const bytes: number[] = [];
  for (const [i, index] of indices.entries()) {
    let gap = index - (i === 0 ? 0 : indices[i - 1]! + 1);
    for (; gap >= 128; gap = Math.floor(gap / 128)) bytes.push((gap % 128) | 128);
    bytes.push(gap);
  }
  return bytes;
}

function encodeLargest(values: Float32Array, k: number): Uint8Array {
  const order = Array.from(values.keys()).sort((a, b) => Math.abs(values[b]!) - Math.abs(values[a]!) || a - b);
  const indices = order.slice(0, k).sort((a, b) => a - b);
  const gaps = gapsOf(indices);
  const bitmap = new Uint8Array(Math.ceil(values.length / 8));
  for (const index of indices) bitmap[index >> 3]! |= 1 << (index & 7);
  const coding = bitmap.length < gaps.length ? 1 : 0;
  const bytes = Buffer.concat([Buffer.alloc(16 + 2 * k), coding ? bitmap : Uint8Array.from(gaps)]);
  bytes.writeBigUInt64LE(BigInt(k));
  bytes[8] = coding;
  for (const [i, index] of indices.entries()) bytes.writeUInt16LE(toBfloat16(values[index]!), 16 + 2 * i);
  return Uint8Array.from(bytes);
}

function indicesOf(bytes: Uint8Array, coding: number, k: number, count: number): number[] {
  const wrong = () => refuse('ERR_PHOENIX_SHAPE', `expected ${k} indices below ${count} in ${bytes.length} bytes of coding ${coding}`);
  const indices: number[] = [];
  if (coding === 1) {
    if (bytes.length !== Math.ceil(count / 8)) wrong();
    for (let i = 0; i < 8 * bytes.length; i++) if ((bytes[i >> 3]! >> (i & 7)) & 1) indices.push(i);
  } else {
    let at = 0;
    for (let next = 0; indices.length < k; next++) {
      let gap = 0;
      for (let factor = 1; ; factor *= 128) {
        if (at === bytes.length || factor >= 2 ** 56) wrong();
        gap += factor * (bytes[at]! & 127);
        if (bytes[at++]! < 128) break;
      }
      next += gap;
      indices.push(next);
    }
    if (at !== bytes.length) wrong();
  }
  if (indices.length !== k || indices.some((index) => index >= count)) wrong();
  return indices;
}

function decodeLargest(bytes: Uint8Array, into: Float32Array): void {
  if (bytes.length < 16) refuse('ERR_PHOENIX_SHAPE', `expected at least 16 bytes, got ${bytes.length}`);
  const view = viewOf(bytes);
  const k = Number(view.getBigUint64(0, true));
  if (!(k >= 1 && k <= into.length && bytes.length >= 16 + 2 * k))
    refuse('ERR_PHOENIX_SHAPE', `expected 1 to ${into.length} values, got ${k}`);
  if (bytes[8]! > 1 || bytes.subarray(9, 16).some((byte) => byte !== 0)) refuse('ERR_PHOENIX_SHAPE', 'expected coding 0 or 1');
  const indices = indicesOf(bytes.subarray(16 + 2 * k), bytes[8]!, k, into.length);
  into.fill(0);
  for (const [i, index] of indices.entries()) into[index] = fromBfloat16(view.getUint16(16 + 2 * i, true));
}

// ---- ranges

function inRange(length: number, offset: number, count: number): void {
  if (!(Number.isInteger(offset) && Number.isInteger(count) && offset >= 0 && count >= 0 && offset + count <= length))
    refuse('ERR_PHOENIX_SHAPE', `range [${offset}, +${count}) outside of a Vector of ${length}`);
}

/** Pairs (offset, count) within `whole` values, together `packed` of them. */
function pairsOf(ranges: Float64Array, whole: number, packed: number): [number, number][] {
  const pairs: [number, number][] = [];
  for (let i = 0; i < ranges.length; i += 2) pairs.push([ranges[i]!, ranges[i + 1] ?? Number.NaN]);
  for (const [offset, count] of pairs) inRange(whole, offset, count);
  if (pairs.reduce((sum, [, count]) => sum + count, 0) !== packed)
    refuse('ERR_PHOENIX_SHAPE', `expected ranges of ${packed} values together`);
  return pairs;
}

type Visit = (inVector: number, inBytes: number) => void;

/** Calls `visit` with the place of each value in the vector and of its bytes; `size`: bytes per value. */
function eachOfTensors(entries: Float64Array, length: number, byteLength: number, size: number, visit: Visit): void {
  if (entries.length % 6 !== 0) refuse('ERR_PHOENIX_ARGUMENT', 'entries: expected six numbers per tensor');
  for (let row = 0; row < entries.length; row += 6) {
    const [offset, count, byteOffset, k, c, taps] = entries.subarray(row, row + 6) as unknown as [
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    inRange(length, offset, count);
    if (k * c * taps !== count) refuse('ERR_PHOENIX_SHAPE', `entries: ${k}·${c}·${taps} is not ${count}`);
    if (byteOffset + size * count > byteLength) refuse('ERR_PHOENIX_SHAPE', 'entries: a tensor lies outside of the bytes');
    for (let i = 0; i < count; i++) {
      const [tap, channel, out] = [i % taps, Math.floor(i / taps) % c, Math.floor(i / taps / c)];
      visit(offset + (out * taps + tap) * c + channel, byteOffset + size * i);
    }
  }
}

const dtypes: Record<string, { size: number; read(view: DataView, at: number): number }> = {
  F64: { size: 8, read: (view, at) => view.getFloat64(at, true) },
  F32: { size: 4, read: (view, at) => view.getFloat32(at, true) },
  F16: { size: 2, read: (view, at) => fromHalf(view.getUint16(at, true)) },
  BF16: { size: 2, read: (view, at) => fromBfloat16(view.getUint16(at, true)) },
};

// ---- the vector

export function fakeVector(length: number): FakeVector {
  const memory = new Float32Array(length);
  let disposed = false;
  alive.now++;
  alive.most = Math.max(alive.most, alive.now);
  const own = () => (disposed ? refuse('ERR_PHOENIX_DISPOSED', 'this fake Vector was disposed of') : memory);
  /** Values of another vector of the same length. */
  const like = (other: Vector) => {
    const values = valuesOf(other);
    if (values.length !== own().length) refuse('ERR_PHOENIX_SHAPE', `expected a Vector of ${length} values, got ${values.length}`);
    return values;
  };
  const part = (offset: number, count: number) => {
    inRange(own().length, offset, count);
    return memory.subarray(offset, offset + count);
  };
  const set = (value: (i: number) => number) => {
    for (let i = 0; i < length; i++) memory[i] = value(i);
  };
  const codec = (name: string) =>
    name === 'bf16' || name === 'int8' ? name : refuse('ERR_PHOENIX_ARGUMENT', `codec: expected bf16 or int8, got ${name}`);
  const vector: Vector = {
    get length() {
      return own().length;
    },
    dispose() {
      if (!disposed) alive.now--;
      disposed = true;
    },
    async axpy(x, a) {
      const from = like(x);
      set((i) => memory[i]! + a * from[i]!);
    },
    scale: async (a) => own() && set((i) => a * memory[i]!),
    fill: async (value) => void own().fill(value),
    async subtract(a, b) {
      const [minuend, subtrahend] = [like(a), like(b)];
      set((i) => minuend[i]! - subtrahend[i]!);
    },
    async roundToBf16(from) {
      const values = like(from);
      set((i) => fromBfloat16(toBfloat16(values[i]!)));
    },
    async interpolate(x, a) {
      const to = like(x);
      if (!(a >= 0 && a <= 1)) refuse('ERR_PHOENIX_ARGUMENT', `a: expected a number from 0 to 1, got ${a}`);
      set((i) => memory[i]! + a * (to[i]! - memory[i]!));
    },
    copy: async (from, offset, count) => part(offset, count).set(like(from).subarray(offset, offset + count)),
    async dot(other) {
      const values = like(other);
      return own().reduce((sum, value, i) => sum + value * values[i]!, 0);
    },
    isFinite: async () => own().every(Number.isFinite),
    async serverStep(kind, delta, first, second, { lr, beta1, beta2, tau }) {
      if (!['momentum', 'adam', 'yogi'].includes(kind)) refuse('ERR_PHOENIX_ARGUMENT', `expected momentum, adam or yogi, got ${kind}`);
      if (!second && kind !== 'momentum') refuse('ERR_PHOENIX_ARGUMENT', `${kind} needs second moments`);
      const [d, m, v] = [like(delta), like(first), second && like(second)];
      set((i) => {
        m[i] = beta1 * m[i]! + (kind === 'momentum' ? 1 : 1 - beta1) * d[i]!;
        if (kind === 'momentum' || !v) return memory[i]! + lr * m[i]!;
        const square = d[i]! ** 2;
        v[i] = kind === 'adam' ? beta2 * v[i]! + (1 - beta2) * square : v[i]! - (1 - beta2) * square * Math.sign(v[i]! - square);
        return memory[i]! + (lr * m[i]!) / (Math.sqrt(v[i]!) + tau);
      });
    },
    toBytes: async (offset, count) => new Uint8Array(part(offset, count).slice().buffer),
    async fromBytes(bytes, offset) {
      if (bytes.length % 4 !== 0) refuse('ERR_PHOENIX_SHAPE', `expected whole float32 values, got ${bytes.length} bytes`);
      part(offset, bytes.length / 4).set(new Float32Array(Uint8Array.from(bytes).buffer));
    },
    async importTensors(bytes, dtype, entries) {
      const { size, read } = dtypes[dtype] ?? refuse('ERR_PHOENIX_ARGUMENT', `expected F64, F32, F16 or BF16, got ${dtype}`);
      const [values, view] = [own(), viewOf(bytes)];
      eachOfTensors(entries, length, bytes.length, size, (inVector, inBytes) => {
        values[inVector] = read(view, inBytes);
      });
    },
    async exportTensors(byteLength, entries) {
      if (byteLength % 4 !== 0) refuse('ERR_PHOENIX_SHAPE', 'expected a length of whole float32 values');
      const bytes = new Uint8Array(byteLength);
      const [values, view] = [own(), viewOf(bytes)];
      eachOfTensors(entries, length, byteLength, 4, (inVector, inBytes) => view.setFloat32(inBytes, values[inVector]!, true));
      return bytes;
    },
    async encode(name, offset, count) {
      const values = part(offset, count);
      if (codec(name) === 'int8') return encodeInt8(values);
      return new Uint8Array(Uint16Array.from(values, toBfloat16).buffer);
    },
    async decode(name, bytes, offset, count) {
      const into = part(offset, count);
      const expected = codec(name) === 'int8' ? int8Bytes(count) : 2 * count;
      if (bytes.length !== expected) refuse('ERR_PHOENIX_SHAPE', `${count} values do not take ${bytes.length} bytes`);
      if (name === 'int8') decodeInt8(bytes, into);
      else into.set(Float32Array.from(new Uint16Array(Uint8Array.from(bytes).buffer), fromBfloat16));
    },
    async encodeLargest(k) {
      if (!(k >= 1 && k <= length)) refuse('ERR_PHOENIX_ARGUMENT', `k: expected a number from 1 to ${length}, got ${k}`);
      return encodeLargest(own(), k);
    },
    decodeLargest: async (bytes) => decodeLargest(bytes, own()),
    async gather(from, ranges) {
      const values = valuesOf(from);
      let to = 0;
      for (const [offset, count] of pairsOf(ranges, values.length, own().length)) {
        memory.set(values.subarray(offset, offset + count), to);
        to += count;
      }
    },
    async scatter(from, ranges) {
      const values = valuesOf(from);
      let next = 0;
      for (const [offset, count] of pairsOf(ranges, own().length, values.length)) {
        memory.set(values.subarray(next, next + count), offset);
        next += count;
      }
    },
    async trimmedMean(rows, { rows: n, columns, trim, offset }) {
      const values = valuesOf(rows);
      if (values === own()) refuse('ERR_PHOENIX_ARGUMENT', 'expected rows in a Vector of their own');
      if (n * columns > values.length || 2 * trim >= n) refuse('ERR_PHOENIX_SHAPE', `${n} rows of ${columns} columns, ${trim} trimmed`);
      const into = part(offset, columns);
      for (let j = 0; j < columns; j++) {
        const column = Array.from({ length: n }, (_, i) => values[i * columns + j]!).sort((a, b) => a - b);
        const kept = column.slice(trim, n - trim);
        into[j] = kept.reduce((a, b) => a + b) / kept.length;
      }
    },
    async rowDistances(n, columns) {
      part(0, n * columns);
      return Float64Array.from({ length: n * n }, (_, at) => {
        const [a, b] = [Math.floor(at / n), at % n].map((row) => memory.subarray(row * columns, (row + 1) * columns));
        return a!.reduce((sum, x, j) => sum + (x - b![j]!) ** 2, 0);
      });
    },
  };
  Object.defineProperty(vector, 'values', { get: own, enumerable: true });
  return vector as FakeVector;
}

/** A fake vector that holds these values. */
export function fakeVectorOf(values: ArrayLike<number>): FakeVector {
  const vector = fakeVector(values.length);
  vector.values.set(values);
  return vector;
}
