/** A Store in memory: for tests, short runs and clients that hold their own state. */
import type { Store } from './types.ts';

export function memoryStore(): Store {
  const entries = new Map<string, Uint8Array>();
  return {
    get: async (key) => entries.get(key),
    set: async (key, bytes) => void entries.set(key, bytes),
    delete: async (key) => void entries.delete(key),
    keys: async () => [...entries.keys()],
  };
}
