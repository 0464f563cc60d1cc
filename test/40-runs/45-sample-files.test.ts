// Samples as single files: a folder by class with an index, which goes on after a kill and is a data set.
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { federate } from '../../src/commands/federate.ts';
import { parseOptions } from '../../src/commands/options/index.ts';
import { sample } from '../../src/commands/sample.ts';
import { sampleFiles } from '../../src/commands/sample-files.ts';
import { saveCheckpoint } from '../../src/ddpm/checkpoint/checkpoint.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { createSession } from '../../src/ddpm/session.ts';

const cli = fileURLToPath(new URL('../../src/cli.ts', import.meta.url));
const place = { device: 'cpu', threads: 1 } as const;
const refused = (message: RegExp) => ({ code: 'ERR_PHOENIX_ARGUMENT', message });

async function temporary(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-files-'));
  t.teardown(() => rm(folder, { recursive: true }));
  return folder;
}

/** A model that is not trained. */
async function modelIn(root: string, classNames?: string[], channels = 3): Promise<string> {
  const shape = { height: 8, width: 8, inChannels: channels, blockOutChannels: [16], layersPerBlock: 1, attention: [false], normGroups: 8 };
  const unet = unetConfig({ ...shape, numClasses: classNames?.length ?? 0 });
  using session = createSession({ model: unetModel(unet), ...place });
  await session.init(5n);
  const path = join(root, `${channels}-${classNames?.length}.safetensors`);
  await saveCheckpoint(path, { params: session.params, table: session.parameters, unet, noise: {}, classNames });
  return path;
}

/** Every file below a folder with its bytes. */
async function contentOf(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder, { recursive: true })).sort();
  const files: Record<string, string> = {};
  for (const name of names)
    if ((await stat(join(folder, name))).isFile()) files[name] = (await readFile(join(folder, name))).toString('hex');
  return files;
}

