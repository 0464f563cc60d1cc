/** Work whose failures are told apart, though what it calls keeps the words of all failures in one place. */

/** What runs together, and the last of what runs alone; undefined if nothing does. */
const together = new Set<Promise<unknown>>();
let alone: Promise<unknown> | undefined;

/**
 * Decodes an image. libvips gathers the words of all failures in one text, so that two images which fail at one time may be told of each
 * other's. Work that fails is done again while no other runs, and fails in its own words.
 * @param work can be done twice, and calls no inOwnWords
 */
export async function inOwnWords<T>(work: () => Promise<T>): Promise<T> {
  while (alone) await alone;
  const first = work();
  together.add(first);
  try {
    return await first;
  } catch {
    together.delete(first);
    const again = Promise.resolve(alone)
      .then(() => Promise.allSettled(together))
      .then(work);
    const ended: Promise<void> = again.then(
      () => {},
      () => {},
    );
    const last = ended.then(() => {
      if (alone === last) alone = undefined;
    });
    alone = last;
    return await again;
  } finally {
    together.delete(first);
  }
}
