/** config.json: what a run is. One schema, for what is written and what is read. */
import { z } from 'zod';

/** Of config.json. 2: options in groups. */
export const CONFIG_SCHEMA = 2;

const count = z.int().min(0);
/** A number of rounds or passes, or 'open': until the run is told to finish. */
const openCount = z.union([count, z.literal('open')]).optional();
const fields = z.record(z.string(), z.unknown());

export const runConfigSchema = z.looseObject({
  schema: z.literal(CONFIG_SCHEMA),
  kind: z.enum(['federate', 'train']),
  /** The options that the run began with, defaults filled in. */
  options: z.looseObject({
    data: z.string(),
    preset: z.string(),
    seed: z.number(),
    /** Of a federation. */
    partition: z.string().optional(),
    strategy: z.string().optional(),
    rounds: openCount,
    images: count.optional(),
    sharing: z.looseObject({ source: z.string() }).optional(),
    /** Of a training in one place. */
    epochs: openCount,
    commitImages: count.optional(),
  }),
  data: z.looseObject({
    name: z.string(),
    fingerprint: z.string(),
    count,
    height: count,
    width: count,
    channels: count,
    classNames: z.array(z.string()),
    siteNames: z.array(z.string()).optional(),
    /** The values that became 0 and 255. */
    range: z.tuple([z.number(), z.number()]).optional(),
    /** What lay beside the images and was not used. */
    leftOut: z.array(z.string()).optional(),
  }),
  unet: fields,
  noise: fields,
  /** Hyper-parameters of the training, and how much a client trains in a round. */
  fit: fields,
  length: fields,
  parameterCount: count,
  /** The clients of a federation, or the one of a training in one place. */
  clients: z.array(z.looseObject({ id: z.string(), examples: count, heldOut: count, histogram: z.array(z.number()).optional() })),
  serverStep: fields.optional(),
  /** What client statistics compare images by, where any are asked for. */
  features: z.object({ name: z.string(), fingerprint: z.string() }).optional(),
  /** Images of the shared set, how many of them each client gets, and of real ones how many come from each site. */
  shared: z.looseObject({ count, each: count, from: z.record(z.string(), count).optional() }).optional(),
  /** Patterns of the personal layers, and the parameters that they fit. */
  personal: z.object({ patterns: z.array(z.string()), parameters: z.array(z.string()), values: count }).optional(),
  /** Where it was computed: all else must be equal for a resume. */
  build: z.looseObject({ backend: z.string(), isa: z.string() }),
});

/** What a run is, as config.json holds it: plain JSON. */
export type RunConfig = z.infer<typeof runConfigSchema>;
