/** The Store of a site: files that last. */
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { openFileStore } from '../../src/run/file-store.ts';
import { durableStoreContract } from '../contracts/store.ts';

async function folder(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-store-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return join(dir, 'store');
}

durableStoreContract('files', async (t) => {
  const dir = await folder(t);
  return { store: await openFileStore(dir), reopen: () => openFileStore(dir) };
});

test('a value is whole or as it was before, wherever the process stops', async (t) => {
  const dir = await folder(t);
  let stopAt = -1;
  let at = 0;
  const point = () => {
    if (at++ === stopAt) throw new Error('stopped');
  };
  const store = await openFileStore(dir, point);
  await store.set('a/x', Buffer.from('before'));
  const points = at;
  t.true(points >= 3);
  for (stopAt = 0; stopAt < points; stopAt++) {
    at = 0;
    await t.throwsAsync(store.set('a/x', Buffer.from('after')), { message: 'stopped' });
    const found = Buffer.from((await (await openFileStore(dir)).get('a/x'))!).toString();
    t.true(['before', 'after'].includes(found), found);
    if (stopAt < points - 1) t.is(found, 'before');
  }
  stopAt = -1;
  await store.set('a/x', Buffer.from('after'));
  t.is(Buffer.from((await store.get('a/x'))!).toString(), 'after', 'the store goes on after a failure');
});

test('what a killed process was writing is swept away, and a damaged entry is refused', async (t) => {
  const dir = await folder(t);
  const store = await openFileStore(dir);
  await store.set('a/x', Buffer.from('value'));
  const [file] = await readdir(dir);
  const path = join(dir, file!);
  t.is((await stat(path)).mode & 0o777, 0o600);
  await writeFile(join(dir, `${file}.0123456789abcdef.tmp`), 'half');
  t.deepEqual(await (await openFileStore(dir)).keys(), ['a/x']);
  t.deepEqual(await readdir(dir), [file]);
  const whole = await readFile(path);
  for (const bad of [
    Buffer.alloc(0),
    Buffer.from('x'),
    whole.subarray(0, -1),
    Buffer.alloc(100, 0xff),
    Buffer.concat([whole, whole.subarray(0, 1)]),
  ]) {
    await writeFile(path, bad);
    await t.throwsAsync(openFileStore(dir), { code: 'ERR_PHOENIX_RUN' });
    await t.throwsAsync(store.get('a/x'), { code: 'ERR_PHOENIX_RUN' });
  }
});
