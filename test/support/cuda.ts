/**
 * phoenix-cuda as its tests see it, on the emulator or a GPU, and the comparison of a call with the definitions:
 * outputs poisoned with NaN, guard words around every buffer, inputs left alone, equal bits when repeated.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Addon, OpTensor } from '../../src/bindings/native.ts';
import { PhoenixError } from '../../src/errors.ts';
import type { Rng } from '../../src/rng.ts';
import { backwardArguments, type OpArguments, type OpCase, roundToBf16 } from '../cases.ts';
import { loadReference } from './addons.ts';
import { error } from './relative-error.ts';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('../..', import.meta.url));
export const path = join(process.env.PHOENIX_ADDON_DIR ?? join(root, 'build', 'Release'), 'phoenix-cuda.node');
export const built = existsSync(path);

// The emulator that `npm test` builds, unless a driver is named, or PHOENIX_TEST_GPU=1 asks for this machine's own. Its memory is kept
// small, so that running out of it can be tested.
const emulator = join(process.env.PHOENIX_SIMT_BUILD ?? join(root, 'build', 'simt'), 'libcuda_sim.so');
if (process.env.PHOENIX_TEST_GPU !== '1' && process.env.PHOENIX_LIBCUDA === undefined && existsSync(emulator)) {
  process.env.PHOENIX_LIBCUDA = emulator;
}
process.env.PHOENIX_SIMT_HEAP_MIB ??= '64';
process.env.PHOENIX_SIMT_QUIET ??= '1';

export const cuda: Addon | undefined = built ? require(path) : undefined;
export const { usable, device } = cuda?.info() ?? { usable: false, device: `${path} is not built` };
export const emulated = /emulator/.test(device);
cuda?.setErrorClass(PhoenixError);

const sameBits = (a: OpTensor, b: OpTensor) => Buffer.compare(Buffer.from(a.data.buffer), Buffer.from(b.data.buffer)) === 0;

/** Every other call gets slices of tensors that are wider by multiples of `step` channels. */
function withStrides(args: OpArguments, strided: string[] = [], i: number, step = 1): OpArguments {
  if (i % 2 === 0) return args;
  const strides = strided
    .filter((name) => args.tensors[name])
    .map((name, at) => [`ld_${name}`, args.tensors[name]!.shape[3] + step * (1 + at)]);
  return { tensors: args.tensors, attributes: { ...args.attributes, ...Object.fromEntries(strides) } };
}

/** The call with the tensors named in bf16, and their values such as bf16 holds. */
export function inBf16({ tensors, attributes }: OpArguments, names: string[]): OpArguments {
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
export const plain = (attributes: Record<string, number>) =>
  Object.fromEntries(Object.entries(attributes).filter(([name]) => !name.startsWith('bf16_')));

/** A drawn call and its backward, with the tensors of `rounded` in bf16: what is wrong. */
export function checkPair(row: OpCase, drawn: OpArguments, r: Rng, i: number, rounded: string[], tolerance: number, step = 1): string[] {
  const reference = loadReference();
  const args = inBf16(withStrides(drawn, row.strided, i, step), rounded);
  const expected = reference.op(row.op, args.tensors, plain(args.attributes)).tensors;
  const failures = check(row.op, args, row.inPlace ?? [], tolerance, expected);
  if (!row.backward) return failures;
  const drawnBack = backwardArguments(row, { ...args, attributes: drawn.attributes }, expected, r, i);
  const back = inBf16(withStrides(drawnBack, row.backward.strided, i + 1, step), rounded);
  const gradients = reference.op(row.backward.op, back.tensors, plain(back.attributes)).tensors;
  failures.push(...check(row.backward.op, back, Object.keys(row.backward.gradients), tolerance, gradients));
  return failures;
}
