/** Folders of small images for tests, and TIFF files of any depth and number of bands, which sharp does not write. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { ExecutionContext } from 'ava';
import sharp from 'sharp';

/** Writes files into a folder that is removed after the test. */
export async function folderOf(t: ExecutionContext, files: Record<string, Uint8Array | string>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-odd-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), content);
  }
  return folder;
}

/** A PNG of 8×8 RGB with a ramp, different for every seed. */
export function png(seed = 0, side = 8): Promise<Buffer> {
  const pixels = Buffer.from(Array.from({ length: side * side * 3 }, (_, i) => (i * 5 + seed * 37) % 256));
  return sharp(pixels, { raw: { width: side, height: side, channels: 3 } })
    .png()
    .toBuffer();
}

/** `count` different PNGs in a folder: 'a/0.png', 'a/1.png', … */
export async function pngs(folder: string, count: number, seed = 0): Promise<Record<string, Buffer>> {
  const files = Array.from({ length: count }, async (_, i) => [`${folder}/${i}.png`, await png(100 * seed + i)] as const);
  return Object.fromEntries(await Promise.all(files));
}

export type Tiff = {
  width: number;
  height: number;
  bands?: number;
  /** How a value is stored. @default 'u16' */
  type?: 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32' | 'f32';
  /** PhotometricInterpretation. @default 1 (gray), 2 (RGB) with three bands and more */
  photometric?: number;
  /** ExtraSamples; absent if the tag is. */
  extra?: number[];
  /** Value of a band of the pixel at an index. */
  value(pixel: number, band: number): number;
};

const stored = {
  u8: [8, 1, (b, v, o) => b.writeUInt8(v, o)],
  i8: [8, 2, (b, v, o) => b.writeInt8(v, o)],
  u16: [16, 1, (b, v, o) => b.writeUInt16LE(v, o)],
  i16: [16, 2, (b, v, o) => b.writeInt16LE(v, o)],
  u32: [32, 1, (b, v, o) => b.writeUInt32LE(v, o)],
  i32: [32, 2, (b, v, o) => b.writeInt32LE(v, o)],
  f32: [32, 3, (b, v, o) => b.writeFloatLE(v, o)],
} satisfies Record<string, [bits: number, format: number, write: (bytes: Buffer, value: number, offset: number) => number]>;

/** An uncompressed little-endian TIFF of one strip. */
export function tiff({ width, height, bands = 1, type = 'u16', photometric = bands >= 3 ? 2 : 1, extra, value }: Tiff): Buffer {
  const [bits, format, write] = stored[type];
  const size = bits / 8;
  const pixels = Buffer.alloc(width * height * bands * size);
  for (let i = 0; i < width * height * bands; i++) write(pixels, value(Math.floor(i / bands), i % bands), i * size);
  const each = (of: number) => Array.from({ length: bands }, () => of);
  const long = 4;
  const short = 3;
  const entries: [tag: number, type: number, values: number[]][] = [
    [256, long, [width]],
    [257, long, [height]],
    [258, short, each(bits)],
    [259, short, [1]],
    [262, short, [photometric]],
    [273, long, [0]],
    [277, short, [bands]],
    [278, long, [height]],
    [279, long, [pixels.length]],
    [284, short, [1]],
    ...(extra ? [[338, short, extra] as [number, number, number[]]] : []),
    [339, short, each(format)],
  ];
  const head = Buffer.alloc(8 + 2 + 12 * entries.length + 4);
  head.write('II*\0', 'latin1');
  head.writeUInt32LE(8, 4);
  head.writeUInt16LE(entries.length, 8);
  const beyond: Buffer[] = [];
  let end = head.length;
  for (const [i, [tag, kind, values]] of entries.entries()) {
    const at = 10 + 12 * i;
    head.writeUInt16LE(tag, at);
    head.writeUInt16LE(kind, at + 2);
    head.writeUInt32LE(values.length, at + 4);
    const bytes = Buffer.alloc(Math.max(4, values.length * (kind === short ? 2 : 4)));
    for (const [k, each] of values.entries()) kind === short ? bytes.writeUInt16LE(each, 2 * k) : bytes.writeUInt32LE(each, 4 * k);
    if (bytes.length > 4) {
      head.writeUInt32LE(end, at + 8);
      beyond.push(bytes);
      end += bytes.length;
    } else bytes.copy(head, at + 8);
  }
  head.writeUInt32LE(end, 10 + 12 * entries.findIndex(([tag]) => tag === 273) + 8);
  return Buffer.concat([head, ...beyond, pixels]);
}

/** A gray TIFF of 16×16 whose values run evenly from one to another. */
export const ramp = (low: number, high: number, rest: Partial<Tiff> = {}): Buffer =>
  tiff({
    width: 16,
    height: 16,
    value: (i) => (rest.type === 'f32' ? low + ((high - low) * i) / 255 : Math.round(low + ((high - low) * i) / 255)),
    ...rest,
  });
