/** Feature networks from safetensors: against their definition, refusals, and the real ones where PHOENIX_DATA has them. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { openSafetensors, writeSafetensors } from '../../src/ddpm/checkpoint/safetensors.ts';
import { accuracy, featureNetwork, frechetDistance, moments, pickRows } from '../../src/ddpm/metrics/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';

const fails = (t: ExecutionContext, code: PhoenixError['code'], call: () => Promise<unknown>) =>
  t.throwsAsync(call, { instanceOf: PhoenixError, code });

const norms = { weight: 'F32', bias: 'F32', running_mean: 'F32', running_var: 'F32' } as const;
const input = 'RGB/255, minus (.485,.456,.406), over (.229,.224,.225), NCHW 32x32';
const arch = 'ResNet-6n+2, option A shortcuts';

/** A ResNet-8 with weights from a seed: its tensors by name, as a file holds them. */
const tinyNetwork = (): Map<string, { shape: number[]; values: Float32Array }> => {
  const draw = rng(8, 'network');
  const tensors = new Map<string, { shape: number[]; values: Float32Array }>();
  const add = (name: string, shape: number[], value: () => number) =>
    tensors.set(name, { shape, values: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, value) });
  const unit = (conv: string, norm: string, from: number, to: number) => {
    add(`${conv}.weight`, [to, from, 3, 3], () => draw.normal() / Math.sqrt(9 * from));
    for (const part of Object.keys(norms))
      add(`${norm}.${part}`, [to], () => (part === 'running_mean' ? 0.1 * draw.normal() : 0.5 + draw.uniform()));
  };
  unit('conv1', 'bn1', 3, 16);
  for (const [stage, [from, to]] of [
    [16, 16],
    [16, 32],
    [32, 64],
  ].entries()) {
    unit(`layer${stage + 1}.0.conv1`, `layer${stage + 1}.0.bn1`, from!, to!);
    unit(`layer${stage + 1}.0.conv2`, `layer${stage + 1}.0.bn2`, to!, to!);
  }
  add('linear.weight', [5, 64], () => draw.normal());
  add('linear.bias', [5], () => draw.normal());
  return tensors;
};
type Tensors = ReturnType<typeof tinyNetwork>;

const write = (path: string, tensors: Tensors, metadata: Record<string, string> = { arch, input }) =>
  writeSafetensors(
    path,
    [...tensors].map(([name, { shape, values }]) => ({
      name,
      dtype: 'F32',
      shape,
      bytes: async () => new Uint8Array(values.slice().buffer),
    })),
    metadata,
  );

