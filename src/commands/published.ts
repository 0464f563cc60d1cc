/**
 * A model that a federation gives away: `round-N.safetensors`, a checkpoint that any sampling takes, and `round-N.md`, which describes it.
 * The checkpoint is written last, so that none is without its page; then those of earlier rounds are removed.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { ParameterEntry } from '../bindings/native.ts';
import type { Vector } from '../bindings/vector.ts';
import { saveCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { parseRange } from '../ddpm/data/range.ts';
import { draftOf, io, makeFolder, remove, writeWhole } from '../files.ts';
import type { Spec } from '../net/spec.ts';

/** Largest page in bytes: the licence of the operator is in it. */
export const MAX_CARD = 1_000_000;

export type Published = {
  round: number;
  /** Optimizer steps and images behind the model. */
  steps: number;
  images: number;
  /** Markdown. */
  card: Uint8Array;
  /** All parameters in the order of `table`; absent: only the page is written. */
  weights?: Vector;
  table: ParameterEntry[];
  spec: Spec;
};

/** What a checkpoint keeps of the range that its images were read on. */
export const rangeMetadata = (range: string | undefined): Record<string, string> => {
  if (range === undefined) return {};
  const { low, high } = parseRange(range);
  return { range: JSON.stringify([low, high]) };
};

/**
 * Writes both files. Equal contents are equal bytes, whoever writes them.
 * @returns the path of the checkpoint
 * @throws PhoenixError ERR_PHOENIX_IO
 */
export async function writePublished(dir: string, { round, steps, images, card, weights, table, spec }: Published): Promise<string> {
  await io(dir, () => makeFolder(dir));
  const name = `round-${round}`;
  const checkpoint = join(dir, `${name}.safetensors`);
  await writeWhole(join(dir, `${name}.md`), card);
  if (weights) {
    const { unet, noise, data, federation, run } = spec;
    const counts = { federation, run, round: String(round), steps: String(steps), images: String(images) };
    const metadata = { ...counts, ...rangeMetadata(data.range) };
    await saveCheckpoint(checkpoint, { params: weights, table, unet, noise, classNames: data.classNames, metadata });
  }
  for (const file of await io(dir, () => readdir(dir))) {
    const found = /^(round-\d+)\.(safetensors|md)$/.exec(draftOf(file) ?? file);
    if (found && (found[1] !== name || draftOf(file) !== undefined)) await io(dir, () => remove(join(dir, file)));
  }
  return checkpoint;
}
