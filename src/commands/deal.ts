/** Partitioning a dataset for a simulation: the shared set, one part for each client, and a held-out tenth of each part. */
import type { DatasetFacts } from '../ddpm/data/index.ts';
import { PhoenixError } from '../errors.ts';
import { classHistogram, holdOut, parsePartition, partitioner } from '../fl/partition/index.ts';
import { carveShared } from '../fl/server/sharing.ts';
import { valuesAt } from '../images.ts';
import type { Settings } from './options/index.ts';

/**
 * The shared set: how many images it has, how many of them each client gets; of a real one also which, and how many come from each site,
 * where sites are known.
 */
export type Shared = { count: number; each: number; images?: Int32Array; from?: Record<string, number> };

/** One client's part of the data, as indices into it. */
export type Share = { id: string; train: Int32Array; heldOut: Int32Array; histogram?: number[] };

export type Deal = { shares: Share[]; shared: Shared };

/** Clients of a simulation where no option says how many. */
const CLIENTS = 10;

/**
 * Sets the shared set aside, partitions the other images over the clients and splits a held-out tenth off each. Clients of a site partition
 * bear the sites' names.
 * @throws PhoenixError ERR_PHOENIX_CONFIG for a partition that the images cannot carry
 */
export function dealImages(settings: Settings<'federate'>, dataset: DatasetFacts): Deal {
  const { labels, sites, siteNames, classNames } = dataset;
  const { seed } = settings;
  const { shared, rest } = setAside(settings, dataset);
  const bySite = parsePartition(settings.partition).name === 'site';
  const clients = settings.clients ?? (bySite ? undefined : CLIENTS);
  const ofRest = (column: Int32Array | undefined) => column && valuesAt(column, rest);
  const parts = partitioner(settings.partition).split({ count: rest.length, labels: ofRest(labels), sites: ofRest(sites), clients, seed });
  const digits = String(parts.length).length;
  const shares = parts.map((positions, i) => {
    const indices = positions.map((position) => rest[position]!);
    const site = bySite ? siteNames?.[sites![indices[0]!]!] : undefined;
    const id = site ?? `client-${String(i + 1).padStart(digits, '0')}`;
    const histogram = labels && classNames.length > 0 ? classHistogram(indices, labels, classNames.length) : undefined;
    return { id, ...holdOut(indices, seed, id), histogram };
  });
  return { shares, shared };
}

/** The shared set, and the images that are left for the clients. */
function setAside({ seed, sharing }: Settings<'federate'>, dataset: DatasetFacts): { shared: Shared; rest: Int32Array } {
  const { alpha, beta, source } = sharing;
  const real = beta > 0 && source === 'real';
  const { shared: images, rest } = carveShared(dataset, real ? beta : 0, seed);
  const count = real ? images.length : Math.round(beta * dataset.count);
  if (beta > 0 && count === 0)
    throw new PhoenixError(
      'ERR_PHOENIX_CONFIG',
      `sharing.beta ${beta} (--share-beta) of ${dataset.count} images is less than one image: take more.`,
    );
  const each = count > 0 ? Math.max(1, Math.round(alpha * count)) : 0;
  return { shared: { count, each, ...(real && { images, from: originOf(images, dataset) }) }, rest };
}

/** How many images are of each site; undefined where no sites are known. */
function originOf(images: Int32Array, { sites, siteNames }: DatasetFacts): Record<string, number> | undefined {
  if (!sites || !siteNames) return undefined;
  const counts = siteNames.map((name, site): [string, number] => [name, images.filter((image) => sites[image] === site).length]);
  return Object.fromEntries(counts.filter(([, count]) => count > 0));
}

/** Says what is shared: of real images how many go from whom to whom. */
export function explainShared({ sharing }: Settings<'federate'>, { shares, shared }: Deal): string {
  const { count, each, from } = shared;
  if (sharing.source === 'synthetic')
    return `The shared set has ${count} images drawn from the global model every ${sharing.every} rounds. Each client receives ${each} of them.`;
  const origin = from
    ? Object.entries(from)
        .map(([site, images]) => `${images} from ${site}`)
        .join(', ')
    : 'taken from all images before they are divided over the clients';
  const names = shares.map(({ id }) => id);
  const clients = names.length <= 10 ? names.join(', ') : `${names.slice(0, 10).join(', ')} and ${names.length - 10} more`;
  return `The shared set has ${count} real training images, which are public to all clients now: ${origin}. Each of ${names.length} clients receives ${each} of them, ${each * names.length} in all: ${clients}.`;
}
