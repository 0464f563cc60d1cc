/** What a way to divide images among clients is: index.ts lists them all. */
import { PhoenixError } from '../../errors.ts';

export type PartitionInput = {
  /** Number of images, at least 1. */
  count: number;
  /** Class of each image, where there are classes. */
  labels?: Int32Array;
  /** Site of each image, where there are sites. */
  sites?: Int32Array;
  /** Number of clients; may be absent only where the data says it (site). */
  clients?: number;
  seed: number;
};

export type Partitioner = {
  name: string;
  /**
   * One list of image indices per client, each ascending and not empty, together every index in 0..count-1 once; the same for the same
   * input.
   * @throws PhoenixError ERR_PHOENIX_CONFIG where images, labels or clients do not allow it
   */
  split(input: PartitionInput): Int32Array[];
};

/** The number of clients, each of which can have an image. @throws PhoenixError ERR_PHOENIX_CONFIG */
export function requireClients({ count, clients }: PartitionInput): number {
  if (clients === undefined || !Number.isInteger(clients) || clients < 1) {
    throw new PhoenixError('ERR_PHOENIX_CONFIG', `A partition needs a number of clients of at least 1, not ${clients}.`);
  }
  if (clients <= count) return clients;
  const advice = 'Use fewer clients or more images (--limit).';
  throw new PhoenixError('ERR_PHOENIX_CONFIG', `${clients} clients cannot share ${count} images: each needs at least one. ${advice}`);
}

/** The labels, one per image. @throws PhoenixError ERR_PHOENIX_CONFIG */
export function requireLabels({ count, labels }: PartitionInput, partition: string): Int32Array {
  if (labels?.length === count) return labels;
  const found = labels ? `${labels.length} labels for ${count} images` : 'these images have none';
  throw new PhoenixError('ERR_PHOENIX_CONFIG', `${partition} divides by label, but ${found}. Use iid or quantity, or labelled images.`);
}

/**
 * Sizes that add up to count, one at least: in proportion to rank^-exponent (Zipf), rounded down, and what is left over given to the first,
 * one each.
 */
export function zipfSizes(count: number, parts: number, exponent: number): number[] {
  const weights = Array.from({ length: parts }, (_, i) => (i + 1) ** -exponent);
  const sum = weights.reduce((a, b) => a + b);
  const shared = count - parts;
  const floors = weights.map((weight) => Math.floor((shared * weight) / sum));
  const left = shared - floors.reduce((a, b) => a + b);
  return floors.map((floor, part) => 1 + floor + (part < left ? 1 : 0));
}

/** `parts` runs of an order, one after the other, whose lengths differ by at most one. */
export function cutEvenly(order: Int32Array, parts: number): Int32Array[] {
  const start = (part: number) => Math.floor((part * order.length) / parts);
  return Array.from({ length: parts }, (_, part) => order.slice(start(part), start(part + 1)));
}
