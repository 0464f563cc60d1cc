/**
 * Messages of a round as bytes: u32 little-endian header length, JSON header padded with spaces so that the payload starts at a multiple
 * of 8, payload. What is decoded comes from elsewhere: lengths are checked before anything is parsed, and headers against a schema.
 */
import { z } from 'zod';
import { hyperSchema, lengthSchema } from '../../ddpm/fit.ts';
import { PhoenixError } from '../../errors.ts';
import type { ClientId, Report } from '../types.ts';

/** Most bytes of a header. */
const HEADER_BYTES = 2 ** 20;
/** Most bins of a histogram, features a sample, and points that a report holds. */
export const MOST_BINS = 1024;
export const MOST_DIMS = 4096;
export const MOST_POINTS = 16;

/** A client's name also names its entries of a Store. */
export const clientId = z
  .string()
  .regex(
    /^(?!\.)[^/\\\p{Cc}]{1,128}$/u,
    'a client id has 1 to 128 characters, no slash or control character, and does not begin with a dot',
  );

const count = z.int().min(0);
const positive = z.int().min(1);
const notNegative = z.number().min(0);

const probe = z.strictObject({
  samples: positive.max(65_536),
  steps: positive.max(100_000),
  statistic: z.enum(['precision', 'loss', 'frechet-own', 'frechet-shared']).optional(),
  vendi: z.boolean().optional(),
  histogram: z.strictObject({ of: z.enum(['data', 'samples']), noise: notNegative }).optional(),
  bins: positive.optional(),
});

const fit = z.strictObject({
  hyper: hyperSchema,
  length: lengthSchema,
  optimizer: z.enum(['reset', 'keep']),
  compress: z.string().max(40).optional(),
  personal: z.array(z.string().min(1).max(200)).min(1).max(64).optional(),
  shared: positive.optional(),
  probe: probe.optional(),
  globalStep: count,
});

const report = z.strictObject({
  client: clientId,
  round: positive,
  examples: positive,
  images: positive,
  steps: positive,
  loss: z.number(),
  evalLoss: z.number().optional(),
  evalLossLocal: z.number().optional(),
  evalImages: count,
  deltaNorm: notNegative,
  shared: positive.optional(),
  quality: z.number().optional(),
  vendi: z.number().min(1).max(65_536).optional(),
  histogram: z.array(z.number().min(0).max(1e12)).min(1).max(MOST_BINS).optional(),
  points: z
    .array(z.array(z.number().min(-1e6).max(1e6)).min(1).max(MOST_DIMS))
    .min(1)
    .max(MOST_POINTS)
    .optional(),
  seconds: notNegative,
});

/** How the values of a vector are written in a payload (see vector.ts), and how many there are. */
const parameters = { codec: z.enum(['float32', 'bf16']), count: positive };
const delta = { codec: z.enum(['float32', 'bf16', 'int8', 'topk']), count: positive };

/** Shared images and their sizes; centres of bins, rows of features. `made`: the round in which they were. */
const images = { count: positive, imageBytes: positive, classes: z.boolean() };
const centres = { rows: positive.max(MOST_BINS), columns: positive.max(MOST_DIMS) };

const headers = {
  task: z.strictObject({ kind: z.literal('task'), version: z.literal(1), round: positive, fit, ...parameters }),
  report: z.strictObject({ kind: z.literal('report'), version: z.literal(1), report }),
  update: z.strictObject({ kind: z.literal('update'), version: z.literal(1), client: clientId, round: positive, ...delta }),
  parcel: z.discriminatedUnion('what', [
    z.strictObject({ kind: z.literal('parcel'), version: z.literal(1), what: z.literal('shared'), made: positive, ...images }),
    z.strictObject({ kind: z.literal('parcel'), version: z.literal(1), what: z.literal('bins'), made: positive, ...centres }),
  ]),
};

export type MessageKind = keyof typeof headers;
export type MessageHeader<Kind extends MessageKind = MessageKind> = z.infer<(typeof headers)[Kind]>;

/**
 * A message with room for its payload, which the caller fills: a view into `message`, at a multiple of 8.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a header that the other side would refuse, such as one with a NaN
 */
export function beginMessage(header: MessageHeader, payloadBytes: number): { message: Uint8Array; payload: Uint8Array } {
  const checked = headers[header.kind].safeParse(header);
  if (!checked.success)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `A message of kind ${header.kind} cannot be sent: ${explain(checked.error)}.`);
  const json = Buffer.from(JSON.stringify(checked.data));
  const headerBytes = Math.ceil((4 + json.length) / 8) * 8 - 4;
  if (headerBytes > HEADER_BYTES)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `A header of ${headerBytes} bytes cannot be sent: at most ${HEADER_BYTES}.`);
  const message = Buffer.allocUnsafeSlow(4 + headerBytes + payloadBytes);
  message.writeUInt32LE(headerBytes, 0);
  message.fill(0x20, 4, 4 + headerBytes);
  message.set(json, 4);
  return { message, payload: message.subarray(4 + headerBytes) };
}

/** The bytes of a message. @throws PhoenixError as beginMessage */
export function encodeMessage(header: MessageHeader, bytes: Uint8Array = new Uint8Array(0)): Uint8Array {
  const { message, payload } = beginMessage(header, bytes.length);
  payload.set(bytes);
  return message;
}

/** What is expected: the kind, and the most bytes of payload. */
export type MessageLimits<Kind extends MessageKind> = { kind: Kind; payloadBytes: number };

/**
 * Header and payload (a view into `bytes`) of a message of the expected kind.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE for anything else
 */
export function decodeMessage<Kind extends MessageKind>(
  bytes: Uint8Array,
  limits: MessageLimits<Kind>,
): { header: MessageHeader<Kind>; payload: Uint8Array } {
  const refuse = (why: string, cause?: unknown): never => {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `A message of kind ${limits.kind} was expected, but ${why}. Do both sides run the same version?`,
      { cause },
    );
  };
  if (bytes.length < 4) refuse(`only ${bytes.length} bytes came`);
  const headerBytes = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
  if (headerBytes > HEADER_BYTES) refuse(`its header claims ${headerBytes} bytes, of at most ${HEADER_BYTES}`);
  if (headerBytes > bytes.length - 4) refuse(`its header claims ${headerBytes} bytes, and ${bytes.length - 4} came`);
  const payload = bytes.subarray(4 + headerBytes);
  if (payload.length > limits.payloadBytes) refuse(`its payload has ${payload.length} bytes, of at most ${limits.payloadBytes}`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(4, 4 + headerBytes)));
  } catch (error) {
    refuse('its header is not JSON in UTF-8', error);
  }
  const checked = headers[limits.kind].safeParse(json);
  if (!checked.success) return refuse(`its header does not fit: ${explain(checked.error)}`, checked.error);
  return { header: checked.data as MessageHeader<Kind>, payload };
}

/** The report that `client` made of `round`. @throws PhoenixError ERR_PHOENIX_MESSAGE if it does not decode, or is of another client or round */
export function decodeReport(bytes: Uint8Array, { client, round }: { client: ClientId; round: number }): Report {
  const { report } = decodeMessage(bytes, { kind: 'report', payloadBytes: 0 }).header;
  if (report.client !== client || report.round !== round) {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `The report of client ${client} on round ${round} was expected, but that of ${report.client} on round ${report.round} came.`,
    );
  }
  return report;
}

const explain = (error: z.ZodError) =>
  error.issues
    .slice(0, 3)
    .map((issue) => `${issue.path.join('.') || 'header'}: ${issue.message}`)
    .join('; ');
