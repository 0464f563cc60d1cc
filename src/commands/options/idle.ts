/** Options that a command takes and that the others it was given leave without effect: they are named, not read past. */
import type { Needs } from '../../fl/strategy.ts';
import { flagOf } from './option.ts';
import type { RawOptions } from './parse.ts';
import { optionsOf, type Settings } from './tables.ts';

/** Options by their paths, whether anything uses them, and what would. */
type Rule = { options: readonly string[]; used(settings: Settings<'federate'>, needs: Needs): boolean; by: string };

const asksForSamples = ({ histogram }: Settings<'federate'>, { vendi, statistic, histogram: counts }: Needs) =>
  vendi === true || (statistic !== undefined && statistic !== 'loss') || (counts === true && histogram.of === 'samples');

const sharesReal = ({ sharing }: Settings<'federate'>) => sharing.beta > 0 && sharing.source === 'real';

const drawsShared = ({ sharing }: Settings<'federate'>) => sharing.beta > 0 && sharing.source === 'synthetic';

/** Exported for tests. */
export const rules: readonly Rule[] = [
  { options: ['rounds'], used: ({ images }) => images === undefined, by: 'a run without --images' },
  { options: ['diversity.target', 'diversity.pull'], used: ({ strategy }) => strategy === 'diversity', by: '--strategy diversity' },
  {
    options: ['hostile'],
    used: ({ strategy }) => ['trimmed-mean', 'krum', 'multi-krum'].includes(String(strategy)),
    by: '--strategy trimmed-mean, krum or multi-krum',
  },
  { options: ['sharing.alpha', 'sharing.source'], used: ({ sharing }) => sharing.beta > 0, by: '--share-beta above 0' },
  { options: ['sharing.consent'], used: sharesReal, by: '--share-beta above 0 and --share-source real' },
  { options: ['sharing.every'], used: drawsShared, by: '--share-beta above 0 and --share-source synthetic' },
  { options: ['localWork.least', 'localWork.most'], used: ({ localWork }) => localWork.target !== undefined, by: '--drift-target' },
  {
    options: ['serverStep.beta1'],
    used: ({ serverStep }) => serverStep.kind !== 'add',
    by: '--server-step momentum, adam or yogi',
  },
  {
    options: ['serverStep.beta2', 'serverStep.tau'],
    used: ({ serverStep }) => serverStep.kind === 'adam' || serverStep.kind === 'yogi',
    by: '--server-step adam or yogi',
  },
  { options: ['filter.by', 'filter.threshold'], used: ({ filter }) => filter.kind !== 'none', by: '--filter' },
  { options: ['filter.cohort', 'filter.guard'], used: ({ filter }) => filter.kind === 'quarantine', by: '--filter quarantine' },
  {
    options: ['probe.every'],
    used: (_, { histogram, vendi, statistic }) => histogram === true || vendi === true || statistic !== undefined,
    by: 'a strategy or filter that asks for client statistics',
  },
  {
    options: ['features'],
    used: (settings, needs) => needs.histogram === true || asksForSamples(settings, needs),
    by: 'client statistics of images',
  },
  {
    options: ['histogram.of', 'histogram.noise', 'histogram.bins'],
    used: (_, { histogram }) => histogram === true,
    by: 'a strategy or filter that asks for histograms',
  },
  { options: ['probe.samples'], used: asksForSamples, by: 'client statistics of samples' },
  {
    options: ['probe.steps'],
    used: (settings, needs) => asksForSamples(settings, needs) || drawsShared(settings),
    by: 'client statistics of samples, or --share-source synthetic',
  },
];

/**
 * Options of federate that were given and that nothing in the run uses, in a sentence; undefined if there are none.
 * @param needs of the strategy, behind its filter
 */
export function idleOptions(given: object, settings: Settings<'federate'>, needs: Needs = {}): string | undefined {
  const isGiven = (path: readonly string[]) => {
    const value = path.reduce<unknown>((group, key) => (group as RawOptions | undefined)?.[key], given);
    // A flag that is off asks for nothing.
    return value !== undefined && value !== false;
  };
  const idle = optionsOf('federate').flatMap((place) => {
    const rule = rules.find(({ options }) => options.includes(place.path.join('.')));
    return rule && isGiven(place.path) && !rule.used(settings, needs) ? [`${flagOf(place)} (goes with ${rule.by})`] : [];
  });
  return idle.length > 0 ? `Nothing in this run uses ${idle.join(', ')}.` : undefined;
}
