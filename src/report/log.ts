/** A run's log.jsonl, read and checked: what the report and experiments are made from. */
import { createReadStream } from 'node:fs';
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';
import { ioError } from '../files.ts';
import { type RoundRecord, roundRecord } from '../fl/protocol.ts';

export type RunLog = {
  /** The first line: schema, kind of run and what it ran on. */
  header: Record<string, unknown>;
  rounds: RoundRecord[];
  /** Whether the last line has no end: the writer was stopped in the middle of it. That line is not in `rounds`. */
  cut: boolean;
};

/** Longest line of a log: a round with 100,000 clients stays below it. */
const MAX_LINE = 64 << 20;

/**
 * Reads a run's log.jsonl as a stream. An unfinished last line is left out and reported as `cut`.
 * @throws PhoenixError ERR_PHOENIX_RUN for a line that is no JSON, lacks a field, is out of order or longer than 64 MiB, or a log of
 * another schema; ERR_PHOENIX_IO if the file cannot be read
 */
export async function readLog(path: string): Promise<RunLog> {
  const log: RunLog = { header: {}, rounds: [], cut: false };
  let rest = '';
  let number = 0;
  let begun = false;
  const damaged = (what: string, cause?: unknown) =>
    new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${path}, line ${number}: ${what}. The log is damaged. Resuming the run restores other line ends and blanks; whatever else was changed must be restored by hand.`,
      { cause },
    );
  const takeLine = (line: string) => {
    number++;
    // Editors and version control may have added a mark of the byte order, or empty lines.
    if (line.trim() === '') return;
    let value: unknown;
    try {
      value = JSON.parse(number === 1 ? line.replace(/^\ufeff/, '') : line);
    } catch (cause) {
      throw damaged('not a JSON object', cause);
    }
    if (!begun) {
      begun = true;
      const header = z.looseObject({ schema: z.number() }).safeParse(value);
      if (!header.success) throw damaged('expected the header {"schema":1, …}');
      if (header.data.schema !== 1) {
        throw new PhoenixError(
          'ERR_PHOENIX_RUN',
          `${path} has schema ${header.data.schema}; this version of Phoenix reads schema 1. Use the version that wrote it.`,
        );
      }
      log.header = header.data;
      return;
    }
    const round = roundRecord.safeParse(value);
    if (!round.success) throw damaged(z.prettifyError(round.error).replaceAll('\n', ' '), round.error);
    const last = log.rounds.at(-1);
    if (last && round.data.round <= last.round) throw damaged(`round ${round.data.round} comes after round ${last.round}`);
    log.rounds.push(round.data);
  };
  try {
    for await (const chunk of createReadStream(path, 'utf8')) {
      rest += chunk;
      if (rest.length > MAX_LINE) throw damaged(`longer than ${MAX_LINE} characters`);
      if (!chunk.includes('\n')) continue;
      const lines = rest.split('\n');
      rest = lines.pop()!;
      lines.forEach(takeLine);
    }
  } catch (cause) {
    throw ioError(path, cause, { action: 'read' });
  }
  log.cut = rest.trim() !== '';
  return log;
}
