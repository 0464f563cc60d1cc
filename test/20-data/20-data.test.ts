import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import { type Dataset, type DatasetOptions, openDataset, openSource, readers } from '../../src/ddpm/data/index.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';

/** Writes files into a folder that is removed after the test. */
async function write(t: ExecutionContext, files: Record<string, Uint8Array | string>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-data-'));
  t.teardown(() => rm(folder, { recursive: true }));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), content);
  }
  return folder;
}

const refuses = (t: ExecutionContext, path: string, message: RegExp, options?: DatasetOptions, code = 'ERR_PHOENIX_DATA') =>
  t.throwsAsync(openDataset(path, options), { code, message });

const image = (dataset: Dataset, i: number) => {
  const size = dataset.height * dataset.width * dataset.channels;
  return dataset.pixels.subarray(i * size, (i + 1) * size);
};

const bytes = (count: number, seed: number) => {
  const random = rng(seed, 'bytes');
  return Buffer.from(Array.from({ length: count }, () => random.int(256)));
};

// ---- CIFAR-10

const cifarRecord = (label: number, seed: number) => Buffer.concat([Buffer.of(label), bytes(3072, seed)]);
const cifarBatch = (labels: number[], seed = 0) => Buffer.concat(labels.map((label, i) => cifarRecord(label, seed + i)));

test('cifar10: files in order, planes interleaved, class names', async (t) => {
  const names = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'];
  const path = await write(t, {
    'data_batch_2.bin': cifarBatch([9, 0], 100),
    'data_batch_1.bin': cifarBatch([3, 1, 4]),
    'test_batch.bin': cifarBatch([7], 200),
    'batches.meta.txt': `${names.join('\n')}\n\n`,
    'readme.html': '',
  });
  const dataset = await openDataset(path);
  t.like(dataset, { height: 32, width: 32, channels: 3, count: 5, classNames: names, sites: undefined });
  t.deepEqual(dataset.labels, Int32Array.of(3, 1, 4, 9, 0));
  const planar = cifarRecord(9, 100).subarray(1);
  const interleaved = Uint8Array.from({ length: 3072 }, (_, i) => planar[(i % 3) * 1024 + Math.floor(i / 3)]!);
  t.deepEqual(image(dataset, 3), interleaved);
  const held = await openDataset(path, { split: 'test' });
  t.deepEqual(held.labels, Int32Array.of(7));
  t.not(held.fingerprint, dataset.fingerprint);
});

test('cifar10: what is cut short, empty or mislabelled is named', async (t) => {
  const whole = cifarBatch([1, 2, 3]);
  const cut = await write(t, { 'data_batch_1.bin': whole, 'data_batch_2.bin': whole.subarray(0, 7000) });
  await refuses(t, cut, /data_batch_2\.bin is damaged: 7000 bytes are no multiple of 3073, the record at byte 6146 is cut short/);
  const mislabelled = await write(t, { 'data_batch_1.bin': cifarBatch([1, 10, 3]) });
  await refuses(t, mislabelled, /data_batch_1\.bin is damaged: the label at byte 3073 is 10; CIFAR-10 has 0\.\.9/);
  await refuses(t, await write(t, { 'data_batch_1.bin': '' }), /data_batch_1\.bin is empty/);
  await refuses(t, await write(t, { 'test_batch.bin': whole }), /no train images: expected data_batch_1\.bin/);
  await refuses(
    t,
    await write(t, { 'data_batch_1.bin': whole, 'batches.meta.txt': 'cat\ndog\n' }),
    /should name 10 classes, one per line; it has 2/,
  );
});

// ---- idx

function idxImages(count: number, height: number, width: number, pixels: Uint8Array, magic = 0x803): Buffer {
  const header = Buffer.alloc(16);
  for (const [i, value] of [magic, count, height, width].entries()) header.writeUInt32BE(value, 4 * i);
  return Buffer.concat([header, pixels]);
}

function idxLabels(labels: number[], count = labels.length, magic = 0x801): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32BE(magic, 0);
  header.writeUInt32BE(count, 4);
  return Buffer.concat([header, Buffer.from(labels)]);
}

