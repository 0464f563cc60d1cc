/** Hand-made SVG charts: lines and stacked bars, each drawn for a wide and a narrow page. */

import type { RoundRecord } from '../fl/protocol.ts';
import { html, type Markup } from './markup.ts';
import { byteUnit, formatBytes, formatNumber } from './units.ts';

/** Two drawings of one chart, so that its text keeps its size on a phone. */
export function responsive(wide: Markup, narrow: Markup): Markup {
  return html`<div class="wide">${wide}</div><div class="narrow">${narrow}</div>`;
}

export type Point = { x: number; y: number };
/** Colours of the style sheet, as its classes. */
export const tones = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'] as const;
export type Series = { name: string; tone: (typeof tones)[number]; points: Point[] };
type LineChart = {
  /** Size of the drawing in its own units; one is a CSS pixel when it is shown at full size. */
  width: number;
  height: number;
  label: string;
  xLabel: string;
  /** Whether ticks of the x axis are whole numbers only. @default true */
  xWhole?: boolean;
  yLabel: string;
  /** What one unit of the y axis is in units of the points. @default 1 */
  unit?: number;
  series: Series[];
  spread: { x: number; low: number; high: number }[];
  /** A value of the points for the read-out. */
  format: (value: number) => string;
  /** Whether the y axis starts at zero. */
  zero?: boolean;
  /** Whether the area below the first series is filled. */
  fill?: boolean;
};

const MARGIN = { top: 26, right: 14, bottom: 34, left: 54 };

export function lineChart(chart: LineChart): Markup {
  const { width, height, series, spread, unit = 1 } = chart;
  const xs = series.flatMap((line) => line.points.map((point) => point.x));
  const ys = [...series.flatMap((line) => line.points.map((point) => point.y)), ...spread.flatMap((s) => [s.low, s.high])].map(
    (y) => y / unit,
  );
  const x = roundAxis(lowest(xs), highest(xs), width, chart.xWhole);
  const y = valueAxis(lowest(ys), highest(ys), height, chart.zero === true);
  const at = (point: Point) => `${x.at(point.x)},${y.at(point.y / unit)}`;
  const band = [...spread.map((s) => ({ x: s.x, y: s.high })), ...spread.toReversed().map((s) => ({ x: s.x, y: s.low }))];
  const drawn = series.map((line) => {
    const { tone } = line;
    const points = line.points.map(at).join(' ');
    const [first, last] = [line.points[0]!, line.points.at(-1)!];
    return html`${chart.fill && html`<polygon class="fill ${tone}" points="${`${x.at(first.x)},${y.at(0)} ${points} ${x.at(last.x)},${y.at(0)}`}"/>`}<polyline class="line ${tone}" points="${points}"/>${line.points.length <= 40 && line.points.map((point) => html`<circle class="dot ${tone}" cx="${x.at(point.x)}" cy="${y.at(point.y / unit)}" r="2.5"/>`)}`;
  });
  const everyX = [...new Set(xs)].sort((a, b) => a - b);
  const readouts = thin(everyX).map((round) => {
    const values = series.flatMap((line) => {
      const point = line.points.find((p) => p.x === round);
      return point ? [{ point, name: line.name, tone: line.tone }] : [];
    });
    const text = `${chart.xLabel} ${chart.xWhole === false ? formatNumber(round) : round}: ${values.map((value) => `${value.name} ${chart.format(value.point.y)}`).join(', ')}`;
    return hit(
      x,
      round,
      text,
      chart,
      values.map((value) => html`<circle class="mark ${value.tone}" cx="${x.at(round)}" cy="${y.at(value.point.y / unit)}" r="4.5"/>`),
    );
  });
  return svg(chart, x, y, html`${band.length > 2 && html`<polygon class="band" points="${band.map(at).join(' ')}"/>`}${drawn}${readouts}`);
}

/** Bytes up and down of each round, stacked. */
export function barChart({
  width,
  height,
  rounds,
}: {
  width: number;
  height: number;
  rounds: Pick<RoundRecord, 'round' | 'bytesUp' | 'bytesDown'>[];
}): Markup {
  const largest = highest(rounds.map((round) => round.bytesUp + round.bytesDown));
  const unit = byteUnit(largest);
  const x = roundAxis(rounds[0]!.round - 0.5, rounds.at(-1)!.round + 0.5, width);
  const y = valueAxis(0, largest / unit.factor, height, true);
  const barWidth = Math.max(0.6, Math.min(36, x.step * 0.72));
  const bar = (round: number, from: number, to: number, tone: string) => {
    const top = y.at(to / unit.factor);
    return html`<rect class="bar ${tone}" x="${fixed(x.at(round) - barWidth / 2)}" y="${top}" width="${fixed(barWidth)}" height="${fixed(y.at(from / unit.factor) - top)}"/>`;
  };
  const bars = rounds.map((round) => [
    bar(round.round, 0, round.bytesUp, 'a'),
    bar(round.round, round.bytesUp, round.bytesUp + round.bytesDown, 'b'),
  ]);
  const chart = { width, height, label: 'Bytes sent in each round', xLabel: 'round', yLabel: unit.name };
  const readouts = thin(rounds.map((round) => ({ ...round, x: round.round }))).map((round) =>
    hit(x, round.round, `round ${round.round}: ${formatBytes(round.bytesUp)} up, ${formatBytes(round.bytesDown)} down`, chart, []),
  );
  return svg(chart, x, y, html`${bars}${readouts}`);
}

