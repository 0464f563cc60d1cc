/**
 * Files: the one place that writes whole files and folders, reads JSON, and says in a sentence what a file system refused. What is written
 * here appears under its name whole or not at all: it is brought to the disk (fsync) under a temporary name, then renamed.
 */
import { mkdir, open, readdir, readFile, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import { PhoenixError, type PhoenixErrorCode } from './errors.ts';

/** Called before every operation that changes the disk, with its name: tests stop the process or throw there. */
export type Point = (name: string) => void | Promise<void>;

/** The bytes of a file, or its pieces in order. */
export type Content = string | Uint8Array | AsyncIterable<Uint8Array>;

export function hasCode(error: unknown, ...codes: string[]): boolean {
  return codes.includes((error as NodeJS.ErrnoException)?.code ?? '');
}

const reasons: Record<string, string> = {
  ENOENT: 'there is no such file or folder',
  EACCES: 'permission denied',
  EISDIR: 'it is a folder',
};

export type IoOptions = {
  /** What was tried. @default 'read or write' */
  action?: 'read' | 'write' | 'read or write';
  /** What to do when the disk is full. @default 'make room and try again' */
  whenFull?: string;
};

/** What a file system refused, as ERR_PHOENIX_IO with advice. Any other error is returned as it is. */
export function ioError(
  path: string,
  cause: unknown,
  { action = 'read or write', whenFull = 'make room and try again' }: IoOptions = {},
): unknown {
  const { code = '' } = cause as NodeJS.ErrnoException;
  // The codes of file systems are ENOENT, ENOSPC and the like; those of Node's own checks begin with ERR_.
  if (!(cause instanceof Error) || !/^E[A-Z0-9]+$/.test(code)) return cause;
  const advice = hasCode(cause, 'ENOSPC', 'EDQUOT') ? ` The disk is full: ${whenFull}.` : '';
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

/** Brings a file or folder to the disk. */
export async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

const draftOf = (path: string) => `${path}.tmp`;

/** The first half of writeWhole: brings the content to the disk under the temporary name. */
export async function draft(path: string, content: Content, point: Point = () => {}): Promise<void> {
  try {
    await point(`write ${basename(path)}`);
    const handle = await open(draftOf(path), 'w');
    try {
      await writeFile(handle, content);
      await point(`fsync ${basename(path)}`);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    await remove(draftOf(path));
    throw error;
  }
}

/** The second half of writeWhole: renames a draft into place, which is the moment in which it counts. */
export async function publish(path: string, point: Point = () => {}): Promise<void> {
  try {
    await point(`rename ${basename(path)}`);
    await rename(draftOf(path), path);
  } catch (error) {
    await remove(draftOf(path));
    throw error;
  }
}

/**
 * Writes a file whole or not at all: to `path`.tmp, then renamed. What was at `path` stays until then.
 * @throws PhoenixError ERR_PHOENIX_IO; what the content throws as it comes
 */
export async function writeWhole(path: string, content: Content, point: Point = () => {}, options: IoOptions = {}): Promise<void> {
  const write = async () => {
    await draft(path, content, point);
    await publish(path, point);
    await point('fsync the folder');
    await sync(dirname(path));
  };
  await io(path, write, { action: 'write', ...options });
}

/**
 * Has `fill` write the files of a folder, which then appears whole or not at all: they are written into a temporary folder, which is
 * renamed.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a folder that holds something, ERR_PHOENIX_IO; what `fill` throws as it comes
 */
export async function writeWholeFolder(path: string, fill: (temporary: string) => Promise<void>): Promise<void> {
  const target = resolve(path);
  const temporary = join(dirname(target), `.${basename(target)}.tmp`);
  const write = async () => {
    const existing = await readdir(target).catch((error) => {
      if (hasCode(error, 'ENOENT')) return undefined;
      throw error;
    });
    if (existing !== undefined && existing.length > 0)
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${path} exists and is not empty: name a new folder.`);
    try {
      await rm(temporary, { recursive: true, force: true });
      await makeFolder(temporary);
      await fill(temporary);
      if (existing !== undefined) await rmdir(target);
      await rename(temporary, target);
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
  await writeFile(path, content);
}

/** Removes a file, if it is there. */
export async function remove(path: string): Promise<void> {
  await rm(path, { force: true });
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
    const parent = dirname(path);
    if (!hasCode(error, 'ENOENT') || (await exists(parent))) throw error;
    await makeFolder(parent);
    await makeFolder(path);
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
    value = JSON.parse(text);
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
