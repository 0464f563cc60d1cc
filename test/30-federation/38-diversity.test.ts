/** The parts of diversity-aware federation, by hand or brute force: weights, Vendi score, local work, shared sets, parcels, features. */
import test from 'ava';
import type { Length } from '../../src/ddpm/fit.ts';
import { type FeatureNetwork, featureMatrix } from '../../src/ddpm/metrics/index.ts';
import { featureSource, pixels8, sourceOf } from '../../src/ddpm/metrics/sources.ts';
import { vendiScore } from '../../src/ddpm/metrics/vendi.ts';
import type { Report } from '../../src/fl/protocol.ts';
import { adaptWork, checkLocalWork, coherenceOf, scaleWork } from '../../src/fl/server/local-work.ts';
import { carveShared, pickShare, sharedCount } from '../../src/fl/server/sharing.ts';
import type { Profiles } from '../../src/fl/state.ts';
import { diversity, diversityObjective, diversityWeights, vendi } from '../../src/fl/strategies/diversity.ts';
import { decodeParcel, encodeParcel, type Parcel, type ParcelLimits } from '../../src/fl/wire/parcel.ts';
import type { ImageSet } from '../../src/images.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';
import { testFit } from '../support/plain-fit.ts';

const report = (client: string, more: Partial<Report> = {}): Report => ({
  client,
  round: 1,
  examples: 10,
  images: 8,
  steps: 2,
  loss: 1,
  evalImages: 0,
  deltaNorm: 1,
  seconds: 0,
  ...more,
});
const profilesOf = (all: Record<string, { histogram?: number[]; quality?: number; vendi?: number; examples?: number }>): Profiles =>
  Object.fromEntries(Object.entries(all).map(([client, profile]) => [client, { round: 1, examples: 10, ...profile }]));

// ---- weights

test('diversity: clients with a bin each have weights in closed form', (t) => {
  // KL(w ‖ t) + λ·KL(w ‖ p) is least at w ∝ t^(1/(1+λ))·p^(λ/(1+λ)).
  const [target, prior, pull] = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], 0.7];
  const own = [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ];
  const parts = target.map((share, i) => share ** (1 / (1 + pull)) * prior[i]! ** (pull / (1 + pull)));
  const sum = parts.reduce((a, b) => a + b);
  const weights = diversityWeights(own, target, prior, pull);
  weights.forEach((weight, i) => {
    near(t, weight, parts[i]! / sum, 1e-12);
  });
});

test('diversity: equal histograms leave the example counts, a strong pull too, a weak one reaches a target within reach', (t) => {
  const prior = [0.2, 0.3, 0.5];
  const alike = diversityWeights(Array(3).fill([0.7, 0.3]), [0.5, 0.5], prior, 0.1);
  alike.forEach((weight, i) => {
    near(t, weight, prior[i]!, 1e-9);
  });
  const mixed = [
    [0.9, 0.1],
    [0.6, 0.4],
    [0.2, 0.8],
  ];
  diversityWeights(mixed, [0.5, 0.5], prior, 1e6).forEach((weight, i) => {
    near(t, weight, prior[i]!, 1e-5);
  });
  const weak = diversityWeights(mixed, [0.5, 0.5], prior, 1e-3);
  near(t, weak[0]! * 0.9 + weak[1]! * 0.6 + weak[2]! * 0.2, 0.5, 1e-3);
});

test('diversity: no weights of a fine grid do better, and the first-order conditions hold', (t) => {
  const draw = rng(5, 'histograms');
  for (const pull of [0.01, 0.3, 3]) {
    const shares = Array.from({ length: 3 }, () => [...draw.dirichlet(0.5, 6)]);
    const target = [...draw.dirichlet(5, 6)];
    const prior = [...draw.dirichlet(2, 3)];
    const weights = diversityWeights(shares, target, prior, pull);
    const least = diversityObjective(weights, shares, target, prior, pull);
    for (let a = 0; a <= 100; a++)
      for (let b = 0; a + b <= 100; b++) {
        const other = diversityObjective([a / 100, b / 100, (100 - a - b) / 100], shares, target, prior, pull);
        t.true(other >= least - 1e-12, `${pull}: ${other} < ${least}`);
      }
    // At the optimum inside the simplex all partial derivatives are alike.
    const mixture = target.map((_, bin) => weights.reduce((sum, weight, i) => sum + weight * shares[i]![bin]!, 0));
    const slopes = weights.map(
      (weight, i) =>
        shares[i]!.reduce((sum, share, bin) => sum + (share > 0 ? share * Math.log(mixture[bin]! / target[bin]!) : 0), 0) +
        pull * Math.log(weight / prior[i]!),
    );
    for (const slope of slopes) near(t, slope, slopes[0]!, 1e-7, `pull ${pull}`);
  }
});

