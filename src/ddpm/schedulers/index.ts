/** The registry of schedulers: the only place that lists them. See step.ts for what a scheduler is. */
import { checkArguments } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import type { Noise } from '../noise.ts';
import { ddim } from './ddim.ts';
import { ddpm } from './ddpm.ts';
import { dpmSolver } from './dpm-solver.ts';
import type { Scheduler, SchedulerOptions } from './step.ts';

export type { Scheduler, SchedulerOptions, Step } from './step.ts';

export const schedulers = { ddpm, ddim, 'dpm-solver': dpmSolver } satisfies Record<string, Scheduler>;

export type SchedulerName = keyof typeof schedulers;

/**
 * The table of one sampler as the addon takes it: `steps` rows of [t, alpha, sigma, cx, c0, c1, cz].
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for an unknown name, steps outside 1..T, an option outside its range, or one that this
 * scheduler does not have
 */
export function makeTable(name: SchedulerName, noise: Noise, steps: number, options: SchedulerOptions = {}): Float64Array {
  checkArguments('makeTable', { name }, { name: 'text' });
  if (!Object.hasOwn(schedulers, name)) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `The scheduler must be one of ${Object.keys(schedulers).join(', ')}, not ${JSON.stringify(name)}.`,
    );
  }
  const rows = schedulers[name](noise, steps, options);
  return Float64Array.from(rows.flatMap(({ t, alpha, sigma, cx, c0, c1, cz }) => [t, alpha, sigma, cx, c0, c1, cz]));
}
