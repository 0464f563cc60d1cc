/**
 * Metrics against values that other implementations give on inputs that a linear congruential generator makes, and against hand-checked
 * cases.
 */

import test, { type ExecutionContext } from 'ava';
import {
  accuracy,
  binCounts,
  classCoverage,
  classRecall,
  densityCoverage,
  differentBins,
  type Features,
  featureMatrix,
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
