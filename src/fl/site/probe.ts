/**
 * What a client finds out about its images and its model for strategies and filters: histogram, score, variety. It works on features of
 * images; only the numbers that were asked for leave the client.
 */
import type { Session } from '../../bindings/session.ts';
import {
  binCounts,
  type Features,
  featureMatrix,
  frechetDistance,
  kMeans,
  moments,
  pickRows,
  precisionRecall,
} from '../../ddpm/metrics/index.ts';
import type { FeatureSource } from '../../ddpm/metrics/sources.ts';
import { vendiScore } from '../../ddpm/metrics/vendi.ts';
import type { Noise } from '../../ddpm/noise.ts';
import { drawSamples, toPixels } from '../../ddpm/sample.ts';
import { PhoenixError } from '../../errors.ts';
import { atMost, evenlySpaced, type ImageSource, imageBytes, valuesAt } from '../../images.ts';
import { rng, streamKey } from '../../rng.ts';
import { type ClientId, MAX_POINTS, type Probe, type Report, type Statistic } from '../protocol.ts';
import type { BinsParcel, SharedParcel } from '../wire/parcel.ts';

/** What a client needs to answer probes: how to look at images. */
export type ProbeTools = {
  /** The images that positions are of. */
  images: ImageSource;
  /** The noise schedule of the model, to draw from it. */
  noise: Noise;
  features: FeatureSource;
};

/** Most own images that are looked at, evenly spaced. */
const MAX_IMAGES = 2048;
/** Neighbours of precision: a model is not scored by it on fewer images than need them. */
const NEIGHBOURS = 3;
const SAMPLE_BATCH = 32;
/** Smallest cluster whose centre is sent. */
const MIN_CLUSTER = 4;

/** A function that calls `make` when it is first called. */
export function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make();
    return made;
  };
}

export type ProbeInput = {
  id: ClientId;
  round: number;
  seed: number | bigint;
  /** The key of the noise on histograms. */
  secret(): Promise<bigint>;
  /** Its parameters are the client's trained model; it is left as it is. */
  session: Session;
  tools: ProbeTools;
  /** The client's own images, and those held out. */
  train: Int32Array;
  heldOut: Int32Array;
  classes?: Int32Array;
  evalLossLocal: number | undefined;
  /** What the client has received. */
  shared?: SharedParcel;
  bins?: BinsParcel;
  signal?: AbortSignal;
};

/**
 * The answers to a probe. One that cannot be given is left out: precision with fewer than four held-out images, loss without any, the
 * distance to shared images without two.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE for bins of other features, and what the session throws
 */
export async function answerProbe(probe: Probe, input: ProbeInput): Promise<Pick<Report, 'quality' | 'vendi' | 'histogram' | 'points'>> {
  const { tools, train, heldOut, bins, signal } = input;
  const extract = (pixels: Uint8Array): Promise<Features> => {
    const { height, width, channels } = tools.images;
    const count = pixels.length / imageBytes(tools.images);
    return tools.features.extract({ pixels, count, height, width, channels }, { signal });
  };
  const look = async (positions: Int32Array) => extract(await tools.images.read(positions));
  const samples = once(async () => extract(await drawFromModel(probe, input)));
  const own = once(() => look(atMost(train, MAX_IMAGES)));

  async function quality(statistic: Statistic): Promise<number | undefined> {
    if (statistic === 'loss') return input.evalLossLocal;
    if (statistic === 'precision') {
      const seen = atMost(heldOut, MAX_IMAGES);
      if (seen.length <= NEIGHBOURS) return undefined;
      return (await precisionRecall(await look(seen), await samples(), { k: NEIGHBOURS })).precision;
    }
    if (statistic === 'frechet-shared' && (input.shared?.count ?? 0) < 2) return undefined;
    if (statistic === 'frechet-own' && train.length < 2) return undefined;
    const reference = statistic === 'frechet-own' ? await own() : await extract(input.shared!.pixels);
    return frechetDistance(await moments(reference), await moments(await samples()));
  }

  const answer: Awaited<ReturnType<typeof answerProbe>> = {};
  if (probe.statistic) answer.quality = await quality(probe.statistic);
  if (probe.vendi) answer.vendi = vendiScore(await samples());
  if (probe.histogram) {
    const counted = probe.histogram.of === 'data' ? await own() : await samples();
    if (bins) answer.histogram = await histogram(counted, bins, probe.histogram, input);
    else if (counted.rows >= MIN_CLUSTER) answer.points = await pointsOf(counted);
  }
  return answer;
}

async function drawFromModel({ samples: count, steps }: Probe, input: ProbeInput): Promise<Uint8Array> {
  const { id: client, round, seed, session, tools, train, classes, signal } = input;
  const values = await drawSamples({
    session,
    noise: tools.noise,
    count,
    batch: Math.min(count, SAMPLE_BATCH),
    steps: Math.min(steps, tools.noise.steps),
    key: streamKey(seed, 'probe', client, round),
    classes: classes && valuesAt(classes, evenlySpaced(train, count)),
    signal,
  });
  return toPixels(values);
}

/**
 * Centres of up to 16 clusters, to six digits. One of few images would show them, so only those of at least four are given, and the mean of
 * all if there are none; a client with fewer images gives no points.
 */
async function pointsOf(x: Features): Promise<number[][]> {
  const { centres, assignment } = await kMeans(x, Math.min(MAX_POINTS, x.rows));
  const sizes = new Int32Array(centres.rows);
  for (const cluster of assignment) sizes[cluster]!++;
  const shown = Array.from(sizes.keys()).filter((cluster) => sizes[cluster]! >= MIN_CLUSTER);
  const from = shown.length > 0 ? pickRows(centres, shown) : (await kMeans(x, 1)).centres;
  return Array.from({ length: from.rows }, (_, i) =>
    Array.from(from.data.subarray(i * from.columns, (i + 1) * from.columns), (value) => Number(value.toPrecision(6))),
  );
}

/**
 * Counts by bin, with Gaussian noise on each if it is asked for, and then not below 0. Noise on the same images is drawn once a version of
 * the bins: asking again does not average it away. Its key is the client's own, so the federation's seed does not reveal it.
 */
async function histogram(
  x: Features,
  { columns, centres, version }: BinsParcel,
  { of, noise }: NonNullable<Probe['histogram']>,
  { id: client, round, secret }: ProbeInput,
): Promise<number[]> {
  if (x.columns !== columns) {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `The bins have ${columns} features, but this client's have ${x.columns}: both sides must use the same features.`,
    );
  }
  const counts = await binCounts(x, featureMatrix(centres, columns));
  if (noise === 0) return [...counts];
  const draw = rng(await secret(), 'histogram', client, version, of === 'samples' ? round : 0);
  return Array.from(counts, (count) => Math.max(0, count + noise * draw.normal()));
}
