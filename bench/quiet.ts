/**
 * Repetitions on a machine that others use too: each begins, as long as patience lasts, after a quiet quarter of a second, and counts as
 * undisturbed if other processes had less than 8 % of a core (and 30 ms) meanwhile.
 */
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

/** One repetition. `seconds`: wall time. */
export type Repetition = { seconds: number; quiet: boolean };

/** What a repetition says of itself; `childCpuSeconds`: processor time that a child process of ours had for it. */
export type Timed = { seconds: number; childCpuSeconds?: number };

export type Summary = {
  medianSeconds: number;
  minSeconds: number;
  maxSeconds: number;
  /** Repetitions that the figures are over, and whether they are undisturbed. If none was undisturbed, all count. */
  repetitions: number;
  quiet: boolean;
  /** Repetitions in all. */
  tried: number;
};

export type Watch = {
  repetition(run: () => Timed | Promise<Timed>): Promise<Repetition>;
  /** Seconds waited so far, and whether the patience is used up. */
  waitedSeconds(): number;
  impatient(): boolean;
};

const WINDOW_MS = 250;
const IDLE_SHARE = 0.1;

export function createWatch(options: { patienceSeconds: number }): Watch {
  let waited = 0;
  const impatient = () => waited >= options.patienceSeconds;

  async function waitForQuiet(): Promise<void> {
    while (!impatient()) {
      const started = performance.now();
      const before = othersSeconds();
      await sleep(WINDOW_MS);
      const seconds = (performance.now() - started) / 1000;
      if (othersSeconds() - before < IDLE_SHARE * seconds) return;
      waited += seconds;
    }
  }

  return {
    async repetition(run) {
      await waitForQuiet();
      const started = performance.now();
      const before = othersSeconds();
      const { seconds, childCpuSeconds = 0 } = await run();
      const others = othersSeconds() - before - childCpuSeconds;
      return { seconds, quiet: others < (0.08 * (performance.now() - started)) / 1000 + 0.03 };
    },
    waitedSeconds: () => waited,
    impatient,
  };
}

/** Processor seconds that everybody but this process has had since the machine started. */
function othersSeconds(): number {
  const { user, system } = process.cpuUsage();
  return busySeconds() - (user + system) / 1e6;
}

/** On Linux with the time that the host of a virtual machine took away (steal), which os.cpus() leaves out. */
function busySeconds(): number {
  if (process.platform === 'linux') {
    const [user, nice, system, , , irq, softirq, steal] = readFileSync('/proc/stat', 'utf8')
      .split('\n', 1)[0]!
      .split(/\s+/)
      .slice(1)
      .map(Number);
    return (user! + nice! + system! + irq! + softirq! + steal!) / 100; // USER_HZ is 100 on every Linux that Node supports
  }
  return cpus().reduce((sum, { times }) => sum + (times.user + times.nice + times.sys + times.irq) / 1000, 0);
}

/**
 * Runs the sides in turn (a, b, a, b, …) until each has `reps` undisturbed repetitions; once the patience is used up, or after twice as
 * many, what there is must do.
 */
export async function inTurn(watch: Watch, reps: number, sides: (() => Promise<Timed>)[]): Promise<Repetition[][]> {
  const done: Repetition[][] = sides.map(() => []);
  for (let attempt = 0; attempt < 2 * reps; attempt++) {
    if (attempt >= reps && (watch.impatient() || done.every((side) => side.filter(({ quiet }) => quiet).length >= reps))) break;
    for (const [i, side] of sides.entries()) done[i]!.push(await watch.repetition(side));
  }
  return done;
}

export function summarise(repetitions: Repetition[]): Summary {
  const undisturbed = repetitions.filter(({ quiet }) => quiet);
  const counted = (undisturbed.length > 0 ? undisturbed : repetitions).map(({ seconds }) => seconds).toSorted((a, b) => a - b);
  return {
    medianSeconds: median(counted),
    minSeconds: counted[0]!,
    maxSeconds: counted.at(-1)!,
    repetitions: counted.length,
    quiet: undisturbed.length > 0,
    tried: repetitions.length,
  };
}

/** Of values in rising order, at least one. */
export const median = (sorted: number[]): number => (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
