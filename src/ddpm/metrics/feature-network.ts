/** What a feature network is: network.ts opens those that there are. */
import { PhoenixError } from '../../errors.ts';
import type { Features } from './features.ts';

export type FeatureNetwork = {
  /** For the names of metrics: resnet56. */
  name: string;
  /** sha256 over the weights and the description: features of another file must not be compared with these. */
  fingerprint: string;
  /** Features a sample. */
  dims: number;
  /** Logits a sample; 0 for a network without a classifier. */
  classes: number;
  height: number;
  width: number;
  /**
   * Features (n, dims) and, of a network with a classifier, logits (n, classes) of images in u8, (n, height, width, channels); one channel counts
   * as three equal ones. Smaller images of the same proportions are scaled by bilinear interpolation. Results do not depend on the number of
   * threads.
   * @throws PhoenixError ERR_PHOENIX_SHAPE for images of another shape or larger ones (resize them first), or the signal's reason
   */
  run(images: FeatureImages, options?: RunNetworkOptions): Promise<{ features: Features; logits?: Features }>;
};

export type FeatureImages = { pixels: Uint8Array; count: number; height: number; width: number; channels: number };

export type RunNetworkOptions = {
  /** @default all cores */
  threads?: number;
  signal?: AbortSignal;
  /** Called now and then with the number of images done. */
  onProgress?: (images: number) => void;
};

export const checkImages = ({ pixels, count, height, width, channels }: FeatureImages, side: number): void => {
  const whole = [height, width].every((value) => Number.isInteger(value) && value >= 1 && value <= side);
  if (!whole || height !== width || (channels !== 1 && channels !== 3))
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `featureNetwork: expected square images of at most ${side}x${side} and 1 or 3 channels, got ${height}x${width} of ${channels}; resize them first`,
    );
  if (!(Number.isInteger(count) && count >= 1) || pixels.length !== count * height * width * channels)
    throw new PhoenixError(
      'ERR_PHOENIX_SHAPE',
      `featureNetwork: ${count} images take ${count * height * width * channels} bytes, got ${pixels.length}`,
    );
};
