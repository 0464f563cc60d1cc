/**
 * A stand-in for the native engine: vectors in JavaScript and a Session whose loss is quadratic, ½|p - target|² with noise from the stream, so
 * that a test of the federated logic takes milliseconds and results can be worked out by hand.
 */
import type { NativeSample, NativeTrain } from '../../src/bindings/native.ts';
import type { Images, Session } from '../../src/bindings/session.ts';
import type { Vector } from '../../src/bindings/vector.ts';
import type { Hyper } from '../../src/ddpm/fit.ts';
import { philox } from '../../src/rng.ts';

/** Fake vectors alive, and the most there were at once. */
export const alive = { now: 0, most: 0 };

type FakeVector = Vector & { values: Float32Array };

const valuesOf = (vector: Vector) => (vector as FakeVector).values;

const cutOff = (value: number) =>
  new Float32Array(Uint32Array.from(new Uint32Array(Float32Array.of(value).buffer), (bits) => bits & 0xffff0000).buffer)[0]!;

export function fakeVector(length: number): FakeVector {
  const values = new Float32Array(length);
  let disposed = false;
  alive.now++;
  alive.most = Math.max(alive.most, alive.now);
  const each = async (f: (i: number) => number, ...others: Vector[]) => {
    if (disposed || others.some((other) => other.length !== length)) throw new Error('fake vector: disposed, or another length');
    for (let i = 0; i < length; i++) values[i] = f(i);
  };
  return {
    values,
    length,
    dispose() {
      if (!disposed) alive.now--;
      disposed = true;
    },
    axpy: (x, a) => each((i) => values[i]! + a * valuesOf(x)[i]!, x),
    scale: (a) => each((i) => a * values[i]!),
    fill: (value) => each(() => value),
    subtract: (a, b) => each((i) => valuesOf(a)[i]! - valuesOf(b)[i]!, a, b),
    roundToBf16: (from) => each((i) => cutOff(valuesOf(from)[i]!), from),
    interpolate: (x, a) => each((i) => values[i]! + a * (valuesOf(x)[i]! - values[i]!), x),
    async copy(from, offset, count) {
      values.set(valuesOf(from).subarray(offset, offset + count), offset);
    },
    dot: async (other) => values.reduce((sum, value, i) => sum + value * valuesOf(other)[i]!, 0),
    isFinite: async () => values.every(Number.isFinite),
    async serverStep(kind, delta, first, second, { lr, beta1, beta2, tau }) {
      const d = valuesOf(delta);
      const m = valuesOf(first);
      const v = second && valuesOf(second);
      for (let i = 0; i < length; i++) {
        const square = d[i]! * d[i]!;
        m[i] = beta1 * m[i]! + (kind === 'momentum' ? 1 : 1 - beta1) * d[i]!;
        if (v) v[i] = kind === 'adam' ? beta2 * v[i]! + (1 - beta2) * square : v[i]! - (1 - beta2) * square * Math.sign(v[i]! - square);
        values[i] = values[i]! + (v ? (lr * m[i]!) / (Math.sqrt(v[i]!) + tau) : lr * m[i]!);
      }
    },
    toBytes: async (offset, count) => new Uint8Array(values.slice(offset, offset + count).buffer),
    async fromBytes(bytes, offset) {
      values.set(new Float32Array(Uint8Array.from(bytes).buffer), offset);
    },
    // Cut off instead of rounded to even, as above: the residual of an update is then larger than the real one's, and as exact.
    async encode(codec, offset, count) {
      const part = values.subarray(offset, offset + count);
      if (codec === 'bf16') return new Uint8Array(Uint16Array.from(new Uint32Array(part.slice().buffer), (bits) => bits >>> 16).buffer);
      if (count > 1024) throw new Error('fake vector: one block of int8');
      const scale = part.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127 || 1;
      const bytes = Int8Array.from(part, (value) => Math.trunc(value / scale));
      return Buffer.concat([new Uint8Array(Float32Array.of(scale).buffer), new Uint8Array(bytes.buffer)]);
    },
    async decode(codec, bytes, offset, count) {
      const copy = Uint8Array.from(bytes).buffer;
      if (codec === 'bf16') values.set(new Float32Array(Uint32Array.from(new Uint16Array(copy), (bits) => bits << 16).buffer), offset);
      else for (let i = 0; i < count; i++) values[offset + i] = new Float32Array(copy.slice(0, 4))[0]! * new Int8Array(copy)[4 + i]!;
    },
    // The real one's format with a bitmap: u64 k, u8 coding, 7 zeros, the values cut off to bfloat16, a bit for each value.
    async encodeLargest(k) {
      const order = Array.from(values.keys()).sort((a, b) => Math.abs(values[b]!) - Math.abs(values[a]!) || a - b);
      const kept = order.slice(0, k).sort((a, b) => a - b);
      const bytes = Buffer.alloc(16 + 2 * k + Math.ceil(length / 8));
      bytes.writeBigUInt64LE(BigInt(k));
      bytes[8] = 1;
      for (const [i, at] of kept.entries()) {
        bytes.writeUInt16LE(new Uint32Array(Float32Array.of(values[at]!).buffer)[0]! >>> 16, 16 + 2 * i);
        bytes[16 + 2 * k + (at >> 3)]! |= 1 << (at & 7);
      }
      return bytes;
    },
    async decodeLargest(bytes) {
      const from = Buffer.from(bytes);
      const k = Number(from.readBigUInt64LE());
      let next = 16;
      await each((i) => {
        if (((from[16 + 2 * k + (i >> 3)]! >> (i & 7)) & 1) === 0) return 0;
        next += 2;
        return new Float32Array(Uint32Array.of(from.readUInt16LE(next - 2) << 16).buffer)[0]!;
      });
    },
    async gather(from, ranges) {
      let to = 0;
      for (let r = 0; r < ranges.length; r += 2) {
        values.set(valuesOf(from).subarray(ranges[r]!, ranges[r]! + ranges[r + 1]!), to);
        to += ranges[r + 1]!;
      }
    },
    async scatter(from, ranges) {
      let next = 0;
      for (let r = 0; r < ranges.length; r += 2) {
        values.set(valuesOf(from).subarray(next, next + ranges[r + 1]!), ranges[r]!);
        next += ranges[r + 1]!;
      }
    },
    async trimmedMean(rows, { rows: n, columns, trim, offset }) {
      for (let j = 0; j < columns; j++) {
        const column = Array.from({ length: n }, (_, i) => valuesOf(rows)[i * columns + j]!).sort((a, b) => a - b);
        const kept = column.slice(trim, n - trim);
        values[offset + j] = kept.reduce((a, b) => a + b) / kept.length;
      }
    },
    async rowDistances(n, columns) {
      const row = (i: number) => values.subarray(i * columns, (i + 1) * columns);
      return Float64Array.from({ length: n * n }, (_, at) => {
        const b = row(at % n);
        return row(Math.floor(at / n)).reduce((sum, x, j) => sum + (x - b[j]!) ** 2, 0);
      });
    },
    importTensors: () => Promise.reject(new Error('fake vector: no tensors')),
    exportTensors: () => Promise.reject(new Error('fake vector: no tensors')),
  };
}

