/**
 * Outputs: what can be known of a file or folder that is to be written, asked before the work that makes its content. The ending fits the
 * format, the folder is there and takes files, and what is at the path now is nothing, or a file of that format.
 */
import { constants, type Stats } from 'node:fs';
import { access, open } from 'node:fs/promises';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { PhoenixError } from './errors.ts';
import { exists, hasCode, io, ioError, statusOf, targetOf } from './files.ts';

/** A kind of file that Phoenix writes on request. */
export type Format = {
  /** In a sentence: 'it is no PNG image'. */
  name: string;
  /** Endings of its names, in small letters. */
  endings: readonly string[];
  /** Whether a file that begins with these (at most 16) bytes may be one. */
  begins(start: Buffer): boolean;
};

const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

export const formats = {
  png: { name: 'PNG image', endings: ['.png'], begins: (start) => start.subarray(0, 8).equals(PNG) },
  safetensors: { name: 'safetensors file', endings: ['.safetensors'], begins: (start) => start.length > 8 && start[8] === 0x7b },
  html: {
    name: 'HTML page',
    endings: ['.html', '.htm'],
    begins: (start) => /^\s*<(!doctype|html)/i.test(start.toString('latin1')),
  },
} satisfies Record<string, Format>;

/** Whether a path ends as files of a format do; else the picture would lie in a file that says it is something else. */
export function endsAs({ endings }: Format, path: string): boolean {
  return endings.includes(extname(path).toLowerCase());
}

/**
 * Checks that a file of this format can be written at `path`, as far as that can be known now.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for another ending, a file of another kind, or a place that belongs to a run; ERR_PHOENIX_IO
 * for a folder that is not there or takes no files, and for what is no plain file
 */
export async function checkOutput(path: string, format: Format): Promise<void> {
  if (!endsAs(format, path))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${path} is to be a ${format.name}: give it a name that ends in ${format.endings[0]}.`);
  const folder = dirname(resolve(path));
  await checkFolder(folder, path);
  const target = await io(path, () => targetOf(path), { action: 'write' });
  const home = dirname(target);
  if (home !== folder) await checkFolder(home, path);
  await checkNoRun(home, path);
  await io(path, () => checkContent(target, path, format), { action: 'write' });
}

/** The folder that is to hold a file must be there, be a folder, and take files. */
async function checkFolder(folder: string, path: string): Promise<void> {
  const found = await io(folder, () => statusOf(folder), { action: 'read' });
  if (!found) throw new PhoenixError('ERR_PHOENIX_IO', `Cannot write ${path}: there is no folder ${folder} (ENOENT). Make it first.`);
  await checkTakesFiles(folder, found, path);
}

async function checkTakesFiles(folder: string, found: Stats, path: string): Promise<void> {
  if (!found.isDirectory())
    throw new PhoenixError('ERR_PHOENIX_IO', `Cannot write ${path}: ${folder} is no folder (ENOTDIR). Choose another place.`);
  await io(path, () => access(folder, constants.W_OK | constants.X_OK), { action: 'write' });
}

/** A file of a run that is replaced damages the run; so its folder, and its store, take nothing else. */
async function checkNoRun(folder: string, path: string): Promise<void> {
  for (const dir of basename(folder) === 'store' ? [folder, dirname(folder)] : [folder])
    if ((await exists(join(dir, 'state.json'))) && (await exists(join(dir, 'log.jsonl'))))
      throw new PhoenixError(
        'ERR_PHOENIX_ARGUMENT',
        `${path} lies in the run folder ${dir}, whose files belong to the run. Name another folder.`,
      );
}

async function checkContent(target: string, path: string, format: Format): Promise<void> {
  const found = await statusOf(target);
  if (!found || found.size === 0) return;
  await access(target, constants.W_OK);
  const handle = await open(target, 'r');
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(16), 0, 16, 0);
    if (format.begins(buffer.subarray(0, bytesRead))) return;
  } finally {
    await handle.close();
  }
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `${path} is there already, and is no ${format.name}: it would be lost. Remove it, or choose another name.`,
  );
}

/**
 * Checks that a folder can be made at `path`, or is there and takes files: of the folders above it, the first that is there must take
 * files.
 * @throws PhoenixError ERR_PHOENIX_IO
 */
export async function checkOutputFolder(path: string): Promise<void> {
  for (let folder = resolve(path); ; folder = dirname(folder)) {
    const found = await statusOf(folder).catch((error) => {
      // A file stands where a folder is wanted: it is found one step further up.
      if (hasCode(error, 'ENOTDIR')) return undefined;
      throw ioError(path, error, { action: 'write' });
    });
    if (found) return checkTakesFiles(folder, found, path);
    if (dirname(folder) === folder) return;
  }
}
