/**
 * What a federated and a central training have in common: data, model and hyper-parameters from the options, the run's configuration,
 * sample grids.
 */
import type { Session } from '../bindings/session.ts';
import type { Vector } from '../bindings/vector.ts';
import { type DatasetSource, emptyClasses } from '../ddpm/data/index.ts';
import { type Hyper, hyperSchema, plainHyper, type WarmupRule } from '../ddpm/fit.ts';
import { presets } from '../ddpm/model/presets.ts';
import type { UNetConfig } from '../ddpm/model/unet.ts';
import { type Noise, noise } from '../ddpm/noise.ts';
import { drawSamples, toPixels } from '../ddpm/sample.ts';
import { PhoenixError } from '../errors.ts';
import { writeFresh } from '../files.ts';
import { classesInTurn } from '../images.ts';
import { streamKey } from '../rng.ts';
import { CONFIG_SCHEMA, type RunConfig, runConfigSchema } from '../run/config.ts';
import { dataMetadata, openData, requirePath } from './data.ts';
import type { DataEvents } from './events.ts';
import { classColumns, fittingGrid, imageGrid } from './image-grid.ts';
import { changeableOptions, type Settings } from './options/index.ts';
import { packageInfo } from './package-info.ts';

type Training = Settings<'federate'> | Settings<'train'>;
type TrainingKind = RunConfig['kind'];

/** A model and its training. */
export type PreparedModel = {
  /** Names of the classes that the model is conditioned on, and the numbers of those that no image has. */
  classNames?: string[];
  emptyClasses: number[];
  unet: UNetConfig;
  noise: Noise;
  /** Without the warm-up, which follows from `warmup` and the planned length. */
  hyper: Omit<Hyper, 'warmupSteps'>;
  warmup: WarmupRule;
  /** What a checkpoint keeps of the data. */
  metadata: Record<string, string>;
};

export type Prepared = PreparedModel & {
  dataset: DatasetSource;
  /** Class of every image, if the model is conditioned on it. */
  classes?: Int32Array;
};

/** The shape and the size of images, and the names of their classes. */
export type DataShape = Pick<DatasetSource, 'height' | 'width' | 'channels'> & { classNames?: string[] };

/**
 * Opens the data and settles the model and its training: the preset, with what the options say otherwise.
 * @throws PhoenixError ERR_PHOENIX_CONFIG for class conditioning without classes, and what openDataset throws
 */
export async function prepare(settings: Training, events: DataEvents = {}): Promise<Prepared> {
  const { data, size, limit, range } = settings;
  requirePath(data, { size, limit, range });
  const dataset = await openData(data, { size, limit, range }, events);
  if (settings.classConditional && (!dataset.labels || dataset.classNames.length === 0)) {
    throw new PhoenixError('ERR_PHOENIX_CONFIG', `classConditional needs labelled images, but ${dataset.name} has no classes.`);
  }
  const { classNames, height, width, channels } = dataset;
  const model = prepareModel(settings, { height, width, channels, ...(settings.classConditional && { classNames }) });
  return {
    ...model,
    dataset,
    ...(settings.classConditional && { classes: dataset.labels, emptyClasses: emptyClasses(dataset) }),
    metadata: dataMetadata(dataset),
  };
}

/** The model and its training for images of a shape; with class names it is conditioned on these. */
export function prepareModel(
  settings: Pick<Training, 'preset' | 'dropout' | 'schedule' | 'prediction' | 'training'>,
  { height, width, channels, classNames }: DataShape,
): PreparedModel {
  const { unet: shapeOf, training } = presets[settings.preset];
  const unet = shapeOf({ height, width, channels, classes: classNames?.length ?? 0 });
  return {
    ...(classNames && { classNames }),
    emptyClasses: [],
    unet: { ...unet, dropout: settings.dropout ?? unet.dropout },
    noise: noise({ kind: settings.schedule, prediction: settings.prediction }),
    hyper: chosenHyper(settings.training, training),
    warmup: training.warmup,
    metadata: {},
  };
}

/** Each hyper-parameter as the training option of that name says, else as the preset says, else as is usual. */
function chosenHyper(options: Partial<Hyper>, preset: Partial<Hyper>): Prepared['hyper'] {
  const schema = hyperSchema.omit({ warmupSteps: true });
  const names = Object.keys(schema.shape) as (keyof Hyper)[];
  const usual: Partial<Hyper> = plainHyper;
  return schema.parse(Object.fromEntries(names.map((name) => [name, options[name] ?? preset[name] ?? usual[name]])));
}

