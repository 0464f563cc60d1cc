/** The examples run as a new user would run them, on few images. They import the built package (dist/). */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';

const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;

/** Runs an example in a new folder; returns what it printed and the folder. */
const run = async (t: ExecutionContext, name: string, ...args: string[]): Promise<{ stdout: string; folder: string }> => {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-example-'));
  t.teardown(() => rm(folder, { recursive: true }));
  if (name === 'own-images.ts') await makeImages(join(folder, args[0] as string));
  const script = fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', tsx, script, ...args], { cwd: folder });
  return { stdout, folder };
};

/** Two classes of images of different sizes. */
const makeImages = async (folder: string): Promise<void> => {
  for (const [name, background] of [
    ['red', '#c03020'],
    ['blue', '#2040c0'],
  ] as const) {
    await mkdir(join(folder, name), { recursive: true });
    for (let i = 0; i < 20; i++)
      await sharp({ create: { width: 30 + i, height: 40, channels: 3, background } })
        .png()
        .toFile(join(folder, name, `${i}.png`));
  }
};

test('quick start', async (t) => {
  const { stdout, folder } = await run(t, 'quick-start.ts', '1', '200');
  t.regex(stdout, /round 1: loss \d/);
  const grid = await sharp(await readFile(join(folder, 'quick-start.png'))).metadata();
  t.is(grid.format, 'png');
});

test('federate over one’s own images', async (t) => {
  const { stdout, folder } = await run(t, 'own-images.ts', 'images', '1', '32');
  t.regex(stdout, /40 images in 2 classes: blue, red/);
  t.regex(stdout, /report\.html/);
  t.regex(await readFile(join(folder, 'own-images-run', 'report.html'), 'utf8'), /<html/);
});

test('a strategy of one’s own', async (t) => {
  const { stdout } = await run(t, 'own-strategy.ts', '2', '200');
  t.regex(stdout, /round 2: loss .*heaviest client/);
});
