/**
 * Every op on every instruction set against its definition in double precision: random sizes, outputs poisoned with NaN, guard words around
 * every buffer (the addon's `op` throws when one is damaged), inputs left alone, and equal bits for 1, 2 and 3 threads.
 */
import { readFileSync } from 'node:fs';
import test from 'ava';
import type { Addon, OpTensor } from '../../src/bindings/native.ts';
import { rng } from '../../src/rng.ts';
import { backwardArguments, cases, type OpArguments, rounded } from '../cases.ts';
import { instructionSets, loadFast, loadReference } from '../support/addons.ts';
import { misshapen, refusal } from '../support/misshapen.ts';
import { error } from '../support/relative-error.ts';

const reference = loadReference();
const { addons, missing } = loadFast();

const names = Object.fromEntries(addons.map(({ isa, addon }) => [isa, addon]));

const sameBits = (a: OpTensor, b: OpTensor) => Buffer.compare(Buffer.from(a.data.buffer), Buffer.from(b.data.buffer)) === 0;

/** Adds the attributes that make the named tensors slices of wider ones. */
function withStrides(args: OpArguments, strided: string[] = [], i: number): OpArguments {
  if (i % 2 === 0) return args;
  const strides = strided
    .filter((name) => args.tensors[name])
    .map((name, at) => [`ld_${name}`, args.tensors[name]!.shape[3] + 1 + ((i + at) % 5)]);
  return { tensors: args.tensors, attributes: { ...args.attributes, ...Object.fromEntries(strides) } };
}

/** Compares one call on `addon` with the definition's results. */
function check(
  op: string,
  args: OpArguments,
  inPlace: string[],
  tolerance: number,
  addon: Addon,
  expected: Record<string, OpTensor>,
): string[] {
  const failures: string[] = [];
  const { tensors } = addon.op(op, args.tensors, args.attributes);
  for (const [name, value] of Object.entries(tensors)) {
    const given = args.tensors[name];
    if (given && given.data.length > 0 && !inPlace.includes(name)) {
      if (!sameBits(value, given)) failures.push(`changes its input ${name}`);
      continue;
    }
    const e = error(value.data, expected[name]!.data);
    if (!(e <= tolerance)) failures.push(`${name} ${JSON.stringify(value.shape)} is off by ${e}`);
  }
  for (const threads of [2, 3]) {
    const again = addon.op(op, args.tensors, { ...args.attributes, threads }).tensors;
    for (const name of Object.keys(tensors))
      if (!sameBits(again[name]!, tensors[name]!)) failures.push(`${name} differs with ${threads} threads`);
  }
  const call = Object.entries(args.tensors).map(([name, { shape }]) => `${name} ${shape.join('x')}`);
  return failures.map((failure) => `${op}: ${failure}; ${call.join(', ')}; ${JSON.stringify(args.attributes)}`);
}

test('every op of ops.h has a case, and every case is of an op', (t) => {
  const header = readFileSync(new URL('../../native/kernels/ops.h', import.meta.url), 'utf8');
  const declared = [...header.matchAll(/^(?:void|double|bool|std::vector<uint8_t>) (\w+)\(Context&/gm)].map(([, name]) => name!);
  t.true(declared.length > 30, `${declared.length} ops were found in ops.h`);
  const covered = cases.flatMap(({ op, backward }) => (backward ? [op, backward.op] : [op]));
  t.deepEqual(covered.sort(), declared.sort());
});

test('every instruction set can be asked for', (t) => {
  t.true(addons.length > 0);
  for (const isa of missing) t.log(`${isa}: this machine lacks it, ${cases.length} ops not checked`);
});

for (const isa of instructionSets.filter((name) => names[name])) {
  for (const row of cases) {
    test(`${row.op} on ${isa} as defined`, (t) => {
      const failures: string[] = [];
      const tolerance = row.tolerance ?? 1e-10;
      for (let i = 0; i < row.draws; i++) {
        const r = rng(1, 'ops', row.op, i);
        const args = withStrides(row.draw(r, i), row.strided, i);
        const expected = reference.op(row.op, args.tensors, args.attributes).tensors;
        failures.push(...check(row.op, args, row.inPlace ?? [], tolerance, names[isa]!, expected));
        if (!row.backward) continue;
        const back = withStrides(backwardArguments(row, args, expected, r, i), row.backward.strided, i + 1);
        const gradients = reference.op(row.backward.op, back.tensors, back.attributes).tensors;
        failures.push(...check(row.backward.op, back, Object.keys(row.backward.gradients), tolerance, names[isa]!, gradients));
      }
      t.deepEqual(failures, []);
    });
  }
}

test('a tensor with a channel too many is refused by every op that takes one, in the same words by all backends', (t) => {
  const calls = misshapen();
  t.true(calls.length > 80, `${calls.length} calls`);
  for (const call of calls) {
    const said = refusal(reference, call);
    t.regex(said, new RegExp(`${call.op}: .*expected`), `${call.op} with another ${call.name}: ${said}`);
    for (const { isa, addon } of addons) t.is(refusal(addon, call), said, `${call.op} with another ${call.name} on ${isa}`);
  }
});

test('a convolution that enlarges and strides is refused by all backends', (t) => {
  const { op, draw } = cases.find((row) => row.op === 'conv2d_forward')!;
  const { tensors, attributes } = draw(rng(1, 'enlarged'), 0);
  const call = { op, name: 'y', args: { tensors, attributes: { ...attributes, stride: 2, upsample: 2 } } };
  for (const addon of [reference, ...addons.map((fast) => fast.addon)])
    t.regex(refusal(addon, call), /upsample 2 with stride 1 and pad 1 only/);
});

test('the definitions are in double precision', (t) => {
  const x: OpTensor = { data: Float64Array.from([1 / 3]), shape: [1, 1, 1, 1] };
  t.not(x.data[0], rounded(x).data[0]);
  t.is(reference.op('scale', { y: x }, { a: 1 }).tensors.y!.data[0], 1 / 3);
});
