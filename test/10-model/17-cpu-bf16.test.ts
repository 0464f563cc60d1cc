/**
 * Precision bf16 on a CPU, an option for sampling: linear layers, attention and convolutions of stride 2 multiply factors rounded to
 * bfloat16 and add up in float, all else is as in fp32. Against the definitions, on every number of threads and in every batch; what it is
 * not for is refused. Skipped aloud where the processor lacks AVX512_BF16, but for the refusals.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { addon } from '../../src/bindings/load.ts';
import type { Addon, OpTensor } from '../../src/bindings/native.ts';
import { createImages, type Precision, sessionOn } from '../../src/bindings/session.ts';
import { sample } from '../../src/commands/sample.ts';
import { saveCheckpoint } from '../../src/ddpm/checkpoint/checkpoint.ts';
import { atStart } from '../../src/ddpm/fit.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { makeTable } from '../../src/ddpm/schedulers/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { rng } from '../../src/rng.ts';
import { attend, cases, conv, linearOf, type OpArguments, roundToBf16 } from '../cases.ts';
import { loadFast, loadReference } from '../support/addons.ts';
import { near } from '../support/near.ts';
import { testHyper } from '../support/plain-fit.ts';
import { error } from '../support/relative-error.ts';

const cpu = addon('cpu');
const reference = loadReference();
const withBf16 = cpu.info().bf16 ? test : test.skip;

test('where bf16 is checked', (t) => {
  t.log(cpu.info().bf16 ? 'this CPU multiplies in bf16' : `no AVX512_BF16 with the set ${cpu.info().isa}: bf16 on a CPU NOT checked`);
  t.pass();
});

const inBf16 = (attributes: Record<string, number>, threads = 1) => ({ ...attributes, bf16_products: 1, threads });
const rounded = ({ tensors, attributes }: OpArguments, factors: string[]): OpArguments => ({
  tensors: Object.fromEntries(
    Object.entries(tensors).map(([name, { data, shape }]) => [
      name,
      { data: factors.includes(name) ? data.map(roundToBf16) : data, shape },
    ]),
  ),
  attributes,
});

/**
 * What is wrong with a call in bf16. Of factors that are rounded beforehand the definition gives the same but for the order of the sums
 * (1e-10), except in attention, whose probabilities are rounded as well.
 */
function failures(op: string, args: OpArguments, factors: string[], inputs: string[]): string[] {
  const found: string[] = [];
  const { tensors } = cpu.op(op, args.tensors, inBf16(args.attributes));
  const exact = reference.op(op, args.tensors, args.attributes).tensors;
  const roundedFirst = reference.op(op, rounded(args, factors).tensors, args.attributes).tensors;
  for (const [name, { data, shape }] of Object.entries(tensors)) {
    if (inputs.includes(name)) {
      if (data.some((value, i) => value !== args.tensors[name]!.data[i])) found.push(`changes its input ${name}`);
      continue;
    }
    const [off, offRounded] = [error(data, exact[name]!.data), error(data, roundedFirst[name]!.data)];
    if (!(off <= 1e-4)) found.push(`${name} ${shape} is off by ${off}`);
    if (op !== 'attention_forward' && !(offRounded <= 1e-10)) found.push(`${name} ${shape} is off by ${offRounded} from rounded factors`);
  }
  for (const threads of [2, 3]) {
    const again = cpu.op(op, args.tensors, inBf16(args.attributes, threads)).tensors;
    for (const name of Object.keys(tensors))
      if (Buffer.compare(Buffer.from(again[name]!.data.buffer), Buffer.from(tensors[name]!.data.buffer)) !== 0)
        found.push(`${name} differs with ${threads} threads`);
  }
  return found.map((failure) => `${op}: ${failure}; ${JSON.stringify(args.attributes)}`);
}