const pixels60 = bytes(60, 7);
const imagesName = 'train-images-idx3-ubyte';
const labelsName = 'train-labels-idx1-ubyte';

test('idx: plain or gzipped, a folder or a file, labelled or not', async (t) => {
  const images = idxImages(3, 4, 5, pixels60);
  const labels = idxLabels([2, 0, 1]);
  const plain = await write(t, { [imagesName]: images, [labelsName]: labels });
  const zipped = await write(t, { [`${imagesName}.gz`]: gzipSync(images), [`${labelsName}.gz`]: gzipSync(labels) });
  const mixed = await write(t, { [imagesName]: images, [`${labelsName}.gz`]: gzipSync(labels) });
  const first = await openDataset(plain);
  t.like(first, { height: 4, width: 5, channels: 1, count: 3, classNames: ['0', '1', '2'] });
  t.deepEqual(first.labels, Int32Array.of(2, 0, 1));
  t.deepEqual(Buffer.from(first.pixels), pixels60);
  for (const path of [zipped, mixed, join(plain, imagesName), join(zipped, `${imagesName}.gz`)]) {
    t.is((await openDataset(path)).fingerprint, first.fingerprint, path);
  }
  const unlabelled = await openDataset(await write(t, { 't10k-images-idx3-ubyte': images }), { split: 'test' });
  t.is(unlabelled.labels, undefined);
  t.deepEqual(unlabelled.classNames, []);
  t.not(unlabelled.fingerprint, first.fingerprint);
  await refuses(t, plain, /no test images: expected t10k-images-idx3-ubyte/, { split: 'test' });
  await refuses(t, join(plain, imagesName), /has no test split/, { split: 'test' }, 'ERR_PHOENIX_ARGUMENT');
});

test('idx: headers that do not fit the file are errors before anything is allocated', async (t) => {
  const images = idxImages(3, 4, 5, pixels60);
  const only = async (name: string, content: Buffer, message: RegExp) => refuses(t, await write(t, { [name]: content }), message);
  await only(imagesName, images.subarray(0, 70), /declares 3 images of 4×5, which takes 76 bytes, but ends after 70 bytes/);
  await only(imagesName, Buffer.concat([images, Buffer.of(1)]), /takes 76 bytes, but goes on after that|ends after 77/);
  await only(`${imagesName}.gz`, gzipSync(Buffer.concat([images, bytes(9, 1)])), /takes 76 bytes, but goes on after that/);
  await only(imagesName, idxImages(0xffffffff, 4096, 4096, pixels60), /declares 4294967295 images of 4096×4096.* but ends after 76 bytes/);
  await only(
    `${imagesName}.gz`,
    gzipSync(idxImages(0xffffffff, 4096, 4096, pixels60)),
    /declares 4294967295 images.* but ends after 76 bytes/,
  );
  await only(imagesName, idxImages(1, 0x7fffffff, 1, pixels60), /sides in 1\.\.4096/);
  await only(imagesName, idxImages(0, 4, 5, Buffer.alloc(0)), /declares 0 images/);
  await only(imagesName, idxLabels([1, 2, 3]), /no idx images file: expected a header that starts with 0x00000803, found 0x00000801/);
  await only(imagesName, Buffer.alloc(0), /found an empty file/);
  await only(`${imagesName}.gz`, gzipSync(bytes(4000, 3)).subarray(0, 2000), /no idx images file|does not decompress/);
  await only(`${imagesName}.gz`, gzipSync(idxImages(200, 4, 5, bytes(4000, 3))).subarray(0, 2000), /does not decompress .*cut short/);
  await only(`${imagesName}.gz`, images, /does not decompress/);
});

test('idx: labels of another file are refused', async (t) => {
  const images = idxImages(3, 4, 5, pixels60);
  const labelled = async (labels: Buffer, message: RegExp) =>
    refuses(t, await write(t, { [imagesName]: images, [labelsName]: labels }), message);
  await labelled(idxLabels([1, 2]), /declares 2 labels for 3 images/);
  await labelled(idxLabels([1, 2], 3), /declares 3 labels, which takes 11 bytes, but ends after 10 bytes/);
  await labelled(idxLabels([1, 2, 3], 3, 0x803), /no idx labels file: expected a header that starts with 0x00000801/);
});

