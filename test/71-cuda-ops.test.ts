/**
 * The CUDA backend against the definitions in double precision, on a GPU or on the emulator that PHOENIX_LIBCUDA names: every op forward and
 * backward (outputs poisoned with NaN, guard words around every buffer, inputs left alone, equal bits when repeated), and dropout's masks. On the emulator an op's first calls alone are made, and none above 200,000 multiplications.
 * Skipped aloud where phoenix-cuda is not built or finds no device.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import type { Addon, OpTensor } from '../src/bindings/native.ts';
import { type Rng, rng } from '../src/rng.ts';
import { loadReference } from './addons.ts';
import { backwardArguments, cases, type OpArguments, type OpCase } from './cases.ts';

const require = createRequire(import.meta.url);
const path = join(process.env.PHOENIX_ADDON_DIR ?? fileURLToPath(new URL('../build/Release', import.meta.url)), 'phoenix-cuda.node');
const built = existsSync(path);
const cuda: Addon | undefined = built ? require(path) : undefined;
const { usable, device } = cuda?.info() ?? { usable: false, device: `${path} is not built` };
const emulated = /emulator/.test(device);
const emulatedCalls = 6;
const withDevice = usable ? test.serial : test.serial.skip;

test('where the CUDA backend runs', (t) => {
  t.log(usable ? device : `no CUDA: ${cases.length} ops not checked (${device})`);
  t.pass();
});

(built ? test : test.skip)('without a driver the addon loads and says why it cannot work', (t) => {
  const script = `const a = require(${JSON.stringify(path)}); let e; try { a.createVector(1) } catch (x) { e = x.message } console.log(JSON.stringify([a.info(), e]))`;
  const output = execFileSync(process.execPath, ['-e', script], {
    env: { ...process.env, PHOENIX_LIBCUDA: '/nowhere/libcuda.so.1' },
    encoding: 'utf8',
  });
  const [info, error] = JSON.parse(output);
  t.is(info.backend, 'cuda');
  t.false(info.usable);
  t.regex(info.device, /no CUDA driver.*\/nowhere\/libcuda\.so\.1/);
  t.regex(error, /\/nowhere\/libcuda\.so\.1/);
});

/** Σ(value - expected)²/Σ expected²; NaN if anything is. */
function error(value: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (value[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return difference === 0 ? 0 : difference / Math.max(norm, 1e-30);
}

const sameBits = (a: OpTensor, b: OpTensor) => Buffer.compare(Buffer.from(a.data.buffer), Buffer.from(b.data.buffer)) === 0;

/** Multiplications of a call of a matrix op, about; 0 for the others. */
function work(op: string, { tensors, attributes }: OpArguments): number {
  const size = (name: string) => (tensors[name]?.shape ?? [0]).reduce((a, b) => a * b, 1);
  if (op.startsWith('conv2d')) return (size('w') * size('x') * (attributes.upsample ?? 1) ** 2) / tensors.x!.shape[3];
  if (op.startsWith('linear')) return (size('w') * size('x0')) / tensors.x0!.shape[3];
  if (op.startsWith('attention')) return size('qkv') * tensors.qkv!.shape[1] * tensors.qkv!.shape[2];
  return 0;
}

/** Every other call gets slices of wider tensors. */
function withStrides(args: OpArguments, strided: string[] = [], i: number): OpArguments {
  if (i % 2 === 0) return args;
  const strides = strided.filter((name) => args.tensors[name]).map((name, at) => [`ld_${name}`, args.tensors[name]!.shape[3] + 1 + at]);
  return { tensors: args.tensors, attributes: { ...args.attributes, ...Object.fromEntries(strides) } };
}

const bf16 = new Float32Array(1);
const bits = new Uint32Array(bf16.buffer);
/** To nearest even. */
function roundToBf16(x: number): number {
  bf16[0] = x;
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >> 16) & 1)) & 0xffff0000;
  return bf16[0]!;
}

/** The call with the tensors named in bf16, and their values such as bf16 holds. */
function inBf16({ tensors, attributes }: OpArguments, names: string[]): OpArguments {
  const present = names.filter((name) => tensors[name]);
  const rounded = present.map((name) => [name, { data: tensors[name]!.data.map(roundToBf16), shape: tensors[name]!.shape }]);
  return {
    tensors: { ...tensors, ...Object.fromEntries(rounded) },
    attributes: { ...attributes, ...Object.fromEntries(present.map((name) => [`bf16_${name}`, 1])) },
  };
}

