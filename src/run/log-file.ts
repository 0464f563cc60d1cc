/** log.jsonl of a run: a header, then one line per round. Lines after the last commit are cut off. */
import { open, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { type Point, sync, writeFresh } from '../files.ts';

const NAME = 'log.jsonl';

/** Begins the log of a new run. @returns its length in bytes */
export async function beginLog(dir: string, kind: string, point: Point): Promise<number> {
  const header = `${JSON.stringify({ schema: 1, kind: 'run', run: kind })}\n`;
  const path = join(dir, NAME);
  await point(`write ${NAME}`);
  await writeFresh(path, header);
  await point(`fsync ${NAME}`);
  await sync(path);
  return Buffer.byteLength(header);
}

/** Appends the record of a round behind the committed length, and brings it to the disk. @returns the new length in bytes */
export async function appendToLog(dir: string, committed: number, record: object, point: Point): Promise<number> {
  const line = `${JSON.stringify({ kind: 'round', ...record })}\n`;
  const handle = await open(join(dir, NAME), 'a');
  try {
    await point(`append ${NAME}`);
    await handle.truncate(committed);
    await handle.writeFile(line);
    await point(`fsync ${NAME}`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  return committed + Buffer.byteLength(line);
}

/** Cuts off what was not committed. */
export async function cutLog(dir: string, committed: number): Promise<void> {
  await truncate(join(dir, NAME), committed);
}
