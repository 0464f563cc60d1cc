/** What an experiment will cost: images and bytes by arithmetic, time by a short measurement on this machine. */
import { createImages, type Device } from '../bindings/session.ts';
import type { Prepared } from '../commands/prepare.ts';
import type { Dataset } from '../ddpm/data/index.ts';
import { atStart } from '../ddpm/fit.ts';
import { unetModel } from '../ddpm/model/unet.ts';
import { makeTable, type SchedulerName } from '../ddpm/schedulers/index.ts';
import { createSession } from '../ddpm/session.ts';
import { trainLocal } from '../ddpm/train.ts';
import { parseCompression } from '../fl/wire/codec.ts';
import { everyPosition, imageBytes } from '../images.ts';
import { type Arm, settingsOf, type Work } from './grid.ts';

export type Rates = {
  parameterCount: number;
  /** Images trained on a second, and drawn a second. */
  train: number;
  sample: number;
};

/** Shortest measurement of either rate, in milliseconds. */
const MEASURE_MS = 1000;
const SAMPLE_BATCH = 32;

/** Measures training and sampling of the grid's model. */
export async function measureRates(
  prepared: Prepared,
  dataset: Dataset,
  options: { steps: number; scheduler: SchedulerName; device: Device; threads: number | undefined; signal?: AbortSignal },
): Promise<Rates> {
  const { unet, noise, hyper, classes } = prepared;
  const { device, threads, signal } = options;
  using session = createSession({ model: unetModel(unet), noise, device, threads });
  using images = await createImages(dataset, session);
  await session.init(1n);
  const indices = everyPosition(dataset.count);
  const rate = async (work: () => Promise<number>) => {
    await work(); // memory is planned and caches are filled
    const started = performance.now();
    let done = 0;
    while (performance.now() - started < MEASURE_MS) done += await work();
    return (1000 * done) / (performance.now() - started);
  };
  const train = await rate(async () => {
    const training = {
      hyper: { ...hyper, mu: 0, warmupSteps: 0, emaDecay: 0 },
      length: { localImages: 4 * hyper.batch },
      position: atStart,
    };
    return (await trainLocal({ session, images, indices, classes, ...training, key: 2n, signal })).images;
  });
  const table = makeTable(options.scheduler, noise, options.steps);
  const drawn = unet.numClasses > 0 ? new Int32Array(SAMPLE_BATCH) : undefined;
  const sample = await rate(async () => {
    const common = { table, clip: true, key: 3n, firstImage: 0, classes: drawn, weights: session.params };
    await session.sample({ count: SAMPLE_BATCH, batch: SAMPLE_BATCH, ...common }, signal);
    return SAMPLE_BATCH;
  });
  return { parameterCount: session.parameterCount, train, sample };
}

/**
 * Most bytes that a federation sends in models, updates and shared images, by the formats: as if personal layers travelled and every round
 * were as short as the arm allows. Probes, bins and the headers of messages come on top, a few kilobytes per client and round.
 */
export function mostBytes(arm: Arm, { rounds, selected, clients }: Work, parameterCount: number, dataset: Dataset): number {
  const { compress, localWork, sharing } = settingsOf(arm);
  const { codec, share } = parseCompression(compress.updates);
  const up = { float32: 1, bf16: 1 / 2, int8: 0.251, topk: share }[codec];
  const each = 4 * parameterCount * (up + (compress.tasks === 'bf16' ? 1 / 2 : 1));
  const most = Math.ceil(rounds / (localWork.target === undefined ? 1 : Math.min(1, localWork.least)));
  const versions = sharing.source === 'real' ? 1 : Math.floor(most / sharing.every);
  return each * selected * most + sharing.alpha * sharing.beta * dataset.count * imageBytes(dataset) * clients * versions;
}
