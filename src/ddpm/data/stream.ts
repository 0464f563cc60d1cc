/** Files as streams: the pieces that the readers share. Nothing here holds more than one chunk. */
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { PhoenixError } from '../../errors.ts';
import { ioError } from '../../files.ts';

const CHUNK = 256 * 1024;

/**
 * The bytes of a file, decompressed if its name ends in .gz; of a range, `end` excluded, those.
 * @throws PhoenixError ERR_PHOENIX_DATA, ERR_PHOENIX_IO
 */
export async function* fileBytes(path: string, range?: { start: number; end: number }): AsyncGenerator<Buffer> {
  await requireFile(path);
  const file = createReadStream(path, { highWaterMark: CHUNK, ...(range && { start: range.start, end: range.end - 1 }) });
  // pipeline hands an error of the file on to gunzip, where the loop below meets it.
  const bytes = path.endsWith('.gz') ? pipeline(file, createGunzip({ chunkSize: CHUNK }), () => {}) : file;
  try {
    yield* bytes;
  } catch (cause) {
    throw fileError(path, cause);
  }
}

/**
 * Cuts a stream into records of `size` bytes, dropping the first `skip` bytes. Views into the stream's chunks: copy what is kept. A rest
 * shorter than a record is left out, so the caller counts.
 */
export async function* records(bytes: AsyncIterable<Buffer>, size: number, skip = 0): AsyncGenerator<Buffer> {
  let rest: Buffer = Buffer.alloc(0);
  let toSkip = skip;
  for await (const chunk of bytes) {
    const fresh = chunk.subarray(Math.min(toSkip, chunk.length));
    toSkip -= chunk.length - fresh.length;
    const all = rest.length > 0 ? Buffer.concat([rest, fresh]) : fresh;
    let at = 0;
    for (; at + size <= all.length; at += size) yield all.subarray(at, at + size);
    rest = all.subarray(at);
  }
}

/** Number of records in a file that holds nothing else. @throws PhoenixError ERR_PHOENIX_DATA naming file and offset, ERR_PHOENIX_IO */
export async function countRecords(file: string, size: number): Promise<number> {
  const length = await fileLength(file);
  const rest = length % size;
  if (length === 0) throw new PhoenixError('ERR_PHOENIX_DATA', `${file} is empty; it should hold records of ${size} bytes.`);
  if (rest === 0) return length / size;
  const found = `${length} bytes are no multiple of ${size}, the record at byte ${length - rest} is cut short`;
  throw new PhoenixError('ERR_PHOENIX_DATA', `${file} is damaged: ${found}. Fetch it again.`);
}

/** A file of records, not compressed, and how many it holds. */
export type RecordFile = { path: string; count: number };

/** Counts the records of files that hold nothing else. */
export async function recordFiles(paths: string[], size: number): Promise<RecordFile[]> {
  const files: RecordFile[] = [];
  for (const path of paths) files.push({ path, count: await countRecords(path, size) });
  return files;
}

/**
 * The records at these ascending positions of several files, counted through; each file begins with `skip` other bytes. Files are read
 * where the records lie, gaps shorter than a chunk included.
 */
export async function* recordsAt(files: RecordFile[], size: number, positions: Int32Array, skip = 0): AsyncGenerator<Buffer> {
  let before = 0;
  let next = 0;
  for (const { path, count } of files) {
    while (next < positions.length && positions[next]! < before + count) {
      const from = next;
      const isNear = (at: number) => (positions[at]! - positions[at - 1]! - 1) * size <= CHUNK;
      do next++;
      while (next < positions.length && positions[next]! < before + count && isNear(next));
      const first = positions[from]! - before;
      const range = { start: skip + first * size, end: skip + (positions[next - 1]! - before + 1) * size };
      const wanted = positions.subarray(from, next).map((position) => position - before - first);
      yield* only(records(fileBytes(path, range), size), wanted);
    }
    before += count;
  }
}

