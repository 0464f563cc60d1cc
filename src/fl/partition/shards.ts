import { PhoenixError } from '../../errors.ts';
import { rng } from '../../rng.ts';
import { cutEvenly, type Partitioner, requireClients, requireLabels } from './partitioner.ts';

/**
 * Label skew: the images, sorted by label (labels in a random order, images in random order within a label), are cut into clients·perClient
 * shards whose sizes differ by at most one, and each client gets `perClient` of them. McMahan et al. 2017, §3, but a client's shards are
 * drawn one from each of `perClient` stretches of neighbouring shards, so that they hold different classes wherever the counts allow it.
 */
export function shards(perClient: number): Partitioner {
  return {
    name: `shards:${perClient}`,
    split(input) {
      const clients = requireClients(input);
      const labels = requireLabels(input, 'shards');
      const present = Array.from(new Set(labels)).sort((a, b) => a - b);
      const classes = present.length;
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
      const place = random.permutation(classes);
      const order = sortByLabel(random.permutation(input.count), labels, present, place);
      const pieces = cutEvenly(order, total);
      const hands: Int32Array[][] = Array.from({ length: clients }, () => []);
      for (let stretch = 0; stretch < perClient; stretch++) {
        const turns = random.permutation(clients);
        for (let i = 0; i < clients; i++) hands[turns[i]!]!.push(pieces[stretch * clients + i]!);
      }
      return hands.map((hand) => joined(hand).sort());
    },
  };
}

/** `images` with those of one label together, in the order that they had, the label present[i] at place[i]; in one pass, since images are many. */
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
