/** The strategies by name; the choices of the command line are these. */
import type { Strategy } from '../strategy.ts';
import { type DiversityOptions, diversity, vendi } from './diversity.ts';
import { fedavg } from './fedavg.ts';
import { geometricMedian, krum, median, multiKrum, trimmedMean } from './robust.ts';

/** What strategies may be told; each reads what it knows. */
export type StrategyOptions = DiversityOptions & {
  /** Hostile clients that a robust rule is to stand. @default a fifth of those that arrived */
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