// ---- records

const meta = {
  sites: ['north', 'south'],
  classes: ['good', 'bad', 'ugly'],
  record: '1 byte site, 1 byte class, 16 bytes 4x4 gray',
  train: { records: 3 },
};
const record = (site: number, label: number, seed: number) => Buffer.concat([Buffer.of(site, label), bytes(16, seed)]);
const threeRecords = Buffer.concat([record(1, 0, 1), record(0, 2, 2), record(1, 1, 3)]);

test('records: sites, classes and pixels', async (t) => {
  const path = await write(t, { 'meta.json': JSON.stringify(meta), 'boards_train.bin': threeRecords, 'boards_test.bin': record(0, 0, 9) });
  const dataset = await openDataset(path);
  t.like(dataset, { height: 4, width: 4, channels: 1, count: 3, classNames: meta.classes, siteNames: meta.sites });
  t.deepEqual(dataset.sites, Int32Array.of(1, 0, 1));
  t.deepEqual(dataset.labels, Int32Array.of(0, 2, 1));
  t.deepEqual(Buffer.from(image(dataset, 1)), bytes(16, 2));
  t.is((await openDataset(path, { split: 'test' })).count, 1);
});

test('records: meta and records that contradict each other are errors', async (t) => {
  const broken = async (content: unknown, records: Buffer, message: RegExp) => {
    const text = typeof content === 'string' ? content : JSON.stringify(content);
    await refuses(t, await write(t, { 'meta.json': text, 'boards_train.bin': records }), message);
  };
  await broken('{', threeRecords, /meta\.json does not describe records: it is not JSON/);
  await broken({ ...meta, sites: [] }, threeRecords, /does not describe records/);
  await broken({ ...meta, classes: undefined }, threeRecords, /does not describe records[\s\S]*classes/);
  await broken({ ...meta, record: 'one byte each' }, threeRecords, /"record" should hold the size of an image/);
  await broken({ ...meta, record: '99999x99999' }, threeRecords, /sides in 1\.\.1024/);
  await broken(meta, threeRecords.subarray(0, 50), /50 bytes are no multiple of 18, the record at byte 36 is cut short/);
  await broken(meta, threeRecords.subarray(0, 36), /declares 3 train records, but boards_train\.bin hold 2/);
  await broken(meta, Buffer.alloc(0), /boards_train\.bin is empty/);
  await broken({ ...meta, sites: ['north'] }, threeRecords, /the site at byte 0 is 1; meta\.json names 0\.\.0/);
  await broken({ ...meta, classes: ['good', 'bad'] }, threeRecords, /the class at byte 19 is 2; meta\.json names 0\.\.1/);
  await broken(' '.repeat(2 ** 20 + 1), threeRecords, /at most 1048576/);
  await refuses(
    t,
    await write(t, { 'meta.json': JSON.stringify(meta), 'boards_test.bin': threeRecords }),
    /no train images: expected a file \*_train\.bin/,
  );
});

// ---- sources

test('a source is the same data set, whose images are read where they are asked for', async (t) => {
  const many = (count: number, seed: number) =>
    cifarBatch(
      Array.from({ length: count }, (_, i) => (i * i) % 10),
      seed,
    );
  const cifar = await write(t, { 'data_batch_1.bin': many(200, 0), 'data_batch_2.bin': many(100, 500) });
  const images = idxImages(3, 4, 5, pixels60);
  const plain = await write(t, { [imagesName]: images });
  const zipped = await write(t, { [`${imagesName}.gz`]: gzipSync(images) });
  const boards = await write(t, { 'meta.json': JSON.stringify(meta), 'boards_train.bin': threeRecords });
  const cases: [string, DatasetOptions, number[]][] = [
    [cifar, {}, [0, 1, 2, 199, 200, 299]],
    [cifar, { limit: 30, channels: 1 }, [0, 3, 7, 29]],
    [cifar, { size: 8, limit: 20 }, [19]],
    [plain, {}, [0, 2]],
    [zipped, {}, [1]],
    [boards, {}, [0, 1, 2]],
    ['synthetic:12', {}, [3, 11]],
  ];
  for (const [path, options, positions] of cases) {
    const { pixels, ...facts } = await openDataset(path, options);
    const { read, ...same } = await openSource(path, options);
    t.deepEqual(same, facts, path);
    const size = pixels.length / facts.count;
    const found = await read(Int32Array.from(positions));
    const expected = positions.flatMap((position) => [...pixels.subarray(position * size, (position + 1) * size)]);
    t.deepEqual([...found], expected, `${path} ${JSON.stringify(options)}`);
  }
  const source = await openSource(cifar);
  await writeFile(join(cifar, 'data_batch_2.bin'), many(99, 500));
  await t.throwsAsync(source.read(Int32Array.of(0, 299)), { code: 'ERR_PHOENIX_DATA', message: /became shorter/ });
  await rm(join(cifar, 'data_batch_1.bin'));
  await t.throwsAsync(source.read(Int32Array.of(0)), { code: 'ERR_PHOENIX_DATA', message: /does not exist/ });
});

