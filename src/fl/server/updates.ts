/**
 * All updates of a round at once, for strategies that combine them. They lie in a Store as pieces of float32, and are worked on one piece
 * of the vector at a time: memory holds a block (clients, piece), never a model a client.
 */
import { type CreateVector, getBytes, setBytes, type Vector } from '../../bindings/vector.ts';
import type { Store } from '../store.ts';
import type { Updates, Weights } from '../strategy.ts';
import { weightedSum } from './sum.ts';

/** Values of a block in memory, over all clients (64 MB). */
const BLOCK = 2 ** 24;

export type CollectedUpdates = Updates & {
  /** Takes one client's update in; `delta` may be used again afterwards. */
  add(client: string, weight: number, delta: Vector): Promise<void>;
  /** Σ w·δ / Σ w, one weight per update. */
  weightedMean(weights: number[]): Promise<Vector>;
  /** Removes what lies in the Store. */
  drop(): Promise<void>;
};

/** `most`: how many updates may come. The entries of the Store are `.round/<client>/<piece>`: no client's id begins with a dot. */
export function collectUpdates(length: number, most: number, store: Store, createVector: CreateVector): CollectedUpdates {
  const piece = Math.min(length, Math.max(1024, Math.floor(BLOCK / most)));
  const pieces = Math.ceil(length / piece);
  const arrived: Weights = [];
  const columnsOf = (index: number) => Math.min(piece, length - index * piece);
  const key = (client: string, index: number) => `.round/${client}/${index}`;

  /** Calls `work` with each piece of the vector as a block (clients, columns). */
  async function eachBlock(work: (block: Vector, columns: number, offset: number) => Promise<void>): Promise<void> {
    const block = createVector(arrived.length * piece);
    try {
      for (let index = 0; index < pieces; index++) {
        const columns = columnsOf(index);
        for (const [row, { client }] of arrived.entries()) {
          await setBytes((await store.get(key(client, index)))!, block, row * columns);
        }
        await work(block, columns, index * piece);
      }
    } finally {
      block.dispose();
    }
  }

  return {
    get clients() {
      return arrived.map(({ client }) => client);
    },
    get weights() {
      return arrived.map(({ weight }) => weight);
    },

    async add(client, weight, delta) {
      for (let index = 0; index < pieces; index++) {
        await store.set(key(client, index), await getBytes(delta, index * piece, columnsOf(index)));
      }
      arrived.push({ client, weight });
    },

    async squaredDistances() {
      const n = arrived.length;
      const sum = new Float64Array(n * n);
      await eachBlock(async (block, columns) => {
        const part = await block.rowDistances(n, columns);
        for (let i = 0; i < sum.length; i++) sum[i]! += part[i]!;
      });
      return sum;
    },

    async trimmedMean(trim) {
      const mean = createVector(length);
      await eachBlock((block, columns, offset) => mean.trimmedMean(block, { rows: arrived.length, columns, trim, offset }));
      return mean;
    },

    async weightedMean(weights) {
      const sum = weightedSum(length, createVector);
      const delta = createVector(length);
      try {
        for (const [i, { client }] of arrived.entries()) {
          if (weights[i] === 0) continue;
          for (let index = 0; index < pieces; index++) await setBytes((await store.get(key(client, index)))!, delta, index * piece);
          await sum.add(delta, weights[i]!);
        }
        return await sum.mean();
      } catch (error) {
        sum.dispose();
        throw error;
      } finally {
        delta.dispose();
      }
    },

    async drop() {
      for (const { client } of arrived) for (let index = 0; index < pieces; index++) await store.delete(key(client, index));
    },
  };
}
