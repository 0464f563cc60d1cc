/** Data that are given a meaning they do not have, or of which less or more is used than was given. */
import { execFileSync, spawn } from 'node:child_process';
import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import { createProgress } from '../../src/cli/progress.ts';
import { undecodable, unreadable } from '../../src/ddpm/data/image-file.ts';
import { type DatasetOptions, describeData, openDataset } from '../../src/ddpm/data/index.ts';
import { parseRange } from '../../src/ddpm/data/range.ts';
import { strangerOf } from '../../src/ddpm/stranger.ts';
import { PhoenixError } from '../../src/errors.ts';
import { federate, finetune, inspect, loadCheckpoint, openRun, sample, train } from '../../src/index.ts';
import { folderOf, png, pngs, ramp, tiff } from '../support/odd-images.ts';

const refuses = async (t: ExecutionContext, path: string, message: RegExp, options?: DatasetOptions, code = 'ERR_PHOENIX_DATA') =>
  (await t.throwsAsync(openDataset(path, options), { code, message }))!;
const said = async (path: string, options?: DatasetOptions) => describeData(await openDataset(path, options));
const warningsOf = async (path: string, options?: DatasetOptions) => (await openDataset(path, options)).notes!.warnings;
const tiny = { threads: 1, device: 'cpu', samples: { count: 4, steps: 2 }, training: { batch: 4 } } as const;
const levels = (pixels: Uint8Array) => new Set(pixels).size;

// ---- D1: splits and sites

test('D1: folders named as splits are splits, in any case and spelling, with or without classes', async (t) => {
  const flat = await folderOf(t, { ...(await pngs('train', 4)), ...(await pngs('val', 2, 1)), ...(await pngs('test', 3, 2)) });
  t.like(await openDataset(flat), { count: 4, classNames: [], labels: undefined });
  t.is((await openDataset(flat, { split: 'test' })).count, 3);
  t.is(await said(flat), 'data: 4 images 8×8 RGB; left out: 3 in test/, 2 in val/');
  const [a, b] = [await png(1), await png(2)];
  const classed = await folderOf(t, { 'Training/a/0.png': a, 'Training/b/1.png': b, 'TESTING/b/2.png': b, 'Valid/a/3.png': a });
  t.like(await openDataset(classed), { count: 2, classNames: ['a', 'b'] });
  t.is((await openDataset(classed, { split: 'test' })).count, 1);
  for (const name of ['train', 'Train', 'training']) {
    const alone = await folderOf(t, { [`${name}/a/0.png`]: a, [`${name}/b/1.png`]: b });
    t.like(await openDataset(alone), { count: 2, classNames: ['a', 'b'] });
  }
});

test('D1: validation images stand for test images where there are none, and are never trained on', async (t) => {
  const path = await folderOf(t, { ...(await pngs('train', 3)), ...(await pngs('dev', 2, 1)) });
  t.is((await openDataset(path)).count, 3);
  const held = await openDataset(path, { split: 'test' });
  t.is(held.count, 2);
  t.regex(held.notes!.warnings.join(), /no folder test: dev\/ is used as the test images/);
  await refuses(t, await folderOf(t, await pngs('test', 2)), /has no train images: its splits are test\//);
  await refuses(t, await folderOf(t, await pngs('validation', 2)), /has no train images/);
});

test('D1: what may be a split or a class is refused, or said', async (t) => {
  const image = await png();
  const both = await folderOf(t, { 'train/0.png': image, 'test/1.png': image, 'cats/2.png': image });
  await refuses(t, both, /test\/, train\/ beside cats\/: these cannot be splits and classes at once/);
  await refuses(
    t,
    await folderOf(t, { 'train/0.png': image, 'training/1.png': image }),
    /train\/ and training\/, which both name the train/,
  );
  const vehicle = await folderOf(t, { 'bus/0.png': image, 'train/1.png': image });
  t.deepEqual((await openDataset(vehicle)).classNames, ['bus', 'train']);
  t.regex((await warningsOf(vehicle)).join(), /train\/ lies beside bus\/ and is read as a class/);
});

test('D1: SITE/CLASS/images has sites, equally numbered in every split, with or without splits', async (t) => {
  const files: Record<string, Buffer> = {};
  for (const [i, where] of ['north/a', 'north/b', 'south/b', 'west/a'].entries()) Object.assign(files, await pngs(`train/${where}`, 2, i));
  Object.assign(files, await pngs('test/south/a', 1, 8), await pngs('test/east/b', 1, 9));
  const path = await folderOf(t, files);
  const set = await openDataset(path);
  t.like(set, { count: 8, classNames: ['a', 'b'], siteNames: ['east', 'north', 'south', 'west'] });
  t.deepEqual([...set.sites!], [1, 1, 1, 1, 2, 2, 3, 3]);
  t.deepEqual([...set.labels!], [0, 0, 1, 1, 1, 1, 0, 0]);
  t.is(describeData(set), 'data: 8 images 8×8 RGB, 2 classes, 3 of 4 sites; left out: 2 in test/');
  const held = await openDataset(path, { split: 'test' });
  t.deepEqual(
    [...held.sites!].map((site) => held.siteNames![site]),
    ['east', 'south'],
  );
  t.deepEqual(held.siteNames, set.siteNames);
  t.like(await openDataset(join(path, 'train')), { count: 8, siteNames: ['north', 'south', 'west'] });
  const { dir } = await federate({ data: path, partition: 'site', rounds: 1, out: join(await folderOf(t, {}), 'run'), ...tiny });
  const { clients, data } = (await openRun(dir)).config;
  t.deepEqual(
    clients.map(({ id }) => id),
    ['north', 'south', 'west'],
  );
  t.deepEqual(data.leftOut, ['2 in test/']);
});

test('D1: two folders down that are no sites are refused: classes in wrappers, classes with sessions of their own', async (t) => {
  const wrapped = await folderOf(t, { ...(await pngs('n01/images', 2)), ...(await pngs('n02/images', 2, 1)) });
  await refuses(t, wrapped, /n01\/images\/\), which is read as SITE\/CLASS\/, but all images lie in folders of one name/);
  const sessions = await folderOf(t, { ...(await pngs('cat/monday', 2)), ...(await pngs('dog/tuesday', 2, 1)) });
  await refuses(t, sessions, /but no two of these folders have sub-folders of one name/);
  await refuses(t, await folderOf(t, await pngs('a/b/c', 2)), /all of them lie deeper than SITE\/CLASS/);
});

