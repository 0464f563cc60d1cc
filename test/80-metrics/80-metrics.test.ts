/**
 * Metrics against values that other implementations give on inputs that a linear congruential generator makes, and against hand-checked
 * cases.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { openSafetensors, writeSafetensors } from '../../src/ddpm/checkpoint/safetensors.ts';
import {
  accuracy,
  binCounts,
  classCoverage,
  classRecall,
  densityCoverage,
  differentBins,
  type Features,
  featureMatrix,
  featureNetwork,
  frechetDistance,
  inceptionScore,
  jensenShannon,
  kernelDistance,
  kMeans,
  type Moments,
  memorisation,
  metricName,
  moments,
  pickRows,
  precisionRecall,
  predictedClasses,
} from '../../src/ddpm/metrics/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';

/** Uniforms (s + 1/2)/2^32 of s ← 1664525·s + 1013904223 mod 2^32. */
const uniforms = (seed: number, count: number): Float64Array => {
  let s = seed;
  return Float64Array.from({ length: count }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return (s + 0.5) / 2 ** 32;
  });
};
const real = featureMatrix(uniforms(1, 64 * 8), 8);
const fake = featureMatrix(
  uniforms(2, 48 * 8).map((u) => 0.9 * u + 0.1),
  8,
);
const firstRows = (x: Features, count: number) =>
  pickRows(
    x,
    Array.from({ length: count }, (_, i) => i),
  );
const normals = (rows: number, columns: number, seed: number): Features => {
  const draw = rng(seed, 'test');
  return featureMatrix(
    Float64Array.from({ length: rows * columns }, () => draw.normal()),
    columns,
  );
};
const fails = (t: ExecutionContext, code: PhoenixError['code'], call: () => Promise<unknown>) =>
  t.throwsAsync(call, { instanceOf: PhoenixError, code });

test('Fréchet distance: the golden value, also with fewer samples than features', async (t) => {
  near(t, await frechetDistance(await moments(real), await moments(fake)), 0.10922949239904689, { relative: 1e-9 });
  const [few, many] = [await moments(normals(20, 64, 1)), await moments(normals(400, 64, 2))];
  const [forth, back] = [await frechetDistance(few, many), await frechetDistance(many, few)];
  near(t, forth, back, { relative: 1e-6 });
  near(t, await frechetDistance(few, few), 0, 1e-4);
});

test('Fréchet distance of diagonal Gaussians: Σ (√a - √b)² and the means', async (t) => {
  const diagonal = (mean: number, variances: number[]): Moments => ({
    mean: new Float64Array(variances.length).fill(mean),
    covariance: Float64Array.from({ length: variances.length ** 2 }, (_, i) =>
      i % (variances.length + 1) === 0 ? variances[i / (variances.length + 1)]! : 0,
    ),
  });
  near(t, await frechetDistance(diagonal(0, [1, 4, 9, 0]), diagonal(2, [4, 4, 1, 1])), 16 + 1 + 0 + 4 + 1, { relative: 1e-12 });
  const ones = new Array(300).fill(1);
  near(t, await frechetDistance(diagonal(0, ones), diagonal(1, ones)), 300, { relative: 1e-12 });
});

test('Fréchet distance does not change when both sets are turned', async (t) => {
  const n = 37;
  // A reflection I - 2vvᵀ/vᵀv mixes all features.
  const v = normals(1, n, 9).data;
  let vv = 0;
  for (const x of v) vv += x * x;
  const reflect = ({ data, rows }: Features) => {
    const turned = Float64Array.from(data);
    for (let row = 0; row < rows; row++) {
      let dot = 0;
      for (let c = 0; c < n; c++) dot += turned[row * n + c]! * v[c]!;
      for (let c = 0; c < n; c++) turned[row * n + c]! -= (2 * dot * v[c]!) / vv;
    }
    return featureMatrix(turned, n);
  };
  const stretched = (x: Features, power: number) =>
    featureMatrix(
      Float64Array.from(x.data, (value, i) => value * (1 + (i % n)) ** power),
      n,
    );
  const a = stretched(normals(90, n, 3), 0.5);
  const b = stretched(normals(120, n, 4), -0.5);
  const straight = await frechetDistance(await moments(a), await moments(b));
  t.true(straight > 1);
  near(t, await frechetDistance(await moments(reflect(a)), await moments(reflect(b))), straight, { relative: 1e-9 });
});

