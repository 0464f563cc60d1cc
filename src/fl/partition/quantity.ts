import { rng } from '../../rng.ts';
import { type Partitioner, requireClients } from './partitioner.ts';

/**
 * Quantity skew: client r (from 1) gets one image and a share of the others in proportion to r^-exponent (Zipf), drawn at random whatever
 * the class. The first client is the largest; exponent 0 gives equal sizes.
 */
export function quantity(exponent: number): Partitioner {
  return {
    name: `quantity:${exponent}`,
    split(input) {
      const clients = requireClients(input);
      const order = rng(input.seed, 'partition', 'quantity').permutation(input.count);
      let from = 0;
      return sizes(input.count, clients, exponent).map((size) => {
        from += size;
        return order.slice(from - size, from).sort();
      });
    },
  };
}

/** Sizes that add up to count: shares rounded down, and what is left over given to the first clients, one each. */
function sizes(count: number, clients: number, exponent: number): number[] {
  const weights = Array.from({ length: clients }, (_, i) => (i + 1) ** -exponent);
  const sum = weights.reduce((a, b) => a + b);
  const shared = count - clients;
  const floors = weights.map((weight) => Math.floor((shared * weight) / sum));
  const left = shared - floors.reduce((a, b) => a + b);
  return floors.map((floor, client) => 1 + floor + (client < left ? 1 : 0));
}