test('D1: the skin lesions of eight series are read as sites and classes', async (t) => {
  const folder = process.env.PHOENIX_DATA && join(process.env.PHOENIX_DATA, 'dermo256');
  if (!folder || !(await readFile(join(folder, 'meta.json')).catch(() => undefined))) {
    t.log('skipped: PHOENIX_DATA has no dermo256');
    t.pass();
    return;
  }
  const meta = JSON.parse(await readFile(join(folder, 'meta.json'), 'utf8'));
  const set = await openDataset(folder, { size: 8, split: 'test' });
  t.is(set.count, meta.test.images);
  t.deepEqual(set.siteNames, meta.sites);
  const counts = meta.sites.map((_: string, site: number) =>
    meta.classes.map((name: string) => set.labels!.filter((label, i) => set.sites![i] === site && set.classNames[label] === name).length),
  );
  t.deepEqual(counts, meta.test.counts_site_by_class);
});

// ---- D3: values and bands

test('D3: without a range, only 8 bits and 16 bits that are used whole are read; others are refused by name', async (t) => {
  const full = await folderOf(t, { 'a.tif': ramp(0, 65_535) });
  t.is(levels((await openDataset(full)).pixels), 256);
  const refused: [Buffer, RegExp][] = [
    [ramp(0, 4095), /use a small part of 0\.\.65535: a\.tif has the values 0\.\.4095\. .*--range 0,4095, or --range 0,65535/],
    [ramp(0, 900), /--range 0,1023,/],
    [ramp(60_000, 65_535), /--range 60000,65535,/],
    [ramp(-1000, 2000, { type: 'i16' }), /a\.tif: its values are signed integers of 16 bits\n.*--range/],
    [ramp(-1000, 2000, { type: 'i32' }), /a\.tif: its values are signed integers of 32 bits/],
    [ramp(0, 100_000, { type: 'u32' }), /a\.tif: its values are unsigned integers of 32 bits/],
    [ramp(-128, 127, { type: 'i8' }), /a\.tif: its values are signed integers of 8 bits/],
    [ramp(0, 1, { type: 'f32' }), /a\.tif: its values are floating-point numbers of 32 bits/],
    [ramp(0, 1, { type: 'f32', bands: 3 }), /a\.tif: its values are floating-point numbers of 32 bits/],
  ];
  for (const [bytes, message] of refused) await refuses(t, await folderOf(t, { 'a.tif': bytes }), message);
});

