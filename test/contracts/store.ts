/**
 * What every Store does, wherever it keeps its entries: any string may name a client, any bytes are a value, and what was set last counts.
 */
import test, { type ExecutionContext } from 'ava';
import type { Store } from '../../src/fl/store.ts';

export type OpenStore = {
  store: Store;
  /** Of one that lasts: commits, closes it, and opens the same one anew. */
  reopen?(): Promise<Store>;
};

/** Names of clients that a file name, an object's property or a pattern would take for something else. */
const hostileNames = [
  '',
  '.',
  '..',
  '../../outside',
  '/etc/passwd',
  'a/../b',
  'a\\b',
  '__proto__',
  'constructor',
  'toString',
  'a%2Fb',
  'a/b',
  'a.1.bin',
  'a\0b',
  'a\nb',
  'CON',
  'A/x',
  'a/x',
  'é',
  'e\u0301',
  '\ud800',
  '\ud801',
  'x'.repeat(1000),
  `${'x'.repeat(1000)}y`,
];

/** As keys are: `<client>/<what>`. */
const hostileKeys = hostileNames.flatMap((client) => [`${client}/x`, `${client}/y`]);

const bytesOf = (text: string) => new TextEncoder().encode(text);
const plain = (bytes: Uint8Array | undefined) => bytes && Uint8Array.from(bytes);

/** Declares the tests of one kind of Store; `open` gives an empty one. */
export function storeContract(name: string, open: (t: ExecutionContext) => Promise<OpenStore>): void {
  test(`${name}: what was set last is there until it is deleted`, async (t) => {
    const { store } = await open(t);
    t.is(await store.get('a/x'), undefined);
    t.deepEqual(await store.keys(), []);
    await store.set('a/x', bytesOf('one'));
    await store.set('b/x', bytesOf('other'));
    t.deepEqual(plain(await store.get('a/x')), bytesOf('one'));
    await store.set('a/x', bytesOf('two, and longer'));
    t.deepEqual(plain(await store.get('a/x')), bytesOf('two, and longer'));
    await store.set('a/x', bytesOf(''));
    t.deepEqual(plain(await store.get('a/x')), bytesOf(''), 'nothing is a value, too');
    t.deepEqual([...(await store.keys())].sort(), ['a/x', 'b/x']);
    await store.delete('a/x');
    await store.delete('a/x');
    await store.delete('never there');
    t.is(await store.get('a/x'), undefined);
    t.deepEqual(await store.keys(), ['b/x']);
    t.deepEqual(plain(await store.get('b/x')), bytesOf('other'));
    await store.set('a/x', bytesOf('back'));
    t.deepEqual(plain(await store.get('a/x')), bytesOf('back'));
  });

  test(`${name}: a value is the bytes of the view, not of the buffer below it`, async (t) => {
    const { store } = await open(t);
    const block = Uint8Array.of(9, 1, 2, 3, 9);
    await store.set('view', block.subarray(1, 4));
    t.deepEqual(plain(await store.get('view')), Uint8Array.of(1, 2, 3));
    const large = Uint8Array.from({ length: 300_000 }, (_, i) => i * 7);
    await store.set('large', large);
    t.true(Buffer.from(large).equals((await store.get('large'))!));
  });

  test(`${name}: keys are told apart, whatever they hold`, async (t) => {
    const { store, reopen } = await open(t);
    for (const key of hostileKeys) t.is(await store.get(key), undefined, JSON.stringify(key));
    for (const [i, key] of hostileKeys.entries()) await store.set(key, Uint8Array.of(i));
    const check = async (from: Store) => {
      for (const [i, key] of hostileKeys.entries()) t.deepEqual(plain(await from.get(key)), Uint8Array.of(i), JSON.stringify(key));
      t.deepEqual([...(await from.keys())].sort(), [...hostileKeys].sort());
    };
    await check(store);
    const later = reopen ? await reopen() : store;
    await check(later);
    for (const key of hostileKeys) await later.delete(key);
    t.deepEqual(await later.keys(), []);
  });

  test(`${name}: keys of many at once`, async (t) => {
    const { store } = await open(t);
    const keys = Array.from({ length: 40 }, (_, i) => `client-${i}/state`);
    await Promise.all(keys.map((key, i) => store.set(key, Uint8Array.of(i))));
    t.deepEqual([...(await store.keys())].sort(), [...keys].sort());
    const read = await Promise.all(keys.map(async (key) => (await store.get(key))![0]));
    t.deepEqual(
      read,
      keys.map((_, i) => i),
    );
  });
}

/** Of a Store that lasts: what its next opening finds. */
export function durableStoreContract(name: string, open: (t: ExecutionContext) => Promise<Required<OpenStore>>): void {
  storeContract(name, open);

  test(`${name}: entries, changes and deletions are there when it is opened anew`, async (t) => {
    const { store, reopen } = await open(t);
    for (const key of ['stays', 'changes', 'goes']) await store.set(key, bytesOf('one'));
    const second = await reopen();
    await second.set('changes', bytesOf('two'));
    await second.delete('goes');
    await second.set('comes', bytesOf('new'));
    const third = await reopen();
    t.deepEqual([...(await third.keys())].sort(), ['changes', 'comes', 'stays']);
    t.deepEqual(plain(await third.get('stays')), bytesOf('one'));
    t.deepEqual(plain(await third.get('changes')), bytesOf('two'));
    t.is(await third.get('goes'), undefined);
    t.deepEqual(plain(await third.get('comes')), bytesOf('new'));
  });
}