test('kernel distance: the golden value on one full set; subsets by seed', async (t) => {
  const { mean, std } = await kernelDistance(firstRows(real, 48), fake, { subsetSize: 48, subsets: 1 });
  near(t, mean, 0.042190494541693546, { relative: 1e-6 });
  t.is(std, 0);
  const one = await kernelDistance(real, fake, { subsetSize: 20, subsets: 7, seed: 1 });
  const again = await kernelDistance(real, fake, { subsetSize: 20, subsets: 7, seed: 1, threads: 3 });
  const other = await kernelDistance(real, fake, { subsetSize: 20, subsets: 7, seed: 2 });
  t.deepEqual(one, again);
  t.notDeepEqual(one.values, other.values);
  t.is(one.values.length, 7);
});

test('precision, recall, density and coverage: the golden values', async (t) => {
  const { precision, recall, f } = await precisionRecall(real, fake);
  t.is(precision, 0.9375);
  t.is(recall, 0.828125);
  near(t, f, (2 * 0.9375 * 0.828125) / (0.9375 + 0.828125), { relative: 1e-15 });
  const five = await precisionRecall(real, fake, { k: 5 });
  near(t, five.precision, 46 / 48, { relative: 1e-15 });
  t.is(five.recall, 0.921875);
  t.deepEqual(await densityCoverage(real, fake), { density: 1.2125, coverage: 1 });
  const three = await densityCoverage(real, fake, { k: 3 });
  near(t, three.density, 1.2777777777777777, { relative: 1e-14 });
  t.is(three.coverage, 0.921875);
});

test('bins: counts, different bins and divergence by the golden values', async (t) => {
  const centres = firstRows(real, 8);
  const [counts, fakeCounts] = [await binCounts(real, centres), await binCounts(fake, centres)];
  t.deepEqual([...counts], [7, 7, 6, 10, 9, 13, 3, 9]);
  t.deepEqual([...fakeCounts], [11, 5, 6, 6, 12, 2, 1, 5]);
  const { different, share, z } = differentBins(counts, fakeCounts);
  t.is(different, 1);
  t.is(share, 1 / 8);
  near(t, z[5]!, 2.482839, { relative: 1e-6 });
  near(t, jensenShannon(counts, fakeCounts), 0.0535418007292755, { relative: 1e-12 });

  const p = Float64Array.of(250, 250, 250, 250);
  const q = Float64Array.of(200, 150, 100, 50);
  const result = differentBins(p, q);
  t.is(result.different, 4);
  for (const [i, expected] of [-5.976143, -2.064307, 2.158329, 6.846532].entries()) near(t, result.z[i]!, expected, { relative: 1e-6 });
  near(t, jensenShannon(p, q), 0.02786561345727674, { relative: 1e-12 });
  near(t, jensenShannon(Float64Array.of(3, 0), Float64Array.of(0, 9)), Math.LN2, { relative: 1e-15 });
  t.is(jensenShannon(Float64Array.of(0, 4), Float64Array.of(0, 9)), 0);
});

test('k-means finds blobs, whatever the seed, and no centre stays empty', async (t) => {
  const noise = normals(90, 3, 5).data;
  const x = featureMatrix(
    Float64Array.from(noise, (value, i) => 0.1 * value + (Math.floor(i / 3) % 3 === i % 3 ? 10 : 0)),
    3,
  );
  for (const seed of [0, 1, 2]) {
    const { centres, assignment, inertia } = await kMeans(x, 3, { seed });
    t.is(centres.rows, 3);
    t.is(new Set(assignment).size, 3);
    t.true(assignment.every((cluster, i) => cluster === assignment[i % 3]));
    t.true(inertia < 90 * 3 * 0.03);
    t.deepEqual([...(await binCounts(x, centres))], [30, 30, 30]);
  }
  // Six rows, three of them twice: a fourth centre has only copies to choose from.
  const twice = featureMatrix(Float64Array.of(0, 0, 5, 5, 9, 9), 1);
  t.is((await kMeans(twice, 4)).inertia, 0);
});

test('results do not depend on the number of threads', async (t) => {
  const [a, b] = [normals(301, 19, 6), normals(203, 19, 7)];
  const all = async (threads: number) => {
    const ma = await moments(a, { threads });
    const mb = await moments(b, { threads });
    return {
      ma,
      fd: await frechetDistance(ma, mb, { threads }),
      pr: await precisionRecall(a, b, { threads }),
      dc: await densityCoverage(a, b, { threads }),
      kd: await kernelDistance(a, b, { subsetSize: 50, subsets: 5, threads }),
      km: await kMeans(a, 12, { threads }),
      near: await memorisation(b, a, { threads }),
    };
  };
  const one = await all(1);
  t.deepEqual(await all(2), one);
  t.deepEqual(await all(5), one);
});