test('diversity: many clients with disjoint bins end finite and positive', (t) => {
  const shares = Array.from({ length: 40 }, (_, i) => Array.from({ length: 40 }, (_, bin) => Number(bin === i)));
  const prior = shares.map((_, i) => (i + 1) / 820);
  const weights = diversityWeights(shares, Array(40).fill(1 / 40), prior, 1e-3);
  t.true(weights.every((weight) => weight > 0 && Number.isFinite(weight)));
  near(
    t,
    weights.reduce((a, b) => a + b),
    1,
    1e-9,
  );
});

test('diversity as a strategy: rare bins count more; who said nothing counts by examples; a pooled target of all keeps the examples', (t) => {
  const reports = [report('a', { examples: 30 }), report('b', { examples: 10 }), report('c', { examples: 10 })];
  const profiles = profilesOf({ a: { histogram: [10, 0], examples: 30 }, b: { histogram: [0, 10] } });
  const weightsOf = (target: 'uniform' | 'pooled', known: Profiles) =>
    Object.fromEntries(
      diversity({ target, pull: 0.1 })
        .weigh(reports, null, known)
        .weights.map(({ client, weight }) => [client, weight]),
    );
  const uniform = weightsOf('uniform', profiles);
  t.true(uniform.b! > 0.3 && uniform.b! < 0.4 && uniform.a! > uniform.b!);
  near(t, uniform.c!, 10 / 50, 1e-9);
  const pooled = weightsOf('pooled', profiles);
  near(t, pooled.a!, 30 / 50, 1e-3);
  near(t, pooled.b!, 10 / 50, 1e-3);
  // A client that is known but not selected counts in the pooled target.
  const absent = weightsOf('pooled', { ...profiles, ...profilesOf({ z: { histogram: [0, 10], examples: 100 } }) });
  t.true(absent.b! > pooled.b! + 0.1);
  const none = diversity().weigh(reports, null, {});
  t.deepEqual(
    none.weights.map(({ weight }) => weight),
    [0.6, 0.2, 0.2],
  );
  t.regex(none.notes![0]!, /no histograms yet/);
});

test('diversity towards the shared images: weights by examples where these already match, more for who lacks in the mixture, refused without', (t) => {
  const reports = [report('a', { examples: 30 }), report('b', { examples: 10 })];
  const profiles = profilesOf({ a: { histogram: [8, 0], examples: 30 }, b: { histogram: [0, 8] } });
  const weigh = (reference?: number[]) =>
    diversity({ target: 'shared', pull: 0.1 })
      .weigh(reports, null, profiles, reference)
      .weights.map(({ weight }) => weight);
  const alike = weigh([30, 10]);
  near(t, alike[0]!, 0.75, 1e-3);
  near(t, alike[1]!, 0.25, 1e-3);
  // With disjoint bins w ∝ t^(1/(1+λ))·n^(λ/(1+λ)).
  const parts = [(5 / 12) ** (1 / 1.1) * 30 ** (0.1 / 1.1), (7 / 12) ** (1 / 1.1) * 10 ** (0.1 / 1.1)];
  near(t, weigh([5, 7])[1]!, parts[1]! / (parts[0]! + parts[1]!), 1e-3);
  t.true(weigh([12, 0])[1]! > 0, 'a bin that no shared image is in forbids nobody');
  for (const none of [undefined, [1, 2, 3]])
    t.throws(() => weigh(none), { code: 'ERR_PHOENIX_CONFIG', message: /Share real images/ }, String(none));
  t.notThrows(() => diversity({ target: 'shared' }).weigh(reports, null, {}), 'before there are histograms');
});

