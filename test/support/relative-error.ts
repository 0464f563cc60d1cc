/** Σ(value - expected)²/Σ expected²; NaN if anything is. */
export function error(value: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (value[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return difference === 0 ? 0 : difference / Math.max(norm, 1e-30);
}
