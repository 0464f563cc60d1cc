/** Callbacks of a caller: one that throws, or whose promise rejects, ends the call that it belongs to. */
import { showArgument } from './arguments.ts';
import { PhoenixError } from './errors.ts';

const isThenable = (value: unknown): value is PromiseLike<unknown> =>
  typeof value === 'object' && value !== null && typeof (value as PromiseLike<unknown>).then === 'function';

/** The names of callbacks, also of those that an object inherits. */
function callbacksOf(given: object): string[] {
  const names = new Set<string>();
  for (let at: object | null = given; at && at !== Object.prototype; at = Object.getPrototypeOf(at))
    for (const name of Object.getOwnPropertyNames(at)) if (/^on[A-Z]/.test(name)) names.add(name);
  return [...names];
}

/** Options with callbacks, whose names begin with "on", and a signal. */
type Calling = { signal?: AbortSignal };

/**
 * Does work whose callbacks (onStep, onRound, …) may be asynchronous. What one throws or rejects with stops the work by its signal, and is
 * what the call rejects with; without that, a rejection would end the process, past the caller. Promises that are still pending at the end
 * are waited for.
 * @param name of the function, for errors
 * @param work does the work with the same options, whose callbacks never throw; those that return a promise return one of the same value
 * that never rejects: where theirs would, it is undefined
 */
export async function withCallbacks<E extends Calling, R>(name: string, given: E, work: (guarded: E) => Promise<R>): Promise<R> {
  if (typeof given !== 'object' || given === null)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${name} takes an object of options or callbacks, not ${showArgument(given)}.`);
  const callbacks = callbacksOf(given).flatMap((key) => {
    const call = (given as Record<string, unknown>)[key];
    if (call === undefined) return [];
    if (typeof call === 'function') return [[key, call] as const];
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${name}: ${key} must be a function, not ${showArgument(call)}.`);
  });
  if (callbacks.length === 0) return work(given);
  const failed = new AbortController();
  const pending = new Set<Promise<unknown>>();
  const guarded = ([key, call]: (typeof callbacks)[number]) => {
    const wrapped = (...values: unknown[]): unknown => {
      try {
        const returned = call.apply(given, values);
        if (!isThenable(returned)) return returned;
        const settled: Promise<unknown> = Promise.resolve(returned)
          .catch((error) => failed.abort(error))
          .finally(() => pending.delete(settled));
        pending.add(settled);
        return settled;
      } catch (error) {
        failed.abort(error);
        return undefined;
      }
    };
    return [key, wrapped] as const;
  };
  const signal = given.signal ? AbortSignal.any([given.signal, failed.signal]) : failed.signal;
  try {
    return await work({ ...given, ...Object.fromEntries(callbacks.map(guarded)), signal });
  } finally {
    await Promise.all(pending);
    failed.signal.throwIfAborted();
  }
}