test('D3: with a range, values LOW..HIGH become 0..255, of any depth, and what lies beyond is cut off', async (t) => {
  const even = Uint8Array.from({ length: 256 }, (_, i) => i);
  const cases: [Buffer, string][] = [
    [ramp(0, 4095), '0,4095'],
    [ramp(-1000, 2000, { type: 'i16' }), '-1000,2000'],
    [ramp(-1000, 2000, { type: 'i32' }), '-1e3,2e3'],
    [ramp(0, 1, { type: 'f32' }), '0,1'],
    [ramp(-2.5, 0.5, { type: 'f32' }), '-2.5,.5'],
    [ramp(-128, 127, { type: 'i8' }), '-128,127'],
    [ramp(0, 1_000_000, { type: 'u32' }), '0,1000000'],
  ];
  for (const [bytes, range] of cases) {
    const set = await openDataset(await folderOf(t, { 'a.tif': bytes }), { range });
    t.deepEqual(set.pixels, even, range);
    t.is(set.channels, 1);
  }
  const rgb = ramp(0, 1, { type: 'f32', bands: 3 });
  const colour = await openDataset(await folderOf(t, { 'a.tif': rgb }), { range: '0,1' });
  t.deepEqual([colour.channels, colour.pixels[3 * 128]], [3, 128]);
  t.deepEqual(colour.range, [0, 1]);
  const cut = await openDataset(await folderOf(t, { 'a.tif': ramp(0, 4095) }), { range: '1024,3071' });
  t.deepEqual([cut.pixels[0], cut.pixels[64], cut.pixels[255]], [0, 0, 255]);
  t.regex(cut.notes!.warnings.join(), /50 % of the values lie outside the range 1024,3071/);
  const deepPng = await sharp(
    Uint16Array.from({ length: 256 }, (_, i) => i * 16),
    { raw: { width: 16, height: 16, channels: 1 } },
  )
    .toColourspace('grey16')
    .png()
    .toBuffer();
  t.deepEqual((await openDataset(await folderOf(t, { 'a.png': deepPng }), { range: '0,4080' })).pixels, even);
  const turned = await sharp(deepPng).withMetadata({ orientation: 3 }).toColourspace('grey16').png().toBuffer();
  t.deepEqual(
    (await openDataset(await folderOf(t, { 'a.png': turned }), { range: '0,4080', channels: 1 })).pixels,
    even.toReversed(),
    'upright',
  );
  t.is((await openDataset(await folderOf(t, { 'a.tif': ramp(0, 4095) }), { range: '0,4095', size: 8 })).height, 8);
});

test('D3: percentiles are those of all values of the set, and exact for integers', async (t) => {
  const path = await folderOf(t, {
    'a.tif': ramp(0, 255),
    'b.tif': ramp(1000, 1255),
    'c.tif': ramp(2000, 2255),
    'd.tif': ramp(3000, 3255),
  });
  t.deepEqual((await openDataset(path, { range: '0%,100%' })).range, [0, 3255]);
  t.deepEqual((await openDataset(path, { range: '25%,75%' })).range, [255, 2255]);
  const float = await folderOf(t, { 'a.tif': ramp(-1, 1, { type: 'f32' }) });
  const { range } = await openDataset(float, { range: '10%,90%' });
  t.true(Math.abs(range![0] + 0.8) < 0.02 && Math.abs(range![1] - 0.8) < 0.02, `${range}`);
  await refuses(t, await folderOf(t, { 'a.tif': ramp(7, 7) }), /percentiles 1% and 99% of its values are both 7/, { range: '1%,99%' });
});

test('D3: a range that cannot be meant is refused: none, mixed depths, alpha, inverted values, kinds of 8 bits', async (t) => {
  for (const text of ['', '1', '2,1', '1,1', '0,1,2', '0%,5', '-1%,50%', '0%,101%', 'a,b', '0,Infinity'])
    t.throws(() => parseRange(text), { code: 'ERR_PHOENIX_ARGUMENT' }, text);
  const mixed = await folderOf(t, { 'a.tif': ramp(0, 4095), 'b.tif': ramp(0, 255, { type: 'u8' }) });
  await refuses(t, mixed, /images of 8 bits \(b\.tif\) and deeper ones \(a\.tif\)/, { range: '0,4095' });
  const alpha = tiff({ width: 4, height: 4, bands: 2, extra: [2], value: (i) => 100 * i });
  await refuses(t, await folderOf(t, { 'a.tif': alpha }), /a\.tif: it has alpha/, { range: '0,4095' });
  await refuses(t, await folderOf(t, { 'a.tif': ramp(0, 4095, { photometric: 0 }) }), /a\.tif: its least value is white/, {
    range: '0,4095',
  });
  const holes = ramp(0, 1, { type: 'f32', value: (i) => (i === 5 ? Number.NaN : i) });
  await refuses(t, await folderOf(t, { 'a.tif': holes }), /a\.tif: it holds values that are no numbers/, { range: '0,255' });
  await refuses(t, await folderOf(t, { 'a.tif': holes }), /holds values that are no numbers/, { range: '1%,99%' });
  await refuses(t, 'synthetic:8', /A range is for an image folder/, { range: '0,100' }, 'ERR_PHOENIX_ARGUMENT');
  t.is((await openDataset('synthetic:8', { range: '0,255' })).count, 8);
});

