/** What images are compared by: a function from pixels to features, with a name that goes into a metric's. */

import { createHash } from 'node:crypto';
import { checkArguments } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import { type ImageSet, imageBytes, mismatch, slice } from '../../images.ts';
import { resizer } from '../data/pixels.ts';
import type { FeatureNetwork } from './feature-network.ts';
import { type Features, featureMatrix } from './features.ts';
import { featureNetwork } from './network.ts';

export type FeatureSource = {
  /** Small letters and digits, for the names of metrics: pixels8, resnet56. */
  name: string;
  /** Features under another fingerprint must not be compared with these. */
  fingerprint: string;
  /** Features (n, columns) of u8 images (n, height, width, channels), in the order given. Equal images give equal bits. */
  extract(images: ImageSet, options?: { signal?: AbortSignal }): Promise<Features>;
};

/** Cells of the grid along each side. */
const GRID = 8;
/** Images between two pauses, so that the event loop goes on. */
const PIECE = 512;

/**
 * Means of the pixels in an 8×8 grid of cells, each channel for itself, in [-1,1]: min(8,H)·min(8,W)·C features. It needs no file and no
 * training, and sees coarse layout and colour, nothing finer: enough to tell kinds of images apart, not to judge their quality.
 */
export const pixels8: FeatureSource = {
  name: 'pixels8',
  fingerprint: createHash('sha256').update('pixels8: means of an 8x8 grid').digest('hex'),
  async extract(images, { signal } = {}) {
    const { pixels, count, height, width, channels } = images;
    const wrong = mismatch(images);
    if (wrong) throw new PhoenixError('ERR_PHOENIX_SHAPE', `pixels8: ${wrong}.`);
    const size = imageBytes(images);
    const [rows, columns] = [Math.min(GRID, height), Math.min(GRID, width)];
    const edges = (cells: number, side: number) => Array.from({ length: cells + 1 }, (_, i) => Math.floor((i * side) / cells));
    const [tops, lefts] = [edges(rows, height), edges(columns, width)];
    const dims = rows * columns * channels;
    const features = new Float32Array(count * dims);
    for (let image = 0; image < count; image++) {
      if (image % PIECE === PIECE - 1) await new Promise(setImmediate);
      signal?.throwIfAborted();
      let at = image * dims;
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < columns; column++)
          for (let channel = 0; channel < channels; channel++) {
            let sum = 0;
            for (let y = tops[row]!; y < tops[row + 1]!; y++)
              for (let x = lefts[column]!; x < lefts[column + 1]!; x++) sum += pixels[image * size + (y * width + x) * channels + channel]!;
            const cell = (tops[row + 1]! - tops[row]!) * (lefts[column + 1]! - lefts[column]!);
            features[at++] = sum / cell / 127.5 - 1;
          }
    }
    return featureMatrix(features, dims);
  },
};

/** The features of a network. Images that are larger than it takes, or not square, are brought to its size first. */
export function sourceOf(network: FeatureNetwork): FeatureSource {
  checkArguments('sourceOf', { network }, { network: { name: 'text', fingerprint: 'text', run: 'function' } });
  return {
    name: network.name,
    fingerprint: network.fingerprint,
    extract: async (images, options) => (await network.run(fit(images, network), options)).features,
  };
}

/**
 * `pixels8`, or the feature network in a file.
 * @throws PhoenixError ERR_PHOENIX_CHECKPOINT, ERR_PHOENIX_IO
 */
export async function featureSource(name: string): Promise<FeatureSource> {
  checkArguments('featureSource', { name }, { name: 'text' });
  return name === pixels8.name ? pixels8 : sourceOf(await featureNetwork(name));
}

function fit(images: ImageSet, { height, width }: Pick<ImageSet, 'height' | 'width'>): ImageSet {
  const { count, channels } = images;
  if (images.height === images.width && images.height <= height) return images;
  const to = imageBytes({ height, width, channels });
  const resize = resizer(images, { height, width }, channels as 1 | 3);
  const resized = new Uint8Array(count * to);
  for (let i = 0; i < count; i++) resized.set(resize(slice(images, i, 1).pixels), i * to);
  return { pixels: resized, count, height, width, channels };
}
