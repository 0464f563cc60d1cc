/**
 * log.jsonl of a run: a header, then one line per round. Each commit holds its length and hash; lines after the last commit are cut off.
 */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PhoenixError } from '../errors.ts';
import { type Point, statusOf, sync, syncHandle, writeFresh, writeWhole } from '../files.ts';

const NAME = 'log.jsonl';

/** What a commit says of the log. Runs of earlier versions have no hash. */
export type LogMark = { bytes: number; sha256?: string };

/** A log that is being written, as of its last commit. */
export type Log = { bytes: number; hash: Hash };

const markOf = ({ bytes, hash }: Log): Required<LogMark> => ({ bytes, sha256: hash.copy().digest('hex') });

/** Begins the log of a new run. */
export async function beginLog(dir: string, kind: string, point: Point): Promise<Required<LogMark>> {
  const header = `${JSON.stringify({ schema: 1, kind: 'run', run: kind })}\n`;
  const path = join(dir, NAME);
  await point(`write ${NAME}`);
  await writeFresh(path, header);
  await point(`fsync ${NAME}`);
  await sync(path);
  return markOf({ bytes: Buffer.byteLength(header), hash: createHash('sha256').update(header) });
}

/**
 * Appends the record of a round behind the committed length, and brings it to the disk.
 * @returns the log with it, and what the next commit is to say of it
 */
export async function appendToLog(dir: string, log: Log, record: object, point: Point): Promise<{ log: Log; mark: Required<LogMark> }> {
  const line = `${JSON.stringify({ kind: 'round', ...record })}\n`;
  const handle = await open(join(dir, NAME), 'a');
  try {
    await point(`append ${NAME}`);
    await handle.truncate(log.bytes);
    await handle.writeFile(line);
    await point(`fsync ${NAME}`);
    await syncHandle(handle);
  } finally {
    await handle.close();
  }
  const longer = { bytes: log.bytes + Buffer.byteLength(line), hash: log.hash.copy().update(line) };
  return { log: longer, mark: markOf(longer) };
}

/** Cuts off what was not committed. */
export async function cutLog(dir: string, { bytes }: LogMark): Promise<void> {
  const handle = await open(join(dir, NAME), 'r+');
  try {
    await handle.truncate(bytes);
  } finally {
    await handle.close();
  }
}

/**
 * How a log agrees with its commit: whole; reformatted, where only ends of lines, blanks between values or a mark of the byte order are
 * others (`text` is the committed one); or changed.
 */
export type LogFinding = { state: 'whole' } | { state: 'reformatted'; text: string } | { state: 'changed' };

/** Compares a log with what a commit says of it. Errors as they come. */
export async function examineLog(dir: string, mark: LogMark): Promise<LogFinding> {
  const path = join(dir, NAME);
  const { bytes, hash, end } = await read(path, mark.bytes);
  const whole = bytes === mark.bytes && (mark.sha256 === undefined ? end === 10 : hash.copy().digest('hex') === mark.sha256);
  if (whole) return { state: 'whole' };
  if (mark.sha256 === undefined || bytes === 0) return { state: 'changed' };
  const text = asWritten(await readFile(path, 'utf8'), mark.bytes);
  const same = createHash('sha256').update(text).digest('hex') === mark.sha256;
  return same ? { state: 'reformatted', text } : { state: 'changed' };
}

/** Length, hash and last byte of the beginning of a file; of nothing if there is no such plain file. */
async function read(path: string, most: number): Promise<Log & { end?: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  let end: number | undefined;
  if (most === 0 || !(await statusOf(path))?.isFile()) return { bytes, hash };
  for await (const chunk of createReadStream(path, { end: most - 1, highWaterMark: 1 << 20 })) {
    hash.update(chunk);
    bytes += chunk.length;
    end = chunk.at(-1);
  }
  return { bytes, hash, end };
}

/** Lines as they were written, up to `bytes`: JSON as JSON.stringify writes it, one line each, no empty ones. */
function asWritten(text: string, bytes: number): string {
  const lines = text
    .replace(/^\ufeff/, '')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      try {
        return `${JSON.stringify(JSON.parse(line))}\n`;
      } catch {
        return `${line}\n`;
      }
    });
  return Buffer.from(lines.join('')).subarray(0, bytes).toString();
}

/**
 * Opens the log of a commit to go on with it: what was not committed is cut off, and a log that an editor or version control has only
 * reformatted is written as it was.
 * @returns the log, and a warning where it was reformatted
 * @throws PhoenixError ERR_PHOENIX_RUN for a log that is not what was committed
 */
export async function openLog(dir: string, mark: LogMark, point: Point): Promise<{ log: Log; warnings: string[] }> {
  const path = join(dir, NAME);
  const finding = await examineLog(dir, mark);
  if (finding.state === 'changed')
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${path} is damaged: its first ${mark.bytes} bytes are not those that were committed. Restore it, or begin a new run.`,
    );
  if (finding.state === 'reformatted') await writeWhole(path, finding.text, point);
  await point(`truncate ${NAME}`);
  await cutLog(dir, mark);
  const warnings = finding.state === 'reformatted' ? [`${path} had other line ends or blanks than were written; they are restored.`] : [];
  return { log: await read(path, mark.bytes), warnings };
}
