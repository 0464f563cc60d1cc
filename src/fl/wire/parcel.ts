/** Parcels: what a client gets to keep, shared images or bins. They come from elsewhere: every size is checked before it is used. */
import { PhoenixError } from '../../errors.ts';
import { MAX_BINS, MAX_FEATURES, type ParcelHead } from '../protocol.ts';
import type { Blob } from '../transport.ts';
import { blobOf, readBlob } from './message.ts';

/**
 * `pixels`: count images in the clients' size; `classes`: one per image, for a class-conditional model. `centres`: rows·columns values, row
 * by row.
 */
export type Parcel =
  | { what: 'shared'; version: number; count: number; pixels: Uint8Array; classes?: Int32Array }
  | { what: 'bins'; version: number; rows: number; columns: number; centres: Float32Array };
export type SharedParcel = Parcel & { what: 'shared' };
export type BinsParcel = Parcel & { what: 'bins' };

/** The blob holds pixels, then one little-endian int32 per image where there are classes; or the centres as little-endian float32. */
export async function encodeParcel(parcel: Parcel): Promise<{ head: ParcelHead; blobs: [Blob] }> {
  if (parcel.what === 'bins') {
    const { what, version, rows, columns, centres } = parcel;
    return { head: { what, version, rows, columns }, blobs: [await blobOf(bytesOf(centres))] };
  }
  const { what, version, count, pixels, classes } = parcel;
  const head = { what, version, count, imageBytes: pixels.length / count, classes: classes !== undefined };
  return { head, blobs: [await blobOf(classes ? Buffer.concat([pixels, bytesOf(classes)]) : pixels)] };
}

function bytesOf(values: Float32Array | Int32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** What fits a client: `room` images of `imageBytes`, iff `classes` is set with a class in 0..classes-1 each. */
export type ParcelLimits = { room: number; imageBytes: number; classes?: number };

function refuse(why: string): never {
  throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Shared images or bins do not fit this client: ${why}.`);
}

/**
 * Reads a parcel; pixels are a view into the blob. Without limits only that its sizes fit each other is checked: for what was written here.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE for anything that does not fit the client
 */
export async function decodeParcel(head: ParcelHead, [blob]: Blob[], limits?: ParcelLimits): Promise<Parcel> {
  if (head.what === 'bins') {
    const { version, rows, columns } = head;
    const bytes = await exactly(blob, 4 * rows * columns, 4 * MAX_BINS * MAX_FEATURES);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const centres = Float32Array.from({ length: rows * columns }, (_, i) => view.getFloat32(4 * i, true));
    if (!centres.every(Number.isFinite)) refuse('a centre is not finite');
    return { what: 'bins', version, rows, columns, centres };
  }

  const { version, count } = head;
  const { room, imageBytes, classes } = limits ?? {
    room: count,
    imageBytes: head.imageBytes,
    classes: head.classes ? Infinity : undefined,
  };
  if (head.imageBytes !== imageBytes) refuse(`an image has ${head.imageBytes} bytes instead of ${imageBytes}`);
  if (count > room) refuse(`there are ${count} images, and room for ${room}`);
  if (head.classes !== (classes !== undefined)) refuse(head.classes ? 'they have classes, the model has none' : 'they have no classes');
  const length = count * (imageBytes + (head.classes ? 4 : 0));
  const bytes = await exactly(blob, length, length);
  const pixels = bytes.subarray(0, count * imageBytes);
  if (!head.classes) return { what: 'shared', version, count, pixels };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const labels = Int32Array.from({ length: count }, (_, i) => view.getInt32(pixels.length + 4 * i, true));
  const bad = labels.find((label) => label < 0 || label >= classes!);
  if (bad !== undefined) refuse(`class ${bad} is none of 0..${classes! - 1}`);
  return { what: 'shared', version, count, pixels, classes: labels };
}

async function exactly(blob: Blob | undefined, expected: number, most: number): Promise<Uint8Array> {
  if (blob && blob.length !== expected) refuse(`they take ${expected} bytes, but ${blob.length} came`);
  return readBlob(blob, most);
}
