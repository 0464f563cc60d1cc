/** Measured cells: taken as done, refused where something else was asked, and trained anew. Several trainings at once. */
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { PhoenixError } from '../../src/errors.ts';
import { experiment } from '../../src/experiment/experiment.ts';
import { expandGrid, parseGrid } from '../../src/experiment/grid.ts';
import type { Measured } from '../../src/experiment/measured.ts';
import { experimentPresets } from '../../src/experiment/presets.ts';
import { retrain } from '../support/retrain.ts';

const measured = fileURLToPath(new URL('../../docs/measured/', import.meta.url));

async function folderFor(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-measured-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

const tiny = {
  name: 'tiny',
  data: 'synthetic:80',
  size: 8,
  clients: 2,
  rounds: 2,
  localImages: 16,
  options: { training: { batch: 8 } },
  arms: ['centralised', 'fedavg-ema', 'fedavg'],
  partitions: ['iid'],
  runs: [{ arms: ['centralised', 'fedavg-ema', 'fedavg'], partitions: ['iid'], seeds: [0, 1] }],
  score: { samples: 50, steps: 2, classifierSteps: 20 },
};

async function run(dir: string, name: string, grid: object, options: object = {}) {
  const path = join(dir, `${name}.json`);
  await writeFile(path, JSON.stringify(grid));
  const trained = new Set<string>();
  const messages: string[] = [];
  const result = await experiment(
    { grid: path, out: join(dir, name), ...options },
    {
      onCell: ({ cell }) => void trained.add(cell),
      onMessage: ({ text }) => void messages.push(text),
    },
  );
  const scores = new Map<string, unknown>();
  for (const file of (await readdir(join(dir, name, 'scores'))).filter((one) => one.endsWith('.json'))) {
    const { final } = JSON.parse(await readFile(join(dir, name, 'scores', file), 'utf8'));
    scores.set(file, final.metrics);
  }
  return { ...result, trained, messages, scores };
}

test('trainings at once score what trainings one by one score; measured cells are taken, and trained again by nobody', async (t) => {
  const dir = await folderFor(t);
  const cells = join(dir, 'cells');
  const alone = await run(dir, 'alone', tiny);
  const together = await run(dir, 'together', tiny, { jobs: 3, cells });
  t.deepEqual(together.scores, alone.scores);
  t.is(together.trained.size, 6);
  t.is((await readdir(cells)).length, 6);

  await rm(join(cells, 'fedavg.iid.s1.json'));
  const taken = await run(dir, 'taken', tiny, { cells });
  t.deepEqual([...taken.trained], ['fedavg.iid.s1']);
  t.deepEqual(taken.scores, alone.scores);
  t.true(taken.messages.some((text) => text.startsWith('5 cells are taken from ')));
  t.regex(await readFile(taken.markdown!, 'utf8'), /fedavg-ema/);
  const all = await run(dir, 'all', tiny, { cells });
  t.is(all.trained.size, 0);
  t.regex(await readFile(all.markdown!, 'utf8'), /fedavg-ema/, 'a report of taken cells alone');
});

test('a measured cell of which something else was asked is refused by name, and so is a file that is none', async (t) => {
  const dir = await folderFor(t);
  const cells = join(dir, 'cells');
  const one = { ...tiny, runs: [{ arms: ['centralised'], partitions: ['iid'], seeds: [0] }] };
  await run(dir, 'first', one, { cells });
  const refused = async (name: string, grid: object, message: RegExp) => {
    const error = await t.throwsAsync(run(dir, name, grid, { cells }), { instanceOf: PhoenixError, message });
    t.is((error as PhoenixError).code, 'ERR_PHOENIX_RUN');
  };
  await refused('lr', { ...one, options: { training: { batch: 8, lr: 0.1 } } }, /measured with another grid\.options than/);
  await refused('rounds', { ...one, rounds: 3 }, /another grid\.rounds than/);
  await refused('data', { ...one, data: 'synthetic:90' }, /another data\.fingerprint than/);
  const path = join(cells, 'centralised.s0.json');
  const text = await readFile(path, 'utf8');
  const value: Measured = JSON.parse(text);
  await writeFile(path, JSON.stringify({ ...value, asked: { ...value.asked, more: 1 } }));
  await refused('more', one, /is no measured cell.*more/);
  await writeFile(path, text.slice(0, 100));
  await refused('short', one, /is no measured cell/);
});

test('cells of two feature networks are warned of', async (t) => {
  const dir = await folderFor(t);
  const cells = join(dir, 'cells');
  const two = { ...tiny, runs: [{ arms: ['centralised'], partitions: ['iid'], seeds: [0, 1] }] };
  await run(dir, 'first', two, { cells });
  const path = join(cells, 'centralised.s1.json');
  const value: Measured = JSON.parse(await readFile(path, 'utf8'));
  await writeFile(path, JSON.stringify({ ...value, scorer: { ...value.scorer, fingerprint: '0'.repeat(64) } }));
  const { messages } = await run(dir, 'second', two, { cells });
  t.true(messages.some((text) => text.startsWith('The cells were scored by 2 feature networks')));
});

test('a cell of the smoke grid, drawn by chance, is trained anew and scores what was measured', async (t) => {
  const dir = await folderFor(t);
  const folder = join(measured, 'smoke');
  const names = (await readdir(folder)).sort();
  const grid = parseGrid(experimentPresets.smoke, 'smoke');
  t.deepEqual(
    names,
    expandGrid(grid)
      .map(({ id }) => `${id}.json`)
      .sort(),
    'every cell of the grid is measured',
  );
  const drawn = names[Math.floor(Math.random() * names.length)]!;
  const { bits, differing } = await retrain(join(folder, drawn), { data: grid.data!, size: grid.size });
  t.log(`${drawn}: ${bits ? 'bits' : 'figures'} compared`);
  t.deepEqual(differing, []);
  // A figure that is not what is measured is found.
  const changed = join(dir, drawn);
  await mkdir(dir, { recursive: true });
  await copyFile(join(folder, drawn), changed);
  const value: Measured = JSON.parse(await readFile(changed, 'utf8'));
  const [name] = Object.keys(value.score.final!.metrics) as [string];
  value.score.final!.metrics[name]! *= 1.01;
  await writeFile(changed, JSON.stringify(value));
  const other = await retrain(changed, { data: grid.data!, size: grid.size });
  t.deepEqual(
    other.differing.map(({ metric }) => metric),
    [name],
  );
});

test('samples of unequal clients are pooled by their images, and in equal parts besides', async (t) => {
  const dir = await folderFor(t);
  const grid = {
    ...tiny,
    clients: 4,
    arms: ['local-only', 'centralised'],
    partitions: ['shards-zipf', 'iid'],
    runs: [{ arms: ['local-only', 'centralised'], partitions: ['shards-zipf', 'iid'], seeds: [0] }],
  };
  const { scores, markdown } = await run(dir, 'pooled', grid);
  const names = (cell: string) => Object.keys(scores.get(`${cell}.json`) as object);
  t.true(names('local-only.shards-zipf.s0').includes('fd_own_50_equal_parts'));
  t.false(names('centralised.s0').includes('fd_own_50_equal_parts'), 'one model has no parts');
  t.regex(await readFile(markdown!, 'utf8'), /fd_own_50_equal_parts|fd equal parts/);
  const score = JSON.parse(await readFile(join(dir, 'pooled', 'scores', 'local-only.shards-zipf.s0.json'), 'utf8'));
  const counts = score.final.mixture.map(({ samples }: { samples: number }) => samples);
  t.is(
    counts.reduce((a: number, b: number) => a + b),
    50,
  );
  t.true(Math.max(...counts) > 2 * Math.min(...counts), 'by their images');
});
