/** Personal layers: named by patterns, kept by each client over rounds and restarts, never sent. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { createVector, getBytes } from '../../src/bindings/vector.ts';
import { federate } from '../../src/commands/federate.ts';
import { finetune } from '../../src/commands/finetune.ts';
import type { FederateOptions } from '../../src/commands/options/index.ts';
import { sample } from '../../src/commands/sample.ts';
import { readCheckpoint } from '../../src/ddpm/checkpoint/checkpoint.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { createSession } from '../../src/ddpm/session.ts';
import { parsePersonal, personalPresets, splitParameters } from '../../src/fl/site/personal.ts';
import { keptEntry } from '../../src/fl/site/state.ts';
import { streamKey } from '../../src/rng.ts';
import { openRun } from '../../src/run/folder.ts';

const entries = (...names: string[]) => names.map((name, i) => ({ name, offset: 10 * i, count: 10, shape: [10] }));
const table = entries('conv_in.weight', 'up_blocks.0.a.weight', 'up_blocks.2.norm1.weight', 'up_blocks.10.a.weight', 'conv_out.bias');

test('patterns split the vector into two parts that leave nothing out', (t) => {
  const split = splitParameters(table, ['up_blocks.last.*', 'conv_out.*']);
  t.deepEqual(split.names, ['up_blocks.10.a.weight', 'conv_out.bias']);
  t.deepEqual([...split.personal], [30, 20], 'neighbours are one range');
  t.deepEqual([...split.shared], [0, 30]);
  t.deepEqual([split.personalCount, split.sharedCount], [20, 30]);
  const named = (...patterns: string[]) => splitParameters(table, patterns).names;
  t.deepEqual(named('*norm*'), ['up_blocks.2.norm1.weight']);
  t.deepEqual(named('up*.weight'), ['up_blocks.0.a.weight', 'up_blocks.2.norm1.weight', 'up_blocks.10.a.weight']);
  t.deepEqual(named('conv_in.weight'), ['conv_in.weight']);
  for (const idle of ['conv', 'conv_in.weight*t', '*t*conv_in*', 'up_blocks.9.*', 'CONV*']) {
    t.throws(() => named(idle), { code: 'ERR_PHOENIX_CONFIG', message: /fits none/ }, idle);
  }
  t.throws(() => named('*'), { code: 'ERR_PHOENIX_CONFIG', message: /nothing is left/ });
});

test('an option is none, a preset or patterns', (t) => {
  t.is(parsePersonal('none'), undefined);
  t.deepEqual(parsePersonal('fedper'), ['conv_norm_out.*', 'conv_out.*']);
  t.deepEqual(parsePersonal('a.*, b'), ['a.*', 'b']);
  for (const bad of ['', 'a,,b', 'x'.repeat(201), Array(65).fill('a').join()]) {
    t.throws(() => parsePersonal(bad), { code: 'ERR_PHOENIX_ARGUMENT', message: /head, fedper/ });
  }
});

const little = {
  data: 'synthetic:36',
  size: 8,
  clients: 2,
  threads: 1,
  personal: 'head',
  rounds: 2,
  training: { batch: 4 },
  samples: { count: 4, every: 1, steps: 2 },
} satisfies FederateOptions;

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-personal-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** The model of a run's checkpoint, in two parts. */
async function parts(dir: string) {
  const { checkpoint, stored } = await openRun(dir);
  const file = await readCheckpoint(checkpoint!);
  using session = createSession({ model: unetModel(file.unet), noise: noise(file.noise), threads: 1 });
  await file.load(session.params, session.ema, session.parameters);
  const split = splitParameters(session.parameters, parsePersonal('head')!);
  const [personal, initial, shared] = [
    createVector(split.personalCount),
    createVector(split.personalCount),
    createVector(split.sharedCount),
  ];
  await personal.gather(session.params, split.personal);
  await shared.gather(session.params, split.shared);
  await session.init(streamKey(0, 'init'));
  await initial.gather(session.params, split.personal);
  const ownOf = async (id: string) => {
    const entry = keptEntry(id, 'personal', await readFile(stored[`${id}/kept`]!));
    return Uint8Array.from(await readFile(stored[entry!]!));
  };
  const own = await Promise.all(['client-1', 'client-2'].map(ownOf));
  const bytes = async (vector: typeof personal) => Uint8Array.from(await getBytes(vector));
  return { split, personal: await bytes(personal), initial: await bytes(initial), shared: await bytes(shared), own };
}

test('personal layers stay with their clients, are never sent, and live on over a restart', async (t) => {
  const base = await temporary(t);
  const messages: string[] = [];
  const dir = join(base, 'whole');
  const { records, samples } = await federate({ ...little, out: dir }, { onMessage: ({ text }) => messages.push(text) });
  const { split, personal, initial, own } = await parts(dir);
  t.deepEqual(personal, initial, "the server's are as they began");
  t.notDeepEqual(own[0], own[1]);
  for (const mine of own) {
    t.is(mine.length, 4 * split.personalCount);
    t.notDeepEqual(mine, initial);
  }
  for (const { bytesUp, bytesDown } of records) {
    for (const bytes of [bytesUp, bytesDown]) t.true(bytes > 8 * split.sharedCount && bytes < 8 * split.sharedCount + 10_000);
  }
  t.true(messages.some((text) => /personal layers with .* % of the parameters stay/.test(text)));
  t.is(samples, undefined, 'no grid of an untrained model');
  t.like((await openRun(dir)).config, { personal: { patterns: [...personalPresets.head], values: split.personalCount } });

  const again = join(base, 'pieces');
  await federate({ ...little, rounds: 1, out: again });
  const one = await parts(again);
  await federate({ ...little, out: again, resume: true });
  const two = await parts(again);
  t.notDeepEqual(two.own[0], one.own[0], 'they go on learning');
  t.deepEqual(two, await parts(dir));
});

