// The U-Net's configuration, and its weights in safetensors files and diffusers folders: both ways, and what is refused.

import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { ParameterEntry } from '../../src/bindings/native.ts';
import { readCheckpoint, saveCheckpoint } from '../../src/ddpm/checkpoint/checkpoint.ts';
import { saveDiffusers } from '../../src/ddpm/checkpoint/diffusers.ts';
import { openSafetensors, type TensorSource, writeSafetensors } from '../../src/ddpm/checkpoint/safetensors.ts';
import { emaDecayAt, emaDecayOver, warmupSteps } from '../../src/ddpm/fit.ts';
import { presets } from '../../src/ddpm/model/presets.ts';
import { type UNetConfig, unetConfig, unetModel, validateUNet } from '../../src/ddpm/model/unet.ts';
import { countParameters, parameterTable } from '../support/diffusers-names.ts';
import { fakeVector, fakeVectorOf } from '../support/fake-vector.ts';
import { near } from '../support/near.ts';

const temporaryFolder = async (t: ExecutionContext): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-checkpoint-'));
  t.teardown(() => rm(folder, { recursive: true }));
  return folder;
};

/** A model small enough for a test, with odd settings wherever one is possible. */
const unet = unetConfig({
  height: 6,
  width: 10,
  inChannels: 1,
  blockOutChannels: [8, 12],
  layersPerBlock: 1,
  attention: [false, true],
  attentionHeadDim: 4,
  normGroups: 4,
  normEps: 1e-5,
  dropout: 0.25,
  numClasses: 3,
  flipSinToCos: true,
  freqShift: 0,
  downsamplePadding: 1,
});
const schedule = {
  kind: 'cosine',
  steps: 200,
  betaStart: 2e-4,
  betaEnd: 0.03,
  prediction: 'v',
  sampling: { clip: true, variance: 'large', offset: 0, toImage: true },
} as const;

const layOut = (config: UNetConfig): ParameterEntry[] => {
  let offset = 0;
  return parameterTable(config).map(({ name, shape }) => {
    const count = shape.reduce((a, b) => a * b, 1);
    offset += count;
    return { name, shape, count, offset: offset - count };
  });
};
const table = layOut(unet);
const length = table.reduce((sum, { count }) => sum + count, 0);
const ramp = (scale: number) => fakeVectorOf(Float32Array.from({ length }, (_, i) => Math.fround(scale * Math.sin(0.37 * i))));
const zeros = () => fakeVector(length);
const content = () => ({ params: ramp(1), ema: ramp(0.5), table, unet, noise: schedule, metadata: { round: '7' } });

const bytesOf = (values: number[]) => new Uint8Array(Float32Array.from(values).buffer);

test('the CIFAR-10 preset has the names, shapes and number of parameters of the published model', async (t) => {
  const config = presets.cifar.unet({ height: 32, width: 32, channels: 3 });
  const expected = (await readFile(new URL('../golden/ddpm-cifar10-32-keys.txt', import.meta.url), 'utf8')).trimEnd().split('\n');
  const names = parameterTable(config).map(({ name, shape }) => `${name} [${shape}]`);
  t.is(names.length, 328);
  t.deepEqual(names.sort(), expected);
  t.is(countParameters(parameterTable(config)), 35_746_307);
});

test('the golden model has the names, shapes and number of parameters that diffusers gives it', async (t) => {
  const golden = JSON.parse(await readFile(new URL('../golden/unet-tiny.json', import.meta.url), 'utf8'));
  const config = unetConfig({
    height: 8,
    width: 8,
    inChannels: 3,
    blockOutChannels: [32, 64],
    layersPerBlock: 1,
    attention: [false, true],
    normGroups: 8,
  });
  const shapes = new Map(parameterTable(config).map(({ name, shape }) => [name, shape]));
  t.is(shapes.size, golden.n_keys);
  t.is(countParameters(parameterTable(config)), golden.n_params);
  const lines = Object.keys(golden.grad_l2)
    .map((name) => `${name} [${shapes.get(name)}]`)
    .sort();
  t.is(createHash('sha256').update(lines.join('\n')).digest('hex'), golden.keys_sha256);
});

