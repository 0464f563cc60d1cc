/**
 * What a coordinator and its clients say to each other, and what the log keeps of it: each fact is one zod schema here, and its type is
 * inferred.
 *
 * What instructs (train, upload, parcel, finish) is strict: a field that the reader does not know is refused by name, unless the sender
 * lists it under `optional`. What informs (reports, updates, log lines) is tolerant: unknown fields are ignored.
 */
import { z } from 'zod';
import { fallSchema, hyperSchema, lengthSchema } from '../ddpm/fit.ts';
import { PhoenixError } from '../errors.ts';

/** Version of this protocol; a message names its sender's. */
export const PROTOCOL = 1;

/** Largest histogram (bins), feature vector (features per image), and number of points in a report. */
export const MAX_BINS = 1024;
export const MAX_FEATURES = 4096;
export const MAX_POINTS = 16;

const count = z.int().min(0);
const positive = z.int().min(1);
const notNegative = z.number().min(0);

/** A client's name also names its entries in a Store. */
export const clientId = z
  .string()
  .regex(
    /^(?!\.)[^/\\\p{Cc}]{1,128}$/u,
    'a client id has 1 to 128 characters, no slash or control character, and does not begin with a dot',
  );
export type ClientId = z.infer<typeof clientId>;

/** What a client says of itself before anything is asked of it. */
export const hello = z.object({
  protocol: positive,
  id: clientId,
  /** Images it trains on. */
  examples: positive,
  /** What it can do in addition to training, each with a version: `probe/1`. */
  capabilities: z.array(z.string().max(64)).max(64),
  /** Names of its classes, in the order of its labels, for a class-conditional model. */
  classNames: z.array(z.string().max(1000)).max(100_000).optional(),
});
export type Hello = z.infer<typeof hello>;

/** The capability that a client must have announced before it is asked for a kind of request, or for a field of one (`kind.field`). */
const CAPABILITY: Record<string, string> = {
  'train.fit.probe': 'probe/1',
  'train.fit.privacy': 'dp/1',
  specialise: 'distil/1',
  evaluate: 'distil/1',
  keys: 'secagg/1',
  shares: 'secagg/1',
  consistency: 'secagg/1',
  unmask: 'secagg/1',
};

/** The first capability that a request needs and the client lacks; undefined if it has them all. */
export function missingCapability(
  { capabilities }: Pick<Hello, 'capabilities'>,
  request: { kind: string; head: object },
): string | undefined {
  const isSet = (path: string[]) =>
    path.reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], request.head) !== undefined;
  const needed = Object.entries(CAPABILITY).filter(([key]) => {
    const [kind, ...path] = key.split('.');
    return kind === request.kind && (path.length === 0 || isSet(path));
  });
  return needed.find(([, capability]) => !capabilities.includes(capability))?.[1];
}

/**
 * A statistic of a client's model, computed by the client: precision (share of samples within the client's own held-out images,
 * Kynkäänniemi et al. 2019; more is better), loss on those, Fréchet distance of samples to its own training images or to the shared images
 * (less is better).
 */
export const statistics = ['precision', 'loss', 'frechet-own', 'frechet-shared'] as const;
export type Statistic = (typeof statistics)[number];
export const histogramSources = ['data', 'samples'] as const;

/** Client statistics: what a client computes about its images and its model after training. */
export const probe = z.strictObject({
  /** Samples to draw from its model, if anything here needs them, and the steps of the sampler. */
  samples: positive.max(65_536),
  steps: positive.max(100_000),
  statistic: z.enum(statistics).optional(),
  /** Whether the Vendi score of the samples is wanted. */
  vendi: z.boolean().optional(),
  /** Of what a histogram is wanted, and the standard deviation of the noise on each count. */
  histogram: z.strictObject({ of: z.enum(histogramSources), noise: notNegative }).optional(),
  /** Version of the bins of the histogram, received before. Absent while there are none: then points to make bins of are wanted. */
  bins: positive.optional(),
});
export type Probe = z.infer<typeof probe>;

/** How clients train in one round. */
export const fit = z.strictObject({
  hyper: hyperSchema,
  length: lengthSchema,
  /** How the learning rate falls, and which part of the run this round is. @default it does not fall */
  fall: fallSchema.optional(),
  /** Optimizer steps behind the global model: see FederationState. */
  globalStep: count,
  /** Whether Adam's moments start at zero each round or are kept by the client. */
  optimizer: z.enum(['reset', 'keep']),
  /** How updates are compressed: none, bf16, int8 or topk:SHARE (see wire/codec.ts). @default 'none' */
  compress: z.string().max(40).optional(),
  /**
   * Patterns of the parameters that each client keeps to itself (see site/personal.ts): models and updates hold the others only. @default
   * none
   */
  personal: z.array(z.string().min(1).max(200)).min(1).max(64).optional(),
  /** Version of the shared images to mix in, received before. @default none */
  shared: positive.optional(),
  /** Statistics to compute after training. @default none */
  probe: probe.optional(),
});
export type Fit = z.infer<typeof fit>;

