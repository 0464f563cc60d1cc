/** The contract of a reader over every registered one, each on a small data set of its kind. */
import test from 'ava';
import sharp from 'sharp';
import { readers } from '../../src/ddpm/data/index.ts';
import { rng } from '../../src/rng.ts';
import { type ReaderSample, readerContract } from '../contracts/reader.ts';

const bytes = (count: number, seed: number) => {
  const random = rng(seed, 'reader');
  return Buffer.from(Array.from({ length: count }, () => random.int(256)));
};
const bigEndian = (...values: number[]) => {
  const header = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) header.writeUInt32BE(value, 4 * i);
  return header;
};
const png = (seed: number, side = 5) =>
  sharp(bytes(3 * side * side, seed), { raw: { width: side, height: side, channels: 3 } })
    .png()
    .toBuffer();

const cifarNames = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'];
const longer = { 'a byte too many': (content: Buffer) => Buffer.concat([content, Buffer.of(0)]) };
const largerPng = await png(9, 6);

const samples: Record<string, ReaderSample> = {
  synthetic: {
    files: {},
    path: 'synthetic:12',
    expected: {
      ...{ count: 12, height: 16, width: 16, channels: 3 as const },
      labels: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1],
      classNames: ['disc', 'square', 'triangle', 'cross', 'ring', 'horizontal bars', 'vertical bars', 'diamond', 'checker', 'corner'],
    },
  },
  cifar10: {
    files: {
      'data_batch_1.bin': Buffer.concat([3, 1, 9].map((label) => Buffer.concat([Buffer.of(label), bytes(3072, label)]))),
      'batches.meta.txt': `${cifarNames.join('\n')}\n`,
    },
    expected: { count: 3, height: 32, width: 32, channels: 3, labels: [3, 1, 9], classNames: cifarNames },
    images: 'data_batch_1.bin',
    damages: { ...longer, 'a label of no class': (content) => Buffer.from(content).fill(10, 0, 1), empty: () => Buffer.alloc(0) },
  },
  idx: {
    files: {
      'train-images-idx3-ubyte': Buffer.concat([bigEndian(0x803, 4, 6, 5), bytes(120, 1)]),
      'train-labels-idx1-ubyte': Buffer.concat([bigEndian(0x801, 4), Buffer.of(2, 0, 1, 2)]),
    },
    expected: { count: 4, height: 6, width: 5, channels: 1, labels: [2, 0, 1, 2], classNames: ['0', '1', '2'] },
    images: 'train-images-idx3-ubyte',
    damages: {
      ...longer,
      'more images declared': (content) => Buffer.concat([bigEndian(0x803, 5), content.subarray(8)]),
      empty: () => Buffer.alloc(0),
    },
  },
  records: {
    files: {
      'meta.json': JSON.stringify({ sites: ['north', 'south'], classes: ['good', 'bad'], record: '2 bytes, 8x4 gray' }),
      'boards_train.bin': Buffer.concat([0, 1, 2].map((i) => Buffer.concat([Buffer.of(i % 2, (i + 1) % 2), bytes(32, i)]))),
    },
    expected: { count: 3, height: 8, width: 4, channels: 1, labels: [1, 0, 1], classNames: ['good', 'bad'] },
    images: 'boards_train.bin',
    damages: { ...longer, 'a site of no name': (content) => Buffer.from(content).fill(2, 0, 1), empty: () => Buffer.alloc(0) },
  },
  folder: {
    files: { 'cats/a.png': await png(1), 'cats/b.png': await png(2), 'dogs/c.png': await png(3) },
    expected: { count: 3, height: 5, width: 5, channels: 3, labels: [0, 0, 1], classNames: ['cats', 'dogs'] },
    images: 'cats/b.png',
    damages: { 'of another size': () => largerPng, 'no image': () => bytes(60, 4), empty: () => Buffer.alloc(0) },
  },
};

test('every registered reader has a data set here', (t) => {
  t.deepEqual(Object.keys(samples).sort(), Object.keys(readers).sort());
});

for (const [name, reader] of Object.entries(readers)) readerContract(name, reader, samples);
