/** Where what belongs to a client, or to a round, is kept between calls. */

/**
 * Keys are `<client>/<what>`; those of the round begin with a dot, as no client's id does. Values are the caller's: neither side changes
 * one.
 */
export type Store = {
  get(key: string): Promise<Uint8Array | undefined>;
  set(key: string, bytes: Uint8Array): Promise<void>;
  delete(key: string): Promise<void>;
  keys(): Promise<string[]>;
};

/** A Store in memory: for tests, short runs and clients that hold their own state. */
export function memoryStore(): Store {
  const entries = new Map<string, Uint8Array>();
  return {
    get: async (key) => entries.get(key),
    set: async (key, bytes) => void entries.set(key, bytes),
    delete: async (key) => void entries.delete(key),
    keys: async () => [...entries.keys()],
  };
}
