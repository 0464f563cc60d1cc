import { PhoenixError } from '../../errors.ts';
import type { Partitioner } from './partitioner.ts';

/** The data's own division: one client for each site that has images, by ascending number of the site. Nothing is random. */
export function site(): Partitioner {
  return {
    name: 'site',
    split({ count, sites, clients }) {
      if (sites?.length !== count || count < 1) {
        const found = sites ? `there are ${sites.length} for ${count} images` : 'these images have none';
        throw new PhoenixError(
          'ERR_PHOENIX_CONFIG',
          `The partition site needs the site of each image, but ${found}. Use site-labelled records or folders SITE/CLASS/ (docs/data.md).`,
        );
      }
      const present = [...new Set(sites)].sort((a, b) => a - b);
      if (clients !== undefined && clients !== present.length) {
        const advice = `Leave the number of clients out, or pass ${present.length}.`;
        throw new PhoenixError(
          'ERR_PHOENIX_CONFIG',
          `${present.length} sites have images, but ${clients} clients were asked for. ${advice}`,
        );
      }
      const everyIndex = Int32Array.from({ length: count }, (_, i) => i);
      return present.map((wanted) => everyIndex.filter((i) => sites[i] === wanted));
    },
  };
}