const ops = {
  linear_forward: ['x0', 'x1', 'w'],
  conv2d_forward: ['x', 'w', 'skip0', 'skip1', 'skip_w'],
  attention_forward: ['qkv'],
};
// Sums of several blocks, odd ones too, panels with a ragged edge, and more rows than are rounded at once.
const large: Record<keyof typeof ops, ((r: ReturnType<typeof rng>) => OpArguments)[]> = {
  linear_forward: [
    (r) => linearOf(257, 771, 0, 50, { b: true, residual: true }, r),
    (r) => linearOf(113, 300, 301, 97, { b: false, residual: false }, r),
  ],
  conv2d_forward: [
    (r) => conv([2, 14, 16, 33], 70, { stride: 2 }, { temb: true, residual: true }, r),
    (r) => conv([1, 24, 22, 64], 64, { stride: 2, pad: 0 }, {}, r),
  ],
  attention_forward: [(r) => attend([2, 14, 14, 64], 1, r), (r) => attend([1, 9, 13, 80], 2, r)],
};

for (const [op, factors] of Object.entries(ops) as [keyof typeof ops, string[]][]) {
  withBf16(`${op} in bf16 as defined`, (t) => {
    const row = cases.find((entry) => entry.op === op)!;
    const drawn = Array.from({ length: row.draws }, (_, i) => {
      const args = row.draw(rng(1, 'bf16', op, i), i);
      const strides = i % 2 ? Object.keys(args.tensors).filter((name) => row.strided!.includes(name)) : [];
      const wider = strides.map((name, at) => [`ld_${name}`, args.tensors[name]!.shape[3] + 1 + ((i + at) % 5)]);
      return { tensors: args.tensors, attributes: { ...args.attributes, ...Object.fromEntries(wider) } };
    }).filter(({ attributes }) => op !== 'conv2d_forward' || attributes.stride === 2);
    t.true(drawn.length > 10);
    const calls = [...drawn, ...large[op].map((draw, i) => draw(rng(2, 'bf16', op, i)))];
    const outputs = ['y', 'o', 'lse'];
    t.deepEqual(
      calls.flatMap((args) =>
        failures(
          op,
          args,
          factors,
          Object.keys(args.tensors).filter((name) => !outputs.includes(name)),
        ),
      ),
      [],
    );
  });
}

withBf16('factors are rounded to nearest, ties to even', (t) => {
  const ulp = 2 ** -7;
  const x = [1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.49 * ulp, -(1 + ulp / 2), Math.E, -1e-20, 65504, 2 ** -126].map(Math.fround);
  const column = (data: number[]): OpTensor => ({ data: Float64Array.from(data), shape: [data.length, 1, 1, 1] });
  const tensors = { y: { data: new Float64Array(0), shape: [x.length, 1, 1, 1] as OpTensor['shape'] }, x0: column(x), w: column([1]) };
  t.deepEqual([...cpu.op('linear_forward', tensors, inBf16({})).tensors.y!.data], x.map(roundToBf16));
});

withBf16('convolutions of stride 1 have the bits of fp32', (t) => {
  for (const [channels, out] of [
    [3, 32],
    [32, 32],
    [32, 3],
  ] as const) {
    const { tensors, attributes } = conv([2, 9, 10, channels], out, {}, { temb: true, residual: true }, rng(3, 'bf16', channels, out));
    t.deepEqual(cpu.op('conv2d_forward', tensors, inBf16(attributes)).tensors, cpu.op('conv2d_forward', tensors, attributes).tensors);
  }
});

// ---- whole models

const unet = unetConfig({
  height: 12,
  width: 12,
  inChannels: 3,
  blockOutChannels: [32, 64],
  layersPerBlock: 1,
  attention: [false, true],
  dropout: 0,
});

async function open(native: Addon, precision: Precision | undefined, threads = 1) {
  const session = sessionOn(native, { model: unetModel(unet), noise: noise(), threads, precision });
  const r = rng(5, 'bf16', 'weights');
  const weights = Float32Array.from({ length: session.parameterCount }, () => 0.05 * r.normal());
  await session.params.fromBytes(new Uint8Array(weights.buffer), 0);
  return session;
}

