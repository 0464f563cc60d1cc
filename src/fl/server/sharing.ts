/**
 * Data sharing (α, β): a small set G of images that is alike for everybody, so that no client trains on its own kind alone (Zhao et al. 2018, §4). β = |G|/|D|,
 * D all clients' images; each client receives the random fraction α of G once. Real images of G are thereby public; synthetic ones are drawn from
 * the global model.
 */
import { rng } from '../../rng.ts';
import type { ClientId } from '../types.ts';

export const shareSources = ['real', 'synthetic'] as const;

/** Images in the clients' size, (count,H,W,C) bytes, with a class each where the model is conditioned on it. */
export type SharedSet = { count: number; pixels: Uint8Array; classes?: Int32Array };

/** |G| for `images` in all, of which G is taken: β·|D| with |G| + |D| = images, rounded. */
export const sharedCount = (images: number, beta: number): number => Math.round((images * beta) / (1 + beta));

/**
 * Sets images aside as G: of labelled ones by turns a random one of each class until there are enough, so that classes are alike as far as they reach;
 * of others at random. Both parts ascending, fixed by the seed.
 */
export function carveShared(
  { count, labels }: { count: number; labels?: Int32Array },
  beta: number,
  seed: number,
): { shared: Int32Array; rest: Int32Array } {
  const order = rng(seed, 'shared set').permutation(count);
  const wanted = sharedCount(count, beta);
  const queues = new Map<number, number[]>();
  for (const image of order) {
    const label = labels?.[image] ?? 0;
    const queue = queues.get(label);
    if (queue) queue.push(image);
    else queues.set(label, [image]);
  }
  const classes = [...queues.keys()].sort((a, b) => a - b).map((label) => queues.get(label)!);
  const chosen = new Set<number>();
  for (let turn = 0; chosen.size < wanted; turn++)
    for (const queue of classes) if (turn < queue.length && chosen.size < wanted) chosen.add(queue[turn]!);
  const all = Int32Array.from({ length: count }, (_, i) => i);
  return { shared: all.filter((image) => chosen.has(image)), rest: all.filter((image) => !chosen.has(image)) };
}

/** A client's part of G: round(α·|G|) of its images, at least one, at random. */
export function pickShare(set: SharedSet, alpha: number, seed: number | bigint, client: ClientId, version: number): SharedSet {
  const positions = rng(seed, 'share', client, version).permutation(set.count);
  const chosen = positions.subarray(0, Math.max(1, Math.round(alpha * set.count))).sort();
  const size = set.pixels.length / set.count;
  const pixels = new Uint8Array(chosen.length * size);
  chosen.forEach((position, i) => {
    pixels.set(set.pixels.subarray(position * size, (position + 1) * size), i * size);
  });
  return { count: chosen.length, pixels, classes: set.classes && Int32Array.from(chosen, (position) => set.classes![position]!) };
}
