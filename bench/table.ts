/** Tables as plain text. */
import type { Summary } from './quiet.ts';

/** Columns as wide as their widest cell; those whose heading begins with '>' are aligned to the right. */
export function table(headings: string[], rows: string[][]): string {
  const titles = headings.map((heading) => heading.replace(/^>/, ''));
  const widths = titles.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]!.length)));
  const line = (cells: string[]) =>
    cells
      .map((cell, column) => (headings[column]!.startsWith('>') ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd();
  return [line(titles), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

/** At least three significant digits, and no exponent: '0.0312', '1.23', '35.9', '1234'. */
export const figure = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

export const milliseconds = (seconds: number): string => figure(seconds * 1000);

/** '7', or with what was disturbed: '5 of 9', '7 (busy)'. */
export const counted = ({ repetitions, tried, quiet }: Summary): string =>
  quiet ? (repetitions === tried ? `${tried}` : `${repetitions} of ${tried}`) : `${tried} (busy)`;