const COUNT = 5;
const drawing = (session: Awaited<ReturnType<typeof open>>, batch: number) => ({
  count: COUNT,
  batch,
  table: makeTable('ddpm', noise(), 4, {}),
  clip: true,
  key: 3n,
  firstImage: 0,
  weights: session.params,
});

withBf16('a network in bf16 follows the definition; its samples depend neither on the batch nor on threads', async (t) => {
  const r = rng(6, 'bf16', 'input');
  const x = Float64Array.from({ length: 2 * 12 * 12 * 3 }, () => r.normal());
  const times = Float64Array.of(20, 700);
  using ref = await open(reference, undefined);
  using single = await open(cpu, undefined);
  using rounding = await open(cpu, 'bf16');
  const exact = await ref.forward(x, times, ref.params);
  const output = await rounding.forward(x, times, rounding.params);
  near(t, output, exact, { norm: 1e-2 });
  t.true(error(output, exact) > 100 * error(await single.forward(x, times, single.params), exact), 'nothing was rounded');

  const alone = await rounding.sample(drawing(rounding, 1));
  for (const batch of [2, 3, 5]) t.deepEqual(await rounding.sample(drawing(rounding, batch)), alone, `batch ${batch}`);
  for (const threads of [2, 3]) {
    using session = await open(cpu, 'bf16', threads);
    t.deepEqual(await session.sample(drawing(session, 3)), alone, `${threads} threads`);
  }
  const inFloat = await single.sample(drawing(single, 5));
  t.notDeepEqual(inFloat, alone);
  near(t, alone, inFloat, { norm: Math.sqrt(1e-3) }, 'samples');
});

withBf16('`sample` draws in bf16 where it is asked to, in fp32 otherwise', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-bf16-'));
  t.teardown(() => rm(folder, { recursive: true }));
  using session = await open(cpu, 'fp32');
  const source = join(folder, 'model.safetensors');
  await saveCheckpoint(source, { params: session.params, table: session.parameters, unet, noise: {} });
  const draw = async (precision?: Precision) => (await sample({ source, n: 3, steps: 4, device: 'cpu', threads: 1, precision })).pixels;
  const [usual, single, rounding] = [await draw(), await draw('fp32'), await draw('bf16')];
  t.deepEqual(single, usual);
  t.notDeepEqual(rounding, usual);
  near(t, rounding, usual, { norm: Math.sqrt(1e-3) }, 'samples');
});

withBf16('training in bf16 on a CPU is refused, its loss is not', async (t) => {
  using session = await open(cpu, 'bf16');
  using images = await createImages({ pixels: new Uint8Array(4 * 12 * 12 * 3).fill(99), count: 4, height: 12, width: 12, channels: 3 });
  const indices = Int32Array.of(0, 1, 2, 3);
  const step = { indices, steps: 1, hyper: testHyper(), key: 1n, ...atStart };
  const values = new Float64Array(12 * 12 * 3);
  for (const call of [() => session.train(images, step), () => session.gradient(values, Float64Array.of(1), values, session.params)]) {
    const refusal = await t.throwsAsync(call, {
      instanceOf: PhoenixError,
      message: /Training on a CPU is in fp32.*Create one with precision 'fp32'/,
    });
    t.is(refusal?.code, 'ERR_PHOENIX_ARGUMENT');
  }
  t.true((await session.evalLoss(images, { indices, batch: 4, key: 1n, weights: session.params })) > 0);
});

test('without AVX512_BF16 in use bf16 is refused, and says what it needs', (t) => {
  const lesser = loadFast().addons.filter(({ isa }) => isa !== 'avx512');
  for (const { addon: native, isa } of [...lesser, { addon: reference, isa: 'none' }]) {
    t.false(native.info().bf16);
    const refusal = t.throws(() => sessionOn(native, { model: unetModel(unet), noise: noise(), precision: 'bf16' }), {
      instanceOf: PhoenixError,
      message: new RegExp(`needs CUDA, or a CPU with AVX512_BF16.*the set ${isa}.*Use precision 'fp32'`),
    });
    t.is(refusal?.code, 'ERR_PHOENIX_ARGUMENT');
  }
});
