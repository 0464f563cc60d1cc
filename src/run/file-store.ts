/**
 * A Store in a folder, for a process of its own: a file for each entry, written whole and on the disk before `set` resolves. A file is
 * named by the hash of its key; it holds the value, then the key as JSON, and the length of that in four bytes.
 */
import { createHash } from 'node:crypto';
import { open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PhoenixError } from '../errors.ts';
import { draftOf, io, makeFolder, type Point, remove, syncFolder, writeWhole } from '../files.ts';
import type { Store } from '../fl/store.ts';

/** Longest key as JSON, in bytes. */
const MAX_KEY = 65_536;
const NAME = /^[0-9a-f]{64}$/;

/** A key as bytes that no other key has, also where it is no proper Unicode. */
const encodeKey = (key: string) => Buffer.from(JSON.stringify(key));
const fileOf = (key: string) => createHash('sha256').update(encodeKey(key)).digest('hex');

const damaged = (path: string) =>
  new PhoenixError('ERR_PHOENIX_RUN', `${path} is damaged: it is no entry of a store. Restore the folder from a copy, or begin anew.`);

/** The key at the end of a file. @throws PhoenixError ERR_PHOENIX_RUN for a file that is no entry of this name */
async function readKey(dir: string, file: string): Promise<string> {
  const path = join(dir, file);
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    const tail = Buffer.alloc(Math.min(size, MAX_KEY + 4));
    await handle.read(tail, 0, tail.length, size - tail.length);
    return keyIn(path, file, tail);
  } finally {
    await handle.close();
  }
}

/** The key that bytes end with. */
function keyIn(path: string, file: string, bytes: Buffer): string {
  const end = bytes.length - 4;
  const length = end < 0 ? 0 : bytes.readUInt32LE(end);
  const encoded = bytes.subarray(Math.max(0, end - length), Math.max(0, end));
  const isEntry = length > 0 && length <= end && createHash('sha256').update(encoded).digest('hex') === file;
  if (!isEntry) throw damaged(path);
  return JSON.parse(encoded.toString());
}

/**
 * Opens a Store, or begins one. One process may use a folder at a time: the caller holds a lock. What a killed process was writing is
 * removed. `point`: for tests, called before every operation that changes the disk.
 * @throws PhoenixError ERR_PHOENIX_RUN for a damaged entry, ERR_PHOENIX_IO; `set` also ERR_PHOENIX_ARGUMENT for a key that is too long
 */
export async function openFileStore(dir: string, point: Point = () => {}): Promise<Store> {
  const keys = new Set<string>();
  const begin = async () => {
    await makeFolder(dir);
    for (const name of await readdir(dir)) {
      if (NAME.test(name)) keys.add(await readKey(dir, name));
      else if (draftOf(name) !== undefined) await remove(join(dir, name));
    }
  };
  await io(dir, begin);
  let last: Promise<unknown> = Promise.resolve();
  /** One change after the other, in the order of the calls. */
  const inTurn = (work: () => Promise<void>): Promise<void> => {
    const next = last.then(work);
    last = next.catch(() => undefined);
    return next;
  };
  return {
    async get(key) {
      if (!keys.has(key)) return undefined;
      const file = fileOf(key);
      const path = join(dir, file);
      const bytes = await io(path, () => readFile(path), { action: 'read' });
      keyIn(path, file, bytes);
      return bytes.subarray(0, bytes.length - 4 - encodeKey(key).length);
    },
    set: (key, bytes) =>
      inTurn(async () => {
        const encoded = encodeKey(key);
        if (encoded.length > MAX_KEY)
          throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `A key of a store has at most ${MAX_KEY} bytes, not ${encoded.length}.`);
        const length = Buffer.alloc(4);
        length.writeUInt32LE(encoded.length);
        async function* pieces() {
          yield* [bytes, encoded, length];
        }
        await writeWhole(join(dir, fileOf(key)), pieces(), point, { mode: 0o600 });
        keys.add(key);
      }),
    delete: (key) =>
      inTurn(async () => {
        if (!keys.delete(key)) return;
        await io(dir, async () => {
          await point('remove an entry');
          await remove(join(dir, fileOf(key)));
          await syncFolder(dir);
        });
      }),
    keys: async () => [...keys],
  };
}
