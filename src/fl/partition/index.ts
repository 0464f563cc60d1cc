/** Partitions: how the images of one data set are divided among clients. */
import { checkArguments } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import { rng } from '../../rng.ts';
import { dirichlet } from './dirichlet.ts';
import { iid } from './iid.ts';
import type { Partitioner } from './partitioner.ts';
import { quantity } from './quantity.ts';
import { shards } from './shards.ts';
import { site } from './site.ts';

export type { Partitioner, PartitionInput } from './partitioner.ts';

type Parameter = { example: number; min: number; max: number; integer?: boolean };
type Member =
  | { help: string; create: () => Partitioner }
  | {
      help: string;
      parameter: Parameter;
      create: (parameter: number, zipf: number) => Partitioner /** Takes ",zipf:EXPONENT" too. */;
      zipf?: true;
    };

/** Range of a Zipf exponent: 0 = equal sizes. */
const ZIPF: Parameter = { example: 1, min: 0, max: 10 };

/** All partitions: choices and help of the command line derive from this. */
export const partitions: Record<string, Member> = {
  iid: { help: 'equal random shares', create: iid },
  dirichlet: {
    help: 'label skew: each class in proportions drawn from Dirichlet(α), small α is more skewed',
    parameter: { example: 0.5, min: 1e-6, max: 1e6 },
    create: dirichlet,
  },
  shards: {
    help: 'label skew: sorted by label, that many shards for each client; with ",zipf:EXPONENT" of sizes that fall with the rank of the client',
    parameter: { example: 2, min: 1, max: 1000, integer: true },
    create: shards,
    zipf: true,
  },
  quantity: {
    help: 'sizes fall with the rank of the client to the power of minus this (Zipf)',
    parameter: { example: 1.2, min: 0, max: 10 },
    create: quantity,
  },
  site: { help: "the data's own sites, one client each", create: site },
};

/** The choices with their ranges, for messages and help: `iid, dirichlet:0.5 (0.000001..1000000), …`. */
export function partitionChoices(): string {
  const choices = Object.entries(partitions).map(([name, member]) => {
    if (!('parameter' in member)) return name;
    const { example, min, max, integer } = member.parameter;
    const skew = member.zipf ? `, with ",zipf:${ZIPF.example}" (${ZIPF.min}..${ZIPF.max})` : '';
    return `${name}:${example} (${integer ? 'an integer in ' : ''}${min}..${max}${skew})`;
  });
  return choices.join(', ');
}

/**
 * Reads `iid`, `dirichlet:0.5`, `shards:2`, `shards:2,zipf:1`, `quantity:1.2` or `site`.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT that names the valid ones
 */
export function parsePartition(text: string): { name: string; parameter?: number; zipf?: number } {
  const [kind = '', extra, ...tooMany] = text.split(',');
  const [name = '', parameterText, ...more] = kind.split(':');
  const member = Object.hasOwn(partitions, name) ? partitions[name] : undefined;
  const refuse = (reason: string) =>
    new PhoenixError('ERR_PHOENIX_ARGUMENT', `Partition '${text}' ${reason}. Valid: ${partitionChoices()}.`);
  if (!member || more.length > 0 || tooMany.length > 0) throw refuse('is unknown');
  if (!('parameter' in member)) {
    if (parameterText !== undefined || extra !== undefined) throw refuse('takes no parameter');
    return { name };
  }
  if (parameterText === undefined) throw refuse('needs a parameter');
  const parameter = within(parameterText, member.parameter);
  if (parameter === undefined) throw refuse('has a parameter out of its range');
  if (extra === undefined) return { name, parameter };
  const zipf = member.zipf && extra.startsWith('zipf:') ? within(extra.slice('zipf:'.length), ZIPF) : undefined;
  if (zipf === undefined) throw refuse(member.zipf ? 'has something other than zipf:EXPONENT after the comma' : 'takes one parameter');
  return { name, parameter, zipf };
}

/** The number in a text, if it is in the range. */
function within(text: string, { min, max, integer }: Parameter): number | undefined {
  const value = /^[0-9.]+(e-?[0-9]+)?$/i.test(text) ? Number(text) : NaN;
  return value >= min && value <= max && (!integer || Number.isInteger(value)) ? value : undefined;
}

/** The partitioner that a text asks for, see parsePartition. @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function partitioner(text: string): Partitioner {
  checkArguments('partitioner', { text }, { text: 'text' });
  const { name, parameter, zipf = 0 } = parsePartition(text);
  return partitions[name]!.create(parameter!, zipf);
}

/**
 * Splits a tenth (rounded down, so nothing of fewer than ten) off one client's images for its held-out loss; both parts ascending, the
 * choice fixed by seed and client.
 */
export function holdOut(indices: Int32Array, seed: number, client: string | number): { train: Int32Array; heldOut: Int32Array } {
  const positions = rng(seed, 'hold-out', client).permutation(indices.length);
  const held = Math.floor(indices.length / 10);
  const choose = (from: number, to: number) =>
    positions
      .slice(from, to)
      .map((position) => indices[position]!)
      .sort();
  return { train: choose(held, indices.length), heldOut: choose(0, held) };
}

/** How many of the images at `indices` are of each class 0..classes-1. @throws PhoenixError ERR_PHOENIX_ARGUMENT for a label beyond */
export function classHistogram(indices: Int32Array, labels: Int32Array, classes: number): number[] {
  const counts = new Array<number>(classes).fill(0);
  for (const i of indices) {
    const label = labels[i];
    if (label === undefined || label < 0 || label >= classes) {
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Image ${i} has label ${label}, expected one in 0..${classes - 1}.`);
    }
    counts[label]!++;
  }
  return counts;
}
