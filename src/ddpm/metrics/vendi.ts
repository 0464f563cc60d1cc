/** The Vendi score: how many different samples a set amounts to. */
import { checkArguments, matrix } from '../../arguments.ts';
import { checkFeatures, type Features } from './features.ts';

/**
 * exp of the entropy of the eigenvalues of K/n, K_ij the cosine of samples i and j (Friedman & Dieng 2023, def. 2): 1 (all equal) to n (all
 * orthogonal). A sample of zeros counts as like itself alone. The time grows with rows²·columns + min(rows, columns)³: for some hundred
 * samples.
 * @throws PhoenixError ERR_PHOENIX_SHAPE, ERR_PHOENIX_NOT_FINITE
 */
export function vendiScore(x: Features): number {
  checkArguments('vendiScore', { x }, { x: matrix });
  checkFeatures({ x });
  const { data, rows, columns } = x;
  const unit = new Float64Array(rows * columns);
  let zeros = 0;
  for (let i = 0; i < rows; i++) {
    let norm = 0;
    for (let j = 0; j < columns; j++) norm += data[i * columns + j]! ** 2;
    if (norm === 0) zeros++;
    else for (let j = 0; j < columns; j++) unit[i * columns + j] = data[i * columns + j]! / Math.sqrt(norm);
  }
  // X·Xᵀ and Xᵀ·X have the same eigenvalues but for zeros: take the smaller.
  const [n, stride, along] = rows <= columns ? [rows, columns, 1] : [columns, 1, columns];
  const length = Math.max(rows, columns);
  const gram = new Float64Array(n * n);
  for (let a = 0; a < n; a++)
    for (let b = a; b < n; b++) {
      let dot = 0;
      for (let k = 0; k < length; k++) dot += unit[a * stride + k * along]! * unit[b * stride + k * along]!;
      gram[a * n + b] = gram[b * n + a] = dot / rows;
    }
  const entropy = (share: number) => (share > 1e-15 ? -share * Math.log(share) : 0);
  return Math.exp(eigenvalues(gram, n).reduce((sum, value) => sum + entropy(value), zeros * entropy(1 / rows)));
}

/** Eigenvalues of a symmetric matrix (n, n), by cyclic Jacobi rotations (Golub & Van Loan, §8.5); `a` is used up. */
function eigenvalues(a: Float64Array, n: number): Float64Array {
  const at = (i: number, j: number) => a[i * n + j]!;
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    let all = 0;
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        all += at(i, j) ** 2;
        if (i !== j) off += at(i, j) ** 2;
      }
    if (off <= 1e-26 * all) break;
    for (let p = 0; p < n - 1; p++)
      for (let q = p + 1; q < n; q++) {
        if (at(p, q) === 0) continue;
        const tau = (at(q, q) - at(p, p)) / (2 * at(p, q));
        const t = (tau >= 0 ? 1 : -1) / (Math.abs(tau) + Math.sqrt(1 + tau * tau));
        const c = 1 / Math.sqrt(1 + t * t);
        const s = t * c;
        for (let k = 0; k < n; k++) {
          const [kp, kq] = [at(k, p), at(k, q)];
          a[k * n + p] = c * kp - s * kq;
          a[k * n + q] = s * kp + c * kq;
        }
        for (let k = 0; k < n; k++) {
          const [pk, qk] = [at(p, k), at(q, k)];
          a[p * n + k] = c * pk - s * qk;
          a[q * n + k] = s * pk + c * qk;
        }
      }
  }
  return Float64Array.from({ length: n }, (_, i) => at(i, i));
}
