import { PhoenixError } from '../../errors.ts';
import { rng } from '../../rng.ts';
import { cutEvenly, type Partitioner, requireClients, requireLabels } from './partitioner.ts';

/**
 * Label skew: the images, sorted by label and in random order within a label, are cut into clients·perClient shards whose sizes differ by at
 * most one, and each client gets `perClient` of them at random, so about that many classes. McMahan et al. 2017, §3.
 */
export function shards(perClient: number): Partitioner {
  return {
    name: `shards:${perClient}`,
    split(input) {
      const clients = requireClients(input);
      const labels = requireLabels(input, 'shards');
      const classes = new Set(labels).size;
      if (perClient > classes) {
        const advice = `Use shards:${classes} or less, or iid.`;
        throw new PhoenixError(
          'ERR_PHOENIX_CONFIG',
          `shards:${perClient} asks for more classes a client than the ${classes} there are. ${advice}`,
        );
      }
      const total = clients * perClient;
      if (total > input.count) {
        const found = `${clients} clients with ${perClient} shards each need ${total} images, there are ${input.count}`;
        throw new PhoenixError('ERR_PHOENIX_CONFIG', `${found}. Use fewer clients, fewer shards or more images (--limit).`);
      }
      const random = rng(input.seed, 'partition', 'shards');
      // Sorting is stable, so the order within a label stays random.
      const order = Int32Array.from(Array.from(random.permutation(input.count)).sort((a, b) => labels[a]! - labels[b]!));
      const pieces = cutEvenly(order, total);
      const dealt = cutEvenly(random.permutation(total), clients);
      return dealt.map((hand) => Int32Array.from(Array.from(hand, (piece) => Array.from(pieces[piece]!)).flat()).sort());
    },
  };
}
