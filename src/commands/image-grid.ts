/** Pictures for people: many small images laid out in one PNG. */

import sharp from 'sharp';
import { checkArguments } from '../arguments.ts';
import { GRID_MARK } from '../ddpm/data/image-file.ts';
import { PhoenixError } from '../errors.ts';
import { type ImageSet, mismatch } from '../images.ts';

export type GridOptions = {
  /** Images per row. @default the smallest number from √count to 2·√count that fills every row, else ⌈√count⌉ */
  columns?: number;
  /**
   * Whole factor by which every pixel is repeated in both directions. @default the smallest that makes the longer side at least 48 pixels
   */
  scale?: number;
};

/** Gray level between the images: it sets off both black and white ones. */
const GAP_LEVEL = 128;
/** Longest side of a grid in pixels: what every viewer opens. */
const MAX_SIDE = 32_767;
/** Most pixels of the images in a grid, before they are repeated: what sharp takes. */
const MAX_AREA = 0x3fff ** 2;

type Sizes = Omit<ImageSet, 'pixels'>;
/** Columns and scale of a grid, and what follows from them: its rows and its sides in source pixels. */
type Layout = Required<GridOptions> & { rows: number; gridWidth: number; gridHeight: number };

/**
 * A grid of images as PNG, row by row, separated by one source pixel. Pixels are repeated, never blended. Cells after the last image are
 * left in the colour of the gap.
 *
 * @param images at least one, gray (1 channel) or RGB (3)
 * @throws PhoenixError ERR_PHOENIX_SHAPE if the sizes are no positive integers, do not fit the bytes, or make a grid wider or higher than
 * 32,767 pixels
 */
export async function imageGrid(images: ImageSet, options: GridOptions = {}): Promise<Buffer> {
  checkArguments('imageGrid', { images, options }, { images: { pixels: 'numbers' }, options: 'object' });
  const { pixels, count, height, width, channels } = images;
  const { columns, scale, gridWidth, gridHeight } = layoutOf(images, options);
  const wrong = mismatch(images);
  if (wrong) throw new PhoenixError('ERR_PHOENIX_SHAPE', `${wrong}.`);
  const grid = new Uint8Array(gridHeight * gridWidth * channels).fill(GAP_LEVEL);
  const line = width * channels;
  for (let image = 0; image < count; image++) {
    const top = Math.floor(image / columns) * (height + 1) + 1;
    const left = (image % columns) * (width + 1) + 1;
    for (let y = 0; y < height; y++) {
      const from = (image * height + y) * line;
      grid.set(pixels.subarray(from, from + line), ((top + y) * gridWidth + left) * channels);
    }
  }
  return sharp(grid, { raw: { width: gridWidth, height: gridHeight, channels: channels as 1 | 3 } })
    .resize({ width: gridWidth * scale, height: gridHeight * scale, kernel: 'nearest', fit: 'fill' })
    .toColourspace(channels === 1 ? 'b-w' : 'srgb')
    .withExif({ IFD0: { Software: GRID_MARK } })
    .png()
    .toBuffer();
}

/**
 * Columns and scale with which so many images fit into a grid, known before they are drawn: as by default or, of images that lie by turns
 * under `columns` classes, in that many columns. A grid that would be too long gets whole sets of such columns side by side, then a smaller
 * scale.
 * @throws PhoenixError ERR_PHOENIX_SHAPE for channels that no picture has, and for images that fit into no grid
 */
export function fittingGrid(sizes: Sizes, columns?: number): Required<GridOptions> {
  const { count } = sizes;
  const widest = columns ?? defaultColumns(count);
  const sets = columns === undefined ? 1 : Math.ceil(count / columns);
  const { scale: largest, ...first } = sizesOf(sizes, { columns: widest, scale: undefined });
  checkSizes(sizes, { ...first, scale: largest });
  for (let scale = largest; scale >= 1; scale--) {
    for (let n = 1; n <= sets; n++) if (fits(sizesOf(sizes, { columns: n * widest, scale }))) return { columns: n * widest, scale };
    const square = Math.ceil(Math.sqrt(count));
    if (columns === undefined && fits(sizesOf(sizes, { columns: square, scale }))) return { columns: square, scale };
  }
  const { height, width } = sizes;
  throw new PhoenixError(
    'ERR_PHOENIX_SHAPE',
    `${count} images of ${height}×${width} do not fit into one picture of at most ${MAX_SIDE} pixels per side and ${MAX_AREA} in all. Take fewer images.`,
  );
}

/** The columns of a grid of images that lie by turns under so many classes; undefined where they would be too many to compare. */
export function classColumns(classes: number): number | undefined {
  return classes > 1 && classes <= 20 ? classes : undefined;
}

function sizesOf({ count, height, width }: Sizes, options: { columns?: number; scale?: number }): Layout {
  const columns = Math.min(options.columns ?? defaultColumns(count), count);
  const scale = options.scale ?? Math.max(1, Math.ceil(48 / Math.max(height, width)));
  const rows = Math.ceil(count / columns);
  return { columns, scale, rows, gridWidth: columns * (width + 1) + 1, gridHeight: rows * (height + 1) + 1 };
}

const fits = ({ gridWidth, gridHeight, scale }: Layout) =>
  Math.max(gridWidth, gridHeight) * scale <= MAX_SIDE && gridWidth * gridHeight <= MAX_AREA;

/** The layout of a grid, checked. */
function layoutOf(sizes: Sizes, options: GridOptions): Layout {
  const layout = sizesOf(sizes, options);
  checkSizes(sizes, layout);
  if (fits(layout)) return layout;
  const { columns, scale, gridWidth, gridHeight } = layout;
  const { count, height, width } = sizes;
  throw new PhoenixError(
    'ERR_PHOENIX_SHAPE',
    `${count} images of ${height}×${width} in ${columns} columns at scale ${scale} make ${gridHeight * scale}×${gridWidth * scale} pixels; at most ${MAX_SIDE} per side can be drawn. Take fewer images, another number of columns or a smaller scale.`,
  );
}

function checkSizes({ count, height, width, channels }: Sizes, { columns, scale }: Required<GridOptions>): void {
  for (const [name, value] of Object.entries({ count, height, width, channels, columns, scale })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new PhoenixError('ERR_PHOENIX_SHAPE', `A grid needs a whole number of at least 1 as ${name}, not ${value}.`);
    }
  }
  if (channels !== 1 && channels !== 3) {
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `A grid is drawn from gray (1 channel) or RGB images (3 channels), not from ${channels} channels.`,
    );
  }
}

function defaultColumns(count: number): number {
  const root = Math.sqrt(count);
  for (let columns = Math.ceil(root); columns <= 2 * root; columns++) if (count % columns === 0) return columns;
  return Math.ceil(root);
}
