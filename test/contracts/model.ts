/**
 * What holds for every model that a Session trains: a table of parameters that covers the vector, a gradient that is the slope of the loss,
 * the same bits on any number of threads, a loss that falls, and memory that is planned before it is used.
 */
import test from 'ava';
import { addon } from '../../src/bindings/load.ts';
import type { Addon, NativeModel } from '../../src/bindings/native.ts';
import { createImages, type Session, sessionOn } from '../../src/bindings/session.ts';
import { atStart } from '../../src/ddpm/fit.ts';
import { type Noise, noise } from '../../src/ddpm/noise.ts';
import { type ImageSize, imageBytes } from '../../src/images.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';
import { testHyper } from '../support/plain-fit.ts';

export type ModelCase = {
  model: NativeModel;
  size: ImageSize;
  /** Classes of its images; 0 = none. */
  classes: number;
  /** Values per image that the loss compares the output with; 0 = the loss takes the classes. */
  target: number;
};

const COUNT = 8;
const BATCH = 4;

export function modelContract(name: string, { model, size, classes, target }: ModelCase): void {
  const schedule: Noise = noise();
  const draw = rng(5, 'model contract', name);
  const pixels = Uint8Array.from({ length: COUNT * imageBytes(size) }, () => draw.int(256));
  const labels = classes > 0 ? Int32Array.from({ length: COUNT }, (_, i) => i % classes) : undefined;
  const open = (native: Addon, threads = 1): Session => sessionOn(native, { model, noise: schedule, threads, precision: 'fp32' });
  const valuesOf = async (vector: Session['params']) => new Float32Array((await vector.toBytes(0, vector.length)).slice().buffer);
  const training = (steps: number, first = 0) => ({
    indices: Int32Array.from({ length: steps * BATCH }, (_, i) => i % BATCH),
    classes: labels,
    steps,
    hyper: testHyper({ batch: BATCH, lr: 5e-3 }),
    key: 3n,
    ...atStart,
    firstStep: first,
    globalStep: first,
    adamStep: first,
  });

  test(`${name}: the table of parameters covers the vector without gaps, and a key fixes what it begins with`, async (t) => {
    using session = open(addon('cpu'));
    let end = 0;
    for (const { name: parameter, offset, count, shape } of session.parameters) {
      t.is(offset, end, parameter);
      t.is(
        count,
        shape.reduce((product, side) => product * side, 1),
        parameter,
      );
      end += count;
    }
    t.is(end, session.parameterCount);
    t.is(new Set(session.parameters.map((parameter) => parameter.name)).size, session.parameters.length);
    await session.init(1n);
    const begun = await valuesOf(session.params);
    t.true(begun.every(Number.isFinite) && begun.some((value) => value !== 0));
    await session.init(2n);
    t.notDeepEqual(await valuesOf(session.params), begun);
    await session.init(1n);
    t.deepEqual(await valuesOf(session.params), begun);
  });

  test(`${name}: the gradient is the slope of the loss on the definitions, and the fast build follows`, async (t) => {
    const n = 2;
    const x = Float64Array.from({ length: n * imageBytes(size) }, () => draw.normal());
    const times = Float64Array.from({ length: n }, (_, i) => 100 + 300 * i);
    const wanted = Float64Array.from({ length: n * target }, () => draw.normal());
    using ref = open(addon('ref'));
    await ref.init(7n);
    const weights = (await valuesOf(ref.params)).map((value) => value + 0.05 * draw.normal());
    const gradientAt = async (session: Session, at: Float32Array) => {
      await session.params.fromBytes(new Uint8Array(at.buffer), 0);
      const found = await session.gradient(x, times, wanted, session.params, labels?.subarray(0, n));
      return { loss: found.loss, gradient: await valuesOf(found.gradient) };
    };
    const { loss, gradient } = await gradientAt(ref, weights);
    // The parameters are float32, so a slope is taken over the steps that they really made.
    const slope = async (change: (value: number, i: number, sign: number) => number) => {
      const [up, down] = [1, -1].map((sign) => weights.map((value, i) => change(value, i, sign)));
      const rise = (await gradientAt(ref, up!)).loss - (await gradientAt(ref, down!)).loss;
      return { rise, expected: gradient.reduce((sum, g, i) => sum + g * (up![i]! - down![i]!), 0) };
    };
    for (const { name: parameter, offset, count } of someParameters(ref)) {
      const at = offset + draw.int(count);
      const { rise, expected } = await slope((value, i, sign) => (i === at ? value + sign * 2e-4 : value));
      near(t, expected, rise, { relative: 1e-4, absolute: 1e-11 }, parameter);
    }
    const direction = weights.map(() => draw.normal());
    const { rise, expected } = await slope((value, i, sign) => value + sign * 1e-5 * direction[i]!);
    near(t, expected, rise, { relative: 1e-4 }, 'all at once');

    using fast = open(addon('cpu'), 2);
    const quick = await gradientAt(fast, weights);
    near(t, quick.loss, loss, { relative: 1e-5 }, 'loss of the fast build');
    near(t, quick.gradient, gradient, { norm: 1e-4 }, 'gradient of the fast build');
  });

  test(`${name}: training lowers the loss on one batch, with the same bits on 1, 2 and 3 threads`, async (t) => {
    const ends: Float32Array[] = [];
    for (const threads of [1, 2, 3]) {
      using session = open(addon('cpu'), threads);
      using images = await createImages({ ...size, count: COUNT, pixels }, session);
      await session.init(1n);
      const evaluation = { indices: Int32Array.of(0, 1, 2, 3), classes: labels, batch: BATCH, key: 9n, weights: session.params };
      const before = await session.evalLoss(images, evaluation);
      await session.train(images, training(60));
      const after = await session.evalLoss(images, evaluation);
      t.true(after < before, `the loss went from ${before} to ${after}`);
      ends.push(await valuesOf(session.params));
    }
    t.deepEqual(ends[1], ends[0]);
    t.deepEqual(ends[2], ends[0]);
  });

  test(`${name}: memory is planned before the first step, and no later one needs more`, async (t) => {
    using session = open(addon('cpu'));
    using images = await createImages({ ...size, count: COUNT, pixels }, session);
    await session.init(1n);
    await session.train(images, training(1));
    const planned = session.memory();
    t.true(planned.activations > 0);
    await session.train(images, training(3, 1));
    await session.evalLoss(images, { indices: Int32Array.of(0, 1), classes: labels, batch: 2, key: 9n, weights: session.params });
    t.deepEqual(session.memory(), planned);
  });
}

/** At most sixteen parameters, from every part of the vector. */
function someParameters({ parameters }: Session) {
  const every = Math.ceil(parameters.length / 16);
  return parameters.filter((_, i) => i % every === 0 || i === parameters.length - 1);
}
