/** Sample grids, the log and the report of a run. */
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import sharp from 'sharp';
import { imageGrid } from '../../src/commands/image-grid.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import { readLog } from '../../src/report/log.ts';
import { type Report, renderPage } from '../../src/report/page.ts';

const image = (count: number, height: number, width: number, channels: number) =>
  new Uint8Array(count * height * width * channels).map((_, i) => (i * 37 + (i >> 3) * 11) & 255);

test('a grid repeats every pixel exactly, gray and RGB, also with an unfinished last row', async (t) => {
  for (const [count, columns, height, width, channels, scale] of [
    [5, 3, 7, 3, 1, 7],
    [7, 3, 9, 16, 3, 3],
    [10, 5, 28, 28, 1, 2],
    [40, 8, 50, 49, 3, 1],
  ] as const) {
    const pixels = image(count, height, width, channels);
    const png = await imageGrid({ pixels, count, height, width, channels });
    const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
    t.is(info.width, scale * (columns * (width + 1) + 1));
    t.is(info.height, scale * (Math.ceil(count / columns) * (height + 1) + 1));
    let wrong = 0;
    for (let i = 0; i < count; i++) {
      const top = (Math.floor(i / columns) * (height + 1) + 1) * scale;
      const left = ((i % columns) * (width + 1) + 1) * scale;
      for (let y = 0; y < height * scale; y++) {
        for (let x = 0; x < width * scale; x++) {
          const from = ((i * height + Math.floor(y / scale)) * width + Math.floor(x / scale)) * channels;
          const to = ((top + y) * info.width + left + x) * info.channels;
          for (let c = 0; c < channels; c++) if (data[to + c] !== pixels[from + c]) wrong++;
        }
      }
    }
    t.is(wrong, 0, `${count} images of ${height}×${width}×${channels}`);
    t.is((await sharp(png).metadata()).channels, channels);
  }
});

test('columns and scale can be chosen; the gap is gray', async (t) => {
  const png = await imageGrid({ pixels: new Uint8Array(4 * 4), count: 4, height: 2, width: 2, channels: 1 }, { columns: 4, scale: 3 });
  const { data, info } = await sharp(png).toColourspace('b-w').raw().toBuffer({ resolveWithObject: true });
  t.deepEqual([info.width, info.height], [3 * 13, 3 * 4]);
  t.is(data[0], 128);
});

test('a grid refuses sizes that do not fit', async (t) => {
  const images = { count: 2, height: 4, width: 4, channels: 1 };
  const refused = async (pixels: number, changes: object, message: RegExp) => {
    const error = await t.throwsAsync(imageGrid({ pixels: new Uint8Array(pixels), ...images, ...changes }, changes));
    t.like(error, { name: 'PhoenixError', code: 'ERR_PHOENIX_SHAPE' });
    t.regex(error!.message, message);
  };
  await refused(31, {}, /32 bytes, but 31 came/);
  await refused(64, { channels: 2 }, /not from 2 channels/);
  await refused(0, { count: 0 }, /count, not 0/);
  await refused(32, { scale: 0.5 }, /scale, not 0.5/);
  await refused(32, { scale: 10_000 }, /at most 32767/);
  await refused(32, { columns: Number.NaN }, /columns/);
});

const header = '{"schema":1,"kind":"run","run":"federate"}\n';
const logged = (client: string, weight: number, loss: number) => ({
  client,
  weight,
  loss,
  round: 1,
  examples: 9,
  images: 320,
  steps: 2,
  evalImages: 0,
});
const record = (round: number): RoundRecord => ({
  round,
  loss: 1 / round,
  evalLoss: 1.1 / round,
  evalLossLocal: null,
  images: 640,
  bytesUp: 4_000_000,
  bytesDown: 5_000_000,
  seconds: 2,
  clients: [logged('client-0', 0.75, 0.9 / round), logged('client-1', 0, 1.2 / round)],
  failures: round === 2 ? [{ client: 'client-2', round, stage: 'upload', reason: 'connection lost' }] : [],
  notes: [],
  decisions: [],
});
const line = (round: number) => `${JSON.stringify({ kind: 'round', ...record(round) })}\n`;

const withLog = async <T>(text: string, use: (path: string) => Promise<T>): Promise<T> => {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-report-'));
  try {
    await writeFile(join(dir, 'log.jsonl'), text);
    return await use(join(dir, 'log.jsonl'));
  } finally {
    await rm(dir, { recursive: true });
  }
};

test('a log is read whole; a last line without end is left out and said', async (t) => {
  await withLog(header + line(1) + line(2), async (path) => {
    const log = await readLog(path);
    t.false(log.cut);
    t.is(log.header.run, 'federate');
    t.deepEqual(
      log.rounds.map((round) => round.round),
      [1, 2],
    );
    t.like(log.rounds[1], { loss: 0.5, bytesUp: 4_000_000 });
    await appendFile(path, line(3).slice(0, 70));
    const cut = await readLog(path);
    t.true(cut.cut);
    t.is(cut.rounds.length, 2);
  });
});

test('a log longer than one read, with characters of several bytes, comes through', async (t) => {
  const long = { ...record(1), notes: Array.from({ length: 5000 }, (_, i) => `Grüße ✓ ${i}`) };
  await withLog(`${header}${JSON.stringify(long)}\n${line(2)}`, async (path) => {
    const log = await readLog(path);
    t.deepEqual(log.rounds[0]!.notes, long.notes);
    t.is(log.rounds.length, 2);
  });
});

