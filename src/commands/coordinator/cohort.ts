/**
 * Who takes part in a round: the sites that are there when it begins, noted in a file, so that a coordinator that starts again repeats the
 * round with the same ones.
 */
import { z } from 'zod';
import { exists, readJson, writeWhole } from '../../files.ts';
import { clientId, type Hello, hello } from '../../fl/protocol.ts';
import type { Transport } from '../../fl/transport.ts';
import { jsonRules } from '../../run/folder.ts';

const schema = z.strictObject({
  schema: z.literal(1),
  round: z.int().min(1),
  clients: z.array(hello).min(1),
  /** Most local images of a site; those that are not named train as much as planned. */
  mostImages: z.record(clientId, z.int().min(1)).optional(),
});
type Settled = Pick<z.infer<typeof schema>, 'round' | 'clients' | 'mostImages'>;

export type Cohort = {
  /** The transport whose clients are those of the round. */
  transport: Transport;
  /** Settles who takes part in a round. Waits until as many sites are there as `least`; says for how many it waits. */
  settle(round: number, signal?: AbortSignal): Promise<void>;
  /** Most local images of a site in the round that was settled; undefined: as many as planned. */
  mostImages(site: string): number | undefined;
  /** Lets a round that failed be settled anew. */
  unsettle(): void;
};

export type CohortOptions = {
  /** The file that notes who takes part. */
  path: string;
  /** Fewest sites that a round begins with. */
  least: number;
  /** Sites that may still join the run and are waited for: those that are there, and those of `took` that are not lost. */
  joining(took: string[]): string[];
  /** Whether a site can still be asked. */
  isEnrolled(id: string): boolean;
  /** Resolves as soon as `check` is true; looked at when something of the sites has changed. */
  until(check: () => boolean, signal?: AbortSignal): Promise<void>;
  /** Most local images of sites that are to train less than planned, by their measured speed. @default none */
  measure?(clients: Hello[]): Record<string, number>;
  onWaiting?(present: Hello[], least: number): void;
};

export function cohortOf(transport: Transport, { path, least, joining, isEnrolled, until, measure, onWaiting }: CohortOptions): Cohort {
  /** The round that was settled in this process, and its clients. */
  let settled: Settled | undefined;
  let isAnew = false;
  const kept: Transport = {
    ask: (ids, request, options) => transport.ask(ids, request, options),
    lastSeen: (id) => transport.lastSeen?.(id),
    carriesVectors: transport.carriesVectors,
    traffic: () => transport.traffic(),
    close: () => transport.close(),
    get clients() {
      return settled?.clients ?? transport.clients;
    },
  };
  return {
    transport: kept,
    mostImages: (site) => settled?.mostImages?.[site],
    unsettle() {
      settled = undefined;
      isAnew = true;
    },
    async settle(round, signal) {
      if (settled?.round === round) return;
      const known = (await exists(path)) ? await readJson(path, schema, jsonRules) : undefined;
      const took = known?.clients.map(({ id }) => id) ?? [];
      const isNoted = known?.round === round && !isAnew;
      const noted = isNoted ? known.clients : undefined;
      const isMeant = (id: string) => !noted || took.includes(id);
      const there = () => transport.clients.filter(({ id }) => isMeant(id));
      const enough = () => there().length >= least && !joining(took).some(isMeant);
      if (!enough()) onWaiting?.(there(), least);
      await until(enough, signal);
      const clients = noted ? noted.filter(({ id }) => isEnrolled(id)) : [...transport.clients];
      const mostImages = isNoted ? known.mostImages : measure?.(clients);
      settled = { round, clients, mostImages };
      if (!noted) await writeWhole(path, `${JSON.stringify({ schema: 1, ...settled })}\n`);
      isAnew = false;
    },
  };
}