function check(op: string, args: OpArguments, inPlace: string[], tolerance: number, expected: Record<string, OpTensor>): string[] {
  const failures: string[] = [];
  const { tensors } = cuda!.op(op, args.tensors, args.attributes);
  const again = cuda!.op(op, args.tensors, args.attributes).tensors;
  for (const [name, value] of Object.entries(tensors)) {
    const given = args.tensors[name];
    if (given && given.data.length > 0 && !inPlace.includes(name)) {
      if (!sameBits(value, given)) failures.push(`changes its input ${name}`);
      continue;
    }
    const e = error(value.data, expected[name]!.data);
    if (!(e <= tolerance)) failures.push(`${name} ${JSON.stringify(value.shape)} is off by ${e}`);
    if (!sameBits(again[name]!, value)) failures.push(`${name} differs when repeated`);
  }
  const call = Object.entries(args.tensors).map(([name, { shape }]) => `${name} ${shape.join('x')}`);
  return failures.map((failure) => `${op}: ${failure}; ${call.join(', ')}; ${JSON.stringify(args.attributes)}`);
}

/** Without the names that say how CUDA stores the call's tensors: the definitions know one precision. */
const plain = (attributes: Record<string, number>) =>
  Object.fromEntries(Object.entries(attributes).filter(([name]) => !name.startsWith('bf16_')));

function checkPair(row: OpCase, drawn: OpArguments, r: Rng, i: number, rounded: string[], tolerance: number): string[] {
  const reference = loadReference();
  const args = inBf16(withStrides(drawn, row.strided, i), rounded);
  const expected = reference.op(row.op, args.tensors, plain(args.attributes)).tensors;
  const failures = check(row.op, args, row.inPlace ?? [], tolerance, expected);
  if (!row.backward) return failures;
  const drawnBack = backwardArguments(row, { ...args, attributes: drawn.attributes }, expected, r, i);
  const back = inBf16(withStrides(drawnBack, row.backward.strided, i + 1), rounded);
  const gradients = reference.op(row.backward.op, back.tensors, plain(back.attributes)).tensors;
  failures.push(...check(row.backward.op, back, Object.keys(row.backward.gradients), tolerance, gradients));
  return failures;
}

for (const row of cases) {
  for (const precision of row.bf16 ? ['fp32', 'bf16'] : ['fp32']) {
    withDevice(`${row.op} on CUDA as defined, ${precision}`, (t) => {
      const failures: string[] = [];
      let left = 0;
      const [rounded, tolerance] = precision === 'bf16' ? [row.bf16!, 1e-4] : [[], row.tolerance ?? 1e-10];
      for (let i = 0; i < row.draws; i++) {
        const r = rng(1, 'cuda', row.op, i);
        const args = row.draw(r, i);
        if (emulated && ((row.backward && i >= emulatedCalls) || work(row.op, args) > 2e5)) {
          left++;
          continue;
        }
        failures.push(...checkPair(row, args, r, i, rounded, tolerance));
      }
      if (left > 0) t.log(`${left} of ${row.draws} calls left out on the emulator`);
      t.true(left < row.draws);
      t.deepEqual(failures, []);
    });
  }
}

withDevice('adam_step rounds the new parameters to bf16', (t) => {
  const r = rng(2, 'cuda', 'adam');
  const args = cases.find(({ op }) => op === 'adam_step')!.draw(r, 0);
  const tensors = { ...args.tensors, rounded: { data: new Float64Array(0), shape: args.tensors.p!.shape } };
  const { p, rounded } = cuda!.op('adam_step', tensors, { ...args.attributes, bf16_rounded: 1 }).tensors;
  t.deepEqual(rounded!.data, p!.data.map(roundToBf16));
});

withDevice("dropout's masks are the definition's", (t) => {
  const size = 2 * 3 * 3 * 21;
  const shape: OpTensor['shape'] = [2, 3, 3, 21];
  const empty = (...s: OpTensor['shape']): OpTensor => ({ data: new Float64Array(0), shape: s });
  const tensors = {
    y: empty(...shape),
    mean: empty(2, 1, 1, 1),
    rstd: empty(2, 1, 1, 1),
    x0: { data: Float64Array.from({ length: size }, (_, i) => i % 7), shape },
    w: { data: new Float64Array(21), shape: [1, 1, 1, 21] as OpTensor['shape'] },
    b: { data: new Float64Array(21).fill(1), shape: [1, 1, 1, 21] as OpTensor['shape'] },
  };
  const attributes = { groups: 1, silu: 0, dropout: 0.3, layer: 3, step: 9, key_lo: 0x89abcdef, key_hi: 0x01234567 };
  const mask = (addon: Addon) => Array.from(addon.op('group_norm_forward', tensors, attributes).tensors.y!.data, (value) => value !== 0);
  const expected = mask(loadReference());
  t.true(expected.includes(false) && expected.includes(true));
  t.deepEqual(mask(cuda!), expected);
});
