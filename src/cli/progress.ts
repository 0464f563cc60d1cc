/** Progress of a long run: a bar on a terminal, plain lines elsewhere, with images per second, loss and time left. */
import { SingleBar } from 'cli-progress';
import { formatDuration } from '../report/units.ts';

export type ProgressState = {
  /** Work done and in all, in any one unit. */
  done: number;
  total: number;
  /** What is going on, e.g. 'round 3/20, client 4/10'. */
  label: string;
  loss?: number;
  imagesPerSecond?: number;
  /** What the time left is of, where work has parts: it is counted anew in each. */
  stage?: string;
};

export type Progress = {
  update(state: ProgressState): void;
  /** A line of its own, above the bar. */
  note(text: string): void;
  /** Ends the bar; may be called twice. */
  stop(): void;
};

export type ProgressOptions = {
  stream: NodeJS.WritableStream & { isTTY?: boolean };
  /** Shortest time between two plain lines, in milliseconds. @default 5000 */
  everyMs?: number;
  /** Clock in milliseconds. @default Date.now */
  now?: () => number;
};

/** Shows progress on `stream`: as a bar if it is a terminal, else as a line at most every `everyMs`. */
export function createProgress(options: ProgressOptions): Progress {
  const { stream, everyMs = 5000, now = Date.now } = options;
  let began: { at: number; done: number; stage?: string } | undefined;
  const describe = (state: ProgressState): string => {
    if (!began || began.stage !== state.stage) began = { at: now(), done: state.done, stage: state.stage };
    const done = state.done - began.done;
    const left = done > 0 ? ((now() - began.at) / 1000) * ((state.total - state.done) / done) : undefined;
    const parts = [state.label];
    if (state.loss !== undefined) parts.push(`loss ${state.loss.toPrecision(3)}`);
    if (state.imagesPerSecond !== undefined) parts.push(`${Math.round(state.imagesPerSecond)} images/s`);
    if (left !== undefined) parts.push(`${formatDuration(Math.ceil(left))} left`);
    return parts.join(', ');
  };
  return stream.isTTY ? bar(stream, describe) : lines(stream, describe, everyMs, now);
}

function bar(stream: NodeJS.WritableStream, describe: (state: ProgressState) => string): Progress {
  const single = new SingleBar({
    format: '{bar} {percentage}%  {text}',
    stream,
    barsize: 24,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: true,
    clearOnComplete: true,
    gracefulExit: false,
    linewrap: false,
    fps: 8,
  });
  let running = false;
  const stop = () => {
    if (running) single.stop();
    running = false;
  };
  return {
    update(state) {
      const text = describe(state);
      if (!running) single.start(state.total, state.done, { text });
      running = true;
      single.setTotal(state.total);
      single.update(state.done, { text });
    },
    note(text) {
      stop();
      stream.write(`${text}\n`);
    },
    stop,
  };
}

function lines(stream: NodeJS.WritableStream, describe: (state: ProgressState) => string, everyMs: number, now: () => number): Progress {
  let last = { at: -Infinity, stage: undefined as string | undefined };
  return {
    update(state) {
      const text = describe(state);
      if (now() - last.at < everyMs && state.stage === last.stage) return;
      last = { at: now(), stage: state.stage };
      stream.write(`${Math.floor((100 * state.done) / state.total)} %  ${text}\n`);
    },
    note(text) {
      stream.write(`${text}\n`);
    },
    stop() {},
  };
}
