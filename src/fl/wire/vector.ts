/** Vectors on their way: tasks and updates to and from bytes, or handed over as they are, and the weighted mean of a round. */
import { createVector as nativeVector, type Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';
import type { ClientId, Fit, Task, VectorMessage } from '../types.ts';
import { beginMessage, decodeMessage, encodeMessage, type MessageHeader } from './message.ts';

/** Makes a vector of zeros; the host's native memory unless a caller brings vectors of its own. */
export type CreateVector = (length: number) => Vector;

/**
 * Values that cross between JavaScript and a vector at once: a model of 143 MB must not hold up the event loop. A multiple of 1024, so that
 * the blocks of int8 stay whole.
 */
const PIECE = 2 ** 19;

/** How the values of a vector become the bytes of a payload; the name travels in the header. */
type Codec = {
  /** Fewest and most bytes that `count` values take. */
  bytes(count: number): { least: number; most: number };
  /** Asks for room once its size is known, and fills it. `share` of the values: for topk. */
  encode(vector: Vector, share: number, room: (bytes: number) => Uint8Array): Promise<void>;
  decode(payload: Uint8Array, into: Vector): Promise<void>;
  /** What decoding the bytes of `vector` would set `into` to, without bytes. @default such vectors are not handed over, but encoded */
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
    bytes: (count) => ({ least: payloadBytes(count), most: payloadBytes(count) }),
    async encode(vector, _share, room) {
      const payload = room(payloadBytes(vector.length));
      for (let at = 0; at < vector.length; at += PIECE) {
        payload.set(await get(vector, at, Math.min(PIECE, vector.length - at)), payloadBytes(at));
      }
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

const codecs: Record<MessageHeader<'update'>['codec'], Codec> = {
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
    bytes: (count) => ({ least: TOPK_HEADER + 3, most: TOPK_HEADER + 2 * count + Math.ceil(count / 8) }),
    async encode(vector, share, room) {
      const bytes = await vector.encodeLargest(Math.max(1, Math.round(share * vector.length)));
      room(bytes.length).set(bytes);
    },
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
export function parseCompression(text: string): { codec: MessageHeader<'update'>['codec']; share: number } {
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

/** The float32 bytes of [offset, offset+count). */
export async function getBytes(from: Vector, offset = 0, count = from.length): Promise<Uint8Array> {
  const bytes = new Uint8Array(4 * count);
  for (let at = 0; at < count; at += PIECE) bytes.set(await from.toBytes(offset + at, Math.min(PIECE, count - at)), 4 * at);
  return bytes;
}

/** Sets [offset, offset + bytes.length/4) of a vector from float32 bytes. */
export async function setBytes(bytes: Uint8Array, into: Vector, offset = 0): Promise<void> {
  for (let at = 0; at < bytes.length; at += 4 * PIECE) await into.fromBytes(bytes.subarray(at, at + 4 * PIECE), offset + at / 4);
}

type VectorHeader = MessageHeader<'task' | 'update'>;

const taskHeader = ({ round, fit, params, codec = 'float32' }: Task): VectorHeader => {
  return { kind: 'task', version: 1, round, fit, codec, count: params.length };
};

/** The message of a task. */
export const encodeTask = (task: Task): Promise<Uint8Array> => encodeVector(taskHeader(task), task.params, 1);

/** The same with `params` itself. */
export const handOverTask = (task: Task): Promise<VectorMessage> => handOver(taskHeader(task), task.params, 1);

/** The header of a message, and its payload. @throws PhoenixError ERR_PHOENIX_MESSAGE for a message of another kind, or more bytes of payload */
export function openMessage<Kind extends 'task' | 'update'>(message: VectorMessage, limits: { kind: Kind; payloadBytes: number }) {
  if (message instanceof Uint8Array) return decodeMessage(message, limits);
  return { header: decodeMessage(message.head, { ...limits, payloadBytes: 0 }).header, payload: message.vector };
}

/**
 * Reads a task; its parameters go into `into`.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE if it does not decode or is for a model of another size
 */
export async function decodeTask(message: VectorMessage, into: Vector): Promise<{ round: number; fit: Fit }> {
  const { header, payload } = openMessage(message, { kind: 'task', payloadBytes: largestPayload(into) });
  await decodePayload(header, payload, into);
  return { round: header.round, fit: header.fit };
}

export type Update = {
  client: ClientId;
  round: number;
  /** after - before, and with a lossy compression what earlier updates left out. */
  delta: Vector;
  /** @default 'none' */
  compress?: string;
};

const updateHeader = ({ client, round, delta }: Update, codec: VectorHeader['codec']): VectorHeader => {
  return { kind: 'update', version: 1, client, round, codec, count: delta.length };
};

/** The message of a client's update. */
export async function encodeUpdate(update: Update): Promise<Uint8Array> {
  const { codec, share } = parseCompression(update.compress ?? 'none');
  return encodeVector(updateHeader(update, codec), update.delta, share);
}

/** The same with `delta` itself, if the compression allows that: int8 and topk are encoded. */
export async function handOverUpdate(update: Update): Promise<VectorMessage> {
  const { codec, share } = parseCompression(update.compress ?? 'none');
  return handOver(updateHeader(update, codec), update.delta, share);
}

async function handOver(header: VectorHeader, vector: Vector, share: number): Promise<VectorMessage> {
  const codec = codecs[header.codec];
  if (!codec.convey) return encodeVector(header, vector, share);
  const head = encodeMessage(header);
  return { head, vector, length: head.length + codec.bytes(vector.length).most };
}

async function encodeVector(header: VectorHeader, vector: Vector, share: number): Promise<Uint8Array> {
  let whole = new Uint8Array(0);
  await codecs[header.codec].encode(vector, share, (bytes) => {
    const { message, payload } = beginMessage(header, bytes);
    whole = message as Uint8Array<ArrayBuffer>;
    return payload;
  });
  return whole;
}

/**
 * Reads the update that `client` made in `round`; the delta goes into `into`, which holds nothing of use after an error.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE if it does not decode, is of another client, round or model size, or holds a NaN or infinity
 */
export async function decodeUpdate(
  message: VectorMessage,
  { client, round, into }: { client: ClientId; round: number; into: Vector },
): Promise<void> {
  const { header, payload } = openMessage(message, { kind: 'update', payloadBytes: largestPayload(into) });
  if (header.client !== client || header.round !== round) {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `The update of client ${client} in round ${round} was expected, but that of ${header.client} in round ${header.round} came.`,
    );
  }
  await decodePayload(header, payload, into);
  if (!(await into.isFinite())) {
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `The update of client ${client} in round ${round} holds NaN or infinite values.`);
  }
}

const largestPayload = (vector: Vector) => Math.max(...Object.values(codecs).map((codec) => codec.bytes(vector.length).most));

async function decodePayload(
  header: Pick<MessageHeader<'update'>, 'codec' | 'count'>,
  payload: Uint8Array | Vector,
  into: Vector,
): Promise<void> {
  const codec = codecs[header.codec];
  if (header.count !== into.length) {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `A vector of ${into.length} parameters was expected, but one of ${header.count} came: is it a model of another configuration?`,
    );
  }
  if (!(payload instanceof Uint8Array)) {
    if (!codec.convey || payload.length !== header.count) {
      throw new PhoenixError(
        'ERR_PHOENIX_MESSAGE',
        `${header.count} values as ${header.codec} were expected, but a vector of ${payload.length} was handed over.`,
      );
    }
    return codec.convey(payload, into);
  }
  const { least, most } = codec.bytes(header.count);
  if (payload.length < least || payload.length > most) {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `${header.count} values as ${header.codec} take ${least === most ? least : `${least} to ${most}`} bytes, but ${payload.length} came.`,
    );
  }
  try {
    await codec.decode(payload, into);
  } catch (error) {
    if (!(error instanceof PhoenixError) || error.code !== 'ERR_PHOENIX_SHAPE') throw error;
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `${header.count} values as ${header.codec} do not decode: ${error.message}.`, {
      cause: error,
    });
  }
}

/** Adds up Σ w·x one vector at a time, so that only the sum is held. */
export type WeightedSum = {
  /** Adds w·x, w > 0. */
  add(x: Vector, w: number): Promise<void>;
  /** Σ w so far. */
  weight(): number;
  /** Turns the sum into the mean Σ w·x / Σ w and returns it: the last call but `dispose`. */
  mean(): Promise<Vector>;
  dispose(): void;
};

export function weightedSum(length: number, createVector: CreateVector = nativeVector): WeightedSum {
  const sum = createVector(length);
  let weight = 0;
  return {
    async add(x, w) {
      await sum.axpy(x, w);
      weight += w;
    },
    weight: () => weight,
    async mean() {
      await sum.scale(1 / weight);
      return sum;
    },
    dispose: () => sum.dispose(),
  };
}
