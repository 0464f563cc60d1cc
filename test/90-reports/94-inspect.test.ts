/** What `phoenix inspect` says of a data set: what it is read as, and which files are damaged, unusual or equal. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import sharp from 'sharp';
import { formatInspection, inspect } from '../../src/commands/inspect.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { folderOf, png, pngs, ramp } from '../support/odd-images.ts';

const cli = fileURLToPath(new URL('../../src/cli.ts', import.meta.url));

test('N26: inspect names sizes, depths, values, classes, sites, and what cannot be used, is unusual, equal or left out', async (t) => {
  const photo = await sharp(await png(1))
    .jpeg()
    .withMetadata({ orientation: 6 })
    .toBuffer();
  const data = await folderOf(t, {
    ...(await pngs('train/north/a', 3)),
    ...(await pngs('train/north/b', 2, 1)),
    ...(await pngs('train/south/b', 2, 2)),
    'train/south/b/copy.png': await png(200),
    'train/south/b/photo.jpg': photo,
    'train/south/b/large.png': await png(9, 12),
    'train/south/b/bad.png': 'no image',
    'train/south/b/notes.txt': '',
    ...(await pngs('test/north/a', 2, 5)),
  });
  const found = await inspect({ data });
  t.like(found, { kind: 'image folder', split: 'train', count: 10, range: null });
  t.deepEqual(found.sizes, [
    { width: 8, height: 8, count: 9 },
    { width: 12, height: 12, count: 1 },
  ]);
  t.deepEqual(found.classes, [
    { name: 'a', count: 3 },
    { name: 'b', count: 7 },
  ]);
  t.deepEqual(found.sites, [
    { name: 'north', count: 5, classes: [3, 2] },
    { name: 'south', count: 5, classes: [0, 5] },
  ]);
  t.deepEqual(
    found.corrupt.map(({ file }) => file),
    ['train/south/b/bad.png'],
  );
  t.deepEqual(found.odd, [{ file: 'train/south/b/photo.jpg', what: 'turned upright by its EXIF orientation 6' }]);
  t.deepEqual(found.duplicates, [['train/south/b/0.png', 'train/south/b/copy.png']]);
  t.deepEqual(
    found.leftOut.map(({ count, what }) => `${count} ${what}`),
    ['2 in test/', '1 of unknown kind (.txt 1)'],
  );
  const text = formatInspection(found);
  t.regex(
    text,
    /^data: 10 images of 2 sizes, 2 classes, 2 sites, 1 that cannot be used; left out: 2 in test\/, 1 of unknown kind \(\.txt 1\)\n/,
  );
  t.regex(text, /bad\.png: Input file contains unsupported image format/);
  t.regex(text, /stored {3}RGB, unsigned integers of 8 bits \(10\): 0\.\.255/);
  t.is((await inspect({ data, split: 'test' })).count, 2);
});

test('N27: the range that inspect proposes is one that the set is read with, whole', async (t) => {
  const cases: [Buffer, string | null][] = [
    [ramp(0, 4000), '0,4095'],
    [ramp(-1000, 2000, { type: 'i16' }), '-1000,2000'],
    [ramp(0, 0.9, { type: 'f32' }), '0,1'],
    [ramp(0, 200, { type: 'i32' }), '0,255'],
    [ramp(-3, 12, { type: 'f32' }), '-3,12'],
    [ramp(0, 65_535), null],
    [ramp(0, 255, { type: 'u8' }), null],
  ];
  for (const [bytes, range] of cases) {
    const data = await folderOf(t, { 'a.tif': bytes });
    t.is((await inspect({ data })).range, range, `${range}`);
    const { pixels, notes } = await openDataset(data, { range: range ?? undefined });
    t.true(new Set(pixels).size > 150, `${range}`);
    t.deepEqual(notes!.warnings, []);
  }
  const holes = ramp(0, 1, { type: 'f32', value: (i) => (i === 5 ? Number.NaN : i / 256) });
  const found = await inspect({ data: await folderOf(t, { 'a.tif': holes, 'b.tif': ramp(5, 5) }) });
  const what = found.odd.map(({ file, what }) => `${file}: ${what}`);
  t.true(what.includes('a.tif: holds values that are no numbers') && what.includes('b.tif: all of its values are equal'), what.join('\n'));
  t.regex(found.warnings.join(), /different depths/);
});

test('N28: damage inside a JPEG that its decoder remarks on is named; the set is read all the same', async (t) => {
  const noise = Buffer.from(Array.from({ length: 64 * 64 * 3 }, (_, i) => (i * i * 31 + i * 7) % 256));
  const whole = await sharp(noise, { raw: { width: 64, height: 64, channels: 3 } })
    .jpeg({ quality: 90 })
    .toBuffer();
  const files: Record<string, Buffer> = { 'whole.jpg': whole };
  for (let i = 0; i < 40; i++) {
    const flipped = Buffer.from(whole);
    flipped[700 + Math.floor(((whole.length - 800) * i) / 40)]! ^= 0x55;
    files[`${i}.jpg`] = flipped;
  }
  const data = await folderOf(t, files);
  const { odd, corrupt } = await inspect({ data });
  t.deepEqual(corrupt, []);
  const named = odd.filter(({ what }) => /may be damaged: its decoder says/.test(what)).map(({ file }) => file);
  t.true(named.length > 0 && !named.includes('whole.jpg'), named.join());
  t.is((await openDataset(data)).count, 41);
});

test('N29: the page of inspect stands alone, holds the contact sheet, and escapes the names of files', async (t) => {
  const data = await folderOf(t, { ...(await pngs('a', 3)), 'a/<b>&.png': 'no image', ...(await pngs('b', 3, 1)) });
  const page = join(await folderOf(t, {}), 'data.html');
  t.is((await inspect({ data, out: page })).page, page);
  const text = await readFile(page, 'utf8');
  t.regex(text, /^<!doctype html>/);
  const sheet = /src="data:image\/png;base64,([^"]+)"/.exec(text);
  t.like(await sharp(Buffer.from(sheet![1]!, 'base64')).metadata(), { format: 'png', channels: 3 });
  t.false(/<b>|https?:\/\/|<script/.test(text));
  t.true(text.includes('a/&#60;b&#62;&#38;.png'));
  await t.throwsAsync(inspect({ data, out: join(data, 'x.png') }), { code: 'ERR_PHOENIX_ARGUMENT', message: /\.html/ });
  const { stdout } = await promisify(execFile)(process.execPath, ['--import=tsx', cli, 'inspect', data, '--json']);
  t.like(JSON.parse(stdout), { count: 6, kind: 'image folder' });
});

test('N26: inspect of files of other kinds: counts of classes and sites, equal images, values', async (t) => {
  const record = (site: number, label: number, level: number) => Buffer.concat([Buffer.of(site, label), Buffer.alloc(16, level)]);
  const meta = { sites: ['x', 'y'], classes: ['p', 'q', 'r'], record: '4x4' };
  const data = await folderOf(t, {
    'meta.json': JSON.stringify(meta),
    'a_train.bin': Buffer.concat([record(0, 0, 7), record(1, 1, 9), record(1, 0, 7)]),
  });
  const found = await inspect({ data });
  t.like(found, { kind: 'records', count: 3, duplicates: [['image 0', 'image 2']], stored: [{ low: 7, high: 9, count: 3 }] });
  t.deepEqual(
    found.classes.map(({ count }) => count),
    [2, 1, 0],
  );
  t.deepEqual(
    found.sites.map(({ count }) => count),
    [1, 2],
  );
  t.regex(found.warnings.join(), /Class 2 \(r\) has no images/);
});

test('N26: inspect agrees with what is known of files from other software', async (t) => {
  const folder = process.env.PHOENIX_DATA && join(process.env.PHOENIX_DATA, 'odd');
  const text = folder && (await readFile(join(folder, 'meta.json'), 'utf8').catch(() => undefined));
  if (!folder || !text) {
    t.log('skipped: PHOENIX_DATA has no folder odd');
    t.pass();
    return;
  }
  type Known = { sharp: string; width?: number; height?: number; pages?: number; orientation?: number; alpha?: boolean };
  const known: Record<string, Known> = JSON.parse(text).files;
  const images = Object.entries(known).filter(([name]) => !name.endsWith('.dcm'));
  const found = await inspect({ data: folder });
  const broken = images.filter(([, { sharp: does }]) => does !== 'decodes').map(([name]) => name);
  t.deepEqual(found.corrupt.map(({ file }) => file).sort(), broken.sort());
  t.is(found.count, images.length - broken.length);
  const odd = (pattern: RegExp) =>
    found.odd
      .filter(({ what }) => pattern.test(what))
      .map(({ file }) => file)
      .sort();
  const where = (is: (file: Known) => boolean) =>
    images
      .filter(([, file]) => file.sharp === 'decodes' && is(file))
      .map(([name]) => name)
      .sort();
  t.deepEqual(
    odd(/frames or pages/),
    where(({ pages = 1 }) => pages > 1),
  );
  t.deepEqual(
    odd(/EXIF orientation/),
    where(({ orientation = 1 }) => orientation > 1),
  );
  t.deepEqual(
    odd(/transparency/),
    where(({ alpha = false }) => alpha),
  );
  t.deepEqual(odd(/uses only/), ['12in16bit.tif', '16bit.cropped.tif']);
  t.deepEqual(odd(/CMYK/), ['pil_sample_cmyk.jpg']);
  t.regex(found.leftOut.map(({ what }) => what).join(), /\.dcm 6/);
  const ct = await folderOf(t, {});
  await writeFile(join(ct, 'ct.png'), await readFile(join(folder, 'ct12-in-16.png')));
  t.is((await openDataset(ct)).height, 128, 'sBIT 12 in the high bits: the whole range, as PNG demands');
  await writeFile(join(ct, 'ct.png'), await readFile(join(folder, '12in16bit.tif')));
  await t.throwsAsync(openDataset(ct), { message: /ct\.png has the values 0\.\.30\. .*--range 0,31/ });
});
