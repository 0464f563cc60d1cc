/** Which values of deep images become the pixels 0..255: two values, or two percentiles of all values of a set. */
import { PhoenixError } from '../../errors.ts';

export type ValueRange = { low: number; high: number; isPercent: boolean };

/** What `range` takes, for help and errors. */
export const RANGE = 'LOW,HIGH, two values of which the first is smaller, as 0,4095; or two percentiles, as 0.1%,99.9%';

/** Values of floating-point images are counted in so many bins; those of integers are counted exactly where they span no more. */
const BINS = 65_536;

/** Reads `0,4095` or `0.1%,99.9%`. @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function parseRange(text: string): ValueRange {
  const number = '([-+]?(?:\\d+\\.?\\d*|\\.\\d+)(?:[eE][-+]?\\d+)?)';
  const match = new RegExp(`^\\s*${number}(%?)\\s*,\\s*${number}(%?)\\s*$`).exec(text);
  const [low, high] = [Number(match?.[1]), Number(match?.[3])];
  const isPercent = match?.[2] === '%';
  const isValid = match && match[2] === match[4] && low < high && Number.isFinite(high - low) && (!isPercent || (low >= 0 && high <= 100));
  if (!isValid) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Range '${text}' is none. Valid: ${RANGE}.`);
  return { low, high, isPercent };
}

/** Values low..high as bytes 0..255, rounded; what lies outside becomes 0 or 255. Counts what does. */
export function toBytes(values: Float32Array, [low, high]: readonly [number, number]): { bytes: Uint8Array; outside: number } {
  const bytes = new Uint8Array(values.length);
  const scale = 255 / (high - low);
  let outside = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value < low || value > high) outside++;
    bytes[i] = Math.max(0, Math.min(255, Math.round((value - low) * scale)));
  }
  return { bytes, outside };
}

export type Extent = { low: number; high: number; isWhole: boolean; isFinite: boolean };

/** The least and greatest value, whether all are whole numbers, and whether all are finite. Those that are not are passed over. */
export function extentOf(values: Float32Array): Extent {
  const extent: Extent = { low: Infinity, high: -Infinity, isWhole: true, isFinite: true };
  for (const value of values) {
    if (!Number.isFinite(value)) {
      extent.isFinite = false;
      continue;
    }
    if (value < extent.low) extent.low = value;
    if (value > extent.high) extent.high = value;
    extent.isWhole &&= Number.isInteger(value);
  }
  return extent;
}

export function widest(a: Extent | undefined, b: Extent): Extent {
  if (!a) return b;
  return {
    low: Math.min(a.low, b.low),
    high: Math.max(a.high, b.high),
    isWhole: a.isWhole && b.isWhole,
    isFinite: a.isFinite && b.isFinite,
  };
}

/** A histogram over an extent, to take percentiles of: exact for whole numbers that span at most 65,536. */
export function histogram({ low, high, isWhole }: Extent) {
  const isExact = isWhole && high - low < BINS;
  const width = isExact ? 1 : Math.max((high - low) / BINS, Number.MIN_VALUE);
  const counts = new Float64Array(BINS);
  let total = 0;
  return {
    add(values: Float32Array): void {
      for (const value of values) counts[Math.min(BINS - 1, Math.floor((value - low) / width))]!++;
      total += values.length;
    },
    /** The least value that at least this share of the values, in percent, does not exceed. */
    percentile(percent: number): number {
      const wanted = (percent / 100) * total;
      let seen = 0;
      for (let bin = 0; bin < BINS; bin++) {
        seen += counts[bin]!;
        if (seen >= wanted && seen > 0) return isExact ? low + bin : Math.min(high, low + (bin + (percent < 50 ? 0 : 1)) * width);
      }
      return high;
    },
  };
}

/**
 * A range for values of this extent. Undefined for unsigned integers of 16 bits that use the whole of theirs, and for what has no extent.
 */
export function proposeRange({ low, high, isWhole }: Extent, isUnsigned16: boolean): string | undefined {
  if (!(low < high)) return undefined;
  if (isUnsigned16) return high > 0x3fff ? undefined : `0,${wholeBits(high)}`;
  if (low >= 0 && high <= 1) return '0,1';
  if (isWhole && low >= 0 && high <= 255) return '0,255';
  return showRange([low, high]);
}

/** The greatest value of as many bits as this one has. */
export const wholeBits = (value: number) => 2 ** Math.max(1, Math.ceil(Math.log2(value + 1))) - 1;

/** The two values as a person writes them. */
export function showRange([low, high]: readonly [number, number]): string {
  return [low, high].map((value) => String(Number(value.toPrecision(6)))).join(',');
}
