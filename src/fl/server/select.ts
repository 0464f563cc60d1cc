/** Which clients take part in a round. */
import { PhoenixError } from '../../errors.ts';
import { rng } from '../../rng.ts';
import type { Hello } from '../protocol.ts';

/**
 * max(1, round(fraction·n)) different clients, uniformly at random, in the order of `clients`; a function of seed and round alone.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a fraction outside (0,1] or no clients
 */
export function selectClients<T extends Pick<Hello, 'id'>>(clients: T[], fraction: number, seed: number | bigint, round: number): T[] {
  if (!(fraction > 0 && fraction <= 1))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `fraction must be above 0 and at most 1, not ${fraction}.`);
  if (clients.length === 0) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'A federation needs at least one client.');
  return rng(seed, 'select', round).pick(clients, Math.max(1, Math.round(fraction * clients.length)));
}
