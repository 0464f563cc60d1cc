/** Vectors on their way: tasks and updates to and from bytes, and the weighted mean of a round. */
import { createVector as nativeVector, type Vector } from '../bindings/vector.ts';
import { PhoenixError } from '../errors.ts';
import { beginMessage, decodeMessage, type MessageHeader } from './message.ts';
import type { ClientId, Fit, Task } from './types.ts';

/** Makes a vector of zeros; the host's native memory unless a caller brings vectors of its own. */
export type CreateVector = (length: number) => Vector;

/** Bytes that cross between JavaScript and a vector at once: a model of 143 MB must not hold up the event loop. A multiple of 4. */
const PIECE_BYTES = 2 ** 21;

/** How the values of a vector become the bytes of a payload; the name travels in the header. */
const codecs = {
  float32: { payloadBytes: (count: number) => 4 * count, encode: getBytes, decode: setBytes },
};

async function getBytes(vector: Vector, into: Uint8Array): Promise<void> {
  for (let at = 0; at < into.length; at += PIECE_BYTES) {
    into.set(await vector.toBytes(at / 4, Math.min(PIECE_BYTES, into.length - at) / 4), at);
  }
}

/** Sets a whole vector from its float32 bytes. */
export async function setBytes(bytes: Uint8Array, into: Vector): Promise<void> {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) await into.fromBytes(bytes.subarray(at, at + PIECE_BYTES), at / 4);
}

/** The message of a task: the parameters as float32, 4 bytes each. */
export async function encodeTask({ round, fit, params }: Task): Promise<Uint8Array> {
  const header = { kind: 'task', version: 1, round, fit, codec: 'float32', count: params.length } as const;
  const { message, payload } = beginMessage(header, codecs.float32.payloadBytes(params.length));
  await codecs.float32.encode(params, payload);
  return message;
}

/**
 * Reads a task; its parameters go into `into`.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE if it does not decode or is for a model of another size
 */
export async function decodeTask(bytes: Uint8Array, into: Vector): Promise<{ round: number; fit: Fit }> {
  const { header, payload } = decodeMessage(bytes, { kind: 'task', payloadBytes: largestPayload(into) });
  await decodePayload(header, payload, into);
  return { round: header.round, fit: header.fit };
}

/** The message of a client's update: delta = after - before. */
export async function encodeUpdate({ client, round, delta }: { client: ClientId; round: number; delta: Vector }): Promise<Uint8Array> {
  const header = { kind: 'update', version: 1, client, round, codec: 'float32', count: delta.length } as const;
  const { message, payload } = beginMessage(header, codecs.float32.payloadBytes(delta.length));
  await codecs.float32.encode(delta, payload);
  return message;
}

/**
 * Reads the update that `client` made in `round`; the delta goes into `into`.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE if it does not decode, is of another client, round or model size, or holds a NaN or infinity
 */
export async function decodeUpdate(
  bytes: Uint8Array,
  { client, round, into }: { client: ClientId; round: number; into: Vector },
): Promise<void> {
  const { header, payload } = decodeMessage(bytes, { kind: 'update', payloadBytes: largestPayload(into) });
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

const largestPayload = (vector: Vector) => Math.max(...Object.values(codecs).map((codec) => codec.payloadBytes(vector.length)));

async function decodePayload(header: Pick<MessageHeader<'update'>, 'codec' | 'count'>, payload: Uint8Array, into: Vector): Promise<void> {
  const codec = codecs[header.codec];
  if (header.count !== into.length) {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `A vector of ${into.length} parameters was expected, but one of ${header.count} came: is it a model of another configuration?`,
    );
  }
  if (payload.length !== codec.payloadBytes(header.count)) {
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `${header.count} values as ${header.codec} take ${codec.payloadBytes(header.count)} bytes, but ${payload.length} came.`,
    );
  }
  await codec.decode(payload, into);
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