test('vendi as a strategy: examples times score, without one the usual score', (t) => {
  const reports = [report('a', { examples: 10 }), report('b', { examples: 20 }), report('c', { examples: 10 })];
  const { weights } = vendi().weigh(reports, null, profilesOf({ a: { vendi: 3 }, b: { vendi: 1 } }));
  // c counts with the mean score 2: parts 30, 20, 20.
  weights.forEach(({ weight }, i) => {
    near(t, weight, [30, 20, 20][i]! / 70, 1e-9);
  });
});

test('Vendi score: 1 for equal samples, n for orthogonal ones, and the two-sample formula', (t) => {
  const score = (rows: number[][]) => vendiScore(featureMatrix(Float64Array.from(rows.flat()), rows[0]!.length));
  near(t, score(Array(5).fill([1, 2, 3])), 1, 1e-9);
  near(
    t,
    score([
      [2, 0, 0],
      [0, 1, 0],
      [0, 0, 7],
    ]),
    3,
    1e-9,
  );
  // Two samples with cosine c: eigenvalues (1 ± c)/2.
  const c = 0.6;
  const expected = Math.exp(-((1 + c) / 2) * Math.log((1 + c) / 2) - ((1 - c) / 2) * Math.log((1 - c) / 2));
  near(
    t,
    score([
      [1, 0],
      [c, Math.sqrt(1 - c * c)],
    ]),
    expected,
    1e-9,
  );
  // The same from more samples than features, each twice.
  near(
    t,
    score([
      [1, 0],
      [c, Math.sqrt(1 - c * c)],
      [1, 0],
      [c, Math.sqrt(1 - c * c)],
    ]),
    expected,
    1e-9,
  );
  near(
    t,
    score([
      [0, 0],
      [1, 0],
    ]),
    2,
    1e-9,
    'a sample of zeros is like itself alone',
  );
});

// ---- local work

test('coherence is the mean cosine between two updates, by their parts', (t) => {
  const draw = rng(9, 'updates');
  const updates = Array.from({ length: 4 }, () => Array.from({ length: 6 }, () => draw.normal() + 0.5));
  const weights = [...draw.dirichlet(2, 4)];
  const norm = (x: number[]) => Math.hypot(...x);
  const dot = (x: number[], y: number[]) => x.reduce((sum, value, i) => sum + value * y[i]!, 0);
  const parts = updates.map((update, i) => weights[i]! * norm(update));
  const mean = updates[0]!.map((_, j) => updates.reduce((sum, update, i) => sum + weights[i]! * update[j]!, 0));
  let cosines = 0;
  let pairs = 0;
  for (let i = 0; i < 4; i++)
    for (let j = 0; j < 4; j++) {
      if (i === j) continue;
      cosines += (parts[i]! * parts[j]! * dot(updates[i]!, updates[j]!)) / norm(updates[i]!) / norm(updates[j]!);
      pairs += parts[i]! * parts[j]!;
    }
  near(t, coherenceOf(parts, norm(mean))!, cosines / pairs, 1e-9);
  near(t, coherenceOf([1, 2, 3], 6)!, 1, 1e-9, 'all in one direction');
  near(t, coherenceOf(Array(100).fill(0.01), 0.1)!, 0, 1e-9, 'a hundred orthogonal ones');
  t.is(coherenceOf([1, 1], 0), -1, 'two against each other');
  for (const none of [[], [3], [0, 0], [2, 0]]) t.is(coherenceOf(none, 1), undefined);
});

test('local work follows the coherence, a quarter up or a fifth down at most, within its bounds', (t) => {
  const bounds = { target: 0.5, least: 0.5, most: 2 };
  t.is(adaptWork(1, 0.5, bounds), 1);
  t.is(adaptWork(1, 0.55, bounds), 1.1);
  t.is(adaptWork(1, 1, bounds), 1.25);
  t.is(adaptWork(1, 0, bounds), 0.8);
  t.is(adaptWork(1, -0.3, bounds), 0.8);
  t.is(adaptWork(1.3, undefined, bounds), 1.3);
  t.is(adaptWork(1.9, 1, bounds), 2);
  t.is(adaptWork(0.55, 0.1, bounds), 0.5);
  for (const bad of [{ target: 0 }, { target: 1.1 }, { least: 0 }, { least: 1.1 }, { most: 0.9 }, { most: NaN }])
    t.throws(() => checkLocalWork({ ...bounds, ...bad }), { code: 'ERR_PHOENIX_ARGUMENT' });
});