test('presets fit the images they are asked for', (t) => {
  t.is(countParameters(parameterTable(presets.small.unet({ height: 28, width: 28, channels: 1 }))), 1_623_169);
  for (const preset of Object.values(presets)) {
    const config = preset.unet({ height: 31, width: 20, channels: 1, classes: 10 });
    t.like(config, {
      height: 31,
      width: 20,
      inChannels: 1,
      numClasses: 10,
      attentionHeadDim: null,
      downsamplePadding: 0,
      flipSinToCos: false,
      freqShift: 1,
      normEps: 1e-6,
    });
    t.like(unetModel(config), { outChannels: 1, attentionHeadDim: 0, numClasses: 10, normGroups: config.normGroups });
  }
  t.is(presets.tiny.unet({ height: 8, width: 8, channels: 3 }).numClasses, 0);
});

test('a configuration that cannot be is refused by field and value', (t) => {
  const cases: [Partial<UNetConfig>, RegExp][] = [
    [{ height: 0 }, /height is 0.*1 to 4096/],
    [{ width: 7.5 }, /width is 7.5/],
    [{ inChannels: 17 }, /inChannels is 17/],
    [{ blockOutChannels: [] }, /blockOutChannels is \[\]/],
    [{ blockOutChannels: [8, 1e9] }, /blockOutChannels/],
    [{ blockOutChannels: [4, 12], freqShift: 1, normGroups: 5 }, /normGroups is 5.*\(4, 12\)/],
    [{ blockOutChannels: [9, 12], normGroups: 3, attentionHeadDim: null }, /blockOutChannels is \[9,12\].*even/],
    [{ blockOutChannels: [2, 12], normGroups: 1, freqShift: 1 }, /at least 4/],
    [{ layersPerBlock: 0 }, /layersPerBlock is 0/],
    [{ attention: [true] }, /attention is \[true\].*2 levels/],
    [{ normGroups: 8 }, /normGroups is 8.*\(8, 12\)/],
    [{ attentionHeadDim: 5 }, /attentionHeadDim is 5.*\(12\)/],
    [{ normEps: 0 }, /normEps is 0/],
    [{ dropout: 1 }, /dropout is 1/],
    [{ dropout: Number.NaN }, /dropout/],
    [{ numClasses: -1 }, /numClasses is -1/],
    [{ freqShift: 2 }, /freqShift is 2/],
    [{ downsamplePadding: 2 }, /downsamplePadding is 2/],
  ];
  for (const [change, message] of cases) {
    t.throws(() => validateUNet({ ...unet, ...change }), { code: 'ERR_PHOENIX_CONFIG', message });
    t.throws(() => unetModel({ ...unet, ...change }), { code: 'ERR_PHOENIX_CONFIG' });
  }
});

test('warm-up and EMA decay', (t) => {
  t.deepEqual(
    [0, 19, 100, 1000, 1_000_000].map((planned) => warmupSteps(planned)),
    [0, 0, 5, 50, 5000],
  );
  t.is(emaDecayAt(0), 0.1);
  t.is(emaDecayAt(90), 0.91);
  t.is(emaDecayAt(1e6), 0.9999);
  t.is(emaDecayAt(1e6, 0.99), 0.99);
  t.is(emaDecayOver(5, 0), 1);
  near(t, emaDecayOver(3, 2), (4 / 13) * (5 / 14), 1e-15);
  near(t, emaDecayOver(0, 50), emaDecayOver(0, 20) * emaDecayOver(20, 30), 1e-15);
});

const sources = (): TensorSource[] => [
  { name: 'a', dtype: 'F32', shape: [2, 3], bytes: async () => bytesOf([1, 2, 3, 4, 5, 6]) },
  { name: 'empty', dtype: 'F32', shape: [0, 5], bytes: async () => new Uint8Array(0) },
  { name: 'scalar "ü"', dtype: 'I64', shape: [], bytes: async () => Uint8Array.of(7, 0, 0, 0, 0, 0, 0, 0) },
  { name: 'odd', dtype: 'U8', shape: [3], bytes: async () => Uint8Array.of(9, 8, 7) },
];

