/** Floating-point operations of a U-Net, counted from its configuration: what it must do, by the direct formulas, at least. */
import type { UNetConfig } from '../src/ddpm/model/unet.ts';

/**
 * Of one image: a forward pass, and a training step (forward, gradients of inputs and of weights; the first convolution's input has none).
 * Convolutions, linear layers and attention; a multiplication and an addition count two.
 */
export function countFlops(unet: UNetConfig): { forward: number; training: number } {
  const widths = unet.blockOutChannels;
  const base = widths[0]!;
  const last = widths.length - 1;
  let forward = 0;
  let c = base;
  const pixels = (level: number) => Math.ceil(unet.height / 2 ** level) * Math.ceil(unet.width / 2 ** level);
  const conv = (level: number, from: number, to: number, taps = 9) => {
    forward += 2 * pixels(level) * from * to * taps;
  };
  const linear = (from: number, to: number) => {
    forward += 2 * from * to;
  };
  const residual = (level: number, from: number, to: number) => {
    conv(level, from, to);
    linear(4 * base, to);
    conv(level, to, to);
    if (from !== to) conv(level, from, to, 1);
    c = to;
  };
  const attention = (level: number) => {
    conv(level, c, 4 * c, 1); // queries, keys, values and the output
    forward += 4 * pixels(level) ** 2 * c;
  };

  linear(base, 4 * base);
  linear(4 * base, 4 * base);
  const first = 2 * pixels(0) * unet.inChannels * base * 9;
  forward += first;
  const skips = [c];
  for (const [level, width] of widths.entries()) {
    for (let layer = 0; layer < unet.layersPerBlock; layer++) {
      residual(level, c, width);
      if (unet.attention[level]) attention(level);
      skips.push(c);
    }
    if (level < last) {
      conv(level + 1, c, c);
      skips.push(c);
    }
  }
  residual(last, c, c);
  attention(last);
  residual(last, c, c);
  for (let level = last; level >= 0; level--) {
    for (let layer = 0; layer <= unet.layersPerBlock; layer++) {
      residual(level, c + skips.pop()!, widths[level]!);
      if (unet.attention[level]) attention(level);
    }
    if (level > 0) conv(level - 1, c, c);
  }
  conv(0, c, unet.inChannels);
  return { forward, training: 3 * forward - first };
}
