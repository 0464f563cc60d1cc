/** Drawing images from a trained model: a checkpoint, the newest one of a run folder, or a diffusers folder. */
import { withCallbacks } from '../callbacks.ts';
import { PhoenixError } from '../errors.ts';
import { writeWhole } from '../files.ts';
import { type ImageSet, imageBytes } from '../images.ts';
import { checkOutput, formats } from '../outputs.ts';
import type { MessageEvent } from './events.ts';
import { classColumns, fittingGrid, imageGrid } from './image-grid.ts';
import { parseOptions, type SampleOptions } from './options/index.ts';
import { openSampler, type Part } from './sampler.ts';

export type SampleEvents = {
  /** Share done, 0..1. */
  onProgress?(done: number): void;
  /** What of the model's files is not honoured. */
  onMessage?(event: MessageEvent): void;
  signal?: AbortSignal;
};

export type Samples = ImageSet & {
  /** Class that each image was drawn for, of a class-conditional model. */
  classes?: Int32Array;
  /** The names of the model's classes; their numbers, where it does not name them. */
  classNames?: string[];
  /** The values of the training images that pixels 0 and 255 stand for, where they were a range. */
  range?: [number, number];
  /** The checkpoint file or diffusers folder that was drawn from, and which of its weights. */
  checkpoint: string;
  weights: 'raw' | 'ema';
  /** Whose personal layers the images were drawn with, and how many of them each, one client after the other. */
  clients?: { id: string; count: number }[];
  /** Path of the grid, if one was asked for. */
  grid?: string;
};

/**
 * Draws `n` images, from the EMA weights unless `raw` is set or there are none. Equal options give equal images, whatever batch and
 * threads.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for options, and for a precision that the device does not have, ERR_PHOENIX_RUN for a run
 * folder without a checkpoint, ERR_PHOENIX_CHECKPOINT, ERR_PHOENIX_IO; an abort rejects with `signal.reason`
 */
export function sample(options: SampleOptions, events: SampleEvents = {}): Promise<Samples> {
  return withCallbacks('sample', events, (guarded) => runSample(options, guarded));
}

async function runSample(options: SampleOptions, { onProgress, onMessage, signal }: SampleEvents): Promise<Samples> {
  const settings = parseOptions('sample', options);
  const { n: count, grid } = settings;
  if (settings.out !== undefined)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'option out is for single files, which sampleFiles writes: call that, or leave it out.');
  if (grid !== undefined) await checkOutput(grid, formats.png);
  using sampler = await openSampler(settings, { onMessage, signal });
  const { parts, size, classes, classNames, range, checkpoint, weights } = sampler;
  const columns = settings.class === undefined ? classColumns(new Set(sampler.classes).size) : undefined;
  const layout = grid === undefined ? undefined : fittingGrid({ count, ...size }, columns);
  const pixels = new Uint8Array(count * imageBytes(size));
  for (const part of parts) {
    const share = onProgress && ((done: number) => onProgress((part.first + done * part.count) / count));
    pixels.set(await sampler.draw(part, 0, part.count, share), part.first * imageBytes(size));
  }
  const images: ImageSet = { pixels, count, ...size };
  const clients = clientsOf(parts);
  if (grid !== undefined) await writeWhole(grid, await imageGrid(images, layout));
  return { ...images, classes, classNames, range, checkpoint, weights, ...(clients.length > 0 && { clients }), grid };
}

/** The clients of parts, and how many images of each. */
export function clientsOf(parts: readonly Part[]): { id: string; count: number }[] {
  return parts.flatMap(({ id, count }) => (id === undefined ? [] : [{ id, count }]));
}