test('safetensors: what is written is read, and the bytes are those of the format', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  await writeSafetensors(path, sources(), { format: 'pt', note: 'ü "quoted"' });
  const file = await openSafetensors(path);
  t.deepEqual(file.metadata, { format: 'pt', note: 'ü "quoted"' });
  t.is(file.tensors.size, 4);
  t.deepEqual(file.tensors.get('a'), { dtype: 'F32', shape: [2, 3], begin: 0, end: 24 });
  for (const source of sources()) t.deepEqual(await file.read(source.name), await source.bytes());
  t.deepEqual(await file.readRange(32, 35), Uint8Array.of(9, 8, 7));
  t.throws(() => file.readRange(32, 36), { code: 'ERR_PHOENIX_ARGUMENT' });
  await t.throwsAsync(file.read('b'), { code: 'ERR_PHOENIX_CHECKPOINT', message: /"b"/ });
  await file.close();

  const bytes = await readFile(path);
  const header = Number(bytes.readBigUInt64LE());
  t.is(header % 8, 0);
  t.is(bytes.length, 8 + header + 35);
  t.deepEqual(JSON.parse(bytes.toString('utf8', 8, 8 + header)).a, { dtype: 'F32', shape: [2, 3], data_offsets: [0, 24] });
});

test('safetensors: a file is replaced whole or not at all', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 'a.safetensors');
  await writeSafetensors(path, sources());
  const before = await readFile(path);
  const failing: TensorSource = {
    name: 'b',
    dtype: 'F32',
    shape: [1],
    bytes: () => Promise.reject(Object.assign(new Error('no space left'), { code: 'ENOSPC' })),
  };
  await t.throwsAsync(writeSafetensors(path, [...sources(), failing]), { code: 'ERR_PHOENIX_IO', message: /disk is full/ });
  await t.throwsAsync(writeSafetensors(path, [{ ...failing, bytes: async () => new Uint8Array(3) }]), {
    code: 'ERR_PHOENIX_SHAPE',
    message: /takes 4 bytes, but 3 came/,
  });
  await t.throwsAsync(writeSafetensors(path, [failing, failing]), { code: 'ERR_PHOENIX_ARGUMENT' });
  t.deepEqual(await readdir(folder), ['a.safetensors']);
  t.deepEqual(await readFile(path), before);
  await t.throwsAsync(writeSafetensors(path, sources(), { note: 'x'.repeat(1e7) }), {
    code: 'ERR_PHOENIX_ARGUMENT',
    message: /less metadata/,
  });
  await t.throwsAsync(writeSafetensors(join(folder, 'none', 'a.safetensors'), sources()), { code: 'ERR_PHOENIX_IO' });
});

/** A file of a given header (an object, or text as it stands) and so many bytes of data. */
const fileBytes = (header: object | string, dataBytes: number, claimed?: bigint) => {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(claimed ?? BigInt(json.length));
  return Buffer.concat([start, json, Buffer.alloc(dataBytes)]);
};
const tensor = (begin: number, end: number, change: object = {}) => ({
  dtype: 'U8',
  shape: [end - begin],
  data_offsets: [begin, end],
  ...change,
});

