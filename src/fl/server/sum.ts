/** Σ w·x, one vector at a time, so that only the sum is held. */
import type { CreateVector, Vector } from '../../bindings/vector.ts';

export type WeightedSum = {
  /** Adds w·x, w > 0. */
  add(x: Vector, w: number): Promise<void>;
  /** Σ w so far. */
  weight(): number;
  /** Turns the sum into the mean Σ w·x / Σ w and returns it: the last call but `dispose`. */
  mean(): Promise<Vector>;
  dispose(): void;
};

export function weightedSum(length: number, createVector: CreateVector): WeightedSum {
  const sum = createVector(length);
  let weight = 0;
  return {
    async add(x, w) {
      await sum.axpy(x, w);
      weight += w;
    },
    weight: () => weight,
    async mean() {
      await sum.scale(1 / weight);
      return sum;
    },
    dispose: () => sum.dispose(),
  };
}
