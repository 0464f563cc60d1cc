/**
 * Training a model on one site's images: only its personal layers, where it has some, so that a site that took no part in a federation gets
 * its own; else all of it. The rest stays as it is, bit for bit.
 */

import { createImages } from '../bindings/session.ts';
import { withCallbacks } from '../callbacks.ts';
import { readCheckpoint, saveCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { matchClasses, numbered } from '../ddpm/data/classes.ts';
import { atStart, plainHyper } from '../ddpm/fit.ts';
import { evaluation } from '../ddpm/held-out.ts';
import { unetModel } from '../ddpm/model/unet.ts';
import { noise } from '../ddpm/noise.ts';
import { createSession } from '../ddpm/session.ts';
import type { StepProgress } from '../ddpm/train.ts';
import { PhoenixError } from '../errors.ts';
import { holdOut } from '../fl/partition/index.ts';
import { splitParameters } from '../fl/site/personal.ts';
import { trainPersonal } from '../fl/site/train-personal.ts';
import { everyPosition } from '../images.ts';
import { checkOutput, formats } from '../outputs.ts';
import { streamKey } from '../rng.ts';
import { compareRanges, openData, requirePath, tunedMetadata } from './data.ts';
import type { DataEvents } from './events.ts';
import { type FinetuneOptions, parseOptions } from './options/index.ts';
import { lossWarning } from './prepare.ts';
import { assumedNoise, emptyClassesOf, findCheckpoint, personalOf, rangeOf } from './sources.ts';

export type FinetuneEvents = DataEvents & {
  onStep?(step: StepProgress): void;
};

export type Finetuned = {
  /** The file written. */
  checkpoint: string;
  /** Images trained on, and optimizer steps. */
  examples: number;
  steps: number;
  /** Parameters that were trained, of all. */
  trained: number;
  parameterCount: number;
  /** Loss on the held-out tenth of the images, before and after; absent with fewer than ten images. */
  evalLoss?: number;
  evalLossAfter?: number;
};

/** The name of the site in streams. */
const SITE = 'site';

/**
 * Trains the personal layers of a model on nine tenths of a dataset, from where every client of the federation began, around the averaged
 * (EMA) rest, and writes the whole as a checkpoint. A model without personal layers is trained as a whole. The optimizer is Adam with
 * gradients clipped at norm 1, its learning rate falls at the end.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for options, ERR_PHOENIX_CONFIG for images that do not fit the model, ERR_PHOENIX_DATA, also
 * for images of classes that the model does not have by name, ERR_PHOENIX_CHECKPOINT, ERR_PHOENIX_IO; an abort rejects with `signal.reason`
 */
export function finetune(options: FinetuneOptions, events: FinetuneEvents = {}): Promise<Finetuned> {
  return withCallbacks('finetune', events, (guarded) => runFinetune(options, guarded));
}

async function runFinetune(options: FinetuneOptions, events: FinetuneEvents): Promise<Finetuned> {
  const { onStep, onMessage, signal } = events;
  const settings = parseOptions('finetune', options);
  const { data, epochs, seed, checkpoint: out } = settings;
  const { batch, lr } = settings.training;
  await checkOutput(out, formats.safetensors);
  const { path } = await findCheckpoint(settings.source);
  const checkpoint = await readCheckpoint(path, { noise: assumedNoise(settings) });
  for (const text of checkpoint.warnings) onMessage?.({ level: 'warning', text });
  const patterns = personalOf(checkpoint);
  const { height, width, inChannels: channels, numClasses } = checkpoint.unet;
  if (channels !== 1 && channels !== 3)
    throw new PhoenixError('ERR_PHOENIX_CONFIG', `The model is for ${channels} channels, but images have 1 (gray) or 3 (RGB).`);
  requirePath(data, { range: settings.range });
  const trainedOn = rangeOf(checkpoint);
  const range = settings.range ?? trainedOn?.join(',');
  const dataset = await openData(data, { size: { height, width }, channels, range }, events);
  compareRanges(trainedOn, dataset.range, onMessage);
  if (dataset.height !== height || dataset.width !== width || dataset.channels !== channels) {
    const [given, expected] = [dataset, { height, width, channels }].map((it) => `${it.height}x${it.width} in ${it.channels} channels`);
    throw new PhoenixError('ERR_PHOENIX_CONFIG', `The images are ${given}, but the model is for ${expected}.`);
  }
  const { classNames } = checkpoint;
  const classes = numClasses > 0 ? matchClasses(dataset, classNames ?? numbered(numClasses), 'the model') : undefined;
  const { train, heldOut } = holdOut(everyPosition(dataset.count), seed, SITE);
  signal?.throwIfAborted();

  const schedule = noise(checkpoint.noise);
  using session = createSession({
    model: unetModel(checkpoint.unet),
    noise: schedule,
    device: settings.device,
    threads: settings.threads,
  });
  using images = await createImages(dataset, session);
  await checkpoint.load(session.params, session.ema, session.parameters);
  if (checkpoint.hasEma) await session.params.copy(session.ema, 0, session.parameterCount);
  const split = patterns && splitParameters(session.parameters, patterns);

  const held = evaluation({
    session,
    images,
    heldOut,
    most: heldOut.length,
    classes,
    batch: Math.min(batch, heldOut.length),
    key: streamKey(seed, 'eval', SITE),
  });
  const evalLoss = await held.loss(signal);
  const fall = settings.lrFall > 0 ? { share: settings.lrFall, from: 0, to: 1 } : undefined;
  const training = { hyper: { ...plainHyper, batch, lr }, length: { epochs }, position: atStart, fall };
  await session.adamM.fill(0);
  await session.adamV.fill(0);
  const key = streamKey(seed, 'finetune', SITE);
  const { steps, loss } = await trainPersonal({ session, images, indices: train, classes, ...training, key, onStep, signal }, split);
  const evalLossAfter = await held.loss(signal);
  const warning = lossWarning(loss, training.hyper);
  if (warning) onMessage?.({ level: 'warning', text: warning });
  await session.ema.copy(session.params, 0, session.parameterCount);
  const { params, ema, parameters: table, parameterCount } = session;
  const content = { params, ema, table, unet: checkpoint.unet, noise: schedule, classNames };
  const kept = tunedMetadata(dataset.range, classes, emptyClassesOf(checkpoint));
  await saveCheckpoint(out, { ...content, metadata: { finetuned: String(steps), ...kept } });
  return {
    checkpoint: out,
    examples: train.length,
    steps,
    trained: split?.personalCount ?? parameterCount,
    parameterCount,
    evalLoss,
    evalLossAfter,
  };
}