test('files by class with an index: the images of sample, and a data set', async (t) => {
  const root = await temporary(t);
  const source = await modelIn(root, ['cat', 'wild dog', '10', '2']);
  const out = join(root, 'drawn');
  const options = { source, n: 10, steps: 3, batch: 4, ...place };
  const shares: number[] = [];
  const done = await sampleFiles({ ...options, out }, { onProgress: (share) => void shares.push(share) });
  t.like(done, { out, count: 10, drawn: 10, index: join(out, 'index.jsonl'), classNames: ['cat', 'wild dog', '10', '2'], weights: 'raw' });
  t.deepEqual([shares[0], shares.at(-1)], [0, 1]);
  t.deepEqual(
    shares,
    shares.toSorted((a, b) => a - b),
  );
  t.deepEqual((await readdir(out)).sort(), ['10', '2', 'cat', 'index.jsonl', 'samples.json', 'wild dog']);
  t.deepEqual((await readdir(join(out, 'wild dog'))).sort(), ['000001.png', '000005.png', '000009.png']);

  const memory = await sample(options);
  const read = await openDataset(out);
  const size = 8 * 8 * 3;
  const lines = (await readFile(done.index, 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  t.deepEqual(lines[5], { file: 'wild dog/000005.png', image: 5, class: 'wild dog' });
  t.is(read.count, 10);
  const inOrder = lines.toSorted((a, b) => read.classNames.indexOf(a.class) - read.classNames.indexOf(b.class) || a.image - b.image);
  for (const [i, { image, class: name }] of inOrder.entries()) {
    t.is(read.classNames[read.labels![i]!], name);
    t.deepEqual(read.pixels.subarray(i * size, (i + 1) * size), memory.pixels.subarray(image * size, (image + 1) * size));
  }

  const plain = join(root, 'plain');
  const gray = await sampleFiles({ ...options, source: await modelIn(root, undefined, 1), out: plain });
  t.deepEqual((await readdir(plain)).slice(0, 2), ['000000.png', '000001.png']);
  t.is(gray.classNames, undefined);
  t.like(await openDataset(plain), { count: 10, channels: 1, labels: undefined });
});

test('a killed call is completed: nothing is drawn twice, and every file is what it would have been', async (t) => {
  const root = await temporary(t);
  const source = await modelIn(root, ['cat', 'dog']);
  const [out, whole] = [join(root, 'killed'), join(root, 'whole')];
  const options = { source, n: 400, steps: 20, batch: 5, ...place };
  const flags = ['--n', '400', '--steps', '20', '--batch', '5', '--device', 'cpu', '--threads', '1'];
  const child = spawn(process.execPath, ['--import=tsx', cli, 'sample', source, '--out', out, ...flags], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.on('exit', (_, signal) => resolve(signal)));
  const pictures = async () => (await readdir(out, { recursive: true }).catch(() => [])).filter((name) => name.endsWith('.png'));
  while ((await pictures()).length < 10 && child.exitCode === null) await setTimeout(5);
  child.kill('SIGKILL');
  t.is(await ended, 'SIGKILL', 'before it was done');
  const there = await pictures();
  const times = await Promise.all(there.map(async (name) => (await stat(join(out, name))).mtimeMs));
  t.false((await readdir(out)).includes('index.jsonl'), 'no index before the end');
  // A gap as well, and a file that was begun.
  await rename(join(out, there[0]!), join(root, 'gone.png'));
  await writeFile(join(out, `${there[0]}.0123456789abcdef.tmp`), 'half');

  const done = await sampleFiles({ ...options, out });
  t.is(done.drawn, 400 - there.length + 1);
  for (const [i, name] of there.entries()) if (i > 0) t.is((await stat(join(out, name))).mtimeMs, times[i]!, name);
  await sampleFiles({ ...options, out: whole, batch: 64 });
  t.deepEqual(await contentOf(out), await contentOf(whole));
  t.is((await sampleFiles({ ...options, out })).drawn, 0, 'nothing is left to do');

  const fewer = join(root, 'fewer');
  await sampleFiles({ ...options, n: 7, out: fewer });
  t.is((await sampleFiles({ ...options, n: 400, out: fewer })).drawn, 393, 'more images');
  t.deepEqual(await contentOf(fewer), await contentOf(whole));
});

test('an abort leaves what is drawn, and the same call goes on', async (t) => {
  const root = await temporary(t);
  const options = { source: await modelIn(root), n: 20, steps: 2, batch: 4, out: join(root, 'out'), ...place };
  const control = new AbortController();
  const onProgress = (share: number) => void (share >= 0.4 && control.abort(new Error('enough')));
  await t.throwsAsync(sampleFiles(options, { onProgress, signal: control.signal }), { message: 'enough' });
  t.deepEqual(
    (await readdir(options.out)).filter((name) => !name.endsWith('.png')),
    ['samples.json'],
    'no lock stays',
  );
  const { drawn } = await sampleFiles(options);
  t.true(drawn > 0 && drawn < 20, String(drawn));
});

test('a folder of something else, of other options or another model is refused', async (t) => {
  const root = await temporary(t);
  const [source, other] = [await modelIn(root, ['cat', 'dog']), await modelIn(root, ['cat', 'dog', 'bird'])];
  const out = join(root, 'out');
  const options = { source, n: 4, steps: 2, out, ...place };
  await sampleFiles(options);
  for (const [change, message] of [
    [{ seed: 1 }, /holds other samples: seed was 0 and is now 1\. Name a new folder/],
    [{ steps: 3 }, /steps was 2 and is now 3/],
    [{ class: 'dog' }, /class was not given and is now "dog"/],
    [{ n: 3 }, /n was 4 and is now 3/],
    [{ clip: false }, /clip was not given and is now false/],
    [{ source: other }, /model was "[0-9a-f]{64}" and is now "[0-9a-f]{64}"/],
  ] as const)
    await t.throwsAsync(sampleFiles({ ...options, ...change }), refused(message), String(message));
  await writeFile(join(out, 'cat', 'mine.png'), '');
  await t.throwsAsync(sampleFiles(options), refused(/holds cat.mine\.png, which is none of these samples/));
  await rm(join(out, 'cat', 'mine.png'));
  await mkdir(join(out, 'wolf'));
  await t.throwsAsync(sampleFiles(options), refused(/holds wolf, which is none/));

  await mkdir(join(root, 'full'));
  await writeFile(join(root, 'full', 'x'), '');
  await t.throwsAsync(sampleFiles({ ...options, out: join(root, 'full') }), refused(/not empty, and holds no samples\.json/));
  await t.throwsAsync(sampleFiles({ ...options, out: undefined }), refused(/option out is missing/));
  await t.throwsAsync(sample(options), refused(/call that, or leave it out/));
  t.throws(() => parseOptions('sample', { source, out, grid: 'x.png' }), { code: 'ERR_PHOENIX_CONFIG', message: /give one of them/ });
  const unfit = { ...options, source: await modelIn(root, ['a/b', '.hidden']), out: join(root, 'unfit') };
  await t.throwsAsync(sampleFiles(unfit), refused(/The class "a\/b" cannot be the name of a folder/));
  for (const name of ['.hidden', 'Train', 'lost+found', 'x'.repeat(256)])
    await t.throwsAsync(
      sampleFiles({ ...unfit, source: await modelIn(root, ['cat', name]) }),
      refused(/cannot be the name of a folder/),
      name,
    );
  await t.throwsAsync(sampleFiles({ ...unfit, source: await modelIn(root, undefined, 2) }), refused(/the model is for 2/));
  t.false((await readdir(root)).includes('unfit'));
});

test('of a model with personal layers, equal parts of every client', async (t) => {
  const root = await temporary(t);
  const run = join(root, 'run');
  await federate({
    ...{ data: 'synthetic:40', size: 8, clients: 2, rounds: 1, personal: 'head', training: { batch: 8 }, out: run },
    ...place,
  });
  const options = { source: run, n: 6, steps: 2, client: '*', batch: 2, ...place };
  const done = await sampleFiles({ ...options, out: join(root, 'out') });
  t.deepEqual(done.clients, [
    { id: 'client-1', count: 3 },
    { id: 'client-2', count: 3 },
  ]);
  t.deepEqual((await openDataset(join(root, 'out'))).pixels, (await sample(options)).pixels);
  const lines = (await readFile(done.index, 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).client);
  t.deepEqual(lines, ['client-1', 'client-1', 'client-1', 'client-2', 'client-2', 'client-2']);
  await t.throwsAsync(sampleFiles({ ...options, n: 8, out: join(root, 'out') }), refused(/n was 6 and is now 8/));
});