test('D3: bands that no tag calls alpha are not alpha', async (t) => {
  const bands = (count: number, extra: number[] | undefined, photometric: number) =>
    tiff({ width: 4, height: 4, bands: count, type: 'u8', photometric, extra, value: (_, band) => [200, 100, 50, 128, 9][band]! });
  await refuses(t, await folderOf(t, { 'a.tif': bands(2, [0], 1) }), /a\.tif: it has 2 bands: 1 of colour and 1 that no tag calls alpha/);
  await refuses(t, await folderOf(t, { 'a.tif': bands(2, undefined, 1) }), /a\.tif: it has 2 bands/);
  await refuses(t, await folderOf(t, { 'a.tif': bands(4, [0], 2) }), /a\.tif: it has 4 bands: 3 of colour and 1 that no tag calls alpha/);
  await refuses(t, await folderOf(t, { 'a.tif': bands(5, [0, 0, 0, 0], 1) }), /a\.tif: it has 5 bands/);
  await refuses(t, await folderOf(t, { 'a.tif': bands(5, [2, 0], 2) }), /a\.tif: it has 5 bands/);
  const gray = await openDataset(await folderOf(t, { 'a.tif': bands(2, [2], 1) }));
  t.deepEqual([gray.channels, gray.pixels[0]], [1, 78], 'half transparent on black');
  t.is((await openDataset(await folderOf(t, { 'a.tif': bands(4, [2], 2) }))).channels, 3);
  t.is((await openDataset(await folderOf(t, { 'a.tif': bands(4, undefined, 5) }))).channels, 3, 'CMYK');
});

test('D3: a set of which no image uses more than a small part of its range is read with a warning', async (t) => {
  const dull = await folderOf(t, { 'a.tif': ramp(100, 110, { type: 'u8' }), 'b.tif': ramp(20, 25, { type: 'u8' }) });
  t.regex((await warningsOf(dull)).join(), /No image uses more than 11 of 256 levels/);
  t.deepEqual(await warningsOf(await folderOf(t, { 'a.tif': ramp(100, 200, { type: 'u8' }) })), []);
});

test('D3: a run, its checkpoint, its samples and a later finetuning know the range', async (t) => {
  const files = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`${i}.tif`, ramp(-1000, 2000 - 50 * i, { type: 'i16' })]));
  const data = await folderOf(t, files);
  const out = await folderOf(t, {});
  const first = { data, size: 8, epochs: 1, ...tiny };
  const { dir, checkpoint } = await train({ ...first, range: '0%,100%', out: join(out, 'run') });
  t.deepEqual((await openRun(dir)).config.data.range, [-1000, 2000]);
  t.deepEqual(
    (await sample({ source: checkpoint, n: 1, steps: 1, scheduler: 'dpm-solver', threads: 1, device: 'cpu' })).range,
    [-1000, 2000],
  );
  const changed = train({ ...first, range: '-1000,1000', out: join(out, 'run'), resume: true, epochs: 2 });
  await t.throwsAsync(changed, { code: 'ERR_PHOENIX_RUN', message: /options\.range was "0%,100%" and is now "-1000,1000"/ });
  const told: string[] = [];
  const tuned = { source: dir, data, checkpoint: join(out, 'x.safetensors'), epochs: 1, threads: 1, device: 'cpu' } as const;
  await finetune(tuned, { onMessage: ({ text }) => told.push(text) });
  t.regex(told[0]!, /values -1000,2000 as 0\.\.255/);
  t.is((await loadCheckpoint(tuned.checkpoint)).metadata.range, '[-1000,2000]');
  t.false(told.some((text) => /was trained on values/.test(text)));
  await finetune({ ...tuned, range: '0,1000' }, { onMessage: ({ level, text }) => told.push(`${level} ${text}`) });
  t.true(told.includes('warning The model was trained on values -1000,2000 as 0..255, and these images are on 0,1000.'));
  const eight = await openDataset('synthetic:12', { size: 8, channels: 1 });
  await finetune({ ...tuned, data: eight }, { onMessage: ({ text }) => told.push(text) });
  t.regex(told.at(-1)!, /as 0\.\.255, and these images are as they are/);
});

// ---- D4: what is left out is said

test('D4: one line says what is used and what is left out, with endings; lost folders are named', async (t) => {
  const files = {
    ...(await pngs('a', 3)),
    ...(await pngs('b/session1', 2, 1)),
    ...(await pngs('c', 1, 2)),
    ...(await pngs('c/more', 4, 3)),
  };
  const strange = {
    'a/x.dcm': 'DICM',
    'a/y.dcm': '',
    'a/z': '',
    'a/labels.csv': '',
    'a/.hidden': '',
    'Thumbs.db': '',
    '__MACOSX/x.png': '',
  };
  const path = await folderOf(t, { ...files, ...strange });
  t.is(await said(path), 'data: 4 images 8×8 RGB, 2 classes; left out: 6 deeper down, 4 of unknown kind (.dcm 2, .csv 1, no ending 1)');
  t.regex((await warningsOf(path)).join(), /b\/ have images only deeper down, so they are no classes/);
  t.deepEqual((await openDataset(path)).notes!.leftOut[0]!.examples.length, 3);
  const jpeg = await sharp(await png())
    .jpeg()
    .toBuffer();
  t.is((await openDataset(await folderOf(t, { 'a.jfif': jpeg, 'b.jpe': jpeg, 'c.JPG': jpeg }))).count, 3);
});