test('scaled work is in images: of passes, the full batches that they come to', (t) => {
  const client = { id: 'a', examples: 20 };
  const fit = (length: Length) => ({ ...testFit(length, { batch: 8 }), globalStep: 0 });
  t.deepEqual(scaleWork(fit({ epochs: 2 }), client, 1), fit({ epochs: 2 }));
  t.deepEqual(scaleWork(fit({ epochs: 2 }), client, 1.5), fit({ localImages: 1.5 * 2 * 24 }));
  t.deepEqual(scaleWork(fit({ localImages: 30 }), client, 0.5), fit({ localImages: 16 }));
});

// ---- shared set

test('a shared set is alike in every class as far as they reach, disjoint from the rest, and fixed by the seed', (t) => {
  const labels = Int32Array.from({ length: 220 }, (_, i) => (i < 100 ? 0 : i < 200 ? 1 : i < 203 ? 2 : 3));
  t.is(sharedCount(220, 0.1), 20, '|G| = β·|D| with |D| what is left');
  const { shared, rest } = carveShared({ count: 220, labels }, 0.1, 7);
  const counts = [0, 0, 0, 0];
  for (const image of shared) counts[labels[image]!]!++;
  t.deepEqual(counts, [6, 6, 3, 5]);
  t.deepEqual(
    [...shared, ...rest].sort((a, b) => a - b),
    Array.from({ length: 220 }, (_, i) => i),
  );
  t.deepEqual(carveShared({ count: 220, labels }, 0.1, 7).shared, shared);
  t.notDeepEqual(carveShared({ count: 220, labels }, 0.1, 8).shared, shared);
  t.is(carveShared({ count: 50 }, 1, 1).shared.length, 25, 'without labels too');
  t.is(carveShared({ count: 50 }, 0, 1).shared.length, 0);
});

test("a client's part of the shared set is α of it, its own, and the same when asked again", (t) => {
  const set = { count: 10, pixels: Uint8Array.from({ length: 40 }, (_, i) => i), classes: Int32Array.from({ length: 10 }, (_, i) => i) };
  const part = pickShare(set, 0.4, 3, 'a', 1);
  t.is(part.count, 4);
  part.classes!.forEach((position, i) => {
    t.deepEqual([...part.pixels.subarray(4 * i, 4 * i + 4)], [...set.pixels.subarray(4 * position, 4 * position + 4)]);
  });
  t.deepEqual(pickShare(set, 0.4, 3, 'a', 1), part);
  t.notDeepEqual(pickShare(set, 0.4, 3, 'b', 1), part);
  t.notDeepEqual(pickShare(set, 0.4, 3, 'a', 2), part);
  t.deepEqual(pickShare(set, 1, 3, 'a', 1), set);
  t.is(pickShare(set, 0.01, 3, 'a', 1).count, 1);
});

