/** Changes of one image's pixels, (H,W,C) bytes. */
import type { Size } from './reader.ts';

/** Gray from colour by the luma of ITU-R BT.601, colour from gray by repetition. */
export function convertChannels(pixels: Uint8Array, from: 1 | 3, to: 1 | 3): Uint8Array {
  if (from === to) return pixels;
  const count = pixels.length / from;
  const out = new Uint8Array(count * to);
  for (let i = 0; i < count; i++) {
    if (to === 3) out.fill(pixels[i]!, 3 * i, 3 * i + 3);
    else out[i] = Math.round(0.299 * pixels[3 * i]! + 0.587 * pixels[3 * i + 1]! + 0.114 * pixels[3 * i + 2]!);
  }
  return out;
}

/** For each output position: the first input position that it sees, and weights that sum to 1. */
type Taps = { first: number; weights: Float64Array }[];

/** A triangle filter, as wide as an input pixel when enlarging and as an output pixel when reducing, over the middle of the input. */
function taps(input: number, output: number, scale: number): Taps {
  const radius = Math.max(1, scale);
  const margin = (input - output * scale) / 2;
  return Array.from({ length: output }, (_, i) => {
    const center = margin + (i + 0.5) * scale;
    const first = Math.max(0, Math.ceil(center - radius - 0.5));
    const last = Math.min(input - 1, Math.floor(center + radius - 0.5));
    const weights = Float64Array.from({ length: last - first + 1 }, (_, k) => 1 - Math.abs(first + k + 0.5 - center) / radius);
    const sum = weights.reduce((a, b) => a + b);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/**
 * A function that scales images of one size to another: they cover the new size, what sticks out is cut off evenly, and the filter is a
 * triangle (bilinear, widened when reducing so that nothing is skipped).
 */
export function resizer(from: Size, to: Size, channels: 1 | 3): (pixels: Uint8Array) => Uint8Array {
  const scale = Math.min(from.height / to.height, from.width / to.width);
  const vertical = taps(from.height, to.height, scale);
  const horizontal = taps(from.width, to.width, scale);
  const stride = from.width * channels;
  const row = new Float64Array(stride);
  return (pixels) => {
    const out = new Uint8Array(to.height * to.width * channels);
    let at = 0;
    for (const { first, weights } of vertical) {
      row.fill(0);
      for (let k = 0; k < weights.length; k++) {
        const start = (first + k) * stride;
        for (let i = 0; i < stride; i++) row[i]! += weights[k]! * pixels[start + i]!;
      }
      for (const tap of horizontal) {
        for (let channel = 0; channel < channels; channel++) {
          let sum = 0;
          for (let k = 0; k < tap.weights.length; k++) sum += tap.weights[k]! * row[(tap.first + k) * channels + channel]!;
          out[at++] = Math.round(sum);
        }
      }
    }
    return out;
  };
}