test('D4: further frames and pages of GIF, WebP, APNG and TIFF are counted, and missing files of CIFAR-10 named', async (t) => {
  const raw = Buffer.from(Array.from({ length: 8 * 24 * 3 }, (_, i) => (i * 11) % 256));
  const three = sharp(raw, { raw: { width: 8, height: 24, channels: 3, pageHeight: 8 } } as object);
  const still = await png();
  const actl = Buffer.alloc(20);
  actl.writeUInt32BE(8, 0);
  actl.write('acTL', 4, 'latin1');
  actl.writeUInt32BE(5, 8);
  const text = Buffer.alloc(9012, 'x');
  text.writeUInt32BE(9000, 0);
  text.write('tEXtacTL\0', 4, 'latin1');
  text.writeUInt32BE(crc32(text.subarray(4, 9008)), 9008);
  const apng = Buffer.concat([still.subarray(0, 33), text, actl, still.subarray(33)]);
  const path = await folderOf(t, {
    'a.gif': await three
      .clone()
      .gif({ delay: [9, 9, 9] })
      .toBuffer(),
    'b.webp': await three
      .clone()
      .webp({ delay: [9, 9, 9], lossless: true })
      .toBuffer(),
    'c.png': apng,
    'd.png': still,
  });
  t.is(await said(path), 'data: 4 images 8×8 RGB; left out: 8 further frames or pages of 3 files');
  const record = (label: number) => Buffer.concat([Buffer.of(label), Buffer.alloc(3072, label)]);
  const batch = Buffer.concat(Array.from({ length: 10 }, (_, i) => record(i)));
  const cifar = await folderOf(t, { 'data_batch_1.bin': batch, 'data_batch_2.bin': batch, 'data_batch_4.bin': batch });
  t.regex((await warningsOf(cifar)).join(), /data_batch_3\.bin, data_batch_5\.bin of CIFAR-10 are missing/);
});

test('D4: a run says what it reads at its start', async (t) => {
  const data = await folderOf(t, {
    ...(await pngs('a', 6)),
    ...(await pngs('b', 6, 1)),
    'b/notes.txt': '',
    ...(await pngs('b/old', 2, 2)),
  });
  const told: string[] = [];
  const options = { data, epochs: 1, out: join(await folderOf(t, {}), 'run'), ...tiny };
  await train(options, { onMessage: ({ level, text }) => told.push(`${level} ${text}`) });
  t.is(told[0], 'info data: 12 images 8×8 RGB, 2 classes; left out: 2 deeper down, 1 of unknown kind (.txt 1)');
  await writeFile(join(data, 'b', 'more.txt'), '');
  await t.notThrowsAsync(train({ ...options, epochs: 2, resume: true }), 'another file beside the images changes nothing');
});

// ---- D5: what Phoenix wrote is no data

test('D5: runs and experiments among the images are left out, and a run is not written among them', async (t) => {
  const data = await folderOf(t, { ...(await pngs('a', 4)), ...(await pngs('b', 4, 1)) });
  const before = await openDataset(data);
  const refused = { code: 'ERR_PHOENIX_CONFIG', message: /lies inside the data .* Name a folder elsewhere/ };
  await t.throwsAsync(train({ data, epochs: 1, out: join(data, 'runs', 'x'), ...tiny }), refused);
  await t.throwsAsync(federate({ data, clients: 2, rounds: 1, out: join(data, 'x'), ...tiny }), refused);
  await symlink(data, join(await folderOf(t, {}), 'link'));
  const { dir } = await train({ data, epochs: 1, out: join(await folderOf(t, {}), 'run'), ...tiny });
  await mkdir(join(data, 'run1'));
  for (const name of ['config.json', 'state.json', 'log.jsonl', 'samples-1.png'])
    await writeFile(join(data, 'run1', name), await readFile(join(dir, name)));
  await mkdir(join(data, 'c', 'scores'), { recursive: true });
  await writeFile(join(data, 'c', 'experiment.json'), '{}');
  await writeFile(join(data, 'c', 'scores', 'x.png'), await png(3));
  const after = await openDataset(data);
  t.deepEqual([after.classNames, after.fingerprint], [before.classNames, before.fingerprint]);
  t.is(describeData(after), 'data: 8 images 8×8 RGB, 2 classes; left out: 2 folders that Phoenix wrote');
  await refuses(t, dir, /was written by Phoenix: it holds a run or an experiment, not data/);
  const grid = join(data, 'a', 'samples.png');
  await sample({ source: dir, n: 4, steps: 1, scheduler: 'dpm-solver', threads: 1, device: 'cpu', grid });
  await refuses(t, data, /a\/samples\.png: it is a grid of images that Phoenix drew/, { size: 8 });
});

