/** Where a trained model lies: a checkpoint, the newest one of a run folder, or a diffusers folder; and whose layers it needs. */
import { z } from 'zod';
import type { Checkpoint } from '../ddpm/checkpoint/checkpoint.ts';
import type { NoiseOptions } from '../ddpm/noise.ts';
import { PhoenixError } from '../errors.ts';
import { isRunFolder, openRun } from '../run/folder.ts';
import type { Settings } from './options/index.ts';

/** A checkpoint file or diffusers folder, and what the run keeps for its clients: path by key. */
export type Source = { path: string; stored: Record<string, string> };

/** The newest checkpoint of a run folder; what is no run folder is the checkpoint itself. @throws PhoenixError ERR_PHOENIX_RUN */
export async function findCheckpoint(source: string): Promise<Source> {
  if (!(await isRunFolder(source))) return { path: source, stored: {} };
  const { checkpoint, stored } = await openRun(source);
  if (checkpoint === undefined) {
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${source} has no checkpoint yet: its first round is not done. Wait for it, or resume the run.`,
    );
  }
  return { path: checkpoint, stored };
}

/** The noise that the options say, of a diffusers folder that does not say it; undefined if they do not. */
export function assumedNoise({ schedule, prediction }: Settings<'sample' | 'finetune'>): NoiseOptions | undefined {
  return schedule && prediction ? { kind: schedule, prediction } : undefined;
}

/** The patterns of the parameters that a federation left to its clients. @throws PhoenixError ERR_PHOENIX_CHECKPOINT */
export function personalOf({ metadata }: Checkpoint): string[] | undefined {
  if (metadata.personal === undefined) return undefined;
  const parsed = z.array(z.string().min(1).max(200)).min(1).max(64).safeParse(jsonOf(metadata.personal));
  if (parsed.success) return parsed.data;
  throw new PhoenixError('ERR_PHOENIX_CHECKPOINT', 'The checkpoint is damaged: its list of personal layers is no list of patterns.');
}

/** The values that the model takes for black and white, where it was trained on a range. @throws PhoenixError ERR_PHOENIX_CHECKPOINT */
export function rangeOf({ metadata }: Checkpoint): [number, number] | undefined {
  return kept('range', metadata.range, z.tuple([z.number(), z.number()]));
}

/** Classes that had no images in training, so that drawing them gives nothing. @throws PhoenixError ERR_PHOENIX_CHECKPOINT */
export function emptyClassesOf({ metadata }: Checkpoint): number[] {
  return kept('list of empty classes', metadata.emptyClasses, z.array(z.int().min(0))) ?? [];
}

function kept<T>(what: string, text: string | undefined, schema: z.ZodType<T>): T | undefined {
  if (text === undefined) return undefined;
  const parsed = schema.safeParse(jsonOf(text));
  if (parsed.success) return parsed.data;
  throw new PhoenixError('ERR_PHOENIX_CHECKPOINT', `The checkpoint is damaged: its ${what} is ${JSON.stringify(text.slice(0, 80))}.`);
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