/** The same network by its definition: one image at a time, (C,H,W), batch norm apart from the convolution. */
const byDefinition = (tensors: Tensors, pixels: Uint8Array): { features: number[]; logits: number[] } => {
  type Plane = { c: number; side: number; data: Float64Array };
  const of = (name: string) => tensors.get(name)!;
  const unit = (x: Plane, conv: string, norm: string, stride: number): Plane => {
    const { shape, values } = of(`${conv}.weight`);
    const side = x.side / stride;
    const y: Plane = { c: shape[0]!, side, data: new Float64Array(shape[0]! * side * side) };
    const [gamma, beta, mean, variance] = ['weight', 'bias', 'running_mean', 'running_var'].map((part) => of(`${norm}.${part}`).values);
    for (let k = 0; k < y.c; k++)
      for (let i = 0; i < side; i++)
        for (let j = 0; j < side; j++) {
          let sum = 0;
          for (let c = 0; c < x.c; c++)
            for (let r = 0; r < 3; r++)
              for (let q = 0; q < 3; q++) {
                const [row, column] = [i * stride + r - 1, j * stride + q - 1];
                if (row < 0 || column < 0 || row >= x.side || column >= x.side) continue;
                sum += values[((k * x.c + c) * 3 + r) * 3 + q]! * x.data[(c * x.side + row) * x.side + column]!;
              }
          y.data[(k * side + i) * side + j] = ((sum - mean![k]!) / Math.sqrt(variance![k]! + 1e-5)) * gamma![k]! + beta![k]!;
        }
    return y;
  };
  const relu = (x: Plane): Plane => ({ ...x, data: x.data.map((value) => Math.max(0, value)) });
  const [mean, deviation] = [
    [0.485, 0.456, 0.406],
    [0.229, 0.224, 0.225],
  ];
  let x: Plane = { c: 3, side: 32, data: new Float64Array(3072) };
  for (let c = 0; c < 3; c++) for (let p = 0; p < 1024; p++) x.data[c * 1024 + p] = (pixels[p * 3 + c]! / 255 - mean[c]!) / deviation[c]!;
  x = relu(unit(x, 'conv1', 'bn1', 1));
  for (const stage of [1, 2, 3]) {
    const stride = stage === 1 ? 1 : 2;
    const inner = relu(unit(x, `layer${stage}.0.conv1`, `layer${stage}.0.bn1`, stride));
    const y = unit(inner, `layer${stage}.0.conv2`, `layer${stage}.0.bn2`, 1);
    const before = (y.c - x.c) / 2;
    for (let c = 0; c < x.c; c++)
      for (let i = 0; i < y.side; i++)
        for (let j = 0; j < y.side; j++)
          y.data[((c + before) * y.side + i) * y.side + j]! += x.data[(c * x.side + i * stride) * x.side + j * stride]!;
    x = relu(y);
  }
  const area = x.side * x.side;
  const features = Array.from({ length: x.c }, (_, c) => x.data.subarray(c * area, (c + 1) * area).reduce((a, b) => a + b) / area);
  const logits = Array.from(of('linear.bias').values, (bias, k) =>
    features.reduce((sum, feature, c) => sum + feature * of('linear.weight').values[k * x.c + c]!, bias),
  );
  return { features, logits };
};

const inFolder = async (body: (file: string) => Promise<void>) => {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-metrics-'));
  try {
    await body(join(folder, 'network.safetensors'));
  } finally {
    await rm(folder, { recursive: true });
  }
};

test('a feature network agrees with its definition, in batches and by threads', (t) =>
  inFolder(async (path) => {
    const tensors = tinyNetwork();
    await write(path, tensors);
    const net = await featureNetwork(path);
    t.like(net, { name: 'resnet8', dims: 64, classes: 5, height: 32, width: 32 });
    const count = 130; // more than one native call
    const draw = rng(9, 'pixels');
    const pixels = Uint8Array.from({ length: count * 3072 }, () => draw.int(256));
    const images = { pixels, count, height: 32, width: 32, channels: 3 };
    const done: number[] = [];
    const { features, logits } = await net.run(images, { threads: 1, onProgress: (n) => done.push(n) });
    t.deepEqual(done, [128, 130]);
    for (const image of [0, 129]) {
      const expected = byDefinition(tensors, pixels.subarray(image * 3072, (image + 1) * 3072));
      t.true(expected.features.some((value) => value > 0.1));
      const largest = Math.max(...expected.features, ...expected.logits.map(Math.abs));
      for (const [got, wanted] of [
        [features, expected.features],
        [logits!, expected.logits],
      ] as const)
        near(t, got.data.subarray(image * got.columns, (image + 1) * got.columns), wanted, 1e-5 * largest, `image ${image}`);
    }
    t.deepEqual(await net.run(images, { threads: 3 }), { features, logits });

    const gray = pixels.subarray(0, 1024);
    const asRgb = Uint8Array.from({ length: 3072 }, (_, i) => gray[Math.floor(i / 3)]!);
    t.deepEqual(
      await net.run({ pixels: gray, count: 1, height: 32, width: 32, channels: 1 }),
      await net.run({ pixels: asRgb, count: 1, height: 32, width: 32, channels: 3 }),
    );
    await t.throwsAsync(net.run(images, { signal: AbortSignal.abort(new Error('enough')) }), { message: 'enough' });
    await fails(t, 'ERR_PHOENIX_SHAPE', () => net.run({ ...images, height: 16, width: 64 }));
    await fails(t, 'ERR_PHOENIX_SHAPE', () => net.run({ ...images, count: 131 }));
  }));