test('safetensors: hostile files are refused', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  const cases: [Uint8Array, RegExp][] = [
    [Buffer.alloc(0), /0 bytes/],
    [Buffer.alloc(7), /7 bytes/],
    [Buffer.alloc(8), /does not begin with \{/],
    [fileBytes('{}', 0, 10_000_001n), /at most 10000000/],
    [fileBytes('{}', 0, 2n ** 64n - 1n), /claims 18446744073709551615/],
    [fileBytes('{}', 0, 3n), /truncated/],
    [fileBytes('[1]', 0), /does not begin with \{/],
    [fileBytes(' {}', 0), /does not begin with \{/],
    [fileBytes('{"a":', 0), /not JSON/],
    [fileBytes('{"a":[[', 0), /not JSON/],
    [fileBytes('{"a', 0), /not JSON/],
    [fileBytes('{"a\\', 0), /not JSON/],
    [fileBytes('{"\\x":1}', 0), /not JSON/],
    [fileBytes(`{"a":${'['.repeat(1e6)}`, 0), /nested deeper/],
    [Buffer.concat([fileBytes('{"', 0, 5n), Uint8Array.of(0xff, 0x22, 0x7d)]), /not JSON in UTF-8/],
    [fileBytes({ a: tensor(0, 4) }, 3), /only 3 are there/],
    [fileBytes({ a: tensor(0, 4) }, 5), /last 1 bytes belong to no tensor/],
    [fileBytes({ a: tensor(1, 4) }, 4), /0\.\.1 .*belong to no tensor/],
    [fileBytes({ a: tensor(0, 2), b: tensor(3, 4) }, 4), /2\.\.3 .*before "b"/],
    [fileBytes({ b: tensor(1, 4), a: tensor(0, 2) }, 4), /"b" overlaps .* 1 bytes/],
    [fileBytes({ a: tensor(0, 4), b: tensor(0, 4) }, 4), /overlaps/],
    [fileBytes({ a: tensor(0, 4, { dtype: 'F8' }) }, 4), /unknown dtype "F8"; known are F64/],
    [fileBytes({ a: tensor(0, 4, { dtype: 'toString' }) }, 4), /unknown dtype/],
    [fileBytes({ a: tensor(0, 4, { dtype: undefined }) }, 4), /unknown dtype/],
    [fileBytes({ a: tensor(0, 4, { shape: [-4] }) }, 4), /shape/],
    [fileBytes({ a: tensor(0, 4, { shape: [1.5] }) }, 4), /shape/],
    [fileBytes({ a: tensor(0, 4, { shape: 4 }) }, 4), /shape/],
    [fileBytes({ a: tensor(0, 4, { shape: [5] }) }, 4), /takes 5 bytes.*hold 4/],
    [fileBytes({ a: tensor(0, 4, { shape: [2 ** 30, 2 ** 30] }) }, 4), /more values than can be counted/],
    [fileBytes({ a: tensor(0, 4, { data_offsets: [0] }) }, 4), /data_offsets/],
    [fileBytes({ a: tensor(0, 4, { data_offsets: [0, 1e300] }) }, 4), /data_offsets/],
    [fileBytes({ a: tensor(0, 4, { data_offsets: [4, 0] }) }, 4), /end \(0\) before they begin \(4\)/],
    [fileBytes({ a: null }, 0), /not an object/],
    [fileBytes({ __metadata__: { format: 1 } }, 0), /__metadata__/],
    [fileBytes({ __metadata__: [] }, 0), /__metadata__/],
    [fileBytes(`{"a":${JSON.stringify(tensor(0, 4))} , "\\u0061" : ${JSON.stringify(tensor(0, 4))}}`, 4), /names "a" twice/],
    [fileBytes('{"a":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}}', 4), /names "shape" twice/],
    [fileBytes({ [`x\u001b[31m${'y'.repeat(500)}`]: null }, 0), /"x\\u001b\[31my+…/],
  ];
  for (const [bytes, message] of cases) {
    await writeFile(path, bytes);
    await t.throwsAsync(openSafetensors(path), { code: 'ERR_PHOENIX_CHECKPOINT', message }, String(message));
  }
  await t.throwsAsync(openSafetensors(`${path}.none`), { code: 'ERR_PHOENIX_IO', message: /no such file/ });
});

test('safetensors: a file cut anywhere is refused', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  await writeSafetensors(path, sources());
  const whole = await readFile(path);
  for (let size = 0; size < whole.length; size++) {
    await writeFile(path, whole.subarray(0, size));
    await t.throwsAsync(openSafetensors(path), { code: 'ERR_PHOENIX_CHECKPOINT' });
  }
});

test('safetensors: metadata may have any name', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  await writeFile(path, fileBytes('{"__metadata__":{"__proto__":"x"},"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1));
  const file = await openSafetensors(path);
  await file.close();
  t.deepEqual([...file.tensors.keys()], ['__proto__']);
  t.deepEqual(Object.entries(file.metadata), [['__proto__', 'x']]);
});

test('a pickle is refused with advice, by its name or by its bytes', async (t) => {
  const folder = await temporaryFolder(t);
  for (const name of ['model.bin', 'model.pt', 'model.ckpt', 'model.safetensors']) {
    await writeFile(join(folder, name), Buffer.from('PK\x03\x04 archive/data.pkl and so on'));
    await t.throwsAsync(readCheckpoint(join(folder, name)), { code: 'ERR_PHOENIX_CHECKPOINT', message: /pickle.*safe_serialization=True/ });
  }
});

test('one file: raw and EMA weights, configuration, schedule and metadata come back', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  await saveCheckpoint(path, content());
  const checkpoint = await readCheckpoint(path);
  t.deepEqual(checkpoint.unet, unet);
  t.deepEqual(checkpoint.noise, schedule);
  t.deepEqual(checkpoint.metadata, { round: '7' });
  t.true(checkpoint.hasEma);
  const [params, ema] = [zeros(), zeros()];
  await checkpoint.load(params, ema, table);
  t.deepEqual(params.values, content().params.values);
  t.deepEqual(ema.values, content().ema.values);
  const alone = zeros();
  await checkpoint.load(alone, undefined, table);
  t.deepEqual(alone.values, params.values);

  const first = await readFile(path);
  await saveCheckpoint(path, content());
  t.deepEqual(await readFile(path), first, 'equal content, equal bytes');
});

test('one file: plain names hold the EMA in OIHW, and convolutions in memory are KRSC', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  const { params, ema } = content();
  await saveCheckpoint(path, content());
  const file = await openSafetensors(path);
  t.is(file.metadata.format, 'pt');
  t.is(file.metadata.weights, 'ema');
  const { offset } = table.find(({ name }) => name === 'down_blocks.1.resnets.0.conv1.weight') as ParameterEntry;
  for (const [name, vector] of [
    ['down_blocks.1.resnets.0.conv1.weight', ema],
    ['raw.down_blocks.1.resnets.0.conv1.weight', params],
  ] as const) {
    t.deepEqual(file.tensors.get(name)?.shape, [12, 8, 3, 3]);
    const stored = new Float32Array((await file.read(name)).buffer);
    const [o, i, r, s] = [7, 5, 2, 1];
    t.is(stored[((o * 8 + i) * 3 + r) * 3 + s], vector.values[offset + ((o * 3 + r) * 3 + s) * 8 + i]);
  }
  await file.close();
});

test('one file without EMA: its weights serve for both', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  await saveCheckpoint(path, { ...content(), ema: undefined });
  const checkpoint = await readCheckpoint(path);
  t.false(checkpoint.hasEma);
  const [params, ema] = [zeros(), zeros()];
  await checkpoint.load(params, ema, table);
  t.deepEqual(params.values, content().params.values);
  t.deepEqual(ema.values, content().params.values);
});

