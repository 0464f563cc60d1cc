/** Vectors on their way: how they become blobs, and come back. */
import { PIECE, type Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';
import type { Codec as CodecName, VectorHead } from '../protocol.ts';
import type { Blob } from '../transport.ts';
import { blobOf, readBlob } from './message.ts';

/** How the values of a vector become the bytes of a payload; the name travels in the header. */
type Codec = {
  /** Fewest and most bytes that `count` values take. */
  bytes(count: number): { min: number; max: number };
  /** `share` of the values: for topk. */
  encode(vector: Vector, share: number): Promise<Uint8Array>;
  decode(payload: Uint8Array, into: Vector): Promise<void>;
  /** Sets `into` to what decoding the bytes of `vector` would, without bytes. @default such vectors are always encoded */
  convey?(vector: Vector, into: Vector): Promise<void>;
};

/** A codec whose size does not depend on the values, so that it works piece by piece. */
function codecOfPieces(
  payloadBytes: (count: number) => number,
  get: (from: Vector, offset: number, count: number) => Promise<Uint8Array>,
  set: (into: Vector, bytes: Uint8Array, offset: number, count: number) => Promise<void>,
  convey?: Codec['convey'],
): Codec {
  return {
    convey,
    bytes: (count) => ({ min: payloadBytes(count), max: payloadBytes(count) }),
    async encode(vector) {
      const payload = new Uint8Array(payloadBytes(vector.length));
      for (let at = 0; at < vector.length; at += PIECE) {
        payload.set(await get(vector, at, Math.min(PIECE, vector.length - at)), payloadBytes(at));
      }
      return payload;
    },
    async decode(payload, into) {
      for (let at = 0; at < into.length; at += PIECE) {
        const count = Math.min(PIECE, into.length - at);
        await set(into, payload.subarray(payloadBytes(at), payloadBytes(at + count)), at, count);
      }
    },
  };
}

const TOPK_HEADER = 16;

const codecs: Record<CodecName, Codec> = {
  float32: codecOfPieces(
    (count) => 4 * count,
    (from, offset, count) => from.toBytes(offset, count),
    (into, bytes, offset) => into.fromBytes(bytes, offset),
    (vector, into) => into.copy(vector, 0, into.length),
  ),
  bf16: codecOfPieces(
    (count) => 2 * count,
    (from, offset, count) => from.encode('bf16', offset, count),
    (into, bytes, offset, count) => into.decode('bf16', bytes, offset, count),
    (vector, into) => into.roundToBf16(vector),
  ),
  int8: codecOfPieces(
    (count) => count + 4 * Math.ceil(count / 1024),
    (from, offset, count) => from.encode('int8', offset, count),
    (into, bytes, offset, count) => into.decode('int8', bytes, offset, count),
  ),
  topk: {
    bytes: (count) => ({ min: TOPK_HEADER + 3, max: TOPK_HEADER + 2 * count + Math.ceil(count / 8) }),
    encode: (vector, share) => vector.encodeLargest(Math.max(1, Math.round(share * vector.length))),
    decode: (payload, into) => into.decodeLargest(payload),
  },
};

/** The compressions by name, with what each does to an update; `phoenix federate --help` shows these. */
export const compressions = {
  none: 'float32',
  bf16: 'bfloat16, half the bytes',
  int8: 'blocks of 1024 signed bytes with a scale each, a quarter',
  'topk:SHARE': 'only this share of the values, the largest, with their places',
} as const;

/**
 * The codec of a compression, and the share of the values that topk sends.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT naming the valid ones
 */
export function parseCompression(text: string): { codec: CodecName; share: number } {
  if (text === 'none') return { codec: 'float32', share: 1 };
  if (text === 'bf16' || text === 'int8') return { codec: text, share: 1 };
  const [name, number = '', ...more] = text.split(':');
  const share = /^[\d.]+(e-?\d+)?$/.test(number) ? Number(number) : NaN;
  if (name === 'topk' && more.length === 0 && share > 0 && share <= 1) return { codec: 'topk', share };
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `A compression is one of ${Object.keys(compressions).join(', ')} with a SHARE above 0 and at most 1, not ${JSON.stringify(text)}.`,
  );
}

/**
 * Most bytes that `count` values take under a compression.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT as parseCompression
 */
export function mostBytes(compress: string, count: number): number {
  const { codec, share } = parseCompression(compress);
  if (codec !== 'topk') return codecs[codec].bytes(count).max;
  const sent = Math.max(1, Math.round(share * count));
  // A gap of 128 values takes a second byte, one of 128² a third, and so on; all gaps together are no longer than the vector.
  let gaps = sent;
  for (let long = 128; long <= count; long *= 128) gaps += Math.floor(count / long);
  return TOPK_HEADER + 2 * sent + Math.min(gaps, Math.ceil(count / 8));
}

/** Blobs of this process that are vectors, for their names. */
let handedOver = 0;

/**
 * A vector as a blob, and the head that refers to it. `asVector`: the blob is the vector itself where the codec allows that (int8 and topk
 * are always encoded); its receiver sees it as long as nobody writes it.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT as parseCompression
 */
export async function encodeVector(
  vector: Vector,
  { compress = 'none', asVector = false }: { compress?: string; asVector?: boolean } = {},
): Promise<{ head: VectorHead; blob: Blob }> {
  const { codec, share } = parseCompression(compress);
  const { bytes, convey, encode } = codecs[codec];
  const blob =
    asVector && convey
      ? { name: `local:${++handedOver}`, length: bytes(vector.length).max, vector }
      : await blobOf(await encode(vector, share));
  return { head: { blob: blob.name, codec, count: vector.length }, blob };
}

const refuse = (why: string, cause?: unknown): never => {
  throw new PhoenixError('ERR_PHOENIX_MESSAGE', why, { cause });
};

/**
 * Reads a vector into `into`, which holds nothing of use after an error.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE if the blob is missing, does not decode, is of another length, or holds a NaN or infinity
 */
export async function decodeVector(head: VectorHead, blobs: Blob[], into: Vector): Promise<void> {
  const { codec, count } = head;
  if (count !== into.length)
    refuse(`A vector of ${into.length} parameters was expected, but one of ${count} came: is it a model of another configuration?`);
  const blob = blobs.find((one) => one.name === head.blob);
  if (!blob) return refuse(`The vector ${head.blob} was announced, but did not come.`);
  await (blob.vector ? convey(blob.vector, codec, into) : decode(blob, codec, into));
  if (!(await into.isFinite())) refuse(`A vector of ${count} parameters came that holds NaN or infinite values.`);
}

async function convey(vector: Vector, codec: CodecName, into: Vector): Promise<void> {
  const { convey: take } = codecs[codec];
  if (!take || vector.length !== into.length)
    return refuse(`${into.length} values as ${codec} were expected, but a vector of ${vector.length} was handed over.`);
  return take(vector, into);
}

async function decode(blob: Blob, codec: CodecName, into: Vector): Promise<void> {
  const { min, max } = codecs[codec].bytes(into.length);
  if (blob.length < min || blob.length > max)
    refuse(`${into.length} values as ${codec} take ${min === max ? min : `${min} to ${max}`} bytes, but ${blob.length} came.`);
  try {
    await codecs[codec].decode(await readBlob(blob, max), into);
  } catch (error) {
    if (!(error instanceof PhoenixError) || error.code !== 'ERR_PHOENIX_SHAPE') throw error;
    refuse(`${into.length} values as ${codec} do not decode: ${error.message}.`, error);
  }
}
