/** What the next round depends on: vectors, and plain data that a run keeps in state.json. */
import { z } from 'zod';
import type { Vector } from '../bindings/vector.ts';
import { clientId, report } from './protocol.ts';

const count = z.int().min(0);
const version = z.int().min(1);

/** What was last learnt of a client by a probe, and in which round. */
export const profile = report.pick({ examples: true, quality: true, vendi: true, histogram: true }).extend({ round: count });
export type Profile = z.infer<typeof profile>;
export type Profiles = Record<string, Profile>;

/** A parcel that was sent: its version, and the clients that have received it. */
const sent = z.object({ version, to: z.array(clientId) });
export type Sent = z.infer<typeof sent>;

/** The plain part of a FederationState. */
export const plainState = z.object({
  /** Steps behind the global model: the weighted mean over the clients of a round, rounded, summed over rounds. */
  globalStep: count,
  /** Images seen by all clients so far. */
  images: count,
  /** The strategy's own state. */
  strategy: z.unknown(),
  /** What is known of the clients from probes. */
  profiles: z.record(z.string(), profile),
  /** The shared images and the bins: the values lie in the round's Store. */
  shared: sent.optional(),
  /** `reference`: how many of the shared images lie in each bin, if the bins were made of these. */
  bins: sent.extend({ count: version, reference: z.array(count).optional() }).optional(),
  /** Local work as a multiple of what the options say: see server/local-work.ts. */
  work: z.number().gt(0),
});
export type PlainState = z.infer<typeof plainState>;

/** Everything that the next round depends on, in addition to the clients' own state. */
export type FederationState = PlainState & {
  /** Rounds done. */
  round: number;
  params: Vector;
  /** Server-side EMA of the global parameters. */
  ema: Vector;
  /** Moments of the server optimizer; empty for 'add'. */
  serverMoments: Vector[];
};
