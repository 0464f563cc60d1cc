/** The one place where it is decided what can be combined: from what each part declares that it needs, and what the others offer. */
import { PhoenixError } from '../../errors.ts';
import type { Needs } from '../strategy.ts';
import type { Aggregator } from './aggregate.ts';

/** A part of a round by its name, with what it needs. */
export type Party = { name: string; needs: Needs };

/** What the rest of the round offers. Absent: it is not known yet, and not checked. */
export type Offers = {
  /** What the aggregation lets the server see. */
  shows?: Aggregator['shows'];
  /** The shared set of images; 'none' where there is none. */
  sharedSet?: 'none' | 'synthetic' | 'real';
  /** Whether every layer of the global model is trained. */
  wholeModel?: boolean;
  /** Whether clients are probed. */
  probes?: boolean;
  /** Whether updates become one by a weighted mean, and not by a rule of the strategy's own. */
  weightedMean?: boolean;
};

/** @throws PhoenixError ERR_PHOENIX_CONFIG naming the first part that needs what is not offered, and what to do */
export function checkNeeds(parties: Party[], { shows, sharedSet, wholeModel, probes, weightedMean }: Offers): void {
  for (const { name, needs } of parties) {
    const refuse = (what: string, remedy: string): never => {
      throw new PhoenixError('ERR_PHOENIX_CONFIG', `${name} needs ${what}: ${remedy}.`);
    };
    if (shows && needs.singleUpdates && !shows.singleUpdates)
      refuse('every single update, which the aggregation does not show', 'take the weighted mean, or an aggregation that shows updates');
    if (shows && needs.norms && !shows.norms) refuse('the norms of updates, which the aggregation does not show', `leave ${name} out`);
    if (needs.sharedSet === 'any' && sharedSet === 'none')
      refuse('a shared set', 'set its size, sharing.beta (--share-beta), or choose otherwise');
    if (needs.sharedSet === 'real' && (sharedSet === 'none' || sharedSet === 'synthetic'))
      refuse('real shared images', 'set sharing.beta (--share-beta) with sharing.source real, or choose otherwise');
    if (needs.wholeModel && wholeModel === false)
      refuse('a global model in which every layer is trained, and personal layers are not', 'take personal none, or choose otherwise');
    if (needs.weightedMean && weightedMean === false)
      refuse('a weighted mean of the updates', 'take a strategy that computes weights, such as fedavg, or choose otherwise');
    if (probes === false && (needs.histogram || needs.vendi || needs.statistic))
      refuse('answers to probes', 'say how clients are probed (probing)');
  }
}
