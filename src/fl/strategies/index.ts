/** The strategies by name; the choices of the command line are these. */
import type { Strategy } from '../types.ts';
import { fedavg } from './fedavg.ts';

export const strategies = { fedavg } satisfies Record<string, () => Strategy>;

export type StrategyName = keyof typeof strategies;
