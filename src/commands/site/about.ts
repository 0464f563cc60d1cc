/** What a site says of its data before there is a run: how many images, how large, of which classes. */
import { findReader } from '../../ddpm/data/index.ts';
import { parseRange } from '../../ddpm/data/range.ts';
import { PhoenixError } from '../../errors.ts';
import { everyPosition } from '../../images.ts';
import type { AboutData } from '../../net/spec.ts';

/** Most names of classes that are said before a run. */
const MAX_CLASSES = 10_000;

/** How data may have to be read to know their channels: images of several sizes need one, and deep ones a range. */
const READINGS = [{}, { size: 64 }, { size: 64, range: '0,65535' }];

/**
 * Reads names and headers, no pixels. Images of several sizes have no size here.
 * @throws PhoenixError ERR_PHOENIX_DATA for a path that holds no data, ERR_PHOENIX_IO
 */
export async function describeSite(path: string, signal?: AbortSignal): Promise<AboutData> {
  const { reader } = await findReader(path);
  let first: unknown;
  for (const { size, range } of READINGS) {
    if (range !== undefined && !reader.takesRange) break;
    try {
      const listing = await reader.list(path, {
        split: 'train',
        size: size === undefined ? undefined : { height: size, width: size },
        range: range === undefined ? undefined : parseRange(range),
        signal,
      });
      const { height, width, channels } = await listing.open(everyPosition(listing.count), { signal });
      const classNames = listing.labels ? listing.classNames.slice(0, MAX_CLASSES) : [];
      return { images: listing.count, ...(size === undefined && { height, width }), channels, classNames };
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof PhoenixError)) throw error;
      first ??= error;
    }
  }
  throw first;
}
