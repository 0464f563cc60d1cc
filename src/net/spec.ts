/**
 * The spec of a run: what a site must know to take part, the same for all sites, fixed for the run. It travels as a blob; a site names the
 * sha256 of the one that it has accepted. It instructs, so what is not known is refused by name.
 */
import { z } from 'zod';
import { type UNetConfig, validateUNet } from '../ddpm/model/unet.ts';
import { type NoiseOptions, noise } from '../ddpm/noise.ts';
import { PhoenixError } from '../errors.ts';
import { clientId, explain, statistics } from '../fl/protocol.ts';
import { MAX_SPEC } from './protocol.ts';

const positive = z.int().min(1);
const count = z.int().min(0);
const side = z.int().min(4).max(1024);

const unetSchema = z.strictObject({
  height: positive,
  width: positive,
  inChannels: positive,
  blockOutChannels: z.array(positive).min(1).max(8),
  layersPerBlock: positive,
  attention: z.array(z.boolean()).min(1).max(8),
  attentionHeadDim: positive.nullable(),
  normGroups: positive,
  normEps: z.number(),
  dropout: z.number(),
  numClasses: count,
  flipSinToCos: z.boolean(),
  freqShift: count,
  downsamplePadding: count,
}) satisfies z.ZodType<UNetConfig>;

const noiseSchema = z.strictObject({
  kind: z.enum(['linear', 'cosine']),
  steps: positive.max(100_000),
  betaStart: z.number(),
  betaEnd: z.number(),
  prediction: z.enum(['eps', 'x0', 'v']),
}) satisfies z.ZodType<NoiseOptions>;

export const spec = z.strictObject({
  schema: z.literal(1),
  federation: clientId,
  run: clientId,
  seed: count,
  /** How images are read: scaled to cover this size and cropped, converted to so many channels; `range`: 'LO,HI' of deep images. */
  data: z.strictObject({
    height: side,
    width: side,
    channels: z.union([z.literal(1), z.literal(3)]),
    range: z
      .string()
      .max(60)
      .regex(/^-?[\d.e+]+,-?[\d.e+]+$/)
      .optional(),
    /** Classes by name in the order of their numbers, for a class-conditional model. A site's own are matched with them by name. */
    classNames: z.array(z.string().max(1000)).min(1).max(10_000).optional(),
  }),
  unet: unetSchema,
  noise: noiseSchema,
  parameterCount: positive,
  /** Patterns of the layers that each site keeps to itself, and how many values these are. */
  personal: z.strictObject({ patterns: z.array(z.string().min(1).max(200)).min(1).max(64), values: positive }).optional(),
  /** Real images that the operator gives, public by its statement: how many there are, and how many of them each site trains on as well. */
  shared: z.strictObject({ images: positive, each: positive.max(10_000_000), fingerprint: z.string().regex(/^[0-9a-f]{64}$/) }).optional(),
  /** What images are compared by, where statistics need that: each site has it, or a file with this fingerprint. */
  features: z.strictObject({ name: z.string().max(200), fingerprint: z.string().regex(/^[0-9a-f]{64}$/) }).optional(),
  /** Capabilities that a site must have. */
  capabilities: z.array(z.string().max(64)).max(64),
  /** What the coordinator means to ask, for what a site says will leave it. */
  plan: z.strictObject({
    /** Absent in an open run. */
    rounds: positive.optional(),
    /** How updates are compressed. */
    compress: z.string().max(40),
    /** How the model is sent to sites. @default 'none': float32 */
    tasks: z.enum(['none', 'bf16']).optional(),
    /** Sites in the smallest round that the coordinator closes. */
    cohort: positive,
    probe: z
      .strictObject({
        statistic: z.enum(statistics).optional(),
        vendi: z.boolean(),
        histogram: z.strictObject({ bins: positive }).optional(),
        points: z.boolean(),
        every: positive,
      })
      .optional(),
  }),
});
export type Spec = z.infer<typeof spec>;

/** A spec as it travels. @throws PhoenixError ERR_PHOENIX_ARGUMENT for one that a site would refuse */
export function encodeSpec(value: Spec): Uint8Array {
  const bytes = Buffer.from(JSON.stringify(value));
  try {
    decodeSpec(bytes);
  } catch (cause) {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `No site could take part in this run: ${(cause as Error).message}`, { cause });
  }
  return bytes;
}

/** @throws PhoenixError ERR_PHOENIX_MESSAGE for bytes that are no spec, ERR_PHOENIX_CONFIG for a U-Net or a noise schedule that is none */
export function decodeSpec(bytes: Uint8Array): Spec {
  const refuse = (why: string, cause?: unknown): never => {
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `The spec of the run cannot be taken: ${why}. Do both sides run the same version?`, {
      cause,
    });
  };
  if (bytes.length > MAX_SPEC) refuse(`it has ${bytes.length} bytes, of at most ${MAX_SPEC}`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    refuse('it is not JSON in UTF-8', error);
  }
  const checked = spec.safeParse(json);
  if (!checked.success) return refuse(explain(checked.error), checked.error);
  const { unet, noise: schedule, data } = checked.data;
  validateUNet(unet);
  noise(schedule);
  const classes = data.classNames?.length ?? 0;
  if (unet.height !== data.height || unet.width !== data.width || unet.inChannels !== data.channels || unet.numClasses !== classes)
    refuse('its network is for other images than it says');
  return checked.data;
}

/** What a site says of its data before there is a run: `about` of its has. Informs, so more fields may come. */
export const aboutData = z.object({
  images: positive,
  /** Absent where images have several sizes. */
  height: positive.max(65_536).optional(),
  width: positive.max(65_536).optional(),
  channels: z.union([z.literal(1), z.literal(3)]),
  /** Names of its classes; none where it has none. */
  classNames: z.array(z.string().max(1000)).max(10_000),
});
export type AboutData = z.infer<typeof aboutData>;