// ---- image folder

type Pixel = [number, number, number];
const plain = (width: number, height: number, [r, g, b]: Pixel) =>
  sharp({ create: { width, height, channels: 3, background: { r, g, b } } });
const colorPng = (width: number, height: number, color: Pixel) => plain(width, height, color).png().toBuffer();
const grayPng = (width: number, height: number, level: number) =>
  plain(width, height, [level, level, level]).toColourspace('b-w').png().toBuffer();

test('folder: a class for each sub-folder, names sorted, other files passed over', async (t) => {
  const path = await write(t, {
    'zebra/b.png': await colorPng(6, 5, [10, 20, 30]),
    'zebra/a.webp': await plain(6, 5, [200, 0, 0]).webp({ lossless: true }).toBuffer(),
    'ant/c.PNG': await grayPng(6, 5, 77),
    'ant/notes.txt': 'not an image',
    'empty/.keep': '',
    '.hidden/x.png': 'not an image',
    'README.md': '',
  });
  const dataset = await openDataset(path);
  t.like(dataset, { height: 5, width: 6, channels: 3, count: 3, classNames: ['ant', 'zebra'] });
  t.deepEqual(dataset.labels, Int32Array.of(0, 1, 1));
  t.deepEqual([...image(dataset, 0).subarray(0, 3)], [77, 77, 77]);
  t.deepEqual([...image(dataset, 1).subarray(0, 3)], [200, 0, 0]);
  t.deepEqual([...image(dataset, 2).subarray(87, 90)], [10, 20, 30]);
});

test('folder: flat and unlabelled, gray if all are gray', async (t) => {
  const deep = sharp(new Uint16Array(30).fill(0x8080), { raw: { width: 6, height: 5, channels: 1 } });
  const path = await write(t, {
    'b.png': await grayPng(6, 5, 50),
    'a.jpg': await plain(6, 5, [90, 90, 90]).toColourspace('b-w').jpeg({ quality: 100 }).toBuffer(),
    'c.png': await deep.toColourspace('grey16').png().toBuffer(),
  });
  const dataset = await openDataset(path);
  t.like(dataset, { height: 5, width: 6, channels: 1, count: 3, labels: undefined, classNames: [] });
  t.deepEqual([image(dataset, 0)[0], image(dataset, 1)[0], image(dataset, 2)[29]], [90, 50, 0x80]);
  t.is((await openDataset(path, { channels: 3 })).pixels[3], 90);
});

test('folder: turned upright by EXIF, transparency on black', async (t) => {
  const raw = Buffer.from(Array.from({ length: 8 * 4 }, (_, i) => (i % 8 < 4 ? [255, 255, 255] : [0, 0, 0])).flat());
  const turned = sharp(raw, { raw: { width: 8, height: 4, channels: 3 } }).withMetadata({ orientation: 6 });
  const upright = await openDataset(await write(t, { 'a.png': await turned.png().toBuffer() }));
  t.like(upright, { height: 8, width: 4 });
  t.deepEqual([upright.pixels[0], upright.pixels.at(-1)], [255, 0]);
  const half = sharp({ create: { width: 4, height: 4, channels: 4, background: { r: 200, g: 100, b: 0, alpha: 0.5 } } });
  const flat = await openDataset(await write(t, { 'a.png': await half.png().toBuffer() }));
  near(t, flat.pixels.subarray(0, 2), [100, 50], 1);
  t.is(flat.channels, 3);
});