test('a metadata name that is taken is refused', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  await t.throwsAsync(saveCheckpoint(path, { ...content(), metadata: { weights: 'x' } }), {
    code: 'ERR_PHOENIX_ARGUMENT',
    message: /weights/,
  });
});

test('a diffusers pipeline folder comes back, with and without EMA', async (t) => {
  const folder = await temporaryFolder(t);
  for (const [name, ema] of [
    ['with', content().ema],
    ['without', undefined],
  ] as const) {
    const path = join(folder, name);
    await saveDiffusers(path, { ...content(), ema });
    const checkpoint = await readCheckpoint(path);
    t.deepEqual(checkpoint.unet, unet);
    t.deepEqual(checkpoint.noise, schedule);
    t.is(checkpoint.hasEma, ema !== undefined);
    const [paramsRead, emaRead] = [zeros(), zeros()];
    await checkpoint.load(paramsRead, emaRead, table);
    t.deepEqual(paramsRead.values, content().params.values);
    t.deepEqual(emaRead.values, (ema ?? content().params).values);
    await t.throwsAsync(saveDiffusers(path, content()), { code: 'ERR_PHOENIX_ARGUMENT', message: /not empty/ });
  }
  t.deepEqual((await readdir(folder)).sort(), ['with', 'without']);
  t.deepEqual((await readdir(join(folder, 'with'), { recursive: true })).sort(), [
    'model_index.json',
    'scheduler',
    'scheduler/scheduler_config.json',
    'unet',
    'unet/config.json',
    'unet/diffusion_pytorch_model.safetensors',
    'unet_ema',
    'unet_ema/config.json',
    'unet_ema/diffusion_pytorch_model.safetensors',
  ]);
});

