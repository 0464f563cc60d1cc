/** Parts of a dataset, and images of several models as one set. */
import { createHash } from 'node:crypto';
import type { Dataset } from '../ddpm/data/index.ts';
import type { FeatureImages } from '../ddpm/metrics/index.ts';

/** Some images of a dataset. */
export function pickImages(images: FeatureImages, positions: ArrayLike<number>): FeatureImages {
  const size = images.height * images.width * images.channels;
  const pixels = new Uint8Array(positions.length * size);
  for (let i = 0; i < positions.length; i++) pixels.set(images.pixels.subarray(positions[i]! * size, (positions[i]! + 1) * size), i * size);
  return { ...images, pixels, count: positions.length };
}

/** Some images as a dataset of their own, in the order of the whole. */
export function subset(dataset: Dataset, positions: number[], name: string): Dataset {
  const ascending = positions.toSorted((a, b) => a - b);
  const { pixels, count } = pickImages(dataset, ascending);
  const pick = (column: Int32Array | undefined) => column && Int32Array.from(ascending, (position) => column[position]!);
  const fingerprint = createHash('sha256').update(dataset.fingerprint).update(JSON.stringify(ascending)).digest('hex');
  return { ...dataset, name, pixels, count, labels: pick(dataset.labels), sites: pick(dataset.sites), fingerprint };
}

/** One set after the other; all of one size. */
export function joined(parts: FeatureImages[]): FeatureImages {
  const pixels = new Uint8Array(parts.reduce((sum, part) => sum + part.pixels.length, 0));
  let at = 0;
  for (const part of parts) {
    pixels.set(part.pixels, at);
    at += part.pixels.length;
  }
  const { height, width, channels } = parts[0]!;
  return { pixels, count: parts.reduce((sum, part) => sum + part.count, 0), height, width, channels };
}

/** `count` in parts whose sizes differ by at most one; who would get none is left out. */
export const equalParts = (ids: string[], count: number) =>
  ids
    .map((id, i) => ({ id, count: Math.floor(((i + 1) * count) / ids.length) - Math.floor((i * count) / ids.length) }))
    .filter((part) => part.count > 0);
