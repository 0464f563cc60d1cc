// A class is a position in a list of names. Where two lists meet, classes are matched by name or refused.
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import { finetune } from '../../src/commands/finetune.ts';
import { sample } from '../../src/commands/sample.ts';
import { train } from '../../src/commands/train.ts';
import { readCheckpoint, saveCheckpoint } from '../../src/ddpm/checkpoint/checkpoint.ts';
import { saveDiffusers } from '../../src/ddpm/checkpoint/diffusers.ts';
import { openSafetensors } from '../../src/ddpm/checkpoint/safetensors.ts';
import { matchClasses, naturalOrder } from '../../src/ddpm/data/classes.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { featureMatrix } from '../../src/ddpm/metrics/features.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { createSession } from '../../src/ddpm/session.ts';
import { createScorer } from '../../src/experiment/features.ts';
import { referencesOf } from '../../src/experiment/reference.ts';
import { runFederation } from '../../src/fl/federation.ts';
import type { Hello } from '../../src/fl/protocol.ts';

const place = { device: 'cpu', threads: 1 } as const;
type Colour = [number, number, number];
const colours: Record<string, Colour> = { bird: [230, 20, 20], cat: [20, 230, 20], dog: [20, 20, 230] };

async function temporary(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-classes-'));
  t.teardown(() => rm(folder, { recursive: true }));
  return folder;
}

/** A folder of images of 8×8 of about one colour for each class. */
async function imagesOf(root: string, classes: Record<string, Colour>, each: number): Promise<string> {
  for (const [name, colour] of Object.entries(classes)) {
    await mkdir(join(root, name), { recursive: true });
    for (let i = 0; i < each; i++) {
      const pixels = Buffer.from(Array.from({ length: 192 }, (_, k) => colour[k % 3]! + ((k * 7 + i * 11) % 13)));
      await sharp(pixels, { raw: { width: 8, height: 8, channels: 3 } })
        .png()
        .toFile(join(root, name, `${i}.png`));
    }
  }
  return root;
}

/** A file of a class-conditional model that is not trained. */
async function modelOf(root: string, classes: number, classNames?: string[]): Promise<string> {
  const shape = { height: 8, width: 8, inChannels: 3, blockOutChannels: [16], layersPerBlock: 1, attention: [false], normGroups: 8 };
  const unet = unetConfig({ ...shape, numClasses: classes });
  using session = createSession({ model: unetModel(unet), ...place });
  await session.init(3n);
  const content = { params: session.params, table: session.parameters, unet, noise: {}, classNames };
  const path = join(root, `model-${classes}-${classNames?.join('-')}.safetensors`);
  await saveCheckpoint(path, content);
  await saveDiffusers(`${path}-folder`, content);
  return path;
}

test('D2: class folders are in the order of the numbers in their names', async (t) => {
  t.deepEqual(['10', '2', '1', 'b', 'a10', 'a9', '02'].sort(naturalOrder), ['1', '02', '2', '10', 'a9', 'a10', 'b']);
  const data = await imagesOf(await temporary(t), { '1': [9, 9, 9], '2': [99, 9, 9], '10': [9, 99, 9] }, 2);
  t.deepEqual((await openDataset(data)).classNames, ['1', '2', '10']);
});

test('D2: names travel from the data to the checkpoint, and --class NAME draws that class', async (t) => {
  const root = await temporary(t);
  const data = await imagesOf(join(root, 'data'), { '1': [9, 9, 9], '2': [99, 9, 9], '10': [9, 99, 9] }, 6);
  const run = join(root, 'run');
  await train({
    data,
    preset: 'tiny',
    epochs: 1,
    classConditional: true,
    samples: { every: 0 },
    training: { batch: 4 },
    out: run,
    ...place,
  });
  const draw = async (wanted: string | number, source = run) =>
    [...(await sample({ source, n: 2, steps: 1, class: wanted, ...place })).classes!].join();
  t.is(await draw('10'), '2,2');
  t.is(await draw(1), '0,0', 'a number that is a name is the name');
  await t.throwsAsync(draw('0'), { code: 'ERR_PHOENIX_ARGUMENT', message: /There is no class "0": the classes are "1", "2", "10"\./ });

  const named = await modelOf(root, 2, ['cat', 'dog']);
  t.is(await draw('dog', named), '1,1');
  t.is(await draw('1', named), '1,1', 'a number where no class is named by one');
  await t.throwsAsync(draw('bird', named), { message: /There is no class "bird": the classes are "cat", "dog"/ });
  t.is(await draw('1', await modelOf(root, 2)), '1,1', 'classes without names go by their numbers');
  t.deepEqual((await readCheckpoint(`${named}-folder`)).classNames, ['cat', 'dog']);
  t.deepEqual((await readCheckpoint(join(`${named}-folder`, 'unet'))).classNames, ['cat', 'dog']);
});

test('D2: names that do not fit the model are refused', async (t) => {
  const root = await temporary(t);
  await t.throwsAsync(modelOf(root, 2, ['cat']), { code: 'ERR_PHOENIX_CHECKPOINT', message: /2 classes, and their names are 1 names/ });
  const folder = `${await modelOf(root, 2, ['cat', 'dog'])}-folder`;
  for (const [text, message] of [
    ['["a"]', /2 classes, and their names are 1 names/],
    ['{"a":1}', /2 classes, and their names are \{"a":1\}/],
    ['["a",5]', /\["a",5\]/],
  ] as const) {
    await writeFile(join(folder, 'class_names.json'), text);
    await t.throwsAsync(readCheckpoint(folder), { code: 'ERR_PHOENIX_CHECKPOINT', message });
  }
});

