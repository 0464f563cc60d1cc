/** What an experiment hands on: the warnings of its trainings and of its data, and the range of values to its test images. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { parseGrid } from '../../src/experiment/grid.ts';
import { experiment, loadCheckpoint } from '../../src/index.ts';
import { openRun } from '../../src/run/folder.ts';
import { folderOf, type Tiff, tiff } from '../support/odd-images.ts';

type Message = { level: string; text: string };

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-experiments-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** A grid of the least work, in a file; whatever is warned of or found is in what it returns. */
async function tried(t: ExecutionContext, change: { arms: (string | { name: string })[] } & Record<string, unknown>) {
  const dir = await temporary(t);
  const names = change.arms.map((arm) => (typeof arm === 'string' ? arm : arm.name));
  const grid = {
    name: 'g',
    size: 8,
    clients: 2,
    rounds: 1,
    localImages: 16,
    partitions: ['iid'],
    runs: [{ arms: names, partitions: ['iid'], seeds: [0] }],
    score: { samples: 50, steps: 1, classifierSteps: 20 },
    ...change,
  };
  await writeFile(join(dir, 'g.json'), JSON.stringify(grid));
  const out = join(dir, 'out');
  const messages: Message[] = [];
  const options = { grid: join(dir, 'g.json'), out, threads: 1, device: 'cpu' } as const;
  const { done, cells } = await experiment(options, { onMessage: (message) => void messages.push(message) });
  t.is(done, cells);
  return { out, warnings: messages.filter(({ level }) => level === 'warning').map(({ text }) => text), messages };
}

test('N40: what a training of an experiment is warned of is told behind the name of its cell', async (t) => {
  const idle = { name: 'idle', options: { serverStep: { beta1: 0.5 } } };
  const { warnings } = await tried(t, {
    data: 'synthetic:60',
    rounds: 2,
    arms: ['centralised', 'local-only', 'fedavg', 'fedavg-finetuned', idle],
    options: { training: { batch: 8, lr: 10, clip: 0 } },
  });
  for (const cell of ['centralised.s0', 'local-only.iid.s0', 'fedavg.iid.s0', 'fedavg-finetuned.iid.s0: fine-tuning client-1'])
    t.true(
      warnings.some((text) => text.startsWith(`${cell}: The loss is`) && text.includes('the training diverges')),
      `${cell}\n${warnings.join('\n')}`,
    );
  t.is(warnings.filter((text) => text.startsWith('idle.iid.s0: Nothing in this run uses --server-beta1')).length, 1, warnings.join('\n'));
  t.is(new Set(warnings).size, warnings.length, 'each once');
});

test('N40: a training that is continued for every point of the curves is warned of once; consent of the grid is none of an arm', async (t) => {
  const idle = { name: 'idle', options: { diversity: { pull: 1 } } };
  const { warnings } = await tried(t, {
    data: 'synthetic:60',
    shareReal: true,
    rounds: 3,
    arms: [idle],
    options: { training: { batch: 8 } },
    score: { samples: 50, steps: 1, classifierSteps: 20, every: 1, curveSamples: 50 },
  });
  t.deepEqual(
    warnings.filter((text) => text.startsWith('idle')),
    ['idle.iid.s0: Nothing in this run uses --diversity-pull (goes with --strategy diversity).'],
  );
});

const ramp = (low: number, high: number): Buffer => {
  const image: Tiff = { width: 8, height: 8, type: 'i16', value: (pixel) => Math.round(low + ((high - low) * pixel) / 63) };
  return tiff(image);
};

/** Two classes of deep images: CLASS/0.tif … in train/, and as many in test/. */
const deepFiles = (test: (i: number) => Buffer) =>
  Object.fromEntries(
    ['up', 'down'].flatMap((name, label) =>
      Array.from({ length: 30 }, (_, i) => [
        [`train/${name}/${i}.tif`, label === 0 ? ramp(-1000 + i, 3000) : ramp(3000, -1000 + i)] as const,
        [`test/${name}/${i}.tif`, test(i)] as const,
      ]).flat(),
    ),
  );

test('N41: the range of a grid goes to training and test images alike, and into runs and checkpoints', async (t) => {
  const data = await folderOf(
    t,
    deepFiles((i) => ramp(0, 20 + i)),
  );
  const hyper = { options: { training: { batch: 8 } } };
  // The percentiles are those of the training images: by their own, the test images would use all levels, and nothing would be said.
  const { out, warnings, messages } = await tried(t, { data, range: '0%,100%', arms: ['fedavg'], ...hyper });
  const dir = join(out, 'runs', 'fedavg.iid.s0');
  const { config, checkpoint } = await openRun(dir);
  t.deepEqual(config.data.range, [-1000, 3000]);
  t.is((await loadCheckpoint(checkpoint!)).metadata.range, '[-1000,3000]');
  t.regex(messages[0]!.text, /^data: 60 images 8×8 gray/);
  t.true(
    warnings.some((text) => /^test images: No image uses more than \d+ of 256 levels/.test(text)),
    warnings.join('\n'),
  );
  // Without one, and with one that is none, the grid ends before anything is trained.
  await t.throwsAsync(tried(t, { data, arms: ['fedavg'], ...hyper }), {
    code: 'ERR_PHOENIX_DATA',
    message: /signed integers of 16 bits.*--range/s,
  });
  await t.throwsAsync(tried(t, { data, range: '5,1', arms: ['fedavg'], ...hyper }), {
    code: 'ERR_PHOENIX_ARGUMENT',
    message: /Range '5,1'/,
  });
});

test('N41: an experiment of another range is another experiment', async (t) => {
  const data = await folderOf(
    t,
    deepFiles((i) => ramp(-1000, 2000 + i)),
  );
  const { out } = await tried(t, { data, range: '-1000,3000', arms: ['fedavg'], options: { training: { batch: 8 } } });
  const file = join(out, '..', 'g.json');
  const grid = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...grid, range: '0,3000' }));
  await t.throwsAsync(experiment({ grid: file, out }), { code: 'ERR_PHOENIX_RUN', message: /differs in .*range/ });
});

test('N40: options of a grid that a centralised training does not have are refused as the options of the grid', (t) => {
  const grid = { name: 'g', data: 'x', rounds: 1, localImages: 8, arms: ['fedavg'], partitions: ['iid'], score: { samples: 50 } };
  const runs = [{ arms: ['fedavg'], partitions: ['iid'], seeds: [0] }];
  t.notThrows(() => parseGrid({ ...grid, runs, options: { preset: 'tiny' } }, 'g'));
  // These would be read past where the grid looks at its arms: what is shared, and whether clients keep layers.
  for (const options of [{ sharing: { beta: 0.1, consent: true } }, { personal: 'head' }, { compress: { updates: 'int8' } }])
    t.throws(() => parseGrid({ ...grid, runs, options }, 'g'), {
      code: 'ERR_PHOENIX_ARGUMENT',
      message: /its options: train has no option/,
    });
});
