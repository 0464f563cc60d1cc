/**
 * Images of one size: as a set in memory, and as a source that is read in windows, wherever the images lie. Pixels are bytes,
 * (count,H,W,C).
 */

export type ImageSize = { height: number; width: number; channels: number };

/** Images in memory. */
export type ImageSet = ImageSize & {
  count: number;
  /** count·height·width·channels bytes. */
  pixels: Uint8Array;
  /** Class of each image. */
  labels?: Int32Array;
};

/** Images that are read a part at a time, from memory or from files: a set that is larger than memory can be one. */
export type ImageSource = ImageSize & {
  readonly count: number;
  /** The pixels of the images at these ascending positions. */
  read(positions: Int32Array): Promise<Uint8Array>;
};

/** Bytes that are copied to native memory between two turns of the event loop: a few milliseconds. */
export const PIECE_BYTES = 4 << 20;

/** Bytes of one image. */
export function imageBytes({ height, width, channels }: ImageSize): number {
  return height * width * channels;
}

/** Why a set is inconsistent; undefined if it is consistent. */
export function mismatch(set: ImageSet): string | undefined {
  const expected = set.count * imageBytes(set);
  if (set.pixels.length === expected) return undefined;
  return `${set.count} images of ${set.height}×${set.width}×${set.channels} are ${expected} bytes, but ${set.pixels.length} came`;
}

/** A set as a source, with whatever else is known of it. */
export function sourceOfSet<Set extends ImageSet>(set: Set): Omit<Set, 'pixels'> & ImageSource {
  const { pixels: _, ...facts } = set;
  return { ...facts, read: async (positions) => pick(set, positions).pixels };
}

/** The images at these ascending positions of a source. */
export async function readAt(source: ImageSource, positions: Int32Array): Promise<ImageSet> {
  const { height, width, channels } = source;
  return { count: positions.length, height, width, channels, pixels: await source.read(positions) };
}

/** All images of a source in order, a window of at most PIECE_BYTES (and at least one image) at a time. */
export async function* windows(source: ImageSource): AsyncGenerator<{ first: number; pixels: Uint8Array }> {
  const most = Math.max(1, Math.floor(PIECE_BYTES / imageBytes(source)));
  for (let first = 0; first < source.count; first += most) {
    const count = Math.min(most, source.count - first);
    yield { first, pixels: await source.read(everyPosition(count).map((i) => first + i)) };
  }
}

/** The pixels and labels at these positions, in that order. */
export function pick<Set extends Pick<ImageSet, 'count' | 'pixels' | 'labels'>>(set: Set, positions: ArrayLike<number>): Set {
  const size = set.pixels.length / set.count;
  const pixels = new Uint8Array(positions.length * size);
  for (let i = 0; i < positions.length; i++) pixels.set(set.pixels.subarray(positions[i]! * size, (positions[i]! + 1) * size), i * size);
  return { ...set, count: positions.length, pixels, ...(set.labels && { labels: valuesAt(set.labels, positions) }) };
}

/** The images `first` to `first + count - 1`: views of the set's memory. */
export function slice(set: ImageSet, first: number, count: number): ImageSet {
  const size = imageBytes(set);
  const pixels = set.pixels.subarray(first * size, (first + count) * size);
  return { ...set, count, pixels, ...(set.labels && { labels: set.labels.subarray(first, first + count) }) };
}

/** One set after the other, without labels; at least one, all of one size. */
export function joined(sets: ImageSet[]): ImageSet {
  const pixels = new Uint8Array(sets.reduce((sum, set) => sum + set.pixels.length, 0));
  let at = 0;
  for (const set of sets) {
    pixels.set(set.pixels, at);
    at += set.pixels.length;
  }
  const { height, width, channels } = sets[0]!;
  return { pixels, count: sets.reduce((sum, set) => sum + set.count, 0), height, width, channels };
}

/** 0, 1, …, count - 1. */
export function everyPosition(count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => i);
}

/** The values of a column, labels for one, at these positions. */
export function valuesAt(column: ArrayLike<number>, positions: ArrayLike<number>): Int32Array {
  return Int32Array.from(positions, (position) => column[position]!);
}

/** `count` values evenly spaced over a list: repeated, if it has fewer. */
export function evenlySpaced(values: ArrayLike<number>, count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => values[Math.floor((i * values.length) / count)]!);
}

/** The list itself if it has at most `most` values, else that many of it, evenly spaced. */
export function atMost(values: ArrayLike<number>, most: number): Int32Array {
  return evenlySpaced(values, Math.min(most, values.length));
}

/**
 * The classes 0, 1, …, classes - 1, 0, 1, … of `count` images to draw, without those that had no images in training; undefined for a model
 * without classes.
 */
export function classesInTurn(count: number, classes: number, empty: readonly number[] = []): Int32Array | undefined {
  const drawn = everyPosition(classes).filter((label) => !empty.includes(label));
  return drawn.length > 0 ? Int32Array.from({ length: count }, (_, i) => drawn[i % drawn.length]!) : undefined;
}

/** Positions by group, groups in the order in which they first appear. */
export function groupBy<Key>(positions: Iterable<number>, keyOf: (position: number) => Key): Map<Key, number[]> {
  const groups = new Map<Key, number[]>();
  for (const position of positions) {
    const key = keyOf(position);
    const group = groups.get(key);
    if (group) group.push(position);
    else groups.set(key, [position]);
  }
  return groups;
}

/** `wanted` positions, or all if there are fewer: by turns the next of every group. Ascending. */
export function inTurn(groups: number[][], wanted: number): Int32Array {
  const longest = groups.reduce((most, group) => Math.max(most, group.length), 0);
  const chosen: number[] = [];
  for (let turn = 0; turn < longest && chosen.length < wanted; turn++)
    for (const group of groups) if (turn < group.length && chosen.length < wanted) chosen.push(group[turn]!);
  return Int32Array.from(chosen).sort();
}