test('folder: mixed sizes need a size; with one, images cover it', async (t) => {
  const wide = Buffer.from(Array.from({ length: 12 * 6 }, (_, i) => (i % 12 < 3 || i % 12 >= 9 ? [255, 0, 0] : [0, 0, 255])).flat());
  const path = await write(t, {
    'a.png': await colorPng(6, 5, [1, 2, 3]),
    'b.png': await sharp(wide, { raw: { width: 12, height: 6, channels: 3 } })
      .png()
      .toBuffer(),
    'c.png': await colorPng(12, 6, [4, 5, 6]),
  });
  await refuses(t, path, /has images of 2 sizes: 6×5 \(a\.png\), 12×6 \(b\.png\)\. Pass a size \(--size 32\)/);
  const dataset = await openDataset(path, { size: 6 });
  t.like(dataset, { height: 6, width: 6, count: 3 });
  const blue = image(dataset, 1);
  t.true(blue[2]! > 200 && blue.at(-1)! > 200, 'the red sides are cut off');
  t.like(await openDataset(path, { size: { height: 4, width: 8 } }), { height: 4, width: 8 });
});

test('folder: images that do not decode are all named', async (t) => {
  const good = await colorPng(16, 16, [1, 2, 3]);
  const noisy = await sharp(bytes(3 * 64 * 64, 4), { raw: { width: 64, height: 64, channels: 3 } })
    .png()
    .toBuffer();
  const headers = await write(t, { 'x/good.png': good, 'x/bad.png': 'not an image', 'y/worse.bmp': 'BM' });
  const error = await refuses(t, headers, /2 images cannot be used/);
  t.regex(error.message, /x\/bad\.png: .*[\s\S]*y\/worse\.bmp: /);
  t.notRegex(error.message, /good\.png/);
  const cut = await write(t, { 'a.png': noisy, 'b.png': noisy.subarray(0, 6000) });
  t.notRegex((await refuses(t, cut, /1 images cannot be used:\n {2}b\.png: /)).message, /a\.png/);
  const many = Object.fromEntries(Array.from({ length: 13 }, (_, i) => [`${i}.png`, 'no']));
  t.is((await refuses(t, await write(t, many), /13 images[\s\S]*and 3 more/)).message.match(/\.png: /g)!.length, 10);
});

test('folder: train and test, and what is ambiguous or empty', async (t) => {
  const one = await colorPng(4, 4, [1, 2, 3]);
  const splits = await write(t, { 'train/cat/a.png': one, 'train/dog/b.png': one, 'test/cat/c.png': one });
  t.like(await openDataset(splits), { count: 2, classNames: ['cat', 'dog'] });
  t.like(await openDataset(splits, { split: 'test' }), { count: 1, classNames: ['cat'] });
  const flat = await write(t, { 'a.png': one });
  await refuses(t, flat, /no test images/, { split: 'test' });
  await refuses(t, await write(t, { 'a.png': one, 'cat/b.png': one }), /1 images beside sub-folders with images \(a\.png, cat\/\)/);
  await refuses(t, await write(t, { 'train/x.txt': '', 'test/y.txt': '' }), /has no images/);
});

// ---- synthetic

test('synthetic: image i is a function of i, its class i mod 10', async (t) => {
  const many = await openDataset('synthetic:200');
  const few = await openDataset('synthetic:50');
  t.like(many, { name: 'synthetic', height: 16, width: 16, channels: 3, count: 200 });
  t.is(many.classNames.length, 10);
  t.deepEqual(few.pixels, many.pixels.subarray(0, few.pixels.length));
  t.deepEqual(few.labels!.slice(8, 12), Int32Array.of(8, 9, 0, 1));
  t.is((await openDataset('synthetic')).count, 2000);
  const held = await openDataset('synthetic:50', { split: 'test' });
  t.notDeepEqual(held.pixels, few.pixels);
  t.like(await openDataset('synthetic:10', { size: 24, channels: 1 }), { height: 24, width: 24, channels: 1 });
  await refuses(t, 'synthetic:10', /sides in 8\.\.64, not 65×65/, { size: 65 }, 'ERR_PHOENIX_ARGUMENT');
  await refuses(t, 'synthetic:0', /takes N in 1\.\./, {}, 'ERR_PHOENIX_ARGUMENT');
});