test('a folder that cannot be finished leaves nothing behind', async (t) => {
  const folder = await temporaryFolder(t);
  const ema = { ...ramp(1), exportTensors: () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' })) };
  await t.throwsAsync(saveDiffusers(join(folder, 'a'), { ...content(), ema }), { code: 'ERR_PHOENIX_IO', message: /disk is full/ });
  t.deepEqual(await readdir(folder), []);
});

/** Copies a file's tensors under other names, shapes or types. */
const rewrite = async (
  from: string,
  to: string,
  change: (source: TensorSource) => TensorSource | undefined,
  metadata?: Record<string, string>,
) => {
  const file = await openSafetensors(from);
  const list: TensorSource[] = [];
  for (const [name, { dtype, shape }] of file.tensors) {
    const bytes = await file.read(name);
    const changed = change({ name, dtype, shape, bytes: async () => bytes });
    if (changed !== undefined) list.push(changed);
  }
  await file.close();
  await writeSafetensors(to, list, metadata ?? file.metadata);
};

test('a folder as on the Hub, with the older names of attention, is read', async (t) => {
  const folder = await temporaryFolder(t);
  await saveDiffusers(join(folder, 'new'), { ...content(), ema: undefined });
  const hub = join(folder, 'hub');
  await mkdir(hub);
  await copyFile(join(folder, 'new/unet/config.json'), join(hub, 'config.json'));
  await copyFile(join(folder, 'new/scheduler/scheduler_config.json'), join(hub, 'scheduler_config.json'));
  await copyFile(join(folder, 'new/model_index.json'), join(hub, 'model_index.json'));
  const older: Record<string, string> = { to_q: 'query', to_k: 'key', to_v: 'value', 'to_out.0': 'proj_attn' };
  let renamed = 0;
  await rewrite(
    join(folder, 'new/unet/diffusion_pytorch_model.safetensors'),
    join(hub, 'diffusion_pytorch_model.safetensors'),
    (source) => {
      const layer = Object.keys(older).find((key) => source.name.includes(`.${key}.`));
      if (layer === undefined) return source;
      renamed++;
      return {
        ...source,
        name: source.name.replace(layer, older[layer] as string),
        shape: source.shape.length === 2 ? [...source.shape, 1, 1] : source.shape,
      };
    },
  );
  t.is(renamed, 4 * 2 * 4, '4 attentions');
  const checkpoint = await readCheckpoint(hub);
  t.deepEqual(checkpoint.noise, schedule);
  const params = zeros();
  await checkpoint.load(params, undefined, table);
  t.deepEqual(params.values, content().params.values);
});

test("fields that are left out take diffusers' defaults, and the published model's files are understood", async (t) => {
  const folder = await temporaryFolder(t);
  await saveDiffusers(join(folder, 'a'), { ...content(), ema: undefined });
  const config = join(folder, 'a/unet/config.json');
  await writeFile(config, JSON.stringify({ sample_size: 64 }));
  await writeFile(join(folder, 'a/scheduler/scheduler_config.json'), '{}');
  const { unet: read, noise } = await readCheckpoint(join(folder, 'a'));
  t.deepEqual(read, {
    height: 64,
    width: 64,
    inChannels: 3,
    blockOutChannels: [224, 448, 672, 896],
    layersPerBlock: 2,
    attention: [false, true, true, true],
    attentionHeadDim: 8,
    normGroups: 32,
    normEps: 1e-5,
    dropout: 0,
    numClasses: 0,
    flipSinToCos: true,
    freqShift: 0,
    downsamplePadding: 1,
  });
  t.deepEqual(noise, {
    kind: 'linear',
    steps: 1000,
    betaStart: 1e-4,
    betaEnd: 0.02,
    prediction: 'eps',
    sampling: { clip: true, variance: 'small', offset: 0, toImage: true },
  });

  const published =
    '{"_class_name":"UNet2DModel","_diffusers_version":"0.0.4","act_fn":"silu","attention_head_dim":null,"block_out_channels":[128,256,256,256],"center_input_sample":false,"down_block_types":["DownBlock2D","AttnDownBlock2D","DownBlock2D","DownBlock2D"],"downsample_padding":0,"flip_sin_to_cos":false,"freq_shift":1,"in_channels":3,"layers_per_block":2,"mid_block_scale_factor":1,"norm_eps":1e-06,"norm_num_groups":32,"out_channels":3,"sample_size":32,"time_embedding_type":"positional","up_block_types":["UpBlock2D","UpBlock2D","AttnUpBlock2D","UpBlock2D"]}';
  await writeFile(config, published);
  t.deepEqual((await readCheckpoint(join(folder, 'a'))).unet, {
    ...presets.cifar.unet({ height: 32, width: 32, channels: 3 }),
    dropout: 0,
  });
});

test('a configuration that the U-Net here cannot honour is refused by field and value', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 'a');
  await saveDiffusers(path, { ...content(), ema: undefined });
  const files = { unet: join(path, 'unet/config.json'), scheduler: join(path, 'scheduler/scheduler_config.json') };
  const cases: ['unet' | 'scheduler', object, RegExp][] = [
    ['unet', { act_fn: 'mish' }, /act_fn is "mish".*silu/],
    ['unet', { time_embedding_type: 'fourier' }, /time_embedding_type is "fourier"/],
    ['unet', { time_embedding_dim: 64 }, /time_embedding_dim is 64.*32/],
    ['unet', { resnet_time_scale_shift: 'scale_shift' }, /resnet_time_scale_shift is "scale_shift"/],
    ['unet', { add_attention: false }, /add_attention is false/],
    ['unet', { center_input_sample: true }, /center_input_sample is true/],
    ['unet', { mid_block_scale_factor: 2 }, /mid_block_scale_factor is 2/],
    ['unet', { mid_block_type: null }, /mid_block_type is null/],
    ['unet', { down_block_types: ['DownBlock2D', 'SkipDownBlock2D'] }, /down_block_types is .*SkipDownBlock2D/],
    ['unet', { up_block_types: ['UpBlock2D', 'AttnUpBlock2D'] }, /up_block_types is .*down_block_types/],
    ['unet', { downsample_type: 'resnet' }, /downsample_type is "resnet"/],
    ['unet', { class_embed_type: 'timestep' }, /class_embed_type is "timestep"/],
    ['unet', { attn_norm_num_groups: 2 }, /attn_norm_num_groups is 2/],
    ['unet', { out_channels: 2 }, /out_channels is 2.*learned variance/],
    ['unet', { sample_size: null }, /sample_size is null.*side of the images/],
    ['unet', { _class_name: 'UNet2DConditionModel' }, /_class_name is "UNet2DConditionModel"/],
    ['unet', { norm_num_groups: 7 }, /normGroups is 7/],
    ['unet', { block_out_channels: [8, 1e12] }, /block_out_channels/],
    ['scheduler', { trained_betas: [0.1] }, /trained_betas/],
    ['scheduler', { beta_schedule: 'scaled_linear' }, /beta_schedule is "scaled_linear"/],
    ['scheduler', { prediction_type: 'flow' }, /prediction_type is "flow"/],
    ['scheduler', { rescale_betas_zero_snr: true }, /rescale_betas_zero_snr is true/],
    ['scheduler', { _class_name: 'ScoreSdeVeScheduler' }, /_class_name is "ScoreSdeVeScheduler"/],
    ['scheduler', { beta_end: 3 }, /betaEnd is 3/],
  ];
  for (const [file, change, message] of cases) {
    const good = await readFile(files[file], 'utf8');
    await writeFile(files[file], JSON.stringify({ ...JSON.parse(good), ...change }));
    await t.throwsAsync(readCheckpoint(path), { code: 'ERR_PHOENIX_CHECKPOINT', message }, String(message));
    await writeFile(files[file], good);
  }
  for (const text of ['{', '[]', 'null', '"x"', ' '.repeat(2_000_000)]) {
    await writeFile(files.unet, text);
    await t.throwsAsync(readCheckpoint(path), { code: 'ERR_PHOENIX_CHECKPOINT' }, text.slice(0, 10));
  }
});

