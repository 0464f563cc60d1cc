import { rng } from '../../rng.ts';
import { cutEvenly, type Partitioner, requireClients } from './partitioner.ts';

/** Every client gets an equal share of a random order: sizes differ by at most one. */
export function iid(): Partitioner {
  return {
    name: 'iid',
    split(input) {
      const clients = requireClients(input);
      const order = rng(input.seed, 'partition', 'iid').permutation(input.count);
      return cutEvenly(order, clients).map((part) => part.sort());
    },
  };
}
