/** Subsets of a dataset, and samples in parts. */
import { createHash } from 'node:crypto';
import type { Dataset } from '../ddpm/data/index.ts';
import { pick, valuesAt } from '../images.ts';

/** Some images as a dataset of their own, in the order of the whole. */
export function subset(dataset: Dataset, positions: number[], name: string): Dataset {
  const ascending = positions.toSorted((a, b) => a - b);
  const fingerprint = createHash('sha256').update(dataset.fingerprint).update(JSON.stringify(ascending)).digest('hex');
  return { ...pick(dataset, ascending), name, sites: dataset.sites && valuesAt(dataset.sites, ascending), fingerprint };
}

/** `count` in parts in proportion to `sizes`, each less than one away from its share; parts of size 0 are left out. */
export function partsBySize(sizes: readonly { id: string; size: number }[], count: number) {
  const total = sizes.reduce((sum, { size }) => sum + size, 0);
  let before = 0;
  return sizes
    .map(({ id, size }) => {
      const from = Math.floor((before * count) / total);
      before += size;
      return { id, count: Math.floor((before * count) / total) - from };
    })
    .filter((part) => part.count > 0);
}

/** `count` in parts whose sizes differ by at most one; parts of size 0 are left out. */
export function equalParts(ids: string[], count: number) {
  return partsBySize(
    ids.map((id) => ({ id, size: 1 })),
    count,
  );
}
