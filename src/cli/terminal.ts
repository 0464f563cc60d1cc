/** What a command writes to, and how it is stopped. Results go to stdout, progress and messages to stderr. */
import type { MessageEvent } from '../commands/events.ts';
import type { ReadProgress } from '../ddpm/data/index.ts';
import { createProgress, type Progress } from './progress.ts';

/** What a command does its work with. */
export type Terminal = {
  progress: Progress;
  /** Set by Ctrl-C and SIGTERM; its reason is a Stopped. */
  signal: AbortSignal;
  /** One line of JSON on stdout, if --json is given. */
  json(value: object): void;
  /** One line of text on stdout, unless --json is given. */
  text(line: string): void;
};

/** Wrong usage that only the command line can make. */
export class UsageError extends Error {}

/** Stands for Ctrl-C or SIGTERM. */
export class Stopped extends Error {
  readonly exitCode: number;
  constructor(exitCode: number) {
    super('stopped');
    this.exitCode = exitCode;
  }
}

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function warn(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Shows messages of a run between the lines of its progress. */
export function noting({ progress }: Terminal): (event: MessageEvent) => void {
  return ({ text, level }) => progress.note(level === 'warning' ? `warning: ${text}` : text);
}

/** Shows how far reading data has come, once it takes longer than a moment. */
export function reading(progress: Progress): (read: ReadProgress) => void {
  const began = Date.now();
  return ({ stage, done, total }) => {
    if (Date.now() - began > 1000) progress.update({ stage, done, total, label: `reading ${stage}, ${done} of ${total}` });
  };
}

/** Ctrl-C or SIGTERM once stops after the running call, twice at once. */
function stopOnSignals(progress: Progress): AbortSignal {
  const controller = new AbortController();
  const stop = (exitCode: number) => () => {
    progress.stop();
    if (controller.signal.aborted) process.exit(exitCode);
    warn('Stopping after the running call; once more stops at once.');
    controller.abort(new Stopped(exitCode));
  };
  process.on('SIGINT', stop(130));
  process.on('SIGTERM', stop(143));
  return controller.signal;
}

export function openTerminal(asJson: boolean): Terminal {
  const progress = createProgress({ stream: process.stderr });
  return {
    progress,
    signal: stopOnSignals(progress),
    json: (value) => asJson && print(JSON.stringify(value)),
    text: (line) => void (asJson || print(line)),
  };
}
