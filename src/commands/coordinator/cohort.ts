/**
 * Who takes part in a round: the sites that are there when it begins, noted in a file, so that a coordinator that starts again repeats the
 * round with the same ones.
 */
import { z } from 'zod';
import { exists, readJson, writeWhole } from '../../files.ts';
import { type Hello, hello } from '../../fl/protocol.ts';
import type { Transport } from '../../fl/transport.ts';
import { jsonRules } from '../../run/folder.ts';

const schema = z.strictObject({ schema: z.literal(1), round: z.int().min(1), clients: z.array(hello).min(1) });

export type Cohort = {
  /** The transport whose clients are those of the round. */
  transport: Transport;
  /** Settles who takes part in a round. Waits until as many sites are there as `least`; says for how many it waits. */
  settle(round: number, signal?: AbortSignal): Promise<void>;
  /** Lets a round that failed be settled anew. */
  unsettle(): void;
};

export type CohortOptions = {
  /** The file that notes who takes part. */
  path: string;
  /** Fewest sites that a round begins with. */
  least: number;
  /** Sites that are there and may still join the run: those are waited for as well. */
  joining(): string[];
  /** Whether a site can still be asked. */
  isEnrolled(id: string): boolean;
  /** Resolves as soon as `check` is true; looked at when something of the sites has changed. */
  until(check: () => boolean, signal?: AbortSignal): Promise<void>;
  onWaiting?(present: Hello[], least: number): void;
};

export function cohortOf(transport: Transport, { path, least, joining, isEnrolled, until, onWaiting }: CohortOptions): Cohort {
  let settled: Hello[] | undefined;
  const kept: Transport = {
    ask: (ids, request, options) => transport.ask(ids, request, options),
    lastSeen: (id) => transport.lastSeen?.(id),
    carriesVectors: transport.carriesVectors,
    traffic: () => transport.traffic(),
    close: () => transport.close(),
    get clients() {
      return settled ?? transport.clients;
    },
  };
  return {
    transport: kept,
    unsettle() {
      settled = undefined;
    },
    async settle(round, signal) {
      const known = (await exists(path)) ? await readJson(path, schema, jsonRules) : undefined;
      if (known?.round === round && !settled) {
        const names = new Set(known.clients.map(({ id }) => id));
        const enough = () => transport.clients.filter(({ id }) => names.has(id)).length >= least;
        if (!enough()) onWaiting?.(transport.clients, least);
        await until(enough, signal);
        settled = known.clients.filter(({ id }) => isEnrolled(id));
        return;
      }
      settled = undefined;
      const enough = () => transport.clients.length >= least && joining().length === 0;
      if (!enough()) onWaiting?.(transport.clients, least);
      await until(enough, signal);
      settled = [...transport.clients];
      await writeWhole(path, `${JSON.stringify({ schema: 1, round, clients: settled })}\n`);
    },
  };
}
