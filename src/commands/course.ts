/** How long a run is, and when its learning rate falls. */
import { z } from 'zod';
import type { Fall } from '../ddpm/fit.ts';
import type { Run } from '../run/commit.ts';
import { finishAsked, forgetFinish } from '../run/finish.ts';
import type { StartOptions } from '../run/start.ts';
import type { RunEvents } from './events.ts';

/** The planned length of a run. */
export type Course = {
  unit: 'rounds' | 'images';
  /** Rounds or images in all; undefined: an open run, which goes on until it is told to finish. */
  total: number | undefined;
  /** The learning rate falls over this share of the run, at its end; 0 = it does not. */
  fall: number;
};

/**
 * What became of the course of a run that was told to finish: after `from` rounds its learning rate began to fall, after `rounds` it ends.
 */
export const endingSchema = z.object({ from: z.int().min(0), rounds: z.int().min(1) });
export type Ending = z.infer<typeof endingSchema>;

/** Where a run stands: rounds done, images drawn in all and in the last round, and images that the next one is expected to draw. */
export type Standing = { round: number; images: number; lastImages: number; roundImages: number; ending?: Ending };

/** The next round of a run. */
export type Part = {
  /** How its learning rate falls, if it does. */
  fall?: Fall;
  /** Whether the learning rate falls for the first time. */
  isFirstToFall: boolean;
};

/** The length that is in force: that of the ending, else that of the course. */
export function lengthOf({ unit, total }: Course, ending: Ending | undefined): { unit: Course['unit']; total: number | undefined } {
  return ending ? { unit: 'rounds', total: ending.rounds } : { unit, total };
}

/** The next round, undefined if none is left. A run of so many images ends with the round that brings it nearest to them. */
export function nextPart(course: Course, { round, images, lastImages, roundImages, ending }: Standing): Part | undefined {
  const { unit, total } = lengthOf(course, ending);
  if (total === undefined) return { isFirstToFall: false };
  const done = unit === 'rounds' ? round : images;
  const next = unit === 'rounds' ? round + 1 : images + roundImages;
  if (unit === 'rounds' ? done >= total : round > 0 && total - done < lastImages / 2) return undefined;
  const share = ending ? (ending.rounds - ending.from) / ending.rounds : course.fall;
  const level = ending ? ending.from : total * (1 - share);
  if (share === 0 || next <= level) return { isFirstToFall: false };
  return { fall: { share, from: Math.min(1, done / total), to: Math.min(1, next / total) }, isFirstToFall: done <= level };
}

/** Paths into the configuration of the options that say how long a run is. */
const lengthOptions = ['options.rounds', 'options.images', 'options.epochs'];

/** A longer run goes on from where its learning rate had not fallen yet. */
export function lengthRule({ unit, total }: Course): NonNullable<StartOptions['length']> {
  const isLonger: NonNullable<StartOptions['length']>['isLonger'] = (than) =>
    unit !== than.unit || total === undefined || total > than.total;
  return { options: lengthOptions, isLonger };
}

/** The ending that a resumed run is under: none if it was given another length. */
export function endingOf(run: Run, ending: Ending | undefined): Ending | undefined {
  return run.changed.some((name) => lengthOptions.includes(name)) ? undefined : ending;
}

/** Rounds in all, as far as they are known; of a run of so many images about. */
export function roundsPlanned(course: Course, { round, images, roundImages, ending }: Omit<Standing, 'lastImages'>): number | undefined {
  const { unit, total } = lengthOf(course, ending);
  if (total === undefined || unit === 'rounds') return total;
  return Math.max(round, round + Math.round((total - images) / roundImages));
}

export type Followed = {
  ending: Ending | undefined;
  /** Where the run stands now. */
  standing(): Omit<Standing, 'ending'>;
  /** Waited for before it is looked whether the run was told to finish, as long as a round is left. @default nothing is waited for */
  ready?(): Promise<void>;
  /** Trains the next round, and commits it with the ending. */
  round(part: Part, ending: Ending | undefined): Promise<void>;
  onMessage: RunEvents['onMessage'];
};

/** Has rounds trained until the run is over. Before each it looks whether the run was told to finish. */
export async function follow(run: Run, course: Course, { ending, standing, ready, round, onMessage }: Followed): Promise<void> {
  let inForce = ending;
  for (;;) {
    const at = standing();
    if (ready && nextPart(course, { ...at, ending: inForce })) await ready();
    const over = inForce ? undefined : await finishAsked(run.dir);
    const planned = nextPart(course, at);
    if (over !== undefined && planned && (!planned.fall || planned.isFirstToFall)) {
      inForce = { from: at.round, rounds: at.round + over };
      onMessage?.({
        level: 'info',
        text: `The run was told to finish: its learning rate falls from now on, and it ends after round ${inForce.rounds}.`,
      });
    } else if (over !== undefined) await forgetFinish(run.dir);
    const part = nextPart(course, { ...at, ending: inForce });
    if (!part) break;
    if (part.isFirstToFall) {
      const { unit, total } = lengthOf(course, inForce);
      await run.hold({ unit, total: total! });
    }
    await round(part, inForce);
    if (inForce) await forgetFinish(run.dir);
  }
  await forgetFinish(run.dir);
}
