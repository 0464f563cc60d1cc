import { rng } from '../../rng.ts';
import { type Partitioner, requireClients, zipfSizes } from './partitioner.ts';

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
      return zipfSizes(input.count, clients, exponent).map((size) => {
        from += size;
        return order.slice(from - size, from).sort();
      });
    },
  };
}