/** Rows of the class embedding of a file. */
async function embedding(path: string): Promise<string[]> {
  const file = await openSafetensors(path);
  const bytes = Buffer.from(await file.read('class_embedding.weight'));
  await file.close();
  const row = bytes.length / 3;
  return [0, 1, 2].map((i) => bytes.subarray(i * row, (i + 1) * row).toString('hex'));
}

test('D2: finetune trains the classes of the same names, whatever their numbers in the data', async (t) => {
  const root = await temporary(t);
  const source = await modelOf(root, 3, ['cat', 'dog', 'bird']);
  const checkpoint = join(root, 'tuned.safetensors');
  const data = await imagesOf(join(root, 'data'), { bird: colours.bird!, cat: colours.cat! }, 6);
  const how = { source, data, checkpoint, epochs: 2, training: { batch: 4 }, ...place };
  await finetune(how);
  const [before, after] = [await embedding(source), await embedding(checkpoint)];
  t.deepEqual(
    before.map((row, i) => row !== after[i]),
    [true, false, true],
    'cat and bird',
  );
  t.deepEqual((await readCheckpoint(checkpoint)).classNames, ['cat', 'dog', 'bird']);

  await imagesOf(join(root, 'data'), { wolf: [1, 2, 3] }, 1);
  await t.throwsAsync(finetune(how), {
    code: 'ERR_PHOENIX_DATA',
    message: /images of "wolf", which is not.*classes of the model: "cat", "dog", "bird"\. Classes are matched by name/,
  });
  await t.throwsAsync(finetune({ ...how, source: await modelOf(root, 3) }), { message: /"bird", "cat", "wolf".*the model: "0", "1", "2"/ });
});

test('D2: labels are matched by name, and classes without images need no match', (t) => {
  const labels = Int32Array.of(0, 2, 2);
  const data = { name: 'these', labels, classNames: ['a', 'b', 'c'] };
  t.deepEqual([...matchClasses(data, ['c', 'a'], 'those')], [1, 0, 0]);
  t.deepEqual([...matchClasses({ ...data, classNames: ['x', 'x', 'y'] }, ['x', 'x', 'y'], 'those')], [0, 2, 2], 'the same list');
  t.throws(() => matchClasses(data, ['a', 'c', 'c'], 'those'), {
    code: 'ERR_PHOENIX_DATA',
    message: /images of "c", which is not, or not once/,
  });
  t.throws(() => matchClasses({ ...data, labels: undefined }, ['a'], 'the model'), {
    message: /these has no classes, and the model has "a"/,
  });
});

test('D8: a test part without the first class is scored by the names of the others', async (t) => {
  const root = await temporary(t);
  const { bird, cat, dog } = colours as { bird: Colour; cat: Colour; dog: Colour };
  const data = join(root, 'data');
  await imagesOf(join(data, 'train'), { bird, cat, dog }, 20);
  await imagesOf(join(data, 'test'), { cat, dog }, 20);
  const scorer = async () => createScorer({ data, train: await openDataset(data), dir: root, classifierSteps: 40, threads: 1 });
  t.is((await scorer()).accuracy, 1);
  await imagesOf(join(data, 'test'), { wolf: [90, 90, 90] }, 1);
  await t.throwsAsync(scorer(), {
    code: 'ERR_PHOENIX_DATA',
    message: /data \(test\) has images of "wolf".*classes of the training images: "bird"/,
  });
});

test('N12: clients that count their classes differently are refused', async (t) => {
  const hello = (id: string, classNames?: string[]): Hello => ({ protocol: 1, id, examples: 1, capabilities: [], classNames });
  const federation = (...clients: Hello[]) => runFederation({ round: 0 } as never, { rounds: 0, transport: { clients } } as never);
  await t.notThrowsAsync(federation(hello('a'), hello('b', ['cat', 'dog']), hello('c', ['cat', 'dog'])));
  const refused = (message: RegExp) => ({ code: 'ERR_PHOENIX_CONFIG', message });
  await t.throwsAsync(
    federation(hello('a'), hello('b', ['cat', 'dog']), hello('c', ['dog', 'cat'])),
    refused(/Class 0 of client c is "dog", and of client b "cat"/),
  );
  await t.throwsAsync(federation(hello('a', ['cat', 'dog']), hello('b', ['cat'])), refused(/Class 1 of client b is not there/));
});

test('N13: sites of test and training images are matched by name', async (t) => {
  const base = await openDataset('synthetic:60', { size: 8 });
  const features = featureMatrix(
    new Float32Array(120).map((_, i) => i % 7),
    2,
  );
  const halves = Int32Array.from({ length: 60 }, (_, i) => i % 2);
  const training = { ...base, sites: new Int32Array(60), siteNames: ['south'] };
  const tests = { ...base, sites: halves, siteNames: ['north', 'south'] };
  const { seen, unseenSites } = await referencesOf(tests, training, features, { threads: 1 });
  t.is(seen.features.rows, 30);
  t.deepEqual(
    unseenSites.map(({ site }) => tests.siteNames[site]),
    ['north'],
  );
});

test('D2: the names in a run are those of the checkpoint', async (t) => {
  const root = await temporary(t);
  const out = join(root, 'run');
  await train({
    data: 'synthetic:20',
    size: 8,
    epochs: 1,
    classConditional: true,
    samples: { every: 0 },
    training: { batch: 8 },
    out,
    ...place,
  });
  const { classNames } = JSON.parse(await readFile(join(out, 'config.json'), 'utf8')).data;
  const drawn = await sample({ source: out, n: 1, steps: 1, class: 'ring', ...place });
  t.deepEqual(drawn.classNames, classNames);
  t.is(classNames[drawn.classes![0]!], 'ring');
});