/** A vector that travels as a blob: its name, how its values are written, and how many there are. */
const vectorHead = <const C extends string>(codecs: readonly C[]) =>
  z.strictObject({ blob: z.string().max(80), codec: z.enum(codecs), count: positive });
export const updateCodecs = ['float32', 'bf16', 'int8', 'topk'] as const;
export type Codec = (typeof updateCodecs)[number];
export type VectorHead = { blob: string; codec: Codec; count: number };

/** Request `train`: train this model. Its parameters are the blob that `model` names, the same for all clients of a round. */
export const task = z.strictObject({ fit, model: vectorHead(['float32', 'bf16']) });
export type Task = z.infer<typeof task>;
export type TaskCodec = Task['model']['codec'];

/** Request `upload`: send the update of this round. `manifest`: what the aggregator tells its client half; nothing for a plain sum. */
export const upload = z.strictObject({ weight: z.number().gt(0).max(1), manifest: z.record(z.string(), z.unknown()) });
export type Upload = z.infer<typeof upload>;

/**
 * Request `parcel`: what a client gets to keep, sent once per version; a new version replaces the old. Shared images, u8, with one class
 * each where the model is conditioned on it; or the centres of bins, rows of features. `version`: the round in which it was made. The blob
 * holds the values.
 */
export const parcel = z.discriminatedUnion('what', [
  z.strictObject({ what: z.literal('shared'), version: positive, count: positive, imageBytes: positive, classes: z.boolean() }),
  z.strictObject({ what: z.literal('bins'), version: positive, rows: positive.max(MAX_BINS), columns: positive.max(MAX_FEATURES) }),
]);
export type ParcelHead = z.infer<typeof parcel>;

/**
 * Request `publish`: keep the model of a round, to draw from. `model`: its parameters as sampling takes them, less those that the client
 * keeps to itself; `card`: the blob with what is to be known of it, Markdown; `steps` and `images`: behind it.
 */
export const publish = z.strictObject({ model: vectorHead(['float32']), card: z.string().max(80), steps: count, images: count });

/** Request `finish`: the round is committed, so what was kept for it may be dropped. */
export const finish = z.strictObject({});

/** Reply to `train`. Small, and all that a strategy sees. */
export const report = z.object({
  /** Images the client trains on, shared ones among them: FedAvg's weight. */
  examples: positive,
  /** Shared images among `examples`; absent if none. */
  shared: positive.optional(),
  /** Images drawn this round (steps · batch), and optimizer steps made. */
  images: positive,
  steps: positive,
  /** Mean loss over the round's steps. */
  loss: z.number().optional(),
  /** Loss of the global model as received on the client's held-out tenth, with fixed t and noise; absent without a held-out part. */
  evalLoss: z.number().optional(),
  /** The same of the client's model after training. */
  evalLossLocal: z.number().optional(),
  /** Held-out images that both are a mean over; 0 without a held-out part. */
  evalImages: count,
  /** ‖update‖₂ as the server will decode it, residual and codec included. For planning: where single updates are seen, each is measured. */
  deltaNorm: notNegative.optional(),
  /** Answers to a probe. The value of the statistic asked for. */
  quality: z.number().optional(),
  /** Effective number of different samples, 1 to their number. */
  vendi: z.number().min(1).max(65_536).optional(),
  /** Images or samples in each bin; with noise neither whole numbers nor exact. */
  histogram: z.array(z.number().min(0).max(1e12)).min(1).max(MAX_BINS).optional(),
  /** Centres of clusters of its images or samples in feature space, to make bins of. Only the round sees them: no strategy, no log. */
  points: z
    .array(z.array(z.number().min(-1e6).max(1e6)).min(1).max(MAX_FEATURES))
    .min(1)
    .max(MAX_POINTS)
    .optional(),
  /** Wall time of the local training. */
  seconds: notNegative.optional(),
});
/** A report with the client that sent it and its round. */
export type Report = { client: ClientId; round: number } & z.infer<typeof report>;

/** Reply to `upload`: the update, encoded in the blob that it names. */
export const update = z.object(vectorHead(updateCodecs).shape);

