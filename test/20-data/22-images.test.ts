/** Sets of images and what is chosen from them. */
import test from 'ava';
import {
  atMost,
  classesInTurn,
  evenlySpaced,
  groupBy,
  type ImageSet,
  inTurn,
  joined,
  mismatch,
  PIECE_BYTES,
  pick,
  readAt,
  slice,
  sourceOfSet,
  windows,
} from '../../src/images.ts';

const set: ImageSet = {
  count: 4,
  height: 1,
  width: 2,
  channels: 1,
  pixels: Uint8Array.of(0, 1, 10, 11, 20, 21, 30, 31),
  labels: Int32Array.of(5, 6, 7, 8),
};

test('pick takes pixels and labels in the order asked for, slice a view of neighbours, joined the sum', (t) => {
  const picked = pick(set, [2, 0, 2]);
  t.deepEqual(picked, { ...set, count: 3, pixels: Uint8Array.of(20, 21, 0, 1, 20, 21), labels: Int32Array.of(7, 5, 7) });
  const part = slice(set, 1, 2);
  t.deepEqual(part, { ...set, count: 2, pixels: Uint8Array.of(10, 11, 20, 21), labels: Int32Array.of(6, 7) });
  t.is(part.pixels.buffer, set.pixels.buffer);
  const { labels: _, ...pixels } = pick(set, [1, 2, 3]);
  t.deepEqual(joined([slice(set, 1, 2), slice(set, 3, 1)]), pixels);
  t.false('labels' in pick(pixels, [0]));
  t.is(mismatch(set), undefined);
  t.is(mismatch({ ...set, count: 5 }), '5 images of 1×2×1 are 10 bytes, but 8 came');
});

test('a set is a source too: what is known of it stays, and images are read by position', async (t) => {
  const source = sourceOfSet({ ...set, name: 'four' });
  t.is(source.name, 'four');
  t.false('pixels' in source);
  const { labels: _, ...picked } = pick(set, [0, 2, 3]);
  t.deepEqual(await readAt(source, Int32Array.of(0, 2, 3)), picked);
});

test('windows go through a source once, a piece of memory at a time', async (t) => {
  const side = 1024;
  const asked: number[][] = [];
  const read = async (positions: Int32Array) => {
    asked.push([...positions]);
    return new Uint8Array(positions.length * side * side).fill(positions[0]!);
  };
  const firsts: number[] = [];
  for await (const { first, pixels } of windows({ count: 9, height: side, width: side, channels: 1, read })) {
    firsts.push(first);
    t.is(pixels[0], first);
    t.true(pixels.length <= PIECE_BYTES);
  }
  t.deepEqual(firsts, [0, 4, 8]);
  t.deepEqual(asked, [[0, 1, 2, 3], [4, 5, 6, 7], [8]]);
  const large = {
    count: 2,
    height: 4096,
    width: 4096,
    channels: 1,
    read: async (positions: Int32Array) => new Uint8Array(positions.length),
  };
  const sizes: number[] = [];
  for await (const { pixels } of windows(large)) sizes.push(pixels.length);
  t.deepEqual(sizes, [1, 1], 'one image at least');
});

test('evenly spaced: as many as asked for, or all', (t) => {
  t.deepEqual([...evenlySpaced([1, 2, 3, 4, 5], 3)], [1, 2, 4]);
  t.deepEqual([...evenlySpaced([1, 2], 4)], [1, 1, 2, 2]);
  t.deepEqual([...atMost([1, 2], 4)], [1, 2]);
  t.deepEqual([...atMost([], 4)], []);
  t.deepEqual([...classesInTurn(5, 3)!], [0, 1, 2, 0, 1]);
  t.is(classesInTurn(5, 0), undefined);
});

test('in turn: the next of every group until there are enough', (t) => {
  const groups = groupBy([4, 0, 1, 2, 3, 5], (position) => position % 2);
  t.deepEqual(
    [...groups],
    [
      [0, [4, 0, 2]],
      [1, [1, 3, 5]],
    ],
  );
  t.deepEqual([...inTurn([...groups.values()], 3)], [0, 1, 4]);
  t.deepEqual([...inTurn([[7], [1, 2, 3]], 3)], [1, 2, 7]);
  t.deepEqual([...inTurn([[7], [1]], 9)], [1, 7]);
});
