/**
 * The CUDA backend against the definitions in double precision, on a GPU or on the emulator that PHOENIX_LIBCUDA names: every op forward
 * and backward (outputs poisoned with NaN, guard words around every buffer, inputs left alone, equal bits when repeated), and dropout's
 * masks. On the emulator an op's first calls alone are made, and none above 200,000 multiplications. Skipped aloud where phoenix-cuda is
 * not built or finds no device.
 */
import { execFileSync } from 'node:child_process';
import test from 'ava';
import type { Addon, OpTensor } from '../../src/bindings/native.ts';
import { rng } from '../../src/rng.ts';
import { cases, type OpArguments, roundToBf16 } from '../cases.ts';
import { loadReference } from '../support/addons.ts';
import { built, checkPair, cuda, device, emulated, path, usable } from '../support/cuda.ts';
import { misshapen, refusal } from '../support/misshapen.ts';

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

/** Multiplications of a call of a matrix op, about; 0 for the others. */
function work(op: string, { tensors, attributes }: OpArguments): number {
  const size = (name: string) => (tensors[name]?.shape ?? [0]).reduce((a, b) => a * b, 1);
  if (op.startsWith('conv2d')) return (size('w') * size('x') * (attributes.upsample ?? 1) ** 2) / tensors.x!.shape[3];
  if (op.startsWith('linear')) return (size('w') * size('x0')) / tensors.x0!.shape[3];
  if (op.startsWith('attention')) return size('qkv') * tensors.qkv!.shape[1] * tensors.qkv!.shape[2];
  return 0;
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

withDevice('a tensor with a channel too many is refused in the words of the definitions', (t) => {
  for (const call of misshapen()) t.is(refusal(cuda!, call), refusal(loadReference(), call), `${call.op} with another ${call.name}`);
});

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

withDevice('a timed op is a replayed recording, and repeats short tensors', (t) => {
  const shape: OpTensor['shape'] = [1, 1, 1, 100];
  const short: OpTensor = { data: Float64Array.of(1, 2, 3), shape };
  const before = cuda!.info().replays;
  const times = cuda!.timeOp('axpy', { y: short, x: short }, { a: 1 }, 4, 3);
  t.is(times.length, 3);
  t.true(times.every((nanoseconds) => nanoseconds > 0));
  if (process.env.PHOENIX_CUDA_GRAPHS !== '0') t.is(cuda!.info().replays - before, 2 + 3, 'the first run is an ordinary one');
  t.throws(() => cuda!.op('axpy', { y: short, x: short }, { a: 1 }), { message: /3 values for a shape of 100/ });
});
