/** What a feature network is: network.ts opens those that there are. */
import { PhoenixError } from '../../errors.ts';
import { type ImageSet, mismatch } from '../../images.ts';
import type { Features } from './features.ts';

export type FeatureNetwork = {
  /** For the names of metrics: resnet56. */
  name: string;
  /** sha256 over the weights and the description: features of another file must not be compared with these. */
  fingerprint: string;
  /** Features per sample. */
  dims: number;
  /** Logits a sample; 0 for a network without a classifier. */
  classes: number;
  height: number;
  width: number;
  /**
   * Features (n, dims) and, of a network with a classifier, logits (n, classes) of images in u8, (n, height, width, channels); one channel
   * counts as three equal ones. Smaller images of the same proportions are scaled by bilinear interpolation. Results do not depend on the
   * number of threads.
   * @throws PhoenixError ERR_PHOENIX_SHAPE for images of another shape or larger ones (resize them first), or the signal's reason
   */
  run(images: ImageSet, options?: RunNetworkOptions): Promise<{ features: Features; logits?: Features }>;
};

export type RunNetworkOptions = {
  /** @default the cores, or the CPU quota */
  threads?: number;
  signal?: AbortSignal;
  /** Called now and then with the number of images done. */
  onProgress?: (images: number) => void;
};

/** @throws PhoenixError ERR_PHOENIX_SHAPE unless the images are square, at most `side` wide, gray or RGB, and as many bytes as they say */
export function checkImages(images: ImageSet, side: number): void {
  const { count, height, width, channels } = images;
  const whole = [height, width].every((value) => Number.isInteger(value) && value >= 1 && value <= side);
  if (!whole || height !== width || (channels !== 1 && channels !== 3))
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `featureNetwork needs square images of at most ${side}x${side} with 1 or 3 channels, not ${height}x${width} with ${channels}: resize them first.`,
    );
  const wrong = Number.isInteger(count) && count >= 1 ? mismatch(images) : `expected at least one image, got ${count}`;
  if (wrong) throw new PhoenixError('ERR_PHOENIX_SHAPE', `featureNetwork: ${wrong}.`);
}