test('synthetic: a class is told by its mean image, and varies', async (t) => {
  const train = await openDataset('synthetic:400');
  const held = await openDataset('synthetic:200', { split: 'test' });
  const size = 16 * 16 * 3;
  const means = Array.from({ length: 10 }, () => new Float64Array(size));
  for (let i = 0; i < train.count; i++) for (const [j, v] of image(train, i).entries()) means[train.labels![i]!]![j]! += v / 40;
  const distance = (a: Uint8Array, b: Float64Array) => a.reduce((sum, v, j) => sum + (v - b[j]!) ** 2, 0);
  let right = 0;
  for (let i = 0; i < held.count; i++) {
    const distances = means.map((mean) => distance(image(held, i), mean));
    if (distances.indexOf(Math.min(...distances)) === held.labels![i]) right++;
  }
  t.true(right >= 190, `${right} of 200 nearest to the mean of their class`);
  t.is(new Set(Array.from({ length: train.count }, (_, i) => image(train, i).join())).size, train.count);
});

// ---- options and kinds

test('limit keeps every class, and every site of it', async (t) => {
  const labels = Array.from({ length: 60 }, (_, i) => (i < 50 ? 0 : i < 58 ? 1 : 2));
  const path = await write(t, { 'data_batch_1.bin': cifarBatch(labels) });
  const whole = await openDataset(path);
  const six = await openDataset(path, { limit: 6 });
  t.deepEqual(six.labels, Int32Array.of(0, 0, 1, 1, 2, 2));
  t.deepEqual(image(six, 2), image(whole, 50));
  const ten = await openDataset(path, { limit: 10 });
  t.deepEqual(ten.labels, Int32Array.of(0, 0, 0, 0, 1, 1, 1, 1, 2, 2));
  t.is((await openDataset(path, { limit: 1000 })).fingerprint, whole.fingerprint);
  const sited = Buffer.concat(Array.from({ length: 40 }, (_, i) => record(i < 36 ? 0 : 1, i % 2, i)));
  const sites = await openDataset(await write(t, { 'meta.json': JSON.stringify({ ...meta, train: undefined }), 'x_train.bin': sited }), {
    limit: 8,
  });
  t.deepEqual(sites.sites, Int32Array.of(0, 0, 0, 0, 1, 1, 1, 1));
  t.deepEqual(sites.labels, Int32Array.of(0, 1, 0, 1, 0, 1, 0, 1));
});

test('size scales raw images, cutting what sticks out, and channels converts', async (t) => {
  // Columns 0..7 of 8, rows alike: a ramp of 30 per column.
  const ramp = idxImages(
    1,
    4,
    8,
    Uint8Array.from({ length: 32 }, (_, i) => 30 * (i % 8)),
  );
  const path = await write(t, { [imagesName]: ramp });
  const square = await openDataset(path, { size: 4 });
  t.deepEqual([...square.pixels.subarray(0, 4)], [60, 90, 120, 150]);
  const flat = await write(t, { [imagesName]: idxImages(1, 7, 5, new Uint8Array(35).fill(201)) });
  for (const size of [4, 13, { height: 9, width: 32 }]) t.true((await openDataset(flat, { size })).pixels.every((v) => v === 201));
  // Halving with a triangle filter: 1/8, 3/8, 3/8, 1/8 of four neighbours in each direction.
  const dot = new Uint8Array(64).fill(0);
  dot[8 * 3 + 3] = 255;
  const half = await openDataset(await write(t, { [imagesName]: idxImages(1, 8, 8, dot) }), { size: 4 });
  t.is(half.pixels[4 * 1 + 1], Math.round((255 * 9) / 64));
  t.is(half.pixels[4 * 2 + 1], Math.round((255 * 3) / 64));
  t.is(half.pixels[4 * 3 + 3], 0);

  const rgb = await openDataset(path, { channels: 3 });
  t.is(rgb.channels, 3);
  t.deepEqual([...rgb.pixels.subarray(0, 9)], [0, 0, 0, 30, 30, 30, 60, 60, 60]);
  const red = await write(t, { 'a.png': await colorPng(4, 4, [255, 0, 0]) });
  t.is((await openDataset(red, { channels: 1 })).pixels[0], 76);
});

