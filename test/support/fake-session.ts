/**
 * A stand-in for the native engine: a Session in JavaScript whose loss is quadratic, ½|p - target|² with noise from the stream, so
 * that a test of the federated logic takes milliseconds and results can be worked out by hand.
 */
import type { NativeSample, NativeTrain } from '../../src/bindings/native.ts';
import type { Images, Session } from '../../src/bindings/session.ts';
import type { Vector } from '../../src/bindings/vector.ts';
import type { Hyper } from '../../src/ddpm/fit.ts';
import { philox } from '../../src/rng.ts';
import { fakeVector, valuesOf } from './fake-vector.ts';

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