/** A client that did not complete a request: it is left out and the round goes on. */
export const failure = z.object({
  client: clientId,
  round: positive,
  /** The kind of the request. */
  stage: z.string().max(64),
  reason: z.string(),
  /** The line of the site's policy that forbids the request: nothing failed, the site decided so. Absent for a failure. */
  refused: z.string().optional(),
});
export type Failure = z.infer<typeof failure>;

/** What a filter did with a client, and why. */
export const decision = z.object({
  client: clientId,
  /** `keep`: its score is poor, but it stays for the reason given. */
  action: z.enum(['quarantine', 'disconnect', 'readmit', 'keep']),
  statistic: z.enum(statistics),
  value: z.number(),
  /** Beyond this a score is poor. */
  limit: z.number(),
  reason: z.string(),
});
export type Decision = z.infer<typeof decision>;

/** A client in a line of the log: its report without points, with the weight that its update got, 0 if it was lost. */
const loggedClient = report.omit({ points: true }).extend({ client: clientId, round: positive, weight: notNegative });

/** One line of log.jsonl, of a federation or of a central training (no clients). */
export const roundRecord = z.object({
  /** From 1. */
  round: positive,
  /** Σ loss·images / Σ images over the clients that trained; null if no client reported its loss. */
  loss: z.number().nullable(),
  /** Held-out loss of the global model that the round began with, mean over images; null where nobody holds images out. */
  evalLoss: z.number().nullable(),
  /** The same of the clients' models after training. */
  evalLossLocal: z.number().nullable(),
  /** Images drawn by the clients that trained. */
  images: count,
  /** Bytes of the round's messages, up to its commit. */
  bytesUp: count,
  bytesDown: count,
  seconds: notNegative,
  clients: z.array(loggedClient),
  failures: z.array(failure),
  notes: z.array(z.string()),
  /** What the filter decided. */
  decisions: z.array(decision).optional(),
  /**
   * Mean cosine between two updates (see server/local-work.ts), where there are two; and the local work of this round as a multiple of what
   * the options say.
   */
  coherence: z.number().optional(),
  work: z.number().optional(),
  /** The learning rate at the end of the round, as a multiple of lr; absent while it does not fall. */
  rate: z.number().optional(),
});
export type RoundRecord = z.infer<typeof roundRecord>;

/**
 * Reads what instructs. A field that the schema does not know is refused, unless the sender lists its path under `optional`: then it is
 * left out.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE naming the field and both protocol versions
 */
export function readInstruction<T>(
  schema: z.ZodType<T>,
  { kind, head, protocol, optional }: { kind: string; head: unknown; protocol: number; optional: readonly string[] },
): T {
  const checked = schema.safeParse(head);
  if (checked.success) return checked.data;
  const unknown = checked.error.issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys' ? issue.keys.map((key) => [...issue.path.map(String), key]) : [],
  );
  const refused = unknown.find((path) => !optional.includes(path.join('.')));
  if (refused) {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `The request ${kind} has the field ${refused.join('.')}, which this client does not know: the sender speaks protocol ${protocol}, this client ${PROTOCOL}. Update the older of the two.`,
    );
  }
  if (unknown.length === 0) throw new PhoenixError('ERR_PHOENIX_MESSAGE', `The request ${kind} does not fit: ${explain(checked.error)}.`);
  return readInstruction(schema, { kind, head: unknown.reduce(without, head), protocol, optional: [] });
}

/** A copy of plain JSON without the value at a path. */
function without(value: unknown, [key, ...rest]: string[]): unknown {
  const { [key!]: inner, ...others } = value as Record<string, unknown>;
  return rest.length === 0 ? others : { ...others, [key!]: without(inner, rest) };
}

/** Reads what informs; unknown fields are left out. @throws PhoenixError ERR_PHOENIX_MESSAGE */
export function readReply<T>(schema: z.ZodType<T>, { kind, client, head }: { kind: string; client: ClientId; head: unknown }): T {
  const checked = schema.safeParse(head);
  if (checked.success) return checked.data;
  throw new PhoenixError('ERR_PHOENIX_MESSAGE', `The reply of client ${client} to ${kind} does not fit: ${explain(checked.error)}.`);
}

/** A head before it is sent. @throws PhoenixError ERR_PHOENIX_ARGUMENT for what the other side would refuse, such as a NaN */
export function checkHead<T>(schema: z.ZodType<T>, kind: string, head: unknown): T {
  const checked = schema.safeParse(head);
  if (checked.success) return checked.data;
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `A ${kind} cannot be sent: ${explain(checked.error)}.`);
}

/** The first three things that are wrong, each with its path. */
export function explain(error: z.ZodError): string {
  return error.issues
    .slice(0, 3)
    .map((issue) => `${issue.path.join('.') || 'the whole'}: ${issue.message}`)
    .join('; ');
}
