/**
 * What the operator tells a coordinator while it runs: a small file in the folder of the federation, which other processes write and the
 * coordinator looks at.
 */
import { stat } from 'node:fs/promises';
import { z } from 'zod';
import { PhoenixError } from '../../errors.ts';
import { exists, readJson, writeWhole } from '../../files.ts';
import type { Verb } from '../../net/page/view.ts';
import { jsonRules } from '../../run/folder.ts';
import { takeLock } from '../../run/lock.ts';
import { finish } from '../finish.ts';
import { type OrderOptions, parseOptions } from '../options/index.ts';
import { latestRun, places, readFederation } from './folder.ts';

/** How often the file is looked at for changes of other processes, in milliseconds. */
const LOOK_EVERY = 500;

/** `paused`: no new round begins, until it is resumed. `stop`: the coordinator is to end; one that starts takes this back. */
const schema = z.strictObject({ schema: z.literal(1), paused: z.boolean(), stop: z.boolean() });
type Orders = Omit<z.infer<typeof schema>, 'schema'>;

async function read(dir: string): Promise<Orders> {
  const path = places.orders(dir);
  return (await exists(path)) ? await readJson(path, schema, jsonRules) : { paused: false, stop: false };
}

async function write(dir: string, change: Partial<Orders>): Promise<void> {
  const { paused, stop } = await read(dir);
  await writeWhole(places.orders(dir), `${JSON.stringify({ schema: 1, paused, stop, ...change })}\n`);
}

/** Whether a coordinator has this folder now. */
async function isRunning(dir: string): Promise<boolean> {
  if (!(await exists(places.engine(dir)))) return false;
  try {
    await (await takeLock(places.engine(dir))).release();
    return false;
  } catch (error) {
    if (error instanceof PhoenixError && error.code === 'ERR_PHOENIX_RUN') return true;
    throw error;
  }
}

/**
 * Tells the coordinator of a federation to pause, resume, finish or stop, and returns what that does, in a sentence. A federation that does
 * not run can be paused, resumed and told to finish: it follows when it is started.
 * @throws PhoenixError ERR_PHOENIX_RUN for a folder that holds no federation, and for what cannot be: to pause what is paused, to resume
 * what is not, to stop what does not run, to finish a run that has not begun or whose learning rate falls already
 */
export async function give(verb: Verb, options: OrderOptions): Promise<string> {
  const { federation: dir } = parseOptions(verb === 'finish' ? 'pause' : verb, options);
  await readFederation(dir);
  const refuse = (why: string) => new PhoenixError('ERR_PHOENIX_RUN', why);
  const { paused } = await read(dir);
  switch (verb) {
    case 'pause':
      if (paused) throw refuse(`${dir} is paused already. Go on with: phoenix resume ${dir}.`);
      await write(dir, { paused: true });
      return `${dir} is paused: the round under way ends, and no other begins until phoenix resume ${dir}.`;
    case 'resume':
      if (!paused) throw refuse(`${dir} is not paused.`);
      await write(dir, { paused: false });
      return `${dir} is resumed.`;
    case 'finish': {
      const run = await latestRun(dir);
      const { round, over } = await finish({ dir: places.run(dir, run) });
      const rounds = `${over} round${over === 1 ? '' : 's'}`;
      return `The run ${run} of ${dir} was told to finish after round ${round}: its learning rate falls over ${rounds}, then it ends.`;
    }
    case 'stop':
      if (!(await isRunning(dir))) throw refuse(`No coordinator of ${dir} runs.`);
      await write(dir, { stop: true });
      return `The coordinator of ${dir} was told to stop. Go on with: phoenix coordinator ${dir} and the same options.`;
  }
}

export type Ordered = {
  isPaused(): boolean;
  /** Ends the looking. */
  close(): void;
};

/** Looks at what the operator says from now on. `stop`: called once, when the coordinator is to end. */
export async function followOrders(dir: string, { stop }: { stop(): void }): Promise<Ordered> {
  let now = await read(dir);
  if (now.stop) {
    await write(dir, { stop: false });
    now = { ...now, stop: false };
  }
  let known: string | undefined;
  let isBusy = false;
  const look = async () => {
    if (isBusy) return;
    isBusy = true;
    try {
      const { mtimeMs, ino } = await stat(places.orders(dir));
      if (known === `${mtimeMs} ${ino}`) return;
      known = `${mtimeMs} ${ino}`;
      const before = now;
      now = await read(dir);
      if (now.stop && !before.stop) stop();
    } catch {
      // There is no file, or it is being replaced: it is looked at again.
      known = undefined;
    } finally {
      isBusy = false;
    }
  };
  const timer = setInterval(look, LOOK_EVERY);
  return { isPaused: () => now.paused, close: () => clearInterval(timer) };
}