test('folders without a model, or with weights of another kind, are refused', async (t) => {
  const folder = await temporaryFolder(t);
  await t.throwsAsync(readCheckpoint(folder), { code: 'ERR_PHOENIX_CHECKPOINT', message: /neither config.json nor unet\/config.json/ });
  await t.throwsAsync(readCheckpoint(join(folder, 'none')), { code: 'ERR_PHOENIX_IO', message: /no such file or folder/ });
  const path = join(folder, 'a');
  await saveDiffusers(path, { ...content(), ema: undefined });
  const weights = join(path, 'unet/diffusion_pytorch_model.safetensors');
  await t.throwsAsync(readCheckpoint(weights), { code: 'ERR_PHOENIX_CHECKPOINT', message: /give the folder that holds its config.json/ });
  await rename(weights, `${weights}.index.json`);
  await t.throwsAsync(readCheckpoint(path), { code: 'ERR_PHOENIX_CHECKPOINT', message: /several files/ });
  await rename(`${weights}.index.json`, join(path, 'unet/diffusion_pytorch_model.bin'));
  await t.throwsAsync(readCheckpoint(path), { code: 'ERR_PHOENIX_CHECKPOINT', message: /pickle/ });
  await rm(join(path, 'unet/diffusion_pytorch_model.bin'));
  await t.throwsAsync(readCheckpoint(path), { code: 'ERR_PHOENIX_CHECKPOINT', message: /holds no diffusion_pytorch_model.safetensors/ });
});

