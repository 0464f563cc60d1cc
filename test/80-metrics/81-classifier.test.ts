/** Feature networks of one's own data and of files: the classifier's training, logistic regression, MobileNet's layers. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { addon } from '../../src/bindings/load.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import {
  accuracy,
  classifierNetwork,
  type Features,
  featureMatrix,
  featureNetwork,
  logisticLogits,
  logisticRegression,
  trainClassifier,
} from '../../src/ddpm/metrics/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';

const bytes = (count: number, seed: number) => {
  const draw = rng(seed, 'pixels');
  return Uint8Array.from({ length: count }, () => draw.int(256));
};

test('classifier: learns the built-in shapes, equal seeds give equal weights on any number of threads', async (t) => {
  const train = await openDataset('synthetic:300');
  const unseen = await openDataset('synthetic:200', { split: 'test' });
  const shape = { height: train.height, width: train.width, channels: train.channels, classes: 10 };
  const options = { steps: 60, batch: 32 };
  const done: number[] = [];
  const weights = await trainClassifier(train, train.labels!, 10, { ...options, threads: 1, onProgress: (share) => done.push(share) });
  t.is(done.at(-1), 1);
  t.deepEqual(await trainClassifier(train, train.labels!, 10, { ...options, threads: 3 }), weights);
  t.notDeepEqual(await trainClassifier(train, train.labels!, 10, { ...options, seed: 1 }), weights);
  const network = classifierNetwork(shape, weights);
  t.like(network, { name: 'own', dims: 64, classes: 10 });
  const { features, logits } = await network.run(unseen);
  t.true(accuracy(logits!, unseen.labels!) > 0.9);
  t.is(features.rows, 200);
  // The whole and its parts, whatever the native calls are.
  const part = await network.run({ ...unseen, pixels: unseen.pixels.subarray(0, 70 * 768), count: 70 }, { threads: 1 });
  t.deepEqual(part.features.data, features.data.subarray(0, 70 * 64));
  const fails = (call: () => Promise<unknown>) => t.throwsAsync(call, { instanceOf: PhoenixError });
  await fails(() => network.run({ ...unseen, height: 8, width: 32 }));
  await fails(() => trainClassifier(train, train.labels!.subarray(1), 10));
  await fails(() =>
    trainClassifier(
      train,
      train.labels!.map(() => 10),
      10,
      { steps: 1 },
    ),
  );
  await t.throwsAsync(trainClassifier(train, train.labels!, 10, { signal: AbortSignal.abort(new Error('enough')) }), { message: 'enough' });
});

test('logistic regression: closed forms, and the gradient is zero at the optimum', async (t) => {
  // Features that say nothing: softmax(biases) = the classes' shares.
  const labels = Int32Array.from([0, 0, 0, 1, 1, 2, 2, 2, 2, 2]);
  const blank = featureMatrix(new Float64Array(20).fill(3), 2);
  const fit = await logisticRegression(blank, labels, 3);
  t.true(fit.gradient < 1e-7);
  const biases = logisticLogits(fit, blank).data.subarray(0, 3);
  near(t, biases[0]! - biases[1]!, Math.log(3 / 2), 1e-5);
  near(t, biases[2]! - biases[1]!, Math.log(5 / 2), 1e-5);
  // One feature, ±1, three of four right: the log odds are ln 3 at 1 and -ln 3 at -1.
  const sides = featureMatrix(Float64Array.from([1, 1, 1, 1, -1, -1, -1, -1]), 1);
  const odds = await logisticRegression(sides, Int32Array.from([1, 1, 1, 0, 0, 0, 0, 1]), 2, { l2: 0 });
  const logits = logisticLogits(odds, sides).data;
  near(t, logits[1]! - logits[0]!, Math.log(3), 1e-5);
  near(t, logits[9]! - logits[8]!, -Math.log(3), 1e-5);

  // Random features of different scales: mean Σ (p - onehot)·x + l2·w, computed here, vanishes.
  const draw = rng(4, 'features');
  const [rows, columns, classes, l2] = [200, 6, 4, 0.01];
  const x: Features = featureMatrix(
    Float64Array.from({ length: rows * columns }, (_, i) => 10 ** ((i % columns) - 3) * (draw.normal() + (i % 3))),
    columns,
  );
  const random = Int32Array.from({ length: rows }, (_, i) => (x.data[i * columns]! > 0 ? draw.int(2) : draw.int(4)));
  const found = await logisticRegression(x, random, classes, { l2, threads: 2 });
  t.deepEqual(await logisticRegression(x, random, classes, { l2, threads: 1 }), found);
  const scores = logisticLogits(found, x).data;
  for (let c = 0; c < columns; c++) {
    const column = Array.from({ length: rows }, (_, row) => x.data[row * columns + c]!);
    const mean = column.reduce((a, b) => a + b) / rows;
    const deviation = Math.sqrt(column.reduce((sum, value) => sum + (value - mean) ** 2, 0) / rows);
    for (let k = 0; k < classes; k++) {
      let gradient = l2 * found.weights[k * columns + c]! * deviation;
      for (let row = 0; row < rows; row++) {
        const exp = Array.from({ length: classes }, (_, j) => Math.exp(scores[row * classes + j]!));
        const p = exp[k]! / exp.reduce((a, b) => a + b);
        gradient += ((p - (random[row] === k ? 1 : 0)) * (column[row]! - mean)) / deviation / rows;
      }
      near(t, gradient, 0, 1e-6, `class ${k}, feature ${c}`);
    }
  }
  await t.throwsAsync(logisticRegression(x, random, 3), { instanceOf: PhoenixError });
  await t.throwsAsync(logisticRegression(x, random, 4, { l2: -1 }), { instanceOf: PhoenixError });
});

test('a chain of strided, depthwise and pointwise layers agrees with its definition', async (t) => {
  const draw = rng(8, 'weights');
  const normals = (count: number) => Float32Array.from({ length: count }, () => draw.normal());
  const parts = {
    conv: normals(4 * 27),
    convBias: normals(4),
    dw: normals(9 * 4),
    dwBias: normals(4),
    pw: normals(5 * 4),
    pwBias: normals(5),
  };
  const weights = Float32Array.from(Object.values(parts).flatMap((part) => [...part]));
  const plan = {
    height: 8,
    width: 8,
    channels: 3,
    scale: Float32Array.of(1 / 128, 1 / 128, 1 / 128),
    shift: Float32Array.of(-1, -1, -1),
    layers: Int32Array.of(0, 4, 2, 0, 1, 4, 2, 0, 2, 5, 1, 0),
    most: 6,
    pad: 0,
    classes: 0,
    weights,
  };
  const pixels = bytes(2 * 4 * 4, 3); // gray images of half the size
  const { features } = await addon().runNetwork(addon().createNetwork(plan), pixels, 4, 4, 1, 2);
  for (let image = 0; image < 2; image++) {
    const gray = (i: number, j: number) => pixels[image * 16 + i * 4 + j]!;
    const clamp = (value: number, most: number) => Math.min(most, Math.max(0, value));
    const bilinear = (i: number, j: number) => {
      const [y, x] = [clamp((i + 0.5) / 2 - 0.5, 3), clamp((j + 0.5) / 2 - 0.5, 3)];
      const [top, left] = [Math.floor(y), Math.floor(x)];
      const [bottom, right] = [Math.min(3, top + 1), Math.min(3, left + 1)];
      const row = (r: number) => gray(r, left) * (1 - (x - left)) + gray(r, right) * (x - left);
      return row(top) * (1 - (y - top)) + row(bottom) * (y - top);
    };
    const input = (i: number, j: number) => (i < 8 && j < 8 ? bilinear(i, j) / 128 - 1 : 0);
    const conv = (i: number, j: number, k: number) => {
      if (i >= 4 || j >= 4) return 0;
      let sum = parts.convBias[k]!;
      for (let tap = 0; tap < 9; tap++)
        for (let c = 0; c < 3; c++) sum += parts.conv[(k * 9 + tap) * 3 + c]! * input(2 * i + Math.floor(tap / 3), 2 * j + (tap % 3));
      return clamp(sum, 6);
    };
    const dw = (i: number, j: number, c: number) => {
      let sum = parts.dwBias[c]!;
      for (let tap = 0; tap < 9; tap++) sum += parts.dw[tap * 4 + c]! * conv(2 * i + Math.floor(tap / 3), 2 * j + (tap % 3), c);
      return clamp(sum, 6);
    };
    for (let k = 0; k < 5; k++) {
      let mean = 0;
      for (const [i, j] of [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
      ] as const) {
        let sum = parts.pwBias[k]!;
        for (let c = 0; c < 4; c++) sum += parts.pw[k * 4 + c]! * dw(i, j, c);
        mean += clamp(sum, 6) / 4;
      }
      near(t, features[image * 5 + k], mean, 1e-4, `image ${image}, feature ${k}`);
    }
  }
  t.throws(() => addon().createNetwork({ ...plan, weights: weights.subarray(1) }), { instanceOf: PhoenixError });
  t.throws(() => addon().createNetwork({ ...plan, layers: Int32Array.of(0, 4, 2, 0, 1, 5, 2, 0) }), { instanceOf: PhoenixError });
});

const data = process.env.PHOENIX_DATA;
const mobilenet = data && join(data, 'features', 'imagenet-mobilenet_v1_1.0_224-embed1024.safetensors');
const present = mobilenet && existsSync(mobilenet) && existsSync(join(data!, 'cifar-10-batches-bin'));
if (!present) console.log('PHOENIX_DATA names no folder with features/ and cifar-10-batches-bin/: 1 check on MobileNet skipped');
(present ? test.serial : test.serial.skip)('MobileNet: features of the first CIFAR-10 test images', async (t) => {
  const record = readFileSync(join(data!, 'cifar-10-batches-bin', 'test_batch.bin')).subarray(0, 4 * 3073);
  const pixels = new Uint8Array(4 * 3072);
  for (let image = 0; image < 4; image++)
    for (let c = 0; c < 3; c++) for (let p = 0; p < 1024; p++) pixels[image * 3072 + p * 3 + c] = record[image * 3073 + 1 + c * 1024 + p]!;
  const net = await featureNetwork(mobilenet as string);
  t.like(net, { name: 'mobilenet1', dims: 1024, classes: 0 });
  const { features, logits } = await net.run({ pixels, count: 4, height: 32, width: 32, channels: 3 });
  t.is(logits, undefined);
  const golden = JSON.parse(readFileSync(join(data!, 'features', 'golden.json'), 'utf8')).mobilenet_v1;
  for (let image = 0; image < 4; image++) {
    const row = Float64Array.from(features.data.subarray(image * 1024, (image + 1) * 1024));
    const mean = row.reduce((a, b) => a + b) / 1024;
    near(t, mean, golden.mean[image], 2e-4, `mean of image ${image}`);
    near(t, row.subarray(0, 8), golden.first8[image], 1e-3, `features of image ${image}`);
  }
});
