import { PhoenixError } from '../../errors.ts';
import { rng } from '../../rng.ts';
import { cutEvenly, type Partitioner, requireClients, requireLabels, zipfSizes } from './partitioner.ts';

/**
 * Label skew: the images, sorted by label (labels in a random order, images in random order within a label), are cut into clients·perClient
 * shards whose sizes differ by at most one, and each client gets `perClient` of them. McMahan et al. 2017, §3, but a client's shards are
 * drawn one from each of `perClient` stretches of neighbouring shards, so that they hold different classes wherever the counts allow it.
 * With a Zipf exponent above 0 the stretches are equal, and client r's shard of each (r from 1) has a share in proportion to r^-zipf.
 */
export function shards(perClient: number, zipf = 0): Partitioner {
  return {
    name: zipf > 0 ? `shards:${perClient},zipf:${zipf}` : `shards:${perClient}`,
    split(input) {
      const clients = requireClients(input);
      const labels = requireLabels(input, 'shards');
      const present = Array.from(new Set(labels)).sort((a, b) => a - b);
      const classes = present.length;
      if (perClient > classes) {
        const advice = `Use shards:${classes} or less, or iid.`;
        throw new PhoenixError(
          'ERR_PHOENIX_CONFIG',
          `shards:${perClient} asks for more classes per client than the ${classes} that there are. ${advice}`,
        );
      }
      const total = clients * perClient;
      if (total > input.count) {
        const found = `${clients} clients with ${perClient} shards each need ${total} images, there are ${input.count}`;
        throw new PhoenixError('ERR_PHOENIX_CONFIG', `${found}. Use fewer clients, fewer shards or more images (--limit).`);
      }
      const random = rng(input.seed, 'partition', 'shards');
      const place = random.permutation(classes);
      const order = sortByLabel(random.permutation(input.count), labels, present, place);
      const hands: Int32Array[][] = Array.from({ length: clients }, () => []);
      const pieces = cutEvenly(order, total);
      const stretches = cutEvenly(order, perClient);
      for (let stretch = 0; stretch < perClient; stretch++) {
        const turns = random.permutation(clients);
        const sizes = zipf > 0 ? zipfSizes(stretches[stretch]!.length, clients, zipf) : [];
        let from = 0;
        for (let i = 0; i < clients; i++) {
          const client = turns[i]!;
          const size = sizes[client] ?? 0;
          hands[client]!.push(zipf > 0 ? stretches[stretch]!.slice(from, from + size) : pieces[stretch * clients + i]!);
          from += size;
        }
      }
      return hands.map((hand) => joined(hand).sort());
    },
  };
}

/**
 * `images` with those of one label together, in the order that they had, the label present[i] at place[i]; in one pass, since images are
 * many.
 */
function sortByLabel(images: Int32Array, labels: Int32Array, present: number[], place: Int32Array): Int32Array {
  const rank = new Map(present.map((label, i) => [label, place[i]!]));
  const ranks = labels.map((label) => rank.get(label)!);
  const next = new Int32Array(present.length + 1);
  for (const r of ranks) next[r + 1]!++;
  for (let r = 0; r < present.length; r++) next[r + 1]! += next[r]!;
  const sorted = new Int32Array(images.length);
  for (const image of images) sorted[next[ranks[image]!]!++] = image;
  return sorted;
}

function joined(pieces: Int32Array[]): Int32Array {
  const all = new Int32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
