/**
 * Procedural shapes in ten classes, one hue range each, on a plain dark ground: data for a demo that needs no download. Image i is a
 * function of i (and of the split, and the size) alone, its class is i mod 10. Colour, unless one channel is asked for.
 */
import { PhoenixError } from '../../errors.ts';
import { type Rng, rng } from '../../rng.ts';
import type { Reader, Size } from './reader.ts';

const DEFAULT_COUNT = 2000;
const MAX_COUNT = 1_000_000;
const DEFAULT_SIDE = 16;
/** Points per pixel side for anti-aliasing. */
const SAMPLES = 4;
const GROUND = 16;
const pattern = /^synthetic(?::(\d+))?$/;

/** Whether a point belongs to a shape that fills about [-1,1]²; y points down. */
type Shape = { name: string; inside(x: number, y: number): boolean };

const shapes: Shape[] = [
  { name: 'disc', inside: (x, y) => x * x + y * y < 1 },
  { name: 'square', inside: (x, y) => Math.abs(x) < 0.88 && Math.abs(y) < 0.88 },
  { name: 'triangle', inside: (x, y) => y < 0.85 && y > 2 * Math.abs(x) - 1 },
  { name: 'cross', inside: (x, y) => Math.min(Math.abs(x), Math.abs(y)) < 0.32 && Math.max(Math.abs(x), Math.abs(y)) < 1 },
  { name: 'ring', inside: (x, y) => x * x + y * y < 1 && x * x + y * y > 0.3 },
  { name: 'horizontal bars', inside: (x, y) => Math.abs(x) < 1 && Math.abs(y) < 1 && Math.floor((y + 1) * 2.5) % 2 === 0 },
  { name: 'vertical bars', inside: (x, y) => Math.abs(x) < 1 && Math.abs(y) < 1 && Math.floor((x + 1) * 2.5) % 2 === 0 },
  { name: 'diamond', inside: (x, y) => Math.abs(x) + Math.abs(y) < 1.1 },
  {
    name: 'checker',
    inside: (x, y) => Math.abs(x) < 1 && Math.abs(y) < 1 && (Math.floor((x + 1) * 1.5) + Math.floor((y + 1) * 1.5)) % 2 === 0,
  },
  { name: 'corner', inside: (x, y) => Math.abs(x) < 0.9 && Math.abs(y) < 0.9 && (x < -0.25 || y > 0.25) },
];

export const synthetic: Reader = {
  looksFor: `procedural shapes: the word synthetic, or synthetic:N for N images (default ${DEFAULT_COUNT})`,
  detect: (path) => pattern.test(path),

  async list(path, { split, size = { height: DEFAULT_SIDE, width: DEFAULT_SIDE }, channels = 3 }) {
    const count = Number(pattern.exec(path)![1] ?? DEFAULT_COUNT);
    if (count < 1 || count > MAX_COUNT) {
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `synthetic:N takes N in 1..${MAX_COUNT}, not ${count}.`);
    }
    if (Math.min(size.height, size.width) < 8 || Math.max(size.height, size.width) > 64) {
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Synthetic images have sides in 8..64, not ${size.height}×${size.width}.`);
    }
    return {
      count,
      labels: Int32Array.from({ length: count }, (_, i) => i % shapes.length),
      inWindows: false,
      classNames: shapes.map(({ name }) => name),
      open: async (positions) => ({ ...size, channels, images: drawAll(positions, split, size, channels) }),
    };
  },
};

async function* drawAll(positions: Int32Array, split: string, size: Size, channels: 1 | 3): AsyncGenerator<Uint8Array> {
  for (const i of positions) yield draw(i, size, channels, rng(0, 'synthetic', split, i));
}

function draw(i: number, { height, width }: Size, channels: 1 | 3, random: Rng): Uint8Array {
  const side = Math.min(height, width);
  const radius = side * (0.3 + 0.1 * random.uniform());
  const centerX = width / 2 + side * 0.16 * (random.uniform() - 0.5);
  const centerY = height / 2 + side * 0.16 * (random.uniform() - 0.5);
  const hue = 36 * (i % shapes.length) + 16 * (random.uniform() - 0.5);
  const saturation = 0.75 + 0.2 * random.uniform();
  const value = 0.85 + 0.15 * random.uniform();
  const color = channels === 3 ? fromHsv(hue, saturation, value) : [255 * value];
  const { inside } = shapes[i % shapes.length]!;

  const pixels = new Uint8Array(height * width * channels);
  let at = 0;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      let hits = 0;
      for (let s = 0; s < SAMPLES * SAMPLES; s++) {
        const x = column + ((s % SAMPLES) + 0.5) / SAMPLES;
        const y = row + (Math.floor(s / SAMPLES) + 0.5) / SAMPLES;
        if (inside((x - centerX) / radius, (y - centerY) / radius)) hits++;
      }
      for (const level of color) pixels[at++] = Math.round(GROUND + ((level - GROUND) * hits) / (SAMPLES * SAMPLES));
    }
  }
  return pixels;
}

/** Hue in degrees, saturation and value 0..1 → red, green, blue 0..255 (Smith 1978). */
function fromHsv(hue: number, saturation: number, value: number): number[] {
  return [5, 3, 1].map((n) => {
    const k = (n + hue / 60 + 6) % 6;
    return 255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1)));
  });
}