test('weights of another configuration are refused by name and shape, and the vectors stay as they were', async (t) => {
  const folder = await temporaryFolder(t);
  const good = join(folder, 'good.safetensors');
  const bad = join(folder, 'bad.safetensors');
  await saveCheckpoint(good, content());
  const cases: [string, (source: TensorSource) => TensorSource | undefined, RegExp][] = [
    ['missing', (source) => (source.name === 'conv_out.bias' ? undefined : source), /conv_out\.bias \[1\] is missing/],
    ['missing raw', (source) => (source.name === 'raw.conv_out.bias' ? undefined : source), /conv_out\.bias \[1\] is missing/],
    [
      'unexpected',
      (source) => (source.name === 'conv_out.bias' ? { ...source, name: 'extra' } : source),
      /"extra" \[1\] is not in the model/,
    ],
    [
      'shape',
      (source) => (source.name === 'conv_in.weight' ? { ...source, shape: [8, 9, 1, 1] } : source),
      /conv_in\.weight is \[8,9,1,1\] in the file and \[8,1,3,3\] in the model/,
    ],
    ['type', (source) => (source.name === 'conv_in.bias' ? { ...source, dtype: 'I32' } : source), /conv_in\.bias is of type I32/],
    ['all', (source) => ({ ...source, name: `module.${source.name}` }), /; and \d+ more\.$/],
  ];
  for (const [name, change, message] of cases) {
    await rewrite(good, bad, change);
    const [params, ema] = [zeros(), zeros()];
    const checkpoint = await readCheckpoint(bad);
    await t.throwsAsync(checkpoint.load(params, ema, table), { code: 'ERR_PHOENIX_CHECKPOINT', message }, name);
    t.true(
      [...params.values, ...ema.values].every((value) => value === 0),
      name,
    );
  }

  const other = layOut({ ...unet, blockOutChannels: [8, 16] });
  const vector = fakeVector(countParameters(other));
  const checkpoint = await readCheckpoint(good);
  await t.throwsAsync(checkpoint.load(vector, undefined, other), {
    code: 'ERR_PHOENIX_CHECKPOINT',
    message: /is \[12,8,3,3\] in the file and \[16,8,3,3\] in the model/,
  });
  await t.throwsAsync(checkpoint.load(fakeVector(10), undefined, table), { code: 'ERR_PHOENIX_SHAPE' });
});

test('weights that are not finite are refused', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors');
  const params = ramp(1);
  params.values[100] = Number.NaN;
  await saveCheckpoint(path, { ...content(), params });
  await t.throwsAsync((await readCheckpoint(path)).load(zeros(), zeros(), table), { code: 'ERR_PHOENIX_CHECKPOINT', message: /NaN/ });
});

test('a file whose own metadata is damaged is refused', async (t) => {
  const folder = await temporaryFolder(t);
  const good = join(folder, 'good.safetensors');
  const bad = join(folder, 'bad.safetensors');
  await saveCheckpoint(good, content());
  const file = await openSafetensors(good);
  await file.close();
  const cases: [Record<string, string>, RegExp][] = [
    [{ phoenix: '2' }, /layout "2".*reads layout 1/],
    [{ weights: 'both' }, /weights: "both"; expected ema or raw/],
    [{ unet_config: '{' }, /unet_config.*not JSON/],
    [{ scheduler_config: '[]' }, /scheduler_config/],
  ];
  for (const [change, message] of cases) {
    await rewrite(good, bad, (source) => source, { ...file.metadata, ...change });
    await t.throwsAsync(readCheckpoint(bad), { code: 'ERR_PHOENIX_CHECKPOINT', message });
  }
});

test('half-precision weights are read', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 'a');
  await saveDiffusers(path, { ...content(), ema: undefined });
  const weights = join(path, 'unet/diffusion_pytorch_model.safetensors');
  const whole = join(folder, 'whole.safetensors');
  await rename(weights, whole);
  const file = await openSafetensors(whole);
  const raw = new Map<string, Float32Array>();
  for (const name of file.tensors.keys()) raw.set(name, new Float32Array((await file.read(name)).buffer));
  await file.close();
  await rewrite(whole, weights, (source) => ({
    ...source,
    dtype: 'BF16',
    bytes: async () =>
      new Uint8Array(Uint16Array.from(new Uint32Array((raw.get(source.name) as Float32Array).buffer), (bits) => bits >>> 16).buffer),
  }));
  const params = zeros();
  await (await readCheckpoint(path)).load(params, undefined, table);
  t.true(params.values.some((value) => value !== 0));
  near(t, params.values, content().params.values, { relative: 1 / 128 });
});
