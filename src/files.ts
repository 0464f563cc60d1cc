/**
 * Files: the one place that writes whole files and folders, reads JSON, and says in a sentence what a file system refused. What is written
 * here appears under its name whole or not at all: it is brought to the disk (fsync) under a temporary name of its own, then renamed. A
 * link is followed; what is no plain file is never replaced. What can be known of an output beforehand is said in outputs.ts.
 */
import { randomBytes } from 'node:crypto';
import { fsync, mkdirSync, renameSync, rmSync, type Stats, writeFileSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, readFile, readlink, realpath, rename, rm, rmdir, stat } from 'node:fs/promises';
import { constants } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { z } from 'zod';
import { PhoenixError, type PhoenixErrorCode } from './errors.ts';

/** Called before every operation that changes the disk, with its name: tests stop the process or throw there. */
export type Point = (name: string) => void | Promise<void>;

/** The bytes of a file, or its pieces in order. */
export type Content = string | Uint8Array | AsyncIterable<Uint8Array>;

/** Whether an error of the system is one of these. Some have no name in Node, only their number: ESTALE is one. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  const { code = '', errno = 0 } = (error ?? {}) as NodeJS.ErrnoException;
  const numbers: Record<string, number | undefined> = constants.errno;
  return codes.includes(code) || (errno < 0 && codes.some((name) => numbers[name] === -errno));
}

const reasons: Record<string, string> = {
  ENOENT: 'there is no such file or folder',
  EACCES: 'permission denied',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EROFS: 'the file system is read-only',
};

export type IoOptions = {
  /** What was tried. @default 'read or write' */
  action?: 'read' | 'write' | 'read or write';
  /** What to do when the disk is full. @default 'make room and try again' */
  whenFull?: string;
  /** What to do where no file may be written. */
  whenRefused?: string;
  /** Who may read a new file: 0o600 for secrets. @default the system's */
  mode?: number;
};

/** What a file system refused, as ERR_PHOENIX_IO with advice. Any other error is returned as it is. */
export function ioError(
  path: string,
  cause: unknown,
  { action = 'read or write', whenFull = 'make room and try again', whenRefused }: IoOptions = {},
): unknown {
  const { code = '' } = cause as NodeJS.ErrnoException;
  // The codes of file systems are ENOENT, ENOSPC and the like, or have no name in Node; those of its own checks begin with ERR_.
  if (!(cause instanceof Error) || !/^E[A-Z0-9]+$|^Unknown system error/.test(code)) return cause;
  const full = hasCode(cause, 'ENOSPC', 'EDQUOT') ? ` The disk is full: ${whenFull}.` : '';
  const elsewhere = hasCode(cause, 'EACCES', 'EPERM', 'EROFS') && whenRefused ? ` To write it, ${whenRefused}.` : '';
  const advice = full + elsewhere;
  const reason = reasons[code] ? `${reasons[code]} (${code})` : cause.message;
  return new PhoenixError('ERR_PHOENIX_IO', `Cannot ${action} ${path}: ${reason}.${advice}`, { cause });
}

/** Runs work on files. @throws PhoenixError ERR_PHOENIX_IO for what the file system refuses; other errors as they come */
export async function io<T>(path: string, work: () => Promise<T>, options?: IoOptions): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw ioError(path, cause, options);
  }
}

/** Whether there is such a file or folder. @throws PhoenixError ERR_PHOENIX_IO if that cannot be known */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return false;
    throw ioError(path, error, { action: 'read' });
  }
}

/** What there is at a path, links followed; undefined if nothing is. Errors as they come. */
export async function statusOf(path: string): Promise<Stats | undefined> {
  return stat(path).catch((error) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  });
}

/** What a file system that lacks an operation answers. */
const LACKING = ['EINVAL', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'];

/** Brings a file to the disk, where the file system can. */
export async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await syncHandle(handle);
  } finally {
    await handle.close();
  }
}

/** fsync by a file's number, since the handles of Yarn's Plug'n'Play cannot do it themselves. */
const fsyncOf = promisify(fsync);

/** Brings an open file to the disk, where the file system can. */
export async function syncHandle(handle: FileHandle): Promise<void> {
  await fsyncOf(handle.fd).catch((error) => {
    if (!hasCode(error, ...LACKING)) throw error;
  });
}

/**
 * Brings the names in a folder to the disk. Network, removable and user-space file systems often refuse that for folders, so a refusal is
 * no failure; a broken disk is.
 */
export async function syncFolder(path: string): Promise<void> {
  await sync(path).catch((error) => {
    if (!hasCode(error, 'EPERM', 'EACCES', 'EISDIR', 'EBADF')) throw error;
  });
}