/**
 * What a resume may change in addition to options: the path of the data, what lies beside it, and what follows from options and was noted
 * otherwise by earlier versions. A different build is only a warning.
 */
export function mayChange(command: TrainingKind): string[] {
  return [...changeableOptions(command).map((name) => `options.${name}`), 'data.name', 'data.leftOut', 'shared', 'sharing'];
}

/** What config.json says of the data; of real sites only what all have in common. */
export type DataFacts = Pick<
  DatasetSource,
  'name' | 'fingerprint' | 'count' | 'height' | 'width' | 'channels' | 'classNames' | 'siteNames' | 'range' | 'notes'
>;

/** config.json of a run. `options`: as they were given, objects among them by their names. `facts`: what only this kind of training has. */
export function describeRun(
  kind: TrainingKind,
  options: { data: unknown },
  prepared: PreparedModel & { dataset: DataFacts },
  session: Session,
  facts: { length: object; clients: object[]; [fact: string]: unknown },
): RunConfig {
  const { dataset, unet, hyper } = prepared;
  const { name, fingerprint, count, height, width, channels, classNames, siteNames, range, notes } = dataset;
  const leftOut = notes?.leftOut.map(({ count: files, what }) => `${files} ${what}`);
  const { kind: schedule, steps, betaStart, betaEnd, prediction } = prepared.noise;
  const { version } = packageInfo();
  const { backend, real, isa, build } = session.info;
  const config = {
    schema: CONFIG_SCHEMA,
    kind,
    options: { ...options, data: typeof options.data === 'string' ? options.data : name },
    data: { name, fingerprint, count, height, width, channels, classNames, siteNames, range, leftOut },
    unet,
    noise: { kind: schedule, steps, betaStart, betaEnd, prediction },
    fit: hyper,
    parameterCount: session.parameterCount,
    ...facts,
    build: {
      phoenix: version,
      node: process.version,
      platform: `${process.platform}-${process.arch}`,
      backend,
      real,
      isa,
      compiler: build,
    },
  };
  return runConfigSchema.parse(JSON.parse(JSON.stringify(config)));
}

/**
 * A warning of a loss that only a training that diverges has; undefined for any other. Predicting nothing at all gives about 1, as targets
 * have unit variance; min-SNR weighs a step by at most γ.
 */
export function lossWarning(loss: number | null | undefined, { lr, minSnrGamma }: Pick<Hyper, 'lr' | 'minSnrGamma'>): string | undefined {
  if (loss === null || loss === undefined || loss <= 10 * Math.max(1, minSnrGamma)) return undefined;
  return `The loss is ${loss.toPrecision(2)}, where predicting nothing at all gives about 1: the training diverges. Take a smaller learning rate than ${lr} (--lr).`;
}

/**
 * Whether a sample grid is drawn after this round: every `every` rounds and after the last; by default about five times over the run, and
 * every ten rounds of an open one (`rounds` undefined).
 */
export function gridDue(round: number, rounds: number | undefined, every: number | undefined): boolean {
  const period = every ?? (rounds === undefined ? 10 : Math.ceil(rounds / 5));
  return period > 0 && (round % period === 0 || round === rounds);
}

/** Checks before any training that the run's grids can be drawn. @throws PhoenixError ERR_PHOENIX_SHAPE */
export function checkGrid({ samples }: Pick<Training, 'samples'>, prepared: PreparedModel): void {
  const { height, width, inChannels: channels } = prepared.unet;
  if (samples.every !== 0) fittingGrid({ count: samples.count, height, width, channels }, classColumns(drawnClasses(prepared)));
}

/** How many classes the run's grids show. */
function drawnClasses({ emptyClasses, unet }: PreparedModel): number {
  return unet.numClasses - emptyClasses.length;
}

/** Draws the run's grid, always from the same noise, so that grids of different rounds show progress. */
export async function drawGrid(
  path: string,
  settings: Pick<Training, 'samples' | 'seed'>,
  prepared: PreparedModel,
  session: Session,
  weights: Vector,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { emptyClasses, unet, noise, hyper } = prepared;
  const { count, scheduler, steps } = settings.samples;
  const { height, width, inChannels: channels, numClasses } = unet;
  const values = await drawSamples({
    session,
    noise,
    count,
    batch: Math.min(count, hyper.batch),
    scheduler,
    steps,
    key: streamKey(settings.seed, 'samples'),
    weights,
    classes: classesInTurn(count, numClasses, emptyClasses),
    signal,
  });
  const images = { pixels: toPixels(values), count, height, width, channels };
  await writeFresh(path, await imageGrid(images, fittingGrid(images, classColumns(drawnClasses(prepared)))));
}
