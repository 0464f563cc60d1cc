/** Subsets of a dataset, and equal parts of samples. */
import { createHash } from 'node:crypto';
import type { Dataset } from '../ddpm/data/index.ts';
import { pick, valuesAt } from '../images.ts';

/** Some images as a dataset of their own, in the order of the whole. */
export function subset(dataset: Dataset, positions: number[], name: string): Dataset {
  const ascending = positions.toSorted((a, b) => a - b);
  const fingerprint = createHash('sha256').update(dataset.fingerprint).update(JSON.stringify(ascending)).digest('hex');
  return { ...pick(dataset, ascending), name, sites: dataset.sites && valuesAt(dataset.sites, ascending), fingerprint };
}

/** `count` in parts whose sizes differ by at most one; parts of size 0 are left out. */
export function equalParts(ids: string[], count: number) {
  return ids
    .map((id, i) => ({ id, count: Math.floor(((i + 1) * count) / ids.length) - Math.floor((i * count) / ids.length) }))
    .filter((part) => part.count > 0);
}
