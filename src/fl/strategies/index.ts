/** The strategies by name; the choices of the command line are these. */
import type { Strategy } from '../strategy.ts';
import { type DiversityOptions, diversity, vendi } from './diversity.ts';
import { fedavg } from './fedavg.ts';
import { geometricMedian, krum, median, multiKrum, trimmedMean } from './robust.ts';

/** Options of all strategies; each reads its own. */
export type StrategyOptions = DiversityOptions & {
  /** Byzantine clients that a robust rule tolerates. @default a fifth of the updates that arrived */
  hostile?: number;
};

const members = {
  fedavg,
  diversity,
  vendi,
  median,
  'trimmed-mean': trimmedMean,
  krum,
  'multi-krum': multiKrum,
  'geometric-median': geometricMedian,
} satisfies Record<string, (options?: StrategyOptions) => Strategy>;

export const strategies: Record<keyof typeof members, (options?: StrategyOptions) => Strategy> = members;