test('parcels come back as they were sent, and every size that does not fit is refused', async (t) => {
  const limits = { room: 3, imageBytes: 4, classes: 5 };
  const shared = { what: 'shared' as const, version: 2, count: 3, pixels: new Uint8Array(12).fill(7), classes: Int32Array.of(0, 4, 2) };
  const bins = { what: 'bins' as const, version: 1, rows: 2, columns: 3, centres: Float32Array.of(1, -2, 3, 4, 5.5, 6) };
  const sent = async (parcel: Parcel, to?: ParcelLimits) => {
    const { head, blobs } = await encodeParcel(parcel);
    const came = await decodeParcel(head, blobs, to);
    return came.what === 'shared' ? { ...came, pixels: Uint8Array.from(came.pixels) } : came;
  };
  const { classes: _, ...unlabelled } = shared;
  for (const parcel of [shared, bins]) t.deepEqual(await sent(parcel, limits), parcel as Parcel);
  t.deepEqual(await sent(unlabelled, { room: 3, imageBytes: 4 }), unlabelled);
  t.deepEqual(await sent(shared), shared, 'without limits only sizes are checked');

  const bad: [Parcel, RegExp][] = [
    [{ ...shared, count: 4, pixels: new Uint8Array(16), classes: Int32Array.of(0, 0, 0, 0) }, /4 images, and room for 3/],
    [{ ...shared, pixels: new Uint8Array(15) }, /5 bytes instead of 4/],
    [unlabelled, /no classes/],
    [{ ...shared, classes: Int32Array.of(0, 5, 0) }, /class 5/],
    [{ ...shared, classes: Int32Array.of(0, -1, 0) }, /class -1/],
    [{ ...shared, classes: Int32Array.of(0, 1) }, /24 bytes, but 20/],
    [{ ...bins, centres: bins.centres.slice(1) }, /24 bytes, but 20/],
    [{ ...bins, centres: Float32Array.of(1, NaN, 0, 0, 0, 0) }, /not finite/],
  ];
  for (const [parcel, message] of bad) await t.throwsAsync(sent(parcel, limits), { code: 'ERR_PHOENIX_MESSAGE', message });
  const { head } = await encodeParcel(shared);
  await t.throwsAsync(decodeParcel(head, [], limits), { code: 'ERR_PHOENIX_MESSAGE', message: /blob is missing/ });
});

// ---- features

test('pixels8 are means of cells, the same as by hand, whatever the size', async (t) => {
  const pixels = Uint8Array.from({ length: 2 * 10 * 9 * 3 }, (_, i) => (i * 53) & 255);
  const { data, rows, columns } = await pixels8.extract({ pixels, count: 2, height: 10, width: 9, channels: 3 });
  t.deepEqual([rows, columns], [2, 8 * 8 * 3]);
  const mean = (image: number, rowsOf: number[], columnsOf: number[], channel: number) => {
    const values = rowsOf.flatMap((y) => columnsOf.map((x) => pixels[((image * 10 + y) * 9 + x) * 3 + channel]!));
    return values.reduce((a, b) => a + b) / values.length / 127.5 - 1;
  };
  near(t, data[0]!, mean(0, [0], [0], 0), 1e-6);
  near(t, data[192 + 2]!, mean(1, [0], [0], 2), 1e-6);
  // Cell (3, 7) holds rows 3..4 and columns 7..8.
  near(t, data[(3 * 8 + 7) * 3 + 1]!, mean(0, [3, 4], [7, 8], 1), 1e-6);
  const small = await pixels8.extract({ pixels: new Uint8Array(4 * 4), count: 1, height: 4, width: 4, channels: 1 });
  t.deepEqual([small.columns, small.data[0]], [16, -1]);
  await t.throwsAsync(pixels8.extract({ pixels, count: 2, height: 10, width: 10, channels: 3 }), { code: 'ERR_PHOENIX_SHAPE' });
});

test('a network as a source: larger images and odd shapes are brought to its size, others are left to it', async (t) => {
  const seen: ImageSet[] = [];
  const network: FeatureNetwork = {
    name: 'fake',
    fingerprint: 'f',
    dims: 1,
    classes: 0,
    height: 8,
    width: 8,
    run: async (images) => {
      seen.push(images);
      return { features: featureMatrix(new Float32Array(images.count), 1) };
    },
  };
  const source = sourceOf(network);
  for (const [height, width] of [
    [4, 4],
    [8, 8],
    [16, 16],
    [4, 6],
  ] as const) {
    const pixels = new Uint8Array(2 * height * width * 3).fill(9);
    t.is((await source.extract({ pixels, count: 2, height, width, channels: 3 })).rows, 2);
  }
  t.deepEqual(
    seen.map(({ height, width, pixels }) => [height, width, pixels.length, pixels.every((value) => value === 9)]),
    [
      [4, 4, 96, true],
      [8, 8, 384, true],
      [8, 8, 384, true],
      [8, 8, 384, true],
    ],
  );
  t.is(await featureSource('pixels8'), pixels8);
  await t.throwsAsync(featureSource('/nowhere.safetensors'), { code: 'ERR_PHOENIX_IO' });
});