/** Does again what failed because another program looked at the file just then, or a file server was asked anew: for about 0.6 s. */
export async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (let wait = 20; ; wait *= 2) {
    try {
      return await work();
    } catch (error) {
      if (wait > 320 || !hasCode(error, 'EBUSY', 'EPERM', 'ESTALE', 'ETXTBSY')) throw error;
    }
    await delay(wait);
  }
}

/** What something is that is no plain file. */
function nameOfKind(found: Stats): string {
  if (found.isDirectory()) return 'a folder';
  if (found.isFIFO()) return 'a pipe (FIFO)';
  if (found.isSocket()) return 'a socket';
  return 'a device';
}

/**
 * The file that a path stands for: links followed, also one that leads to nothing yet.
 * @throws PhoenixError ERR_PHOENIX_IO for a folder, pipe, device or socket; file system errors as they come
 */
export async function targetOf(path: string): Promise<string> {
  const found = await statusOf(path);
  if (found?.isFile()) return realpath(path);
  if (found) throw new PhoenixError('ERR_PHOENIX_IO', `Cannot write ${path}: it is ${nameOfKind(found)}. Name a file.`);
  const folder = await realpath(dirname(resolve(path)));
  const link = await readlink(path).catch(() => undefined);
  return link === undefined ? join(folder, basename(path)) : targetOf(resolve(folder, link));
}

/** Writes content into an open file, behind what is there. Piece by piece, since Yarn's Plug'n'Play takes no iterables. */
async function writeInto(handle: FileHandle, content: Content): Promise<void> {
  const isWhole = typeof content === 'string' || ArrayBuffer.isView(content);
  for await (const piece of isWhole ? [content] : content) await handle.writeFile(piece);
}

const DRAFT = /^(.*)\.[0-9a-f]{16}\.tmp$/;

/** A name for a draft of a file that nobody else has; a long name is cut, since file systems take 255 bytes. */
function draftPath(target: string): string {
  const name = basename(target);
  return join(dirname(target), `${Buffer.byteLength(name) > 200 ? 'draft' : name}.${randomBytes(8).toString('hex')}.tmp`);
}

/** The name of the file that a file of this name is a draft of; undefined for no draft. */
export function draftOf(name: string): string | undefined {
  return DRAFT.exec(name)?.[1];
}

/**
 * The first half of writeWhole: brings the content to the disk under a temporary name.
 * @returns the second half: renames it into place, which is the moment in which it counts
 */
export async function draft(path: string, content: Content, point: Point = () => {}, mode?: number): Promise<() => Promise<void>> {
  const target = await targetOf(path);
  const before = await statusOf(target);
  const temporary = draftPath(target);
  const orRemove = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      await remove(temporary);
      throw error;
    }
  };
  const inode = await orRemove(async () => {
    await point(`write ${basename(path)}`);
    const handle = await open(temporary, 'wx', mode);
    try {
      // Who may read a file stays as it was.
      if (before) await handle.chmod(before.mode & 0o777).catch(() => undefined);
      await writeInto(handle, content);
      await point(`fsync ${basename(path)}`);
      await syncHandle(handle);
      return (await handle.stat()).ino;
    } finally {
      await handle.close();
    }
  });
  return () =>
    orRemove(async () => {
      await point(`rename ${basename(path)}`);
      await patiently(() => rename(temporary, target)).catch(async (error) => {
        // A file server that did it, and whose answer was lost, says to the second request that there is no such file.
        if (!hasCode(error, 'ENOENT') || (await statusOf(target))?.ino !== inode) throw error;
      });
    });
}

/**
 * Writes a file whole or not at all: under a temporary name, then renamed. What was at `path` stays until then.
 * @throws PhoenixError ERR_PHOENIX_IO; what the content throws as it comes
 */
export async function writeWhole(path: string, content: Content, point: Point = () => {}, options: IoOptions = {}): Promise<void> {
  const write = async () => {
    const publish = await draft(path, content, point, options.mode);
    await publish();
    await point('fsync the folder');
    await syncFolder(dirname(path));
  };
  await io(path, write, { action: 'write', ...options });
}

/**
 * Has `fill` write the files of a folder, which then appears whole or not at all: they are written into a temporary folder, which is
 * renamed. A link to a folder is followed.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a folder that holds something, ERR_PHOENIX_IO; what `fill` throws as it comes
 */
export async function writeWholeFolder(path: string, fill: (temporary: string) => Promise<void>): Promise<void> {
  const write = async () => {
    const found = await statusOf(path);
    if (found && !found.isDirectory())
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${path} is ${found.isFile() ? 'a file' : nameOfKind(found)}: name a new folder.`);
    if (!found) await makeFolder(dirname(resolve(path)));
    const target = found ? await realpath(path) : await targetOf(path);
    if (found && (await readdir(target)).length > 0)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${path} exists and is not empty: name a new folder.`);
    const temporary = draftPath(target);
    try {
      await mkdir(temporary);
      await fill(temporary);
      if (found) await rmdir(target);
      await patiently(() => rename(temporary, target));
      await syncFolder(dirname(target));
    } catch (error) {
      await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
      throw error;
    }
  };
  await io(path, write, { action: 'write' });
}

