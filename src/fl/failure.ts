/** Which errors are a client's failure, and which are not. */
import { PhoenixError, type PhoenixErrorCode } from '../errors.ts';
import type { Failure } from './protocol.ts';

/** Troubles of the machine or program itself: leaving out one client after the other would hide them. */
const ofTheHost: PhoenixErrorCode[] = [
  'ERR_PHOENIX_IO',
  'ERR_PHOENIX_RUN',
  'ERR_PHOENIX_MEMORY',
  'ERR_PHOENIX_LOAD',
  'ERR_PHOENIX_DISPOSED',
  'ERR_PHOENIX_BUSY',
  'ERR_PHOENIX_INTERNAL',
];

/** The Failure of a client that threw `error`; throws it on if the signal was aborted or the error is the host's. */
export function failureOf(error: unknown, where: Omit<Failure, 'reason'>, signal: AbortSignal | undefined): Failure {
  signal?.throwIfAborted();
  if (error instanceof PhoenixError && ofTheHost.includes(error.code)) throw error;
  return { ...where, reason: error instanceof Error ? error.message : String(error) };
}
