/**
 * Messages as bytes. A head is JSON; with its blobs behind it, it is what a Store keeps: u32 little-endian length of the head, the head
 * padded with spaces, then each blob padded to a multiple of 8. What is decoded comes from elsewhere: lengths are checked before anything
 * is parsed.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { PhoenixError } from '../../errors.ts';
import { PIECE_BYTES } from '../../images.ts';
import { explain, PROTOCOL } from '../protocol.ts';
import type { Blob, Message } from '../transport.ts';

/** Largest head in bytes. */
export const MAX_HEAD = 2 ** 20;

const envelope = z.object({
  protocol: z.int().min(1),
  kind: z.string().min(1).max(64),
  round: z.int().min(1),
  optional: z.array(z.string().max(200)).max(64).default([]),
  head: z.record(z.string(), z.unknown()),
  blobs: z
    .array(z.object({ name: z.string().regex(/^(sha256:[0-9a-f]{64}|local:[0-9]{1,15})$/), length: z.int().min(0) }))
    .max(16)
    .default([]),
});

/** A head as it was decoded: the blobs are named, not there. */
export type Head = z.infer<typeof envelope>;

/** A message of this version of the protocol. */
export function message(kind: string, round: number, head: object, blobs: Blob[] = [], optional: string[] = []): Message {
  return { kind, round, protocol: PROTOCOL, optional, head, blobs };
}

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for a head of more than 1 MiB */
export function encodeHead({ blobs, ...rest }: Message): Uint8Array {
  const bytes = Buffer.from(JSON.stringify({ ...rest, blobs: blobs.map(({ name, length }) => ({ name, length })) }));
  if (bytes.length > MAX_HEAD)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `A message of kind ${rest.kind} has a head of ${bytes.length} bytes; at most ${MAX_HEAD} can be sent.`,
    );
  return bytes;
}

function refuse(why: string, cause?: unknown): never {
  throw new PhoenixError('ERR_PHOENIX_MESSAGE', `A message was expected, but ${why}. Do both sides run the same version?`, { cause });
}

/** @throws PhoenixError ERR_PHOENIX_MESSAGE for bytes that are no head */
export function decodeHead(bytes: Uint8Array): Head {
  if (bytes.length > MAX_HEAD) refuse(`its head has ${bytes.length} bytes, of at most ${MAX_HEAD}`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    refuse('its head is not JSON in UTF-8', error);
  }
  const checked = envelope.safeParse(json);
  return checked.success ? checked.data : refuse(`its head does not fit: ${explain(checked.error)}`, checked.error);
}

/** Bytes as a blob, named by their hash. */
export async function blobOf(bytes: Uint8Array): Promise<Blob> {
  const hash = createHash('sha256');
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    if (at > 0) await new Promise(setImmediate);
    hash.update(bytes.subarray(at, at + PIECE_BYTES));
  }
  return { name: `sha256:${hash.digest('hex')}`, length: bytes.length, read: async () => bytes };
}

/** The bytes of a blob. @throws PhoenixError ERR_PHOENIX_MESSAGE if it has more than `most`, is a vector, or is not as long as it says */
export async function readBlob(blob: Blob | undefined, most: number): Promise<Uint8Array> {
  if (!blob) return refuse('its blob is missing');
  if (blob.length > most) refuse(`a blob has ${blob.length} bytes, of at most ${most}`);
  if (blob.vector) return refuse('a vector was handed over in place of bytes');
  const bytes = await blob.read();
  if (bytes.length !== blob.length) refuse(`a blob has ${bytes.length} bytes instead of ${blob.length}`);
  return bytes;
}

const padded = (length: number) => Math.ceil(length / 8) * 8;

/** A message with its blobs, as a Store keeps it. */
export async function packMessage(packed: Message): Promise<Uint8Array> {
  const head = encodeHead(packed);
  const start = padded(4 + head.length);
  const bytes = Buffer.alloc(packed.blobs.reduce((sum, { length }) => sum + padded(length), start));
  bytes.writeUInt32LE(start - 4, 0);
  bytes.fill(0x20, 4, start);
  bytes.set(head, 4);
  let at = start;
  for (const blob of packed.blobs) {
    bytes.set(await readBlob(blob, Infinity), at);
    at += padded(blob.length);
  }
  return bytes;
}

/** Its blobs are views into `bytes`. @throws PhoenixError ERR_PHOENIX_MESSAGE for bytes that are no such message */
export function unpackMessage(bytes: Uint8Array): Message {
  if (bytes.length < 4) refuse(`only ${bytes.length} bytes came`);
  const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
  if (length > MAX_HEAD + 8) refuse(`its head claims ${length} bytes, of at most ${MAX_HEAD}`);
  if (length > bytes.length - 4) refuse(`its head claims ${length} bytes, and ${bytes.length - 4} came`);
  const head = decodeHead(bytes.subarray(4, 4 + length));
  let at = 4 + length;
  const blobs = head.blobs.map((blob): Blob => {
    const own = bytes.subarray(at, at + blob.length);
    at += padded(blob.length);
    return { ...blob, read: async () => own };
  });
  if (at !== bytes.length) refuse(`its blobs take ${at - 4 - length} bytes, and ${bytes.length - 4 - length} came`);
  return { ...head, blobs };
}
