/** Waiting: for many pieces of work in the order of their arrival, and for one until an abort. */
import { setMaxListeners } from 'node:events';
import { PhoenixError } from '../errors.ts';

/**
 * `start` is called when the first result is wanted; it gives its work to `add`, and the results end once it has ended and all are taken.
 * What it or a piece of work rejects with is thrown; then, and where the loop is left early, the signal is aborted. An abort of `outer`
 * rejects with its reason.
 */
export function arrivals<T>(
  outer: AbortSignal,
  start: (signal: AbortSignal, add: (work: Promise<T>) => void) => Promise<void>,
): AsyncIterable<T> {
  return {
    [Symbol.asyncIterator]() {
      const left = new AbortController();
      const signal = AbortSignal.any([outer, left.signal]);
      // Each piece of work listens.
      setMaxListeners(0, signal);
      const arrived: (() => T)[] = [];
      let open = 0;
      let begun = false;
      let wake = () => {};
      const settle = (take: () => T) => {
        arrived.push(take);
        wake();
      };
      const fail = (error: unknown) =>
        settle(() => {
          throw error;
        });
      const add = (work: Promise<T>) => {
        open++;
        work.then((value) => settle(() => value), fail);
      };
      const begin = () => {
        begun = true;
        open++;
        signal.addEventListener('abort', () => wake());
        start(signal, add).then(() => {
          open--;
          wake();
        }, fail);
      };
      return {
        async next() {
          if (!begun) begin();
          for (;;) {
            if (left.signal.aborted) return { done: true, value: undefined };
            outer.throwIfAborted();
            const take = arrived.shift();
            if (!take && open === 0) return { done: true, value: undefined };
            if (!take) {
              await new Promise<void>((resolve) => {
                wake = resolve;
              });
              continue;
            }
            open--;
            try {
              return { done: false, value: take() };
            } catch (error) {
              left.abort(error);
              throw error;
            }
          }
        },
        async return() {
          left.abort(new PhoenixError('ERR_PHOENIX_ROUND', 'The round no longer waits for this client.'));
          return { done: true, value: undefined };
        },
      };
    },
  };
}

/** What the promise gives; rejects with the signal's reason if that comes first. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
    if (signal.aborted) abort();
  });
}