// ---- D6: classes without images

test('D6: classes without images are warned of, and never drawn', async (t) => {
  const header = (...values: number[]) => Buffer.concat(values.map((value) => Buffer.from([value >> 24, value >> 16, value >> 8, value])));
  const pixels = Buffer.from(Array.from({ length: 24 * 64 }, (_, i) => (i * 7) % 256));
  const labels = Buffer.from(Array.from({ length: 24 }, (_, i) => [1, 2, 4][i % 3]!));
  const data = await folderOf(t, {
    'train-images-idx3-ubyte': Buffer.concat([header(0x803, 24, 8, 8), pixels]),
    'train-labels-idx1-ubyte': Buffer.concat([header(0x801, 24), labels]),
  });
  t.regex((await warningsOf(data)).join(), /2 classes of 5 have no images: 0 \(0\), 3 \(3\)\./);
  t.is(await said(data), 'data: 24 images 8×8 gray, 3 classes');
  const { checkpoint } = await train({ data, epochs: 1, classConditional: true, out: join(await folderOf(t, {}), 'run'), ...tiny });
  const how = { source: checkpoint, steps: 1, scheduler: 'dpm-solver', threads: 1, device: 'cpu' } as const;
  t.deepEqual([...(await sample({ ...how, n: 5 })).classes!], [1, 2, 4, 1, 2]);
  await t.throwsAsync(sample({ ...how, n: 1, class: 0 }), {
    code: 'ERR_PHOENIX_ARGUMENT',
    message: /that class had no images in training/,
  });
  t.deepEqual([...(await sample({ ...how, n: 1, class: 4 })).classes!], [4]);
});

// ---- D7: damage inside a file

test('D7: a file that is cut short is refused by name, whatever its format', async (t) => {
  const noise = Buffer.from(Array.from({ length: 64 * 64 * 3 }, (_, i) => (i * i * 31 + i * 7) % 256));
  const image = sharp(noise, { raw: { width: 64, height: 64, channels: 3 } });
  for (const format of ['png', 'jpeg', 'webp', 'gif', 'tiff'] as const) {
    const whole = await image.clone().toFormat(format).toBuffer();
    for (const share of [0.3, 0.9]) {
      const path = await folderOf(t, { [`a.${format}`]: whole.subarray(0, Math.floor(share * whole.length)), [`b.${format}`]: whole });
      const error = await refuses(t, path, new RegExp(`1 images cannot be used:\\n {2}a\\.${format}: `));
      t.notRegex(error.message, / b\./);
    }
  }
  const flipped = Buffer.from(await image.clone().png().toBuffer());
  flipped[flipped.length >> 1]! ^= 1;
  await refuses(t, await folderOf(t, { 'a.png': flipped }), /a\.png/, {}, 'ERR_PHOENIX_DATA');
});

// ---- X3: what would be waited for

test('X3: a FIFO, a socket or a device named as an image is never waited for', async (t) => {
  const path = await folderOf(t, await pngs('a', 2));
  execFileSync('mkfifo', [join(path, 'a', 'x.png')]);
  await symlink('/dev/zero', join(path, 'a', 'y.png'));
  await symlink(join(path, 'a', '0.png'), join(path, 'a', 'z.png'));
  t.is(await said(path), 'data: 3 images 8×8 RGB, 1 class; left out: 2 that are no regular files');
});

test('N20: a FIFO in place of an idx, CIFAR-10 or records file, or of what describes it, is refused at once', async (t) => {
  const record = Buffer.concat([Buffer.of(1), Buffer.alloc(3072)]);
  const meta = JSON.stringify({ sites: ['x'], classes: ['y'], record: '4x4' });
  const cases: [Record<string, Uint8Array | string>, string][] = [
    [{}, 'train-images-idx3-ubyte'],
    [{}, 'train-images-idx3-ubyte.gz'],
    [{}, 'data_batch_1.bin'],
    [{ 'data_batch_1.bin': record }, 'batches.meta.txt'],
    [{ 'x_train.bin': Buffer.alloc(18) }, 'meta.json'],
    [{ 'meta.json': meta }, 'x_train.bin'],
  ];
  for (const [files, name] of cases) {
    const path = await folderOf(t, files);
    execFileSync('mkfifo', [join(path, name)]);
    await refuses(t, path, new RegExp(`${name.replaceAll('.', '\\.')} is no regular file`));
  }
});

