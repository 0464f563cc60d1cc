/** Drawing images from a model: a scheduler's table goes down once, pixels come back. */
import { checkArguments } from '../arguments.ts';
import type { Session } from '../bindings/session.ts';
import type { Vector } from '../bindings/vector.ts';
import { PhoenixError } from '../errors.ts';
import type { Noise } from './noise.ts';
import { makeTable, type SchedulerOptions } from './schedulers/index.ts';

export type DrawSamplesOptions = {
  session: Session;
  /** The noise schedule that the model was trained with. */
  noise: Noise;
  /** Images to draw, an integer ≥ 1. */
  count: number;
  /** Number of the first image in the stream: image i is the same whatever is drawn with it. @default 0 */
  firstImage?: number;
  /** Images at a time; the images do not depend on it. @default min(count, 64) */
  batch?: number;
  /** A name of the scheduler registry. @default 'ddim' */
  scheduler?: Parameters<typeof makeTable>[0];
  /** Evaluations of the network per image, 1..noise.steps. @default 50 */
  steps?: number;
  /** DDIM's η, 0..1: 0 = deterministic, 1 = as noisy as DDPM. @default 0 */
  eta?: number;
  /** DDPM's variance. @default as noise.sampling */
  variance?: SchedulerOptions['variance'];
  /** The times that are visited. @default as noise.sampling, else as the scheduler */
  spacing?: SchedulerOptions['spacing'];
  /** Whether predicted images are clipped to [-1,1]; the images drawn always are. @default as noise.sampling */
  clip?: boolean;
  /** The stream of the noise: equal keys give equal images. */
  key: bigint;
  /** The parameters to draw with. @default session.params */
  weights?: Vector;
  /** One class per image, for a class-conditional model. */
  classes?: Int32Array;
  /** Share done, 0..1. */
  onProgress?(done: number): void;
  signal?: AbortSignal;
};

/**
 * Draws images: (count,H,W,C) values in [-1,1]. How, `noise.sampling` says where an option does not: the noise of a checkpoint has what its
 * files say.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a count, batch or option out of range, or that the scheduler does not have; an abort
 * rejects with `signal.reason`
 */
export async function drawSamples(options: DrawSamplesOptions): Promise<Float32Array> {
  checkArguments('drawSamples', { options }, { options: { session: 'object', noise: { sampling: 'object' }, key: 'key' } });
  const { session, noise, count, batch = Math.min(count, 64), scheduler = 'ddim', steps = 50, key } = options;
  const { firstImage = 0, eta, variance, spacing, clip = noise.sampling.clip } = options;
  const { weights = session.params, classes, onProgress, signal } = options;
  for (const [name, value] of Object.entries({ count, batch })) {
    if (!Number.isSafeInteger(value) || value < 1)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${name} must be an integer of at least 1, not ${value}.`);
  }
  if (classes && classes.length !== count) {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${count} images need ${count} classes, not ${classes.length}.`);
  }
  const table = makeTable(scheduler, noise, steps, { eta, variance, spacing });
  return session.sample({ count, batch, table, clip, key, firstImage, classes, weights, onProgress }, signal);
}

/** [-1,1] → 0..255: round((x+1)·127.5), clamped. */
export function toPixels(values: Float32Array): Uint8Array {
  checkArguments('toPixels', { values }, { values: 'numbers' });
  const pixels = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) pixels[i] = Math.max(0, Math.min(255, Math.round((values[i]! + 1) * 127.5)));
  return pixels;
}
