/** Parcels as messages: what a client gets to keep, shared images or bins. They come from elsewhere: every size is checked before it is used. */
import { PhoenixError } from '../../errors.ts';
import type { Parcel } from '../types.ts';
import { decodeMessage, encodeMessage, MOST_BINS, MOST_DIMS } from './message.ts';

/** Pixels, then one little-endian int32 an image where there are classes; or the centres as little-endian float32. */
export function encodeParcel(parcel: Parcel): Uint8Array {
  if (parcel.kind === 'bins') {
    const { version, rows, columns, centres } = parcel;
    return encodeMessage({ kind: 'parcel', version: 1, what: 'bins', made: version, rows, columns }, bytesOf(centres));
  }
  const { version, count, pixels, classes } = parcel;
  const images = { count, imageBytes: pixels.length / count, classes: classes !== undefined };
  const payload = classes ? Buffer.concat([pixels, bytesOf(classes)]) : pixels;
  return encodeMessage({ kind: 'parcel', version: 1, what: 'shared', made: version, ...images }, payload);
}

const bytesOf = (values: Float32Array | Int32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** What fits a client: `room` images of `imageBytes`, iff `classes` is set with a class in 0..classes-1 each. */
export type ParcelLimits = { room: number; imageBytes: number; classes?: number };

const refuse = (why: string): never => {
  throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Shared images or bins do not fit this client: ${why}.`);
};

/**
 * Reads a parcel; pixels are a view into `bytes`. Without limits only that its sizes fit each other is checked: for what was written here.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE for anything that is no parcel or does not fit the client
 */
export function decodeParcel(bytes: Uint8Array, limits?: ParcelLimits): Parcel {
  const most = limits ? Math.max(limits.room * (limits.imageBytes + 4), 4 * MOST_BINS * MOST_DIMS) : Infinity;
  const { header, payload } = decodeMessage(bytes, { kind: 'parcel', payloadBytes: most });
  const requireBytes = (expected: number) =>
    payload.length === expected || refuse(`they take ${expected} bytes, but ${payload.length} came`);
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);

  if (header.what === 'bins') {
    const { made, rows, columns } = header;
    requireBytes(4 * rows * columns);
    const centres = Float32Array.from({ length: rows * columns }, (_, i) => view.getFloat32(4 * i, true));
    if (!centres.every(Number.isFinite)) refuse('a centre is not finite');
    return { kind: 'bins', version: made, rows, columns, centres };
  }

  const { made, count } = header;
  const { room, imageBytes, classes } = limits ?? {
    room: count,
    imageBytes: header.imageBytes,
    classes: header.classes ? Infinity : undefined,
  };
  if (header.imageBytes !== imageBytes) refuse(`an image has ${header.imageBytes} bytes instead of ${imageBytes}`);
  if (count > room) refuse(`there are ${count} images, and room for ${room}`);
  if (header.classes !== (classes !== undefined)) refuse(header.classes ? 'they have classes, the model has none' : 'they have no classes');
  requireBytes(count * (imageBytes + (header.classes ? 4 : 0)));
  const pixels = payload.subarray(0, count * imageBytes);
  if (!header.classes) return { kind: 'shared', version: made, count, pixels };
  const labels = Int32Array.from({ length: count }, (_, i) => view.getInt32(pixels.length + 4 * i, true));
  const bad = labels.find((label) => label < 0 || label >= classes!);
  if (bad !== undefined) refuse(`class ${bad} is none of 0..${classes! - 1}`);
  return { kind: 'shared', version: made, count, pixels, classes: labels };
}
