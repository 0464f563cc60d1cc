/** A shared set of real images that the operator gives, public by statement: no request exists by which an image of a site becomes one. */

import { matchClasses } from '../../ddpm/data/classes.ts';
import type { SharedSet } from '../../fl/server/sharing.ts';
import type { Sharing } from '../../fl/server/supplies.ts';
import { everyPosition, readAt } from '../../images.ts';
import type { Spec } from '../../net/spec.ts';
import { openData } from '../data.ts';
import type { DataEvents } from '../events.ts';
import type { Settings } from '../options/index.ts';
import type { DataShape } from '../prepare.ts';
import type { Reference } from '../wiring.ts';

export type SharedData = {
  /** What the spec says of it. */
  facts: NonNullable<Spec['shared']>;
  sharing: Sharing;
  /** All its images, to make bins of. */
  reference: Pick<Reference, 'dataset' | 'reference'>;
};

/**
 * Reads the images that the options name, as the run reads those of the sites.
 * @throws PhoenixError ERR_PHOENIX_DATA, ERR_PHOENIX_CONFIG for images that do not fit the run
 */
export async function openShared(
  { sharedData, shareAlpha }: Pick<Settings<'coordinator'>, 'sharedData' | 'shareAlpha'>,
  { height, width, channels, classNames, range }: DataShape & { range?: string },
  events: DataEvents,
): Promise<SharedData | undefined> {
  if (sharedData === undefined) return undefined;
  const dataset = await openData(sharedData, { size: { height, width }, channels: channels as 1 | 3, range }, events);
  const all = everyPosition(dataset.count);
  const images = await readAt(dataset, all);
  const classes = classNames && matchClasses(dataset, classNames, 'the run');
  const { count, pixels } = images;
  const set: SharedSet = { count, pixels, classes };
  return {
    facts: { images: count, each: Math.max(1, Math.round(shareAlpha * count)), fingerprint: dataset.fingerprint },
    sharing: { alpha: shareAlpha, set },
    reference: { dataset, reference: all },
  };
}
