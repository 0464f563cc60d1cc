/** Calls with one tensor of a wrong shape: all backends refuse them in the same words (native/kernels/shapes.h). */
import { readFileSync } from 'node:fs';
import type { Addon, OpTensor } from '../../src/bindings/native.ts';
import { rng } from '../../src/rng.ts';
import { backwardArguments, cases, type OpArguments } from '../cases.ts';
import { loadReference } from './addons.ts';

/** The ops whose tensors' shapes are checked, and which tensors these are. */
const header = readFileSync(new URL('../../native/kernels/shapes.h', import.meta.url), 'utf8');
const checked = new Map(
  [...header.matchAll(/^inline void (\w+)\((const (?:Tensor|Grad)& [^{]*)\) \{/gm)].map(([, op, parameters]) => [
    op!,
    [...parameters!.matchAll(/const (?:Tensor|Grad|Shortcut)& (\w+)/g)].flatMap(([, name]) =>
      name === 'shortcut' ? ['skip0', 'skip1', 'skip_w', 'skip_b'] : [name!],
    ),
  ]),
);

const wider = ({ shape: [n, h, w, c] }: OpTensor): OpTensor => ({ data: new Float64Array(n * h * w * (c + 1)), shape: [n, h, w, c + 1] });

export interface Misshapen {
  op: string;
  /** The tensor that has a channel more than it should. */
  name: string;
  args: OpArguments;
}

/** One call for each tensor of each checked op, forward and backward. */
export function misshapen(): Misshapen[] {
  return cases.flatMap((row) => {
    const r = rng(1, 'misshapen', row.op);
    const args = row.draw(r, 0);
    const calls = [{ op: row.op, args }];
    if (row.backward) {
      const { tensors } = loadReference().op(row.op, args.tensors, args.attributes);
      calls.push({ op: row.backward.op, args: backwardArguments(row, args, tensors, r, 0) });
    }
    return calls
      .filter(({ op }) => checked.has(op))
      .flatMap(({ op, args: { tensors, attributes } }) =>
        Object.keys(tensors)
          .filter((name) => checked.get(op)!.includes(name))
          .map((name) => ({ op, name, args: { tensors: { ...tensors, [name]: wider(tensors[name]!) }, attributes } })),
      );
  });
}

/** What an addon says to a call; 'accepted' if nothing. */
export function refusal(addon: Addon, { op, args }: Misshapen): string {
  try {
    addon.op(op, args.tensors, args.attributes);
    return 'accepted';
  } catch (error) {
    // An addon without setErrorClass puts the code in front.
    return (error as Error).message.replace(/^ERR_\w+: /, '');
  }
}