type Axis = {
  at: (value: number) => number;
  ticks: number[] /** Drawn units between two neighbouring whole numbers. */;
  step: number;
  log: boolean;
};

function svg(chart: Pick<LineChart, 'width' | 'height' | 'label' | 'xLabel' | 'yLabel'>, x: Axis, y: Axis, content: Markup): Markup {
  const { width, height } = chart;
  const bottom = height - MARGIN.bottom;
  return html`<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${chart.label}">
<g class="axis">${y.ticks.map((tick) => html`<line x1="${MARGIN.left}" x2="${width - MARGIN.right}" y1="${y.at(tick)}" y2="${y.at(tick)}"/><text x="${MARGIN.left - 8}" y="${y.at(tick) + 4}" text-anchor="end">${formatNumber(tick)}</text>`)}
${x.ticks.map((tick) => html`<line class="tick" x1="${x.at(tick)}" x2="${x.at(tick)}" y1="${bottom}" y2="${bottom + 5}"/><text x="${x.at(tick)}" y="${bottom + 18}" text-anchor="middle">${tick}</text>`)}
<text x="0" y="12">${chart.yLabel}${y.log && html`<tspan> (log)</tspan>`}</text>
<text x="${width - MARGIN.right}" y="${height - 2}" text-anchor="end">${chart.xLabel}</text></g>
${content}</svg>`;
}

/**
 * A column of the chart that shows its values while the pointer is over it, as a line of text at the top and as the browser's own title.
 */
function hit(x: Axis, value: number, text: string, chart: { width: number; height: number }, marks: Markup[]): Markup {
  const half = Math.max(1, x.step / 2);
  const bottom = chart.height - MARGIN.bottom;
  return html`<g class="hit"><rect x="${fixed(x.at(value) - half)}" y="${MARGIN.top}" width="${fixed(2 * half)}" height="${bottom - MARGIN.top}"/><line x1="${x.at(value)}" x2="${x.at(value)}" y1="${MARGIN.top}" y2="${bottom}"/>${marks}<text x="${chart.width - MARGIN.right}" y="12" text-anchor="end">${text}</text><title>${text}</title></g>`;
}

function thin<T>(points: T[]): T[] {
  const every = Math.ceil(points.length / 400);
  return points.filter((_, index) => index % every === 0);
}

function roundAxis(first: number, last: number, width: number, whole = true): Axis {
  const [low, high] = first === last ? [first - 0.5, last + 0.5] : [first, last];
  const length = width - MARGIN.left - MARGIN.right - 16;
  const every = Math.max(whole ? 1 : 0, niceStep((high - low) / (width < 500 ? 6 : 12)));
  const ticks: number[] = [];
  for (let tick = Math.ceil(low / every) * every; tick <= high; tick += every)
    if (!whole || Number.isInteger(tick)) ticks.push(Number(tick.toPrecision(12)));
  return {
    at: (value) => fixed(MARGIN.left + 8 + ((value - low) / (high - low)) * length),
    ticks,
    step: length / (high - low),
    log: false,
  };
}

/** A vertical axis over low..high: logarithmic where the values span a factor of ten or more. */
function valueAxis(low: number, high: number, height: number, zero: boolean): Axis {
  const top = MARGIN.top;
  const length = height - MARGIN.bottom - top;
  if (!zero && low > 0 && high / low >= 10) {
    const [from, to] = [Math.log10(low) - 0.03, Math.log10(high) + 0.03];
    const ticks: number[] = [];
    const digits = to - from > 2.2 ? [1] : [1, 2, 5];
    for (let decade = Math.floor(from); decade <= to; decade++) {
      for (const digit of digits) {
        const exponent = Math.log10(digit) + decade;
        if (exponent >= from && exponent <= to) ticks.push(Number(`${digit}e${decade}`));
      }
    }
    return { at: (value) => fixed(top + ((to - Math.log10(value)) / (to - from)) * length), ticks, step: 0, log: true };
  }
  const start = zero ? 0 : low;
  const span = high - start || Math.abs(high) || 1;
  const every = niceStep(span / 5);
  const from = zero ? 0 : Math.floor(start / every) * every;
  const to = Math.max(from + every, Math.ceil(high / every - 1e-9) * every);
  const ticks = Array.from({ length: Math.round((to - from) / every) + 1 }, (_, index) => Number((from + index * every).toPrecision(12)));
  return { at: (value) => fixed(top + ((to - value) / (to - from)) * length), ticks, step: 0, log: false };
}

/** The smallest of 1, 2, 5 times a power of ten that is at least `rough`. */
function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((digit) => digit * power >= rough * (1 - 1e-9))! * power;
}

const fixed = (value: number): number => Math.round(value * 100) / 100;
export function sum(values: number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
export function lowest(values: number[]): number {
  return values.reduce((a, b) => Math.min(a, b), Infinity);
}
export function highest(values: number[]): number {
  return values.reduce((a, b) => Math.max(a, b), -Infinity);
}