/**
 * Writes a file under a name that nothing refers to yet. It is not whole until it is done, nor on the disk: the commit that refers to it
 * syncs it first (sync). Errors as they come.
 */
export async function writeFresh(path: string, content: Content): Promise<void> {
  await remove(path);
  const handle = await open(path, 'wx');
  try {
    await writeInto(handle, content);
  } finally {
    await handle.close();
  }
}

/**
 * Remembers a short text in a cache, at once: for callers that cannot wait. Nothing happens where it cannot be written: a cache is no
 * obstacle.
 */
export function cacheSync(path: string, text: string): void {
  const temporary = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(temporary, text, { flag: 'wx' });
    renameSync(temporary, path);
  } catch {
    rmSync(temporary, { force: true });
  }
}

/** Removes a file, if it is there. */
export async function remove(path: string): Promise<void> {
  await patiently(() => rm(path, { force: true }));
}

/**
 * Makes a folder and those it lies in. (mkdir's `recursive` never ends where the parent is there and still answers ENOENT, as in /proc.)
 */
export async function makeFolder(dir: string): Promise<void> {
  const path = resolve(dir);
  try {
    await mkdir(path);
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return;
    if (!hasCode(error, 'ENOENT')) throw error;
    const parent = dirname(path);
    if (!(await exists(parent))) await makeFolder(parent);
    // Once more, also where the parent is there: another may have made it meanwhile, and this folder as well.
    await mkdir(path).catch((again) => {
      if (!hasCode(again, 'EEXIST')) throw again;
    });
  }
}

/** Makes the first folder of `base`-1, `base`-2, … that is not there yet. @throws PhoenixError ERR_PHOENIX_IO */
export async function freshFolder(base: string): Promise<string> {
  return io(base, async () => {
    await makeFolder(dirname(base));
    for (let n = 1; ; n++) {
      try {
        await mkdir(`${base}-${n}`);
        return `${base}-${n}`;
      } catch (error) {
        if (!hasCode(error, 'EEXIST')) throw error;
      }
    }
  });
}

/** How JSON that is not what it should be is refused: `<where> <verdict>: <what>. <advice>` */
export type JsonRules = {
  code: PhoenixErrorCode;
  /** Largest file, in bytes. */
  maxBytes: number;
  /** @default 'is damaged' */
  verdict?: string;
  advice: string;
  /** The `schema` that the value must have, if it has a number there: another is of another version of Phoenix. */
  version?: number;
};

const refused = (where: string, { code, verdict = 'is damaged', advice }: JsonRules, what: string, cause?: unknown) =>
  new PhoenixError(code, `${where} ${verdict}: ${what}. ${advice}`, { cause });

/**
 * A JSON text as a value of a schema. `where` names it in errors.
 * @throws PhoenixError of the rules' code
 */
export function parseJson<T>(where: string, text: string, schema: z.ZodType<T>, rules: JsonRules): T {
  const { code, maxBytes, version } = rules;
  if (text.length > maxBytes) throw refused(where, rules, `it has ${text.length} characters; at most ${maxBytes} are read`);
  let value: unknown;
  try {
    // Some editors begin a file with an invisible mark of its byte order.
    value = JSON.parse(text.replace(/^\ufeff/, ''));
  } catch (cause) {
    throw refused(where, rules, `it is not JSON (${(cause as Error).message})`, cause);
  }
  const found = (value as { schema?: unknown } | null)?.schema;
  if (version !== undefined && typeof found === 'number' && found !== version) {
    const reads = `this version of Phoenix reads schema ${version}`;
    throw new PhoenixError(code, `${where} has schema ${found}; ${reads}. Use the version that wrote it.`);
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw refused(where, rules, z.prettifyError(parsed.error).replaceAll('\n', ' '), parsed.error);
  return parsed.data;
}

/** A JSON file as a value of a schema. @throws PhoenixError ERR_PHOENIX_IO, and what parseJson throws */
export async function readJson<T>(path: string, schema: z.ZodType<T>, rules: JsonRules): Promise<T> {
  const read = async () => {
    const { size } = await stat(path);
    if (size > rules.maxBytes) throw refused(path, rules, `it has ${size} bytes; at most ${rules.maxBytes} are read`);
    return readFile(path, 'utf8');
  };
  return parseJson(path, await io(path, read, { action: 'read' }), schema, rules);
}
