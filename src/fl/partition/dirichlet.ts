import { rng } from '../../rng.ts';
import { type Partitioner, requireClients, requireLabels } from './partitioner.ts';

/** Divisions that are drawn before one with an empty client is mended. */
const DRAWS = 10;

/**
 * Label skew: the images of each class go to the clients in proportions drawn from Dirichlet(alpha), alpha > 0. Small: a class belongs to
 * few clients; large: every client has the mix of the whole. Proportions of a class over clients as in Yurochkin et al. 2019 (§4); Hsu et
 * al. 2019 draw proportions of a client over classes. Sizes differ between clients. A division with an empty client is drawn anew up to ten
 * times; after that each empty client gets one image of the then largest.
 */
export function dirichlet(alpha: number): Partitioner {
  return {
    name: `dirichlet:${alpha}`,
    split(input) {
      const clients = requireClients(input);
      const classes = byClass(requireLabels(input, 'dirichlet'));
      let parts: number[][] = [];
      for (let attempt = 0; attempt < DRAWS; attempt++) {
        parts = draw(classes, clients, alpha, input.seed, attempt);
        if (parts.every((part) => part.length > 0)) break;
      }
      for (const part of parts) {
        if (part.length > 0) continue;
        const largest = parts.reduce((a, b) => (b.length > a.length ? b : a));
        part.push(largest.pop()!);
      }
      return parts.map((part) => Int32Array.from(part).sort());
    },
  };
}

function byClass(labels: Int32Array): number[][] {
  const classes = new Map<number, number[]>();
  for (const [i, label] of labels.entries()) {
    const members = classes.get(label);
    if (members) members.push(i);
    else classes.set(label, [i]);
  }
  return [...classes].sort(([a], [b]) => a - b).map(([, members]) => members);
}

function draw(classes: number[][], clients: number, alpha: number, seed: number, attempt: number): number[][] {
  const random = rng(seed, 'partition', 'dirichlet', attempt);
  const parts: number[][] = Array.from({ length: clients }, () => []);
  for (const members of classes) {
    const shares = random.dirichlet(alpha, clients);
    const order = random.permutation(members.length);
    let cumulated = 0;
    let from = 0;
    for (const [client, part] of parts.entries()) {
      cumulated += shares[client]!;
      // The shares' sum may miss 1 by rounding, and the last client takes what is left.
      const to = client === clients - 1 ? members.length : Math.min(members.length, Math.floor(cumulated * members.length));
      for (; from < to; from++) part.push(members[order[from]!]!);
    }
  }
  return parts;
}
