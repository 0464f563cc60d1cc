/** Quantities as people read them. */

/** At most three significant digits: '0.0312', '1.2', '340'. */
export function formatNumber(value: number): string {
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}

/** Whole numbers with thousands set apart: '12,800'. */
export function formatCount(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: 0 });
}

const BYTES = [
  { name: 'bytes', factor: 1 },
  { name: 'kB', factor: 1e3 },
  { name: 'MB', factor: 1e6 },
  { name: 'GB', factor: 1e9 },
  { name: 'TB', factor: 1e12 },
] as const;

/** The largest decimal unit that `bytes` reaches. */
export function byteUnit(bytes: number): { name: string; factor: number } {
  return BYTES.findLast((unit) => bytes >= unit.factor) ?? BYTES[0];
}

/** '4.1 MB' */
export function formatBytes(bytes: number): string {
  return `${formatNumber(bytes / byteUnit(bytes).factor)} ${byteUnit(bytes).name}`;
}

/** '7.4 s', '41 s', '2 min 5 s', '3 h 20 min' */
export function formatDuration(seconds: number): string {
  if (seconds < 10) return `${formatNumber(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