test('a file that is no such network is refused', (t) =>
  inFolder(async (path) => {
    const refused = async (change: (tensors: Tensors) => unknown, metadata?: Record<string, string>) => {
      const tensors = tinyNetwork();
      change(tensors);
      await write(path, tensors, metadata);
      await fails(t, 'ERR_PHOENIX_CHECKPOINT', () => featureNetwork(path));
    };
    const nothing = () => undefined;
    await refused(nothing, {});
    await refused(nothing, { arch: 'VGG', input });
    await refused(nothing, { arch, input: 'RGB/255, minus (.1,.1,.1), over (0,1,1)' });
    await refused((tensors) => tensors.delete('layer2.0.bn2.running_var'));
    await refused((tensors) => tensors.delete('linear.bias'));
    await refused((tensors) => tensors.set('conv1.weight', { shape: [16, 3, 3], values: new Float32Array(144) }));
    await refused((tensors) => tensors.get('bn1.weight')!.values.fill(Number.NaN));
    await refused((tensors) => tensors.get('bn1.running_var')!.values.fill(-1));
    await refused((tensors) => {
      for (const name of [...tensors.keys()]) if (name.startsWith('layer1')) tensors.delete(name);
    });
  }));

const data = process.env.PHOENIX_DATA;
const realTest =
  data !== undefined && existsSync(join(data, 'features')) && existsSync(join(data, 'cifar-10-batches-bin'))
    ? test.serial
    : test.serial.skip;
if (realTest === test.serial.skip)
  console.log('PHOENIX_DATA names no folder with features/ and cifar-10-batches-bin/: 2 checks on real networks skipped');

/** The test batch of CIFAR-10 as (N,H,W,C), and its labels. */
const testBatch = () => {
  const bytes = readFileSync(join(data!, 'cifar-10-batches-bin', 'test_batch.bin'));
  const count = bytes.length / 3073;
  const pixels = new Uint8Array(count * 3072);
  for (let image = 0; image < count; image++)
    for (let c = 0; c < 3; c++) for (let p = 0; p < 1024; p++) pixels[image * 3072 + p * 3 + c] = bytes[image * 3073 + 1 + c * 1024 + p]!;
  const labels = Int32Array.from({ length: count }, (_, image) => bytes[image * 3073]!);
  return { images: { pixels, count, height: 32, width: 32, channels: 3 }, labels };
};
/**
 * Accuracy on CIFAR-10's test images, and the Fréchet distance of them to the training images, between two halves of them, and to changed
 * ones: cats only, noise by its σ of 255, means of blocks, pixels at random.
 */
const known = [
  {
    file: 'resnet20-12fca82f',
    name: 'resnet20',
    accuracy: 0.9173,
    train: 0.021,
    halves: 0.083,
    cats: 21.6,
    noisy: { 2: 0.14, 4: 0.92, 8: 4.13, 16: 15.6, 32: 36.5, 64: 44.5 },
    blocks: 37.5,
    random: 50.8,
  },
  {
    file: 'resnet56-4bfd9763',
    name: 'resnet56',
    accuracy: 0.9339,
    train: 0.05,
    halves: 0.055,
    cats: 29.6,
    noisy: { 2: 0.12, 4: 0.83, 8: 4.35, 16: 18.1, 32: 42.3, 64: 57.2 },
    blocks: 38.9,
    random: 65.8,
  },
];
/** Images changed value by value, (N,32,32,3), rounded to bytes. */
const spoil = (pixels: Uint8Array, value: (at: number) => number) =>
  pixels.map((_, at) => Math.min(255, Math.max(0, Math.round(value(at)))));
