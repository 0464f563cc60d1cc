/**
 * Data sharing (α, β): a small set G of images that clients share, so that no client trains on its own classes alone (Zhao et al. 2018,
 * §4). β = |G|/|D|, D all clients' images; each client receives the random fraction α of G once. Real images of G are thereby public;
 * synthetic ones are drawn from the global model.
 */
import { everyPosition, groupBy, type ImageSet, inTurn, pick, valuesAt } from '../../images.ts';
import { rng } from '../../rng.ts';
import type { ClientId } from '../protocol.ts';

export const shareSources = ['real', 'synthetic'] as const;

/** Images in the clients' size, (count,H,W,C) bytes, with a class each where the model is conditioned on it. */
export type SharedSet = Pick<ImageSet, 'count' | 'pixels'> & { classes?: Int32Array };

/** |G| for `images` in all, of which G is taken: β·|D| with |G| + |D| = images, rounded. */
export const sharedCount = (images: number, beta: number): number => Math.round((images * beta) / (1 + beta));

/**
 * Sets images aside as G: of labelled ones by turns a random one of each class until there are enough, so that the set is class-balanced as
 * far as the classes' sizes allow; of others at random. Both parts ascending, fixed by the seed.
 */
export function carveShared(
  { count, labels }: { count: number; labels?: Int32Array },
  beta: number,
  seed: number,
): { shared: Int32Array; rest: Int32Array } {
  const order = rng(seed, 'shared set').permutation(count);
  const classes = [...groupBy(order, (image) => labels?.[image] ?? 0)].sort(([a], [b]) => a - b).map(([, images]) => images);
  const shared = inTurn(classes, sharedCount(count, beta));
  const chosen = new Set(shared);
  return { shared, rest: everyPosition(count).filter((image) => !chosen.has(image)) };
}

/** A client's part of G: round(α·|G|) of its images, at least one, at random. */
export function pickShare(set: SharedSet, alpha: number, seed: number | bigint, client: ClientId, version: number): SharedSet {
  const positions = rng(seed, 'share', client, version).permutation(set.count);
  const chosen = positions.subarray(0, Math.max(1, Math.round(alpha * set.count))).sort();
  return { ...pick(set, chosen), classes: set.classes && valuesAt(set.classes, chosen) };
}
