/** What a command writes to, and how it is stopped. Results go to stdout, progress and messages to stderr. */
import type { MessageEvent } from '../commands/events.ts';
import type { ReadProgress } from '../ddpm/data/index.ts';
import { createProgress, type Progress } from './progress.ts';

/** What a command does its work with. */
export type Terminal = {
  progress: Progress;
  /** Set by Ctrl-C, SIGTERM and SIGHUP; its reason is a Stopped. */
  signal: AbortSignal;
  /** One line of JSON on stdout, if --json is given. */
  json(value: object): void;
  /** One line of text on stdout, unless --json is given. */
  text(line: string): void;
};

/** Wrong usage that only the command line can make. */
export class UsageError extends Error {}

/** Stands for Ctrl-C, SIGTERM or SIGHUP. */
export class Stopped extends Error {
  readonly exitCode: number;
  constructor(exitCode: number) {
    super('stopped');
    this.exitCode = exitCode;
  }
}

/** What stdout and stderr could not take, but for a reader that has seen enough (`phoenix … | head`); the first of each. */
const lost: Partial<Record<'stdout' | 'stderr', NodeJS.ErrnoException>> = {};

/** A stream that cannot be written to is no reason to stop the work: its output is dropped. */
function dropWhatFails(name: 'stdout' | 'stderr'): void {
  process[name].on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') lost[name] ??= error;
  });
}
dropWhatFails('stdout');
dropWhatFails('stderr');

/** The exit code of work that has ended with `exitCode`: results that stdout could not take are a failure of their own. */
export function exitCodeOf(exitCode: number): number {
  if (!lost.stdout) return exitCode;
  warn(`phoenix: stdout could not be written to (${lost.stdout.message}), so a part of the output is lost.`);
  return exitCode || 1;
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

/** Ctrl-C, SIGTERM or SIGHUP (the end of a session) once stops after the running call, twice at once. */
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
  process.on('SIGHUP', stop(129));
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