/** Images of 4×4 gray pixels; `pixels` is what was written. */
export function fakeImages(count: number): Images & { pixels: Uint8Array } {
  const pixels = new Uint8Array(16 * count);
  const write = (bytes: Uint8Array, offset: number) => pixels.set(bytes, offset);
  return { count, bytes: pixels.length, write, dispose() {}, pixels } as unknown as Images & { pixels: Uint8Array };
}

/** Where image `i` pulls parameter `j`: a fixed irregular number in -1..1. */
export const target = (i: number, j: number) => Math.sin(1 + 3.7 * i + 1.3 * j);

const unit = (key: bigint, step: number, j: number) => philox(key, step, j, 0, 99)[0]! / 2 ** 32 - 0.5;

/** A Session with `length` parameters. `calls` are the options of every train call, `noise` scales the noise on gradients. */
export function fakeSession({ length = 6, noise = 0.1 } = {}): Session & { calls: NativeTrain[] } {
  const [params, ema, adamM, adamV] = [fakeVector(length), fakeVector(length), fakeVector(length), fakeVector(length)];
  const calls: NativeTrain[] = [];

  function step(options: NativeTrain, number: number): number {
    const { key, anchor } = options;
    const { batch, beta1, beta2, mu, adamEps, warmupSteps, ...hyper } = options.hyper as Hyper;
    const images = Array.from(options.indices.subarray(number * batch, (number + 1) * batch));
    const adamStep = options.adamStep + number + 1;
    const lr = hyper.lr * (warmupSteps > 0 ? Math.min(1, (options.globalStep + number + 1) / warmupSteps) : 1);
    let loss = 0;
    for (let j = 0; j < length; j++) {
      const p = params.values[j]!;
      const off = p - images.reduce((sum, i) => sum + target(i, j), 0) / batch;
      const g = off + noise * unit(key, options.firstStep + number, j) + (mu > 0 ? mu * (p - valuesOf(anchor!)[j]!) : 0);
      adamM.values[j] = beta1 * adamM.values[j]! + (1 - beta1) * g;
      adamV.values[j] = beta2 * adamV.values[j]! + (1 - beta2) * g * g;
      const m = adamM.values[j]! / (1 - beta1 ** adamStep);
      const v = adamV.values[j]! / (1 - beta2 ** adamStep);
      params.values[j] = p - lr * (m / (Math.sqrt(v) + adamEps));
      loss += (off * off) / 2 / length;
    }
    return loss;
  }

  const session = {
    calls,
    backend: 'fake',
    parameters: [
      { name: 'body', offset: 0, count: length - 1, shape: [length - 1] },
      { name: 'head', offset: length - 1, count: 1, shape: [1] },
    ],
    parameterCount: length,
    createVector: fakeVector,
    params,
    ema,
    adamM,
    adamV,
    async init(key: bigint) {
      for (let j = 0; j < length; j++) params.values[j] = unit(key, 0, j);
      await adamM.fill(0);
      await adamV.fill(0);
    },
    async train(_images: Images, options: NativeTrain, signal?: AbortSignal) {
      await Promise.resolve();
      signal?.throwIfAborted();
      calls.push(options);
      const losses = Float64Array.from({ length: options.steps }, (_, number) => step(options, number));
      return { losses, gradNorms: losses };
    },
    async evalLoss(_images: Images, { indices, weights }: { indices: Int32Array; weights: Vector }) {
      let loss = 0;
      for (const i of indices)
        for (let j = 0; j < length; j++) loss += (valuesOf(weights)[j]! - target(i, j)) ** 2 / 2 / length / indices.length;
      return loss;
    },
    /** Images of 4×4 gray pixels: the weights one after the other, with noise. */
    async sample({ count, key, weights }: NativeSample) {
      return Float32Array.from({ length: 16 * count }, (_, i) => Math.tanh(valuesOf(weights)[i % length]! + unit(key, i, 7)));
    },
    memory: () => ({ parameters: 0, optimizer: 0, activations: 0 }),
    dispose() {
      for (const vector of [params, ema, adamM, adamV]) vector.dispose();
    },
    [Symbol.dispose]: () => session.dispose(),
  };
  return session as unknown as Session & { calls: NativeTrain[] };
}