test('the fingerprint follows pixels, labels, sites and sizes', async (t) => {
  const prints = new Set<string>();
  const print = async (path: string, options?: DatasetOptions) => prints.add((await openDataset(path, options)).fingerprint);
  const images = idxImages(3, 4, 5, pixels60);
  await print(await write(t, { [imagesName]: images }));
  await print(await write(t, { [imagesName]: images, [labelsName]: idxLabels([0, 1, 2]) }));
  await print(await write(t, { [imagesName]: images, [labelsName]: idxLabels([0, 2, 1]) }));
  await print(await write(t, { [imagesName]: idxImages(3, 5, 4, pixels60) }));
  await print(await write(t, { [imagesName]: idxImages(3, 4, 5, Buffer.from(pixels60).fill(0, 0, 1)) }));
  t.is(prints.size, 5);
  for (const fingerprint of prints) t.regex(fingerprint, /^[0-9a-f]{64}$/);
});

test('a path of no known kind: the error says what there is', async (t) => {
  const error = await refuses(t, await write(t, { 'a.txt': 'x', 'sub/b.txt': 'y' }), /no data set that Phoenix knows/);
  for (const { looksFor } of Object.values(readers)) t.true(error.message.includes(looksFor));
  await refuses(t, await write(t, {}), /no data set that Phoenix knows/);
  await refuses(t, join(await write(t, { 'a.txt': 'x' }), 'a.txt'), /no data set that Phoenix knows/);
  await refuses(t, '/nowhere/at/all', /\/nowhere\/at\/all does not exist\. A data set is one of[\s\S]*CIFAR-10/);
});

test('options out of range are errors', async (t) => {
  const refused = (options: object, message: RegExp) => refuses(t, 'synthetic', message, options as DatasetOptions, 'ERR_PHOENIX_ARGUMENT');
  await refused({ size: 3 }, /size takes integers in 4\.\.1024, not 3/);
  await refused({ size: { height: 8, width: 8.5 } }, /not 8\.5/);
  await refused({ channels: 2 }, /channels takes 1 \(gray\) or 3/);
  await refused({ limit: 0 }, /limit takes an integer of at least 1/);
  await refused({ split: 'validation' }, /split takes train or test/);
});

// ---- real data, where PHOENIX_DATA names a folder that has it

const realData: [string, DatasetOptions, Partial<Dataset>, number[]][] = [
  ['cifar-10-batches-bin', {}, { count: 50_000, height: 32, width: 32, channels: 3 }, [6, 9, 9, 4, 1]],
  ['cifar-10-batches-bin', { split: 'test', limit: 100, size: 16 }, { count: 100, height: 16, width: 16 }, [3, 8, 8, 0, 6]],
  ['fashion-mnist', {}, { count: 60_000, height: 28, width: 28, channels: 1 }, [9, 0, 0, 3, 0]],
  ['fashion-mnist', { split: 'test' }, { count: 10_000 }, [9, 2, 1, 1, 6]],
  ['deeppcb64', {}, { count: 11_838, height: 64, width: 64, channels: 1 }, []],
  ['deeppcb64', { split: 'test', size: 32 }, { count: 5_635, height: 32, width: 32 }, []],
];

for (const [name, options, expected, firstLabels] of realData) {
  test(`real data: ${name} ${JSON.stringify(options)}`, async (t) => {
    const root = process.env.PHOENIX_DATA;
    if (!root || !existsSync(join(root, name))) {
      t.log(`skipped: PHOENIX_DATA names no folder with ${name}`);
      t.pass();
      return;
    }
    const dataset = await openDataset(join(root, name), options);
    t.like(dataset, expected);
    t.deepEqual([...dataset.labels!.subarray(0, firstLabels.length)], firstLabels);
    t.is(new Set(dataset.labels).size, dataset.classNames.length);
  });
}
