/** An assertion that numbers, or arrays of them, are equal within a tolerance, and that says by how much they are not. */
import type { ExecutionContext } from 'ava';

/**
 * How far a value may be from the expected one: a number is absolute; with `relative`, the larger of relative·|expected| and `absolute`.
 * `norm` is for arrays as wholes: ‖actual - expected‖ ≤ norm·‖expected‖.
 */
export type Tolerance = number | { relative: number; absolute?: number } | { norm: number };

type Values = number | ArrayLike<number>;

const isNorm = (tolerance: Tolerance): tolerance is { norm: number } => typeof tolerance === 'object' && 'norm' in tolerance;

const allowedAt = (expected: number, tolerance: Exclude<Tolerance, { norm: number }>): number =>
  typeof tolerance === 'number' ? tolerance : Math.max(tolerance.absolute ?? 0, tolerance.relative * Math.abs(expected));

/** NaN is near nothing, not even itself; an infinity is near itself. */
const differenceOf = (actual: number, expected: number): number => (actual === expected ? 0 : Math.abs(actual - expected));

/** What is wrong, or undefined. */
function problem(actual: Values | null | undefined, expected: Values, tolerance: Tolerance): string | undefined {
  if (actual === undefined || actual === null)
    return `actual is ${actual}, expected ${typeof expected === 'number' ? expected : 'an array'}`;
  const scalar = typeof expected === 'number';
  if (scalar !== (typeof actual === 'number')) return `a number and an array: actual ${actual}, expected ${expected}`;
  const [found, wanted] = [scalar ? [actual as number] : (actual as ArrayLike<number>), scalar ? [expected] : expected];
  if (found.length !== wanted.length) return `${found.length} values, expected ${wanted.length}`;
  if (isNorm(tolerance)) return normProblem(found, wanted, tolerance.norm);
  for (let i = 0; i < wanted.length; i++) {
    const difference = differenceOf(found[i]!, wanted[i]!);
    const allowed = allowedAt(wanted[i]!, tolerance);
    if (difference <= allowed) continue;
    return `${scalar ? '' : `index ${i} of ${wanted.length}: `}actual ${found[i]}, expected ${wanted[i]}, difference ${difference}, tolerance ${allowed}`;
  }
  return undefined;
}

function normProblem(found: ArrayLike<number>, wanted: ArrayLike<number>, norm: number): string | undefined {
  let [difference, whole, largest, at] = [0, 0, -1, 0];
  for (let i = 0; i < wanted.length; i++) {
    const one = differenceOf(found[i]!, wanted[i]!);
    difference += one ** 2;
    whole += wanted[i]! ** 2;
    if (!(one <= largest)) [largest, at] = [one, i];
  }
  const [distance, allowed] = [Math.sqrt(difference), norm * Math.sqrt(whole)];
  if (distance <= allowed) return undefined;
  const worst = `the largest difference is at index ${at} of ${wanted.length}: actual ${found[at]}, expected ${wanted[at]}`;
  return `norm of the difference ${distance}, tolerance ${allowed} (${norm} of the expected norm); ${worst}`;
}

/**
 * Fails unless every value of `actual` is within `tolerance` of the one expected, naming the first index that is not. Lengths must be
 * equal. `about` says what was compared.
 */
export function near(t: ExecutionContext, actual: Values | null | undefined, expected: Values, tolerance: Tolerance, about?: string): void {
  const wrong = problem(actual, expected, tolerance);
  if (wrong === undefined) t.pass();
  else t.fail(about === undefined ? wrong : `${about}: ${wrong}`);
}