test('a damaged log is a typed error that names the line', async (t) => {
  const damaged = async (text: string, message: RegExp) => {
    const error = await withLog(text, (path) => t.throwsAsync(readLog(path)));
    t.like(error, { name: 'PhoenixError', code: 'ERR_PHOENIX_RUN' });
    t.regex(error!.message, message);
  };
  await damaged(`${header}${line(1)}{"round":2,"lo\n${line(3)}`, /line 3: not a JSON object/);
  await damaged(`${header}{"round":"one"}\n`, /line 2/);
  await damaged(header + line(2) + line(2), /line 3: round 2 comes after round 2/);
  await damaged(line(1), /line 1: expected the header/);
  await damaged('{"schema":2}\n', /schema 2/);
  const missing = await t.throwsAsync(readLog(join(tmpdir(), 'no-such-phoenix-run', 'log.jsonl')));
  t.like(missing, { name: 'PhoenixError', code: 'ERR_PHOENIX_IO' });
});

const png = Buffer.from('iVBORw0KGgo=', 'base64');
const report = (changes: Partial<Report> = {}): Report => ({
  kind: 'federate',
  data: 'synthetic',
  facts: ['shards:2'],
  plannedRounds: 4,
  classNames: ['circle', 'square'],
  histograms: [
    { client: 'client-0', counts: [12, 0] },
    { client: 'client-1', counts: [3, 1234] },
  ],
  rounds: [1, 2, 3].map(record),
  grids: [1, 3].map((round) => ({ round, png })),
  config: { seed: 1, unet: { groups: 8 }, list: [1, 2] },
  remarks: [],
  ...changes,
});

/** Every number in the coordinates of the charts. */
const coordinates = (page: string) =>
  [...page.matchAll(/ (?:x|y|x1|x2|y1|y2|cx|cy|width|height|points)="([^"]*)"/g)].flatMap((match) => match[1]!.split(/[ ,]+/)).map(Number);

test('the page shows figures, curves, samples, classes, participation, bytes and configuration', (t) => {
  const page = renderPage(report());
  for (const text of [
    '3 clients on synthetic',
    '0.333',
    'of 4',
    '27 MB',
    '1,234',
    'unet.groups',
    'Samples of the final model, after round 3',
    'client-1 holds 3 of circle',
  ]) {
    t.true(page.includes(text), text);
  }
  t.true(page.includes('client-2, round 2: failed (upload): connection lost'));
  t.true(page.includes('client-0, round 1: weight 75 %'));
  t.is(page.match(/<img /g)?.length, 3, 'the final grid large, then every grid');
  t.true(page.indexOf('after round 3') < page.indexOf('Round 1'));
  t.true(coordinates(page).length > 100);
  t.true(coordinates(page).every(Number.isFinite));
});

test('the page is whole by itself: no script, no address, nothing loaded from elsewhere', (t) => {
  const page = renderPage(report());
  t.notRegex(page, /<script|<link|<iframe|@import|javascript:/i);
  t.notRegex(page.replaceAll('data:image/png;base64,', ''), /(?:src|href)="(?!iVBOR)|url\(|https?:/);
  t.true(page.includes("default-src 'none'"));
});

test('strings of a run cannot become markup', (t) => {
  const evil = '"><script>alert(1)</script>\'&<img src=x onerror=1>';
  const bad = record(1);
  bad.clients[0]!.client = evil;
  bad.failures = [{ client: evil, round: 1, stage: evil, reason: evil }];
  bad.notes = [evil];
  bad.decisions = [{ client: evil, action: 'keep', statistic: 'loss', value: 1, limit: 2, reason: evil }];
  const page = renderPage(
    report({
      data: evil,
      facts: [evil],
      classNames: [evil, evil],
      histograms: [{ client: evil, counts: [1, 2] }],
      rounds: [bad],
      config: { [evil]: evil, nested: { [evil]: [evil] } },
      remarks: [evil],
    }),
  );
  t.false(page.includes('<script'));
  t.false(page.includes('<img src=x'));
  t.true(page.includes('&#34;&#62;&#60;script&#62;alert(1)'));
});

test('odd runs make a page too: no round, one round, equal losses, a loss of zero, no held-out part, no labels, many rounds', (t) => {
  const odd: Partial<Report>[] = [
    { rounds: [], grids: [], histograms: [] },
    { rounds: [record(1)] },
    { rounds: [1, 2, 3].map((round) => ({ ...record(round), loss: 0.5, evalLoss: null, clients: [], bytesUp: 0, bytesDown: 0 })) },
    { rounds: [1, 2].map((round) => ({ ...record(round), loss: 0, evalLoss: 0 })) },
    { rounds: [1, 2].map((round) => ({ ...record(round), loss: null, clients: [] })) },
    { rounds: Array.from({ length: 3000 }, (_, i) => record(i + 1)), histograms: [], plannedRounds: undefined },
    { rounds: [1, 1000].map((round) => ({ ...record(round), loss: round === 1 ? 1e30 : 1e-30 })) },
    { kind: 'train', histograms: [] },
  ];
  for (const changes of odd) {
    const page = renderPage(report(changes));
    t.true(page.endsWith('</html>\n'));
    t.true(coordinates(page).every(Number.isFinite), JSON.stringify(changes).slice(0, 80));
    t.notRegex(page, /NaN|Infinity|undefined|\[object/);
    t.true(page.length < 8e6);
  }
});
