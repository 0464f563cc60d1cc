/**
 * The tags of a TIFF file that say what its bands are (TIFF 6.0, 1992; BigTIFF). libvips takes any second or fourth band for alpha; the tag
 * ExtraSamples says whether it is.
 */
import type { FileHandle } from 'node:fs/promises';

export type TiffTags = {
  /** Bands of a pixel, those of its colour, and whether each of the others is alpha. */
  bands: number;
  colours: number;
  alpha: boolean[];
  /** Whether the least value is white. */
  minIsWhite: boolean;
};

/** Bands that a colour takes, by PhotometricInterpretation: gray 0 and 1, RGB 2, palette 3, mask 4, separated 5, YCbCr 6, Lab 8 to 10. */
const coloursOf: Record<number, number> = { 0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3 };
const PHOTOMETRIC = 262;
const SAMPLES_PER_PIXEL = 277;
const EXTRA_SAMPLES = 338;
/** Associated and unassociated alpha. */
const ALPHA = [1, 2];
const MAX_ENTRIES = 4096;

/** The tags of the first image; undefined for what is no TIFF, or none that can be followed. */
export async function tiffTags(file: FileHandle): Promise<TiffTags | undefined> {
  const at = async (position: number, length: number) => {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
    return bytesRead === length ? buffer : undefined;
  };
  const head = await at(0, 16);
  const order = head?.toString('latin1', 0, 2);
  if (!head || (order !== 'II' && order !== 'MM')) return undefined;
  const little = order === 'II';
  const number = (bytes: Buffer, offset: number, size: number) =>
    size === 8
      ? Number(little ? bytes.readBigUInt64LE(offset) : bytes.readBigUInt64BE(offset))
      : little
        ? bytes.readUIntLE(offset, size)
        : bytes.readUIntBE(offset, size);
  const magic = number(head, 2, 2);
  if (magic !== 42 && magic !== 43) return undefined;
  const big = magic === 43;
  const [start, countSize, entrySize, valueSize] = big ? [number(head, 8, 8), 8, 20, 8] : [number(head, 4, 4), 2, 12, 4];
  const counted = await at(start, countSize);
  const entries = counted ? number(counted, 0, countSize) : 0;
  if (entries < 1 || entries > MAX_ENTRIES) return undefined;
  const table = await at(start + countSize, entries * entrySize);
  if (!table) return undefined;
  const values = async (tag: number): Promise<number[]> => {
    for (let offset = 0; offset < table.length; offset += entrySize) {
      if (number(table, offset, 2) !== tag) continue;
      // Unsigned short is all that these tags are.
      const count = Math.min(number(table, offset + 4, valueSize), 64);
      const place = offset + 4 + valueSize;
      const bytes = 2 * count <= valueSize ? table.subarray(place) : await at(number(table, place, valueSize), 2 * count);
      return bytes ? Array.from({ length: count }, (_, i) => number(bytes, 2 * i, 2)) : [];
    }
    return [];
  };
  const [photometric = 1] = await values(PHOTOMETRIC);
  const [bands = 1] = await values(SAMPLES_PER_PIXEL);
  const extra = await values(EXTRA_SAMPLES);
  const colours = coloursOf[photometric] ?? bands;
  const alpha = Array.from({ length: Math.max(0, Math.min(bands, 64) - colours) }, (_, i) => ALPHA.includes(extra[i]!));
  return { bands, colours, alpha, minIsWhite: photometric === 0 };
}
