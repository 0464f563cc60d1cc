/** Telling a run to finish: its learning rate falls, and it ends. */
import { PhoenixError } from '../errors.ts';
import { askToFinish } from '../run/finish.ts';
import { heldCommit, openRun } from '../run/folder.ts';
import { type FinishOptions, parseOptions } from './options/index.ts';

export type Finishing = {
  /** The run folder. */
  dir: string;
  /** Rounds done so far, and those that the fall of the learning rate takes. */
  round: number;
  over: number;
};

/**
 * Asks a run to finish, whether it is running or not: before its next round the training sees the request, lets its learning rate fall over
 * `over` rounds, and ends. A run that does not run follows it when it is resumed.
 * @throws PhoenixError ERR_PHOENIX_RUN for a folder that holds no run, or a run whose learning rate falls already
 */
export async function finish(options: FinishOptions): Promise<Finishing> {
  const { dir, over: asked } = parseOptions('finish', options);
  const { round } = await openRun(dir);
  const held = await heldCommit(dir);
  if (held)
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `The learning rate of ${dir} falls already, since round ${held.round}: the run ends after ${held.length.total} ${held.length.unit}.`,
    );
  const over = asked ?? Math.max(1, Math.ceil(round / 4));
  await askToFinish(dir, over);
  return { dir, round, over };
}