/** The items at these ascending positions. */
export async function* only<T>(items: AsyncIterable<T>, positions: Int32Array): AsyncGenerator<T> {
  let position = 0;
  let next = 0;
  for await (const item of items) {
    if (position++ !== positions[next]) continue;
    next++;
    yield item;
  }
}

/** The first `count` bytes, fewer if there are no more. */
export async function firstBytes(path: string, count: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const chunk of fileBytes(path)) {
    parts.push(chunk.subarray(0, count - length));
    length += chunk.length;
    if (length >= count) break;
  }
  return Buffer.concat(parts);
}

/** The first bytes of a file as they are stored, up to 256. @throws PhoenixError ERR_PHOENIX_DATA, ERR_PHOENIX_IO */
export async function headOf(path: string): Promise<Buffer> {
  try {
    await using file = await open(path);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(256), 0, 256, 0);
    return buffer.subarray(0, bytesRead);
  } catch (cause) {
    throw fileError(path, cause);
  }
}

/** The length of the content in bytes; of a .gz file by decompressing it, and no further than just past `cap`. */
export async function contentLength(path: string, cap: number): Promise<number> {
  if (!path.endsWith('.gz')) return fileLength(path);
  let length = 0;
  for await (const chunk of fileBytes(path)) {
    length += chunk.length;
    if (length > cap) break;
  }
  return length;
}

/** The length of a file in bytes. @throws PhoenixError ERR_PHOENIX_DATA, ERR_PHOENIX_IO */
export async function fileLength(path: string): Promise<number> {
  return (await requireFile(path)).size;
}

/** A file, after links. What is none, as a FIFO or a device, would be waited for. @throws PhoenixError ERR_PHOENIX_DATA, ERR_PHOENIX_IO */
export async function requireFile(path: string): Promise<{ size: number }> {
  try {
    const found = await stat(path);
    if (found.isFile()) return found;
    throw new PhoenixError(
      'ERR_PHOENIX_DATA',
      `${path} is no regular file${found.isDirectory() ? ', but a folder' : ''}. Put the data there as a file.`,
    );
  } catch (cause) {
    throw fileError(path, cause);
  }
}

/** A small text file, at most `cap` bytes. @throws PhoenixError ERR_PHOENIX_DATA, ERR_PHOENIX_IO */
export async function smallText(path: string, cap: number): Promise<string> {
  try {
    await requireFile(path);
    const file = await open(path);
    try {
      const { size } = await file.stat();
      if (size > cap) throw new PhoenixError('ERR_PHOENIX_DATA', `${path} has ${size} bytes; a file of this kind has at most ${cap}.`);
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw fileError(path, cause);
  }
}

/** What went wrong with a file of a data set, as a PhoenixError; one that is already there stays as it is. */
export function fileError(path: string, cause: unknown): unknown {
  if (cause instanceof PhoenixError || !(cause instanceof Error)) return cause;
  const code = 'code' in cause ? String(cause.code) : '';
  if (code === 'ENOENT' || code === 'ENOTDIR') return new PhoenixError('ERR_PHOENIX_DATA', `${path} does not exist.`, { cause });
  if (code.startsWith('Z_')) {
    const advice = 'The file is damaged or cut short: fetch it again.';
    return new PhoenixError('ERR_PHOENIX_DATA', `${path} does not decompress (${cause.message}). ${advice}`, { cause });
  }
  return ioError(path, cause, { action: 'read' });
}

/** f of each item, in order, with at most `ahead` calls under way; a signal stops it after any of them. */
export async function* mapAhead<T, U>(
  items: Iterable<T>,
  ahead: number,
  f: (item: T) => Promise<U>,
  signal?: AbortSignal,
): AsyncGenerator<U> {
  const running: Promise<U>[] = [];
  for (const item of items) {
    signal?.throwIfAborted();
    const result = f(item);
    // A failure is met when its turn comes; until then it must not count as unhandled.
    result.catch(() => {});
    running.push(result);
    if (running.length === ahead) yield await running.shift()!;
  }
  while (running.length > 0) {
    yield await running.shift()!;
    signal?.throwIfAborted();
  }
}
