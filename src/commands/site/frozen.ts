/** The data of a run are fixed when a site joins it: data.json in the run's folder says which they were. */
import { join } from 'node:path';
import { z } from 'zod';
import type { DatasetFacts } from '../../ddpm/data/index.ts';
import { PhoenixError } from '../../errors.ts';
import { exists, readJson, writeWhole } from '../../files.ts';
import type { Store } from '../../fl/store.ts';
import { asJson } from './home.ts';

const facts = { fingerprint: z.string().regex(/^[0-9a-f]{64}$/), images: z.int().min(1) };
const frozen = z.strictObject({
  schema: z.literal(1),
  /** Of the images as the run reads them, their classes included. */
  ...facts,
  /** Earlier ones, each with the time at which the next was accepted, in UTC. */
  changes: z.array(z.strictObject({ ...facts, until: z.iso.datetime() })).default([]),
});

/**
 * Compares the data with those that the site joined the run with, or notes them if it joins now. `mayChange`: others are accepted; what
 * `store` kept of the run is dropped, and the change is noted.
 * @returns whether they were others
 * @throws PhoenixError ERR_PHOENIX_DATA for others that are not accepted
 */
export async function freezeData(
  dir: string,
  { fingerprint, count: images }: Pick<DatasetFacts, 'fingerprint' | 'count'>,
  store: Store,
  mayChange: boolean,
): Promise<boolean> {
  const path = join(dir, 'data.json');
  const write = (changes: z.infer<typeof frozen>['changes']) => writeWhole(path, asJson({ schema: 1, fingerprint, images, changes }));
  if (!(await exists(path))) {
    await write([]);
    return false;
  }
  const before = await readJson(path, frozen, {
    code: 'ERR_PHOENIX_RUN',
    maxBytes: 1_000_000,
    advice: 'Restore it from a copy.',
    version: 1,
  });
  if (before.fingerprint === fingerprint) return false;
  if (!mayChange)
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `The images of this site are others than when it joined the run: there were ${before.images} and are ${images} now, or some have changed. Bring the old ones back, or start the site once with dataChanged (--data-changed): they are divided anew then, and what the site kept of the run is dropped.`,
    );
  for (const key of await store.keys()) if (!key.startsWith('.')) await store.delete(key);
  await write([...before.changes, { fingerprint: before.fingerprint, images: before.images, until: new Date().toISOString() }]);
  return true;
}