/** The mean of the block of 4×4 pixels that a value of (N,32,32,3) lies in. */
const meanOfBlock = (pixels: Uint8Array) => (at: number) => {
  const [row, column, channel] = [Math.floor((at % 3072) / 96), Math.floor((at % 96) / 3), at % 3];
  const first = at - (at % 3072) + (row - (row % 4)) * 96 + (column - (column % 4)) * 3 + channel;
  let sum = 0;
  for (let i = 0; i < 16; i++) sum += pixels[first + Math.floor(i / 4) * 96 + (i % 4) * 3]!;
  return sum / 16;
};
/** Within 2 % of a figure that is given to so many decimals. */
const figure = (t: ExecutionContext, value: number, expected: number, decimals: number) =>
  near(t, value, expected, 0.02 * expected + 0.5 * 10 ** -decimals);

realTest('real networks: features and logits of the first test images', async (t) => {
  const { images } = testBatch();
  const golden = JSON.parse(readFileSync(join(data!, 'features', 'golden.json'), 'utf8'));
  for (const { file, name } of known) {
    const net = await featureNetwork(join(data!, 'features', `cifar10-${file}.safetensors`));
    t.is(net.name, name);
    const { features, logits } = await net.run({ ...images, pixels: images.pixels.subarray(0, 4 * 3072), count: 4 });
    // The file's figures have five and four decimals.
    near(t, features.data, golden[file].features64.flat(), 2e-5, `features of ${name}`);
    near(t, logits!.data, golden[file].logits.flat(), 2e-4, `logits of ${name}`);
  }
});

realTest('real networks: accuracy and the calibration of the Fréchet distance', async (t) => {
  t.timeout(600_000);
  const { images, labels } = testBatch();
  const stats = await openSafetensors(join(data!, 'features', 'cifar10-ref-stats.safetensors'));
  const numbers = async (name: string) => new Float64Array((await stats.read(name)).slice().buffer);
  // Which images make the first half, a bit each: made as test/golden/README.md says.
  const halves = JSON.parse(readFileSync(new URL('../golden/cifar10-halves.json', import.meta.url), 'utf8'));
  const random = rng(0, 'spoiled images');
  const rows = Array.from(labels, (_, row) => row);
  for (const { file, name, accuracy: expected, ...distances } of known) {
    const net = await featureNetwork(join(data!, 'features', `cifar10-${file}.safetensors`));
    const { features, logits } = await net.run(images);
    t.is(accuracy(logits!, labels), expected);
    const all = await moments(features);
    const reference = async (set: string) => ({
      mean: await numbers(`${name}.${set}_mean`),
      covariance: await numbers(`${name}.${set}_cov`),
    });
    const momentsOf = (keep: (row: number) => boolean) => moments(pickRows(features, rows.filter(keep)));
    near(t, await frechetDistance(all, await reference('test')), 0, 1e-4);
    figure(t, await frechetDistance(all, await reference('train')), distances.train, 3);
    const bits = Buffer.from(halves[name], 'base64');
    const isFirst = (row: number) => ((bits[row >> 3]! >> (row & 7)) & 1) === 1;
    t.is(rows.filter(isFirst).length, 5000);
    figure(t, await frechetDistance(await momentsOf(isFirst), await momentsOf((row) => !isFirst(row))), distances.halves, 3);
    figure(t, await frechetDistance(await momentsOf((row) => labels[row] === 3), all), distances.cats, 1);
    const distanceOfSpoiled = async (value: (at: number) => number) => {
      const spoiled = await net.run({ ...images, pixels: spoil(images.pixels, value) });
      return frechetDistance(await moments(spoiled.features), all);
    };
    for (const [sigma, distance] of Object.entries(distances.noisy))
      figure(t, await distanceOfSpoiled((at) => images.pixels[at]! + Number(sigma) * random.normal()), distance, distance < 10 ? 2 : 1);
    figure(t, await distanceOfSpoiled(meanOfBlock(images.pixels)), distances.blocks, 1);
    figure(t, await distanceOfSpoiled(() => random.int(256)), distances.random, 1);
  }
  await stats.close();
});