// ---- P3: stopping and progress

test('P3: an AbortSignal is heard while images are read, and progress counts headers, values and images', async (t) => {
  const path = await folderOf(t, Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`${i}.tif`, ramp(0, 4095)])));
  for (const stage of ['headers', 'values', 'images']) {
    const controller = new AbortController();
    let last = 0;
    const options: DatasetOptions = {
      range: '1%,99%',
      signal: controller.signal,
      onProgress(progress) {
        if (progress.stage !== stage) return;
        last = progress.done;
        if (last === 3) controller.abort(new Error('enough'));
      },
    };
    await t.throwsAsync(openDataset(path, options), { message: 'enough' }, stage);
    t.is(last, 3, stage);
  }
  const ends = new Map<string, string>();
  await openDataset(path, { range: '1%,99%', onProgress: ({ stage, done, total }) => ends.set(stage, `${done}/${total}`) });
  t.deepEqual(
    [...ends],
    [
      ['headers', '30/30'],
      ['values', '60/60'],
      ['images', '30/30'],
    ],
  );
});

test('P3: each stage of progress shows at once, and counts its time left anew', (t) => {
  let shown = '';
  let now = 0;
  const stream = { write: (text: string) => (shown += text) } as unknown as NodeJS.WritableStream;
  const { update } = createProgress({ stream, now: () => now });
  update({ stage: 'headers', done: 0, total: 10, label: 'headers' });
  now = 4000;
  update({ stage: 'headers', done: 9, total: 10, label: 'headers' });
  update({ stage: 'images', done: 0, total: 100, label: 'images' });
  now = 14_000;
  update({ stage: 'images', done: 50, total: 100, label: 'images' });
  update({ done: 0, total: 7, label: 'training' });
  t.is(shown, '0 %  headers\n0 %  images\n50 %  images, 10 s left\n0 %  training\n');
});

const cli = fileURLToPath(new URL('../../src/cli.ts', import.meta.url));

test('P3: Ctrl-C ends a command that is reading images, with 130, and time left is shown', async (t) => {
  const big = await sharp({ create: { width: 3000, height: 3000, channels: 3, background: 'red' } })
    .png({ compressionLevel: 1 })
    .toBuffer();
  const data = await folderOf(t, { '0.png': big });
  for (let i = 1; i < 400; i++) await symlink('0.png', join(data, `${i}.png`));
  const args = [
    '--import=tsx',
    cli,
    'train',
    '--data',
    data,
    '--size',
    '8',
    '--device',
    'cpu',
    '--out',
    join(await folderOf(t, {}), 'run'),
  ];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  let stopped = 0;
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
    if (stopped > 0 || !/reading/.test(stderr)) return;
    stopped = Date.now();
    child.kill('SIGINT');
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  t.is(code, 130, stderr);
  t.regex(stderr, /\d+ % {2}reading (headers|images), \d+ of 400/);
  t.regex(stderr, /Stopped before the run began/);
  t.true(Date.now() - stopped < 20_000, 'long before all are read');
});

// ---- the message names the cause

test('N21: a file that may not be read is told apart from one that is no image', async (t) => {
  const path = await folderOf(t, { 'a/good.png': await png(), 'a/bad.png': await png(1) });
  const denied = (code: string) => Object.assign(new Error(`${code}: denied`), { code });
  t.regex(unreadable('x.png', denied('EACCES')).reason, /permission to read it is denied/);
  t.throws(() => unreadable('x.png', denied('EMFILE')), { code: 'ERR_PHOENIX_IO', message: /Cannot read x\.png: EMFILE/ });
  t.throws(() => unreadable('x.png', denied('EIO')), { code: 'ERR_PHOENIX_IO' });
  await chmod(join(path, 'a', 'bad.png'), 0);
  if (process.getuid?.() === 0) return t.log('root may read every file: only the sentence is tested');
  await refuses(t, path, /a\/bad\.png: permission to read it is denied\nMake the files readable/);
});

test('N22: want of memory, threads or handles is not blamed on an image', (t) => {
  for (const said of ['vips: out of memory --- size == 48MB', 'GLib: unable to create thread', 'open: Too many open files']) {
    const error = t.throws(() => undecodable('x.png', Buffer.alloc(0), new Error(said)), { instanceOf: PhoenixError });
    t.is(error!.code, 'ERR_PHOENIX_MEMORY');
    t.true(error!.message.includes(said) && error!.message.includes('Nothing is wrong with the image'));
  }
  t.is(undecodable('x.png', Buffer.from('x'), new Error('VipsJpeg: premature end')).reason, 'VipsJpeg: premature end');
});

