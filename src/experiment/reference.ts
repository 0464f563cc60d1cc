/** The real images that samples are compared with: of the sites that are trained on, and of those that nobody trains on. */
import type { Dataset } from '../ddpm/data/index.ts';
import { type Features, type Moments, moments, pickRows } from '../ddpm/metrics/index.ts';
import { PhoenixError } from '../errors.ts';
import { everyPosition, groupBy, valuesAt } from '../images.ts';
import { rng } from '../rng.ts';

/** Test images that a site unseen in training has at least, to be compared with. */
const MIN_UNSEEN = 20;
/** Test images of the sites that are trained on, at least. */
const MIN_SEEN = 10;

/** Real images that samples are compared with. */
export type Reference = { features: Features; moments: Moments; labels?: Int32Array };

export type References = {
  seen: Reference;
  /** Of every other test image of the sites that nobody trains on; absent without such sites. */
  unseen?: Reference;
  /** The other test images of each of these sites: what models learn the site from. */
  unseenSites: { site: number; rows: number[] }[];
};

/**
 * Divides the test images into references. `features`: a row per test image.
 * @throws PhoenixError ERR_PHOENIX_DATA for too few test images
 */
export async function referencesOf(test: Dataset, train: Dataset, features: Features, options: { threads?: number }): Promise<References> {
  const referenceOf = async (rows: number[]): Promise<Reference> => {
    const chosen = pickRows(features, rows);
    return { features: chosen, moments: await moments(chosen, options), labels: test.labels && valuesAt(test.labels, rows) };
  };
  const siteOf = ({ sites, siteNames }: Dataset, row: number) => siteNames?.[sites![row]!] ?? sites![row]!;
  const trained = new Set(train.sites && Array.from(train.sites, (_, row) => siteOf(train, row)));
  const isSeen = (row: number) => !test.sites || !train.sites || trained.has(siteOf(test, row));
  const rows = [...everyPosition(test.count)];
  const seenRows = rows.filter(isSeen);
  if (seenRows.length < MIN_SEEN)
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${test.name} has ${seenRows.length} test images of the sites that are trained on; ${MIN_SEEN} are needed.`,
    );
  const sites = groupBy(
    rows.filter((row) => !isSeen(row)),
    (row) => test.sites![row]!,
  );
  const unseenSites = [...sites]
    .sort(([a], [b]) => a - b)
    .filter(([, own]) => own.length >= MIN_UNSEEN)
    .map(([site, own]) => ({ site, rows: own }));
  const everyOther = (own: number[], first: number) => own.filter((_, i) => i % 2 === first);
  const unseenRows = unseenSites.flatMap(({ rows: own }) => everyOther(own, 0)).sort((a, b) => a - b);
  return {
    seen: await referenceOf(seenRows),
    unseen: unseenRows.length > 0 ? await referenceOf(unseenRows) : undefined,
    unseenSites: unseenSites.map(({ site, rows: own }) => ({ site, rows: everyOther(own, 1) })),
  };
}

/** At most `wanted` of `count` positions, evenly spaced over a fixed random order: neighbours in a file are often alike. */
export function evenly(count: number, wanted: number): number[] {
  const order = rng(0, 'rows of a score').permutation(count);
  return [...order.subarray(0, Math.min(count, wanted))].sort((a, b) => a - b);
}