test('personal layers go with compression, robust rules and server moments', async (t) => {
  const dir = join(await temporary(t), 'run');
  await federate({
    ...little,
    compress: { updates: 'int8' },
    strategy: 'median',
    serverStep: { kind: 'yogi' },
    optimizer: 'keep',
    out: dir,
  });
  const { personal, initial, own } = await parts(dir);
  t.deepEqual(personal, initial);
  t.notDeepEqual(own[0], own[1]);
});

test('a mixture draws equal parts from every client, each from its own model', async (t) => {
  const dir = join(await temporary(t), 'run');
  await federate({ ...little, rounds: 1, out: dir });
  const options = { source: dir, n: 5, steps: 2, threads: 1 };
  const mixed = await sample({ ...options, client: '*' });
  t.deepEqual(mixed.clients, [
    { id: 'client-1', count: 2 },
    { id: 'client-2', count: 3 },
  ]);
  t.deepEqual((await sample({ ...options, client: '*', batch: 1 })).pixels, mixed.pixels);
  const image = 8 * 8 * 3;
  const parts = Array.from({ length: 5 }, (_, i) => Buffer.from(mixed.pixels.subarray(i * image, (i + 1) * image)).toString('hex'));
  t.is(new Set(parts).size, 5, 'no two clients draw from the same noise');
  await t.throwsAsync(sample({ ...options, n: 1, client: '*' }), { code: 'ERR_PHOENIX_ARGUMENT', message: /too few/ });
});

test('a site that took no part trains the personal layers alone, the rest stays bit for bit', async (t) => {
  const base = await temporary(t);
  const dir = join(base, 'run');
  await federate({ ...little, out: dir });
  const file = join(base, 'site.safetensors');
  const options = { source: dir, data: 'synthetic:30', epochs: 2, training: { batch: 8 }, threads: 1, checkpoint: file };
  const steps: number[] = [];
  const done = await finetune(options, { onStep: ({ step }) => void steps.push(step) });
  t.like(done, { examples: 27, steps: 8, checkpoint: file });
  t.deepEqual(steps, [1, 2, 3, 4, 5, 6, 7, 8]);
  t.true(Number.isFinite(done.evalLoss) && Number.isFinite(done.evalLossAfter));

  const before = await readCheckpoint((await openRun(dir)).checkpoint!);
  const after = await readCheckpoint(file);
  using session = createSession({ model: unetModel(after.unet), noise: noise(after.noise), threads: 1 });
  const split = splitParameters(session.parameters, parsePersonal('head')!);
  t.is(done.trained, split.personalCount);
  const partsOf = async () =>
    Promise.all(
      [split.shared, split.personal].map(async (ranges, i) => {
        const part = createVector(i === 0 ? split.sharedCount : split.personalCount);
        await part.gather(session.ema, ranges);
        return Uint8Array.from(await getBytes(part));
      }),
    );
  await before.load(session.params, session.ema, session.parameters);
  const [shared, personal] = await partsOf();
  await after.load(session.params, session.ema, session.parameters);
  const [sharedAfter, personalAfter] = await partsOf();
  t.deepEqual(sharedAfter, shared);
  t.notDeepEqual(personalAfter, personal);

  t.is((await sample({ source: file, n: 2, steps: 2, threads: 1 })).count, 2, 'it is drawn from without a client');
  const again = join(base, 'again.safetensors');
  await finetune({ ...options, threads: 2, checkpoint: again });
  t.deepEqual(await readFile(again), await readFile(file));

  const plain = join(base, 'plain');
  await federate({ ...little, personal: 'none', rounds: 1, out: plain });
  const whole = await finetune({ ...options, source: plain });
  t.is(whole.trained, whole.parameterCount, 'a model without personal layers is trained as a whole');
  const odd = await openDataset('synthetic:10', { size: 12 });
  await t.throwsAsync(finetune({ ...options, data: odd }), { code: 'ERR_PHOENIX_CONFIG', message: /12x12.*8x8/ });
});

test('a personalised model is drawn from with a client, and without one refused', async (t) => {
  const base = await temporary(t);
  const dir = join(base, 'run');
  const { checkpoint } = await federate({ ...little, rounds: 1, out: dir });
  const options = { n: 2, steps: 2, threads: 1 };
  const [first, second] = [
    await sample({ ...options, source: dir, client: 'client-1' }),
    await sample({ ...options, source: dir, client: 'client-2' }),
  ];
  t.notDeepEqual(first.pixels, second.pixels);
  t.deepEqual((await sample({ ...options, source: dir, client: 'client-1' })).pixels, first.pixels);
  const refused = { code: 'ERR_PHOENIX_ARGUMENT' };
  await t.throwsAsync(sample({ ...options, source: dir }), { ...refused, message: /only its clients.*client-1, client-2/ });
  await t.throwsAsync(sample({ ...options, source: dir, client: 'nobody' }), { ...refused, message: /client-1, client-2/ });
  await t.throwsAsync(sample({ ...options, source: checkpoint, client: 'client-1' }), { ...refused, message: /Name the run folder/ });

  const plain = join(base, 'plain');
  await federate({ ...little, personal: 'none', rounds: 1, out: plain });
  await t.throwsAsync(sample({ ...options, source: plain, client: 'client-1' }), { ...refused, message: /no personal layers/ });
  await t.throwsAsync(federate({ ...little, personal: 'conv_up.*', out: join(base, 'idle') }), {
    code: 'ERR_PHOENIX_CONFIG',
    message: /conv_up/,
  });
});