test('memorisation: a copy is found, and strangers are far', async (t) => {
  const train = featureMatrix(Float64Array.of(0, 0, 3, 4, 100, 0), 2);
  const samples = featureMatrix(Float64Array.of(3, 4, 0, 1), 2);
  const unseen = featureMatrix(Float64Array.of(0, 10, 100, 8), 2);
  const found = await memorisation(samples, train, { unseen });
  t.deepEqual([...found.index], [1, 0]);
  t.deepEqual([...found.distance], [0, 1]);
  t.is(found.least, 0);
  t.is(found.mean, 0.5);
  t.is(found.memorised, 1); // the second sample: 1 is less than a third of √18
  near(t, found.reference!, (Math.sqrt(45) + 8) / 2, { relative: 1e-15 });
});

test('classes: coverage, entropy, recall by class', async (t) => {
  const coverage = classCoverage(Int32Array.of(0, 0, 0, 0, 0, 0, 1, 1, 2, 2), 4);
  t.is(coverage.covered, 3);
  t.is(classCoverage(Int32Array.of(0, 0, 0, 0, 0, 0, 1, 1, 2, 2), 4, { threshold: 1 }).covered, 1);
  t.deepEqual([...coverage.counts], [6, 2, 2, 0]);
  near(t, coverage.entropy, -(0.6 * Math.log(0.6) + 0.4 * Math.log(0.2)), { relative: 1e-14 });
  near(t, classCoverage(Int32Array.of(0, 1, 2, 3), 4).entropy, Math.log(4), { relative: 1e-14 });

  const line = featureMatrix(Float64Array.of(0, 1, 2, 50, 51, 52), 1);
  const left = featureMatrix(Float64Array.of(0.5, 1.5, 2.5), 1);
  const recall = await classRecall(line, Int32Array.of(0, 0, 0, 1, 1, 1), 3, left, { k: 1 });
  t.deepEqual([...recall], [1, 0, Number.NaN]);
  t.deepEqual([...predictedClasses(featureMatrix(Float32Array.of(1, 3, 2, 5, 5, -1), 3))], [1, 0]);
  t.is(accuracy(featureMatrix(Float32Array.of(1, 3, 2, 5, 5, -1), 3), Int32Array.of(1, 1)), 0.5);
});

test('Inception Score: the golden values', (t) => {
  const logits = featureMatrix(
    uniforms(3, 1000).map((u) => 6 * u),
    10,
  );
  const ten = inceptionScore(logits);
  near(t, ten.mean, 1.9069545722, { relative: 1e-9 });
  near(t, ten.std, 0.1521829945, { relative: 1e-8 });
  near(t, inceptionScore(logits, { splits: 1 }).mean, 2.0590469075, { relative: 1e-9 });
  near(t, inceptionScore(featureMatrix(Float64Array.of(5000, 0, 0, 5000), 2), { splits: 1 }).mean, 2, { relative: 1e-12 });
});

test('names carry network and sample count', (t) => {
  t.is(metricName('fd', 'resnet56', 10000), 'fd_resnet56_10k');
  t.is(metricName('kd', 'own', 2500), 'kd_own_2500');
  t.throws(() => metricName('fd', 'My Net', 1), { code: 'ERR_PHOENIX_ARGUMENT' });
});

test('what does not fit is refused', async (t) => {
  const bad = featureMatrix(Float64Array.of(1, Number.NaN), 1);
  const two = featureMatrix(Float64Array.of(1, 2), 1);
  t.throws(() => featureMatrix(new Float64Array(7), 2), { code: 'ERR_PHOENIX_SHAPE' });
  t.throws(() => inceptionScore(two, { splits: 3 }), { code: 'ERR_PHOENIX_ARGUMENT' });
  t.throws(() => classCoverage(Int32Array.of(4), 4), { code: 'ERR_PHOENIX_ARGUMENT' });
  t.throws(() => differentBins(Float64Array.of(0, 0), Float64Array.of(1, 0)), { code: 'ERR_PHOENIX_ARGUMENT' });
  await fails(t, 'ERR_PHOENIX_NOT_FINITE', () => moments(bad));
  await fails(t, 'ERR_PHOENIX_SHAPE', () => moments(firstRows(two, 1)));
  await fails(t, 'ERR_PHOENIX_SHAPE', () => precisionRecall(real, normals(10, 7, 1)));
  await fails(t, 'ERR_PHOENIX_ARGUMENT', () => precisionRecall(real, firstRows(fake, 3)));
  await fails(t, 'ERR_PHOENIX_ARGUMENT', () => kernelDistance(real, fake, { subsetSize: 49 }));
  await fails(t, 'ERR_PHOENIX_ARGUMENT', () => kMeans(real, 65));
  await fails(t, 'ERR_PHOENIX_ARGUMENT', () => moments(real, { threads: 0 }));
  await fails(t, 'ERR_PHOENIX_SHAPE', async () => frechetDistance(await moments(real), await moments(two)));
});

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