test('N23: LFS pointers, web pages, archives, PDF and DICOM under the name of an image are called what they are', async (t) => {
  const dicom = Buffer.alloc(200);
  dicom.write('DICM', 128, 'latin1');
  const path = await folderOf(t, {
    'a.png': 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n',
    'b.jpg': '\n<!DOCTYPE html><html></html>',
    'c.png': 'PK\x03\x04rest',
    'd.png': Buffer.from([0x1f, 0x8b, 8, 0]),
    'e.png': dicom,
    'f.png': '',
    'g.png': '%PDF-1.4',
  });
  const { message } = await refuses(t, path, /7 images cannot be used/);
  t.regex(message, /a\.png: it is a Git LFS pointer/);
  t.regex(message, /b\.jpg: it is a web page \(HTML\)/);
  t.regex(message, /c\.png: it is a zip archive/);
  t.regex(message, /d\.png: it is gzipped/);
  t.regex(message, /e\.png: it is a DICOM file/);
  t.regex(message, /f\.png: it is empty/);
  t.regex(message, /git lfs pull/);
  t.is(strangerOf(Buffer.from('anything')), undefined);
  const zip = join(await folderOf(t, { 'a.zip': 'PK\x03\x04rest', 'b.bin': 'anything' }), 'a.zip');
  await refuses(t, zip, /a\.zip is no data set that Phoenix knows: it is a zip archive\. Unpack archives first\. A data set is one of\n/);
  await refuses(t, dirname(zip), /is no data set that Phoenix knows: it holds 2 files and folders \(\.bin 1, \.zip 1\)\. A data set/);
});

/** A TIFF of 12 bits in 16, with another tag or value in the place of one. */
function changedTiff(from: number, to: { tag?: number; value?: number }): Buffer {
  const bytes = ramp(0, 4095);
  const at = Array.from({ length: bytes.readUInt16LE(8) }, (_, i) => 10 + 12 * i).find((entry) => bytes.readUInt16LE(entry) === from)!;
  if (to.tag !== undefined) bytes.writeUInt16LE(to.tag, at);
  if (to.value !== undefined) bytes.writeUInt16LE(to.value, at + 8);
  return bytes;
}

test('N23: what a decoder says of the tags of a TIFF is put in words', async (t) => {
  const path = await folderOf(t, { 'a.tif': changedTiff(262, { tag: 263 }), 'b.tif': changedTiff(258, { value: 12 }) });
  const { message } = await refuses(t, path, /2 images cannot be used/);
  t.regex(message, /a\.tif: its header does not say whether 0 is black or white \(/);
  t.regex(message, /b\.tif: its values are packed: they do not fill whole bytes \(/);
  t.regex(message, /as 16 bits, and pass a range \(--range\)/);
});

test('N43: of many images that fail at one time each is told of its own cause', async (t) => {
  const files = Object.fromEntries(
    Array.from({ length: 400 }, (_, i) => [`${i}.tif`, i % 2 === 0 ? changedTiff(262, { tag: 263 }) : changedTiff(258, { value: 12 })]),
  );
  const { corrupt } = await inspect({ data: await folderOf(t, { ...files, ...(await pngs('.', 2)) }) });
  t.is(corrupt.length, 400);
  const wrong = corrupt.filter(({ file, reason }) => {
    const own = parseInt(file, 10) % 2 === 0 ? 'its header does not say' : 'its values are packed';
    return !reason.startsWith(own) || reason.includes('\n');
  });
  t.deepEqual(wrong, []);
});

test('N24: a name that is not UTF-8 is said to be so, of a file and of a folder', async (t) => {
  const path = await folderOf(t, { 'a/0.png': await png() });
  const latin1 = (name: string) => Buffer.concat([Buffer.from(`${path}/`), Buffer.from(name, 'latin1')]);
  await writeFile(latin1('a/caf\xe9.png'), await png(1));
  await refuses(t, path, /a\/caf\uFFFD\.png: its name is not UTF-8\nRename/);
  const other = await folderOf(t, { 'a/0.png': await png() });
  await mkdir(Buffer.concat([Buffer.from(`${other}/caf`), Buffer.of(0xe9)]));
  await refuses(t, other, /caf\uFFFD: the name is not UTF-8/);
});

test('N25: an image of too many pixels is to be made smaller, and the limit is named', async (t) => {
  const huge = Buffer.from(await png());
  huge.writeUInt32BE(20_000, 16);
  huge.writeUInt32BE(20_000, 20);
  huge.writeUInt32BE(crc32(huge.subarray(12, 29)), 29);
  const { message } = await refuses(t, await folderOf(t, { 'a.png': huge }), /a\.png: it has 20000×20000 pixels/);
  t.regex(message, /Scale or cut images to at most 268,402,689 pixels first/);
  t.notRegex(message, /PNG/);
});
