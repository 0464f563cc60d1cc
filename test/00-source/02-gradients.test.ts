/**
 * The definitions' gradients against central differences, in double precision: for L = Σ upstream·output, (L(x + h) - L(x - h))/2h at up to
 * 24 places of every input, relative error ≤ 1e-6.
 */
import test from 'ava';
import type { OpTensor } from '../../src/bindings/native.ts';
import { rng } from '../../src/rng.ts';
import { backwardArguments, cases, type OpArguments, type OpCase } from '../cases.ts';
import { loadReference } from '../support/addons.ts';

const reference = loadReference();
const step = 1e-5; // truncation and rounding both stay near 1e-10 of a value of order 1
const places = 24;

/** L of the forward call. */
function weighted(row: OpCase, args: OpArguments, upstream: Record<string, OpTensor>): number {
  const outputs = reference.op(row.op, args.tensors, args.attributes).tensors;
  let sum = 0;
  for (const [output, weight] of Object.entries(row.backward!.upstream)) {
    const { data } = outputs[output]!;
    for (let i = 0; i < data.length; i++) sum += data[i]! * (typeof weight === 'string' ? upstream[weight]!.data[i]! : weight(args));
  }
  return sum;
}

for (const row of cases.filter(({ backward }) => backward)) {
  test(`${row.backward!.op} of the definitions is the derivative of ${row.op}`, (t) => {
    const failures: string[] = [];
    for (let i = 0; i < Math.min(row.draws, 6); i++) {
      const r = rng(2, 'gradients', row.op, i);
      const args = row.draw(r, i);
      const saved = reference.op(row.op, args.tensors, args.attributes).tensors;
      const back = backwardArguments(row, args, saved, r, i);
      // In full precision: rounding what forward saves would show at 1e-7.
      for (const [name, { data }] of Object.entries(args.tensors)) if (data.length === 0) back.tensors[name] = saved[name]!;
      const gradients = reference.op(row.backward!.op, back.tensors, back.attributes).tensors;

      for (const [name, from] of Object.entries(row.backward!.gradients)) {
        if (!back.tensors[name]) continue;
        const input = args.tensors[from]!;
        const before = back.tensors[name].data;
        let difference = 0;
        let norm = 0;
        for (const at of r.pick([...input.data.keys()], Math.min(places, input.data.length))) {
          const value = input.data[at]!;
          const [above, below] = [value + step, value - step].map((moved) => {
            const data = input.data.slice();
            data[at] = moved;
            return weighted(row, { ...args, tensors: { ...args.tensors, [from]: { data, shape: input.shape } } }, back.tensors);
          });
          const slope = (above! - below!) / (2 * step);
          const gradient = gradients[name]!.data[at]! - (before.length ? before[at]! : 0);
          difference += (slope - gradient) ** 2;
          norm += gradient ** 2;
        }
        const error = Math.sqrt(difference / norm);
        if (difference > 0 && !(error <= 1e-6)) {
          const call = Object.entries(args.tensors).map(([tensor, { shape }]) => `${tensor} ${shape.join('x')}`);
          failures.push(`${name} is off by ${error}; ${call.join(', ')}; ${JSON.stringify(args.attributes)}`);
        }
      }
    }
    t.deepEqual(failures, []);
  });
}
