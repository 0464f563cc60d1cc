/** The page of a run as one HTML text: tables, hand-made SVG charts, pictures as data URIs. Pure: what it shows is what it is given. */

import { byteUnit, formatBytes, formatCount, formatDuration, formatNumber } from '../units.ts';
import type { LoggedRound } from './report.ts';

export type Report = {
  /** What was run, e.g. 'federate'. */
  kind: string;
  /** Data, as the user named it. */
  data: string;
  /** Short facts under the title: partition, preset, backend, … */
  facts: string[];
  /** Rounds asked for; absent if unknown. */
  plannedRounds?: number;
  classNames: string[];
  /** Images of each class that each client holds. */
  histograms: { client: string; counts: number[] }[];
  rounds: LoggedRound[];
  /** PNG files in order of rounds; the last one is shown large. */
  grids: { round: number; png: Uint8Array }[];
  /** Option or fact → value, shown as a table. */
  config: Record<string, unknown>;
  /** What a reader must know about the report itself, e.g. that the log was cut. */
  remarks: string[];
};

// Markup is what is escaped already. Everything else is escaped where it enters a template, so no string of a run can become markup.
type Markup = { markup: string };
type Part = Markup | string | number | undefined | false | Part[];

function render(part: Part): string {
  if (part === undefined || part === false) return '';
  if (Array.isArray(part)) return part.map(render).join('');
  if (typeof part === 'object') return part.markup;
  return String(part).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
function html(strings: TemplateStringsArray, ...parts: Part[]): Markup {
  return { markup: strings.map((text, i) => text + render(parts[i])).join('') };
}

/** The report as a complete HTML document. */
export function renderPage(report: Report): string {
  const { rounds, grids } = report;
  const final = grids.at(-1);
  const earlier = grids.slice(0, -1);
  const clients = clientIds(report);
  const what = report.kind === 'federate' ? `${count(clients.length, 'client')} on ${report.data}` : `Training on ${report.data}`;
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Phoenix: ${what}</title>
<style>${{ markup: STYLE }}</style>
</head>
<body>
<main>
<header>
<p class="kicker">Phoenix · ${report.kind === 'federate' ? 'federated training' : 'training'} of a diffusion model</p>
<h1>${what}</h1>
<ul class="facts">${report.facts.map((fact) => html`<li>${fact}</li>`)}</ul>
${report.remarks.map((remark) => html`<p class="remark">${remark}</p>`)}
</header>
<section class="hero">
${final && html`<figure class="final">${picture(final)}<figcaption>Samples of the final model, after round ${final.round}</figcaption></figure>`}
<dl class="figures">${headline(report, clients.length)}</dl>
</section>
${rounds.length > 0 && lossSection(report)}
${
  earlier.length > 0 &&
  html`<section><h2>Samples by round</h2><p>The same noise every time: each cell shows how one image came to be.</p>
<div class="grids">${grids.map((grid) => html`<figure>${picture(grid)}<figcaption>Round ${grid.round}</figcaption></figure>`)}</div></section>`
}
${report.histograms.length > 0 && classSection(report)}
${rounds.some((round) => round.clients.length > 0) && participationSection(rounds, clients)}
${rounds.some((round) => round.bytesUp + round.bytesDown > 0) && bytesSection(rounds)}
${eventSection(rounds)}
<section><h2>Configuration</h2><dl class="config">${Object.entries(flatten(report.config)).map(
    ([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`,
  )}</dl></section>
<footer>Made by Phoenix from config.json and log.jsonl of this run.</footer>
</main>
</body>
</html>
`;
  return page.markup;
}

function clientIds(report: Report): string[] {
  const ids = new Set(report.histograms.map((entry) => entry.client));
  for (const round of report.rounds) {
    for (const { client } of round.clients) ids.add(client);
    for (const { client } of round.failures) ids.add(client);
  }
  return [...ids].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
}

function picture(grid: { round: number; png: Uint8Array }): Markup {
  return html`<img alt="Grid of images drawn from the model after round ${grid.round}" src="data:image/png;base64,${Buffer.from(grid.png).toString('base64')}">`;
}

function headline(report: Report, clients: number): Markup[] {
  const { rounds } = report;
  const first = rounds[0];
  const last = rounds.at(-1);
  const heldOut = heldOutLosses(report);
  const images = sum(rounds.map((round) => round.images));
  const seconds = sum(rounds.map((round) => round.seconds));
  const up = sum(rounds.map((round) => round.bytesUp));
  const down = sum(rounds.map((round) => round.bytesDown));
  const tile = (name: string, value: string, detail = '') => html`<div><dt>${name}</dt><dd>${value}<small>${detail}</small></dd></div>`;
  const tiles = [tile('Rounds', String(last?.round ?? 0), report.plannedRounds === undefined ? '' : `of ${report.plannedRounds}`)];
  if (clients > 0) {
    const failures = sum(rounds.map((round) => round.failures.length));
    tiles.push(tile('Clients', String(clients), failures > 0 ? `${count(failures, 'failure')}` : 'no failures'));
  }
  if (!first || !last) return tiles;
  tiles.push(tile('Training loss', loss(last.loss), first === last ? '' : `from ${loss(first.loss)}`));
  if (heldOut.length > 0) {
    tiles.push(tile('Held-out loss', loss(heldOut.at(-1)!.y), heldOut.length === 1 ? '' : `from ${loss(heldOut[0]!.y)}`));
  }
  tiles.push(tile('Images seen', formatCount(images), seconds > 0 ? `${formatCount(Math.round(images / seconds))} a second` : ''));
  if (up + down > 0) tiles.push(tile('Sent', formatBytes(up + down), `${formatBytes(up)} up, ${formatBytes(down)} down`));
  tiles.push(tile('Time', formatDuration(seconds), rounds.length > 1 ? `${formatDuration(seconds / rounds.length)} a round` : ''));
  return tiles;
}

/**
 * Loss on images that nobody trains on: of the global model that a round of a federation began with, or of the one model there is, after
 * the round.
 */
function heldOutLosses({ kind, rounds }: Report): Point[] {
  return rounds.flatMap((round) => {
    const y = kind === 'federate' ? round.evalLoss : (round.evalLossLocal ?? round.evalLoss);
    return y == null ? [] : [{ x: round.round, y }];
  });
}

function lossSection(report: Report): Markup {
  const { rounds } = report;
  const heldOut = heldOutLosses(report);
  const spread = rounds.flatMap((round) => {
    const losses = round.clients.flatMap((client) => (client.loss === undefined ? [] : [client.loss]));
    return losses.length > 1 ? [{ x: round.round, low: lowest(losses), high: highest(losses) }] : [];
  });
  const series: Series[] = [{ name: 'training', tone: 'a', points: rounds.map((round) => ({ x: round.round, y: round.loss })) }];
  if (heldOut.length > 0) series.push({ name: 'held out', tone: 'b', points: heldOut });
  const chart = (width: number, height: number) =>
    lineChart({ width, height, label: 'Loss by round', xLabel: 'round', yLabel: 'loss', series, spread, format: loss });
  return html`<section><h2>Loss</h2>
<p class="keys"><span class="key a">training: mean over the round’s images</span>${
    heldOut.length > 0 &&
    html`<span class="key b">held out: ${report.kind === 'federate' ? 'the model that the round began with' : 'the model after the round'}, on images that are never trained on</span>`
  }${spread.length > 0 && html`<span class="key band">lowest to highest client</span>`}</p>
${responsive(chart(760, 320), chart(380, 260))}</section>`;
}

function bytesSection(rounds: LoggedRound[]): Markup {
  let total = 0;
  const cumulative = rounds.map((round) => {
    total += round.bytesUp + round.bytesDown;
    return { x: round.round, y: total };
  });
  const perRound = (width: number, height: number) => barChart({ width, height, rounds });
  const sofar = (width: number, height: number) =>
    lineChart({
      width,
      height,
      label: 'Bytes sent so far',
      xLabel: 'round',
      yLabel: byteUnit(total).name,
      unit: byteUnit(total).factor,
      series: [{ name: 'sent so far', tone: 'c', points: cumulative }],
      spread: [],
      format: formatBytes,
      zero: true,
      fill: true,
    });
  return html`<section><h2>Bytes</h2>
<p class="keys"><span class="key a">up: clients to server</span><span class="key b">down: server to clients</span></p>
<div class="pair"><figure><figcaption>Each round</figcaption>${perRound(380, 240)}</figure>
<figure><figcaption>So far</figcaption>${sofar(380, 240)}</figure></div></section>`;
}

function classSection({ histograms, classNames }: Report): Markup {
  const classes = highest(histograms.map((entry) => entry.counts.length));
  const largest = Math.max(1, highest(histograms.flatMap((entry) => entry.counts)));
  const shown = histograms.slice(0, MAX_CLIENTS);
  const name = (index: number) => classNames[index] ?? `class ${index}`;
  const numbers = classes <= 24;
  const totals = Array.from({ length: classes }, (_, index) => sum(histograms.map((entry) => entry.counts[index] ?? 0)));
  const row = ({ client, counts }: { client: string; counts: number[] }) =>
    html`<tr><th scope="row">${client}</th>${totals.map((_, index) => {
      const images = counts[index] ?? 0;
      const title = `${client} holds ${images} of ${name(index)}`;
      return images === 0
        ? html`<td class="none" title="${title}"></td>`
        : html`<td class="heat${images > 0.8 * largest && ' strong'}" style="--v:${(images / largest).toFixed(3)}" title="${title}">${numbers && formatCount(images)}</td>`;
    })}<td class="total">${formatCount(sum(counts))}</td></tr>`;
  return html`<section><h2>Who holds what</h2><p>Images of each class at each client. The stronger the colour, the more; an empty cell is none.${
    shown.length < histograms.length && ` The first ${shown.length} of ${histograms.length} clients.`
  }</p>
<div class="scroll"><table class="classes"><thead><tr><th></th>${totals.map((_, index) => html`<th scope="col"><span>${name(index)}</span></th>`)}<th scope="col" class="total"><span>all</span></th></tr></thead>
<tbody>${shown.map(row)}</tbody>
<tfoot><tr><th scope="row">all</th>${totals.map((images) => html`<td class="total">${numbers && formatCount(images)}</td>`)}<td class="total">${formatCount(sum(totals))}</td></tr></tfoot></table></div></section>`;
}

/** What a page can carry: clients that are drawn as rows, and cells of client × round. */
const MAX_CLIENTS = 500;
const MAX_CELLS = 20_000;

function participationSection(allRounds: LoggedRound[], allClients: string[]): Markup {
  const clients = allClients.slice(0, MAX_CLIENTS);
  const rounds = allRounds.slice(-Math.max(20, Math.floor(MAX_CELLS / clients.length)));
  const byRound = rounds.map((round) => ({
    weights: new Map(round.clients.map((entry) => [entry.client, entry])),
    failures: new Map(round.failures.map((entry) => [entry.client, entry])),
  }));
  const largest = Math.max(1e-12, highest(rounds.flatMap((round) => round.clients.map((entry) => entry.weight ?? 0))));
  const cell = (client: string, index: number): Markup => {
    const where = `${client}, round ${rounds[index]!.round}`;
    const failure = byRound[index]!.failures.get(client);
    if (failure) return html`<td class="failed" title="${where}: failed (${failure.stage}): ${failure.reason}">×</td>`;
    const entry = byRound[index]!.weights.get(client);
    if (!entry) return html`<td class="away" title="${where}: not selected"></td>`;
    const weight = entry.weight ?? 0;
    const title = `${where}: weight ${percent(weight)}${entry.loss === undefined ? '' : `, loss ${loss(entry.loss)}`}${entry.images === undefined ? '' : `, ${formatCount(entry.images)} images`}`;
    if (weight === 0) return html`<td class="zero" title="${title}"></td>`;
    return html`<td class="heat" style="--v:${(weight / largest).toFixed(3)}" title="${title}"></td>`;
  };
  const every = rounds.length <= 12 ? 1 : 5;
  const remarks = [
    rounds.length < allRounds.length && ` The last ${rounds.length} of ${allRounds.length} rounds.`,
    clients.length < allClients.length && ` The first ${clients.length} of ${allClients.length} clients.`,
  ];
  return html`<section><h2>Who took part</h2>
<p class="keys"><span class="key heat">weight in the round’s mean, up to ${percent(largest)}</span><span class="key zero">trained, weight 0</span><span class="key failed">failed</span><span class="key away">not selected</span>${remarks}</p>
<div class="scroll"><table class="rounds"><thead><tr><th></th>${rounds.map((round, index) => html`<th scope="col">${(index === 0 || round.round % every === 0) && html`<span>${round.round}</span>`}</th>`)}</tr></thead>
<tbody>${clients.map((client) => html`<tr><th scope="row">${client}</th>${rounds.map((_, index) => cell(client, index))}</tr>`)}</tbody></table></div></section>`;
}

function eventSection(rounds: LoggedRound[]): Markup | undefined {
  const events = rounds.flatMap((round) => [
    ...round.failures.map((failure) => ({ round: round.round, text: `${failure.client} failed (${failure.stage}): ${failure.reason}` })),
    ...round.notes.map((text) => ({ round: round.round, text })),
  ]);
  if (events.length === 0) return undefined;
  const shown = events.slice(-100);
  return html`<section><h2>Events</h2>${shown.length < events.length && html`<p>The last ${shown.length} of ${events.length}.</p>`}
<ul class="events">${shown.map((event) => html`<li><b>Round ${event.round}</b> ${event.text}</li>`)}</ul></section>`;
}

// Two drawings of one chart, so that its text keeps its size on a phone.
function responsive(wide: Markup, narrow: Markup): Markup {
  return html`<div class="wide">${wide}</div><div class="narrow">${narrow}</div>`;
}

type Point = { x: number; y: number };
type Series = { name: string /** Its colour: a class of the style sheet. */; tone: 'a' | 'b' | 'c'; points: Point[] };
type LineChart = {
  /** Size of the drawing in its own units; one is a CSS pixel when it is shown at full size. */
  width: number;
  height: number;
  label: string;
  xLabel: string;
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

function lineChart(chart: LineChart): Markup {
  const { width, height, series, spread, unit = 1 } = chart;
  const xs = series.flatMap((line) => line.points.map((point) => point.x));
  const ys = [...series.flatMap((line) => line.points.map((point) => point.y)), ...spread.flatMap((s) => [s.low, s.high])].map(
    (y) => y / unit,
  );
  const x = roundAxis(lowest(xs), highest(xs), width);
  const y = valueAxis(lowest(ys), highest(ys), height, chart.zero === true);
  const at = (point: Point) => `${x.at(point.x)},${y.at(point.y / unit)}`;
  const band = [...spread.map((s) => ({ x: s.x, y: s.high })), ...spread.toReversed().map((s) => ({ x: s.x, y: s.low }))];
  const drawn = series.map((line) => {
    const { tone } = line;
    const points = line.points.map(at).join(' ');
    const [first, last] = [line.points[0]!, line.points.at(-1)!];
    return html`${chart.fill && html`<polygon class="fill ${tone}" points="${`${x.at(first.x)},${y.at(0)} ${points} ${x.at(last.x)},${y.at(0)}`}"/>`}<polyline class="line ${tone}" points="${points}"/>${line.points.length <= 40 && line.points.map((point) => html`<circle class="dot ${tone}" cx="${x.at(point.x)}" cy="${y.at(point.y / unit)}" r="2.5"/>`)}`;
  });
  const readouts = thin(series[0]!.points).map(({ x: round }) => {
    const values = series.flatMap((line) => {
      const point = line.points.find((p) => p.x === round);
      return point ? [{ point, name: line.name, tone: line.tone }] : [];
    });
    const text = `${chart.xLabel} ${round}: ${values.map((value) => `${value.name} ${chart.format(value.point.y)}`).join(', ')}`;
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
function barChart({ width, height, rounds }: { width: number; height: number; rounds: LoggedRound[] }): Markup {
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

/** A column of the chart that shows its values while the pointer is over it, as a line of text at the top and as the browser's own title. */
function hit(x: Axis, value: number, text: string, chart: { width: number; height: number }, marks: Markup[]): Markup {
  const half = Math.max(1, x.step / 2);
  const bottom = chart.height - MARGIN.bottom;
  return html`<g class="hit"><rect x="${fixed(x.at(value) - half)}" y="${MARGIN.top}" width="${fixed(2 * half)}" height="${bottom - MARGIN.top}"/><line x1="${x.at(value)}" x2="${x.at(value)}" y1="${MARGIN.top}" y2="${bottom}"/>${marks}<text x="${chart.width - MARGIN.right}" y="12" text-anchor="end">${text}</text><title>${text}</title></g>`;
}

function thin<T>(points: T[]): T[] {
  const every = Math.ceil(points.length / 400);
  return points.filter((_, index) => index % every === 0);
}

function roundAxis(first: number, last: number, width: number): Axis {
  const [low, high] = first === last ? [first - 0.5, last + 0.5] : [first, last];
  const length = width - MARGIN.left - MARGIN.right - 16;
  const every = Math.max(1, niceStep((high - low) / (width < 500 ? 6 : 12)));
  const ticks: number[] = [];
  for (let tick = Math.ceil(low / every) * every; tick <= high; tick += every) if (Number.isInteger(tick)) ticks.push(tick);
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
const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0);
const lowest = (values: number[]): number => values.reduce((a, b) => Math.min(a, b), Infinity);
const highest = (values: number[]): number => values.reduce((a, b) => Math.max(a, b), -Infinity);
const percent = (share: number): string => `${Number((share * 100).toPrecision(3))} %`;
const count = (value: number, noun: string): string => `${formatCount(value)} ${noun}${value === 1 ? '' : 's'}`;

const loss = (value: number): string => value.toPrecision(3);

/** Nested options as dotted names with their values as text. */
function flatten(value: Record<string, unknown>, prefix = ''): Record<string, string> {
  const flat: Record<string, string> = {};
  for (const [key, entry] of Object.entries(value)) {
    const name = prefix + key;
    if (entry === undefined || entry === null) continue;
    if (typeof entry === 'object' && !Array.isArray(entry)) Object.assign(flat, flatten(entry as Record<string, unknown>, `${name}.`));
    else flat[name] = Array.isArray(entry) ? entry.map(String).join(', ') : String(entry);
  }
  return flat;
}

const STYLE = `
:root{--page:#faf8f5;--card:#fff;--ink:#211d19;--soft:#6f675f;--line:#e6e0d8;--a:#c8501a;--b:#2467b8;--heat:#c8501a;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--page:#151311;--card:#1e1b18;--ink:#efe9e2;--soft:#a29a91;--line:#36312c;--a:#ff8a4c;--b:#6fb1ff;--heat:#ff8a4c;--bad:#ff7b72}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:60rem;margin:0 auto;padding:clamp(1rem,4vw,3rem) clamp(.9rem,4vw,2rem)}
header{margin-bottom:1.6rem}
.kicker{margin:0 0 .3rem;color:var(--a);font-weight:600;font-size:.85rem;letter-spacing:.02em}
h1{margin:0;font-size:clamp(1.7rem,5vw,2.6rem);line-height:1.12;letter-spacing:-.02em;overflow-wrap:anywhere;text-wrap:balance}
h2{margin:0 0 .35rem;font-size:1.2rem;letter-spacing:-.01em}
.facts{display:flex;flex-wrap:wrap;gap:.3rem .45rem;margin:.9rem 0 0;padding:0;list-style:none;font-size:.85rem}
.facts li{padding:.1rem .6rem;border:1px solid var(--line);border-radius:99px;background:var(--card);overflow-wrap:anywhere}
.remark{margin:1rem 0 0;padding:.6rem .9rem;border-left:3px solid var(--a);background:var(--card);border-radius:0 8px 8px 0;font-size:.9rem}
section{margin:0 0 1.1rem;padding:clamp(1rem,3vw,1.5rem);background:var(--card);border:1px solid var(--line);border-radius:14px}
section>p{margin:0 0 .9rem;color:var(--soft);font-size:.9rem}
.hero{display:grid;grid-template-columns:minmax(0,1.25fr) minmax(0,1fr);gap:clamp(1rem,3vw,2rem);align-items:center}
.hero:not(:has(.final)){grid-template-columns:1fr}
figure{margin:0}
figcaption{margin-top:.4rem;color:var(--soft);font-size:.85rem}
img{display:block;width:100%;height:auto;image-rendering:pixelated;border-radius:6px}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.2rem,1fr));gap:1rem 1.2rem;margin:0}
.figures dt{color:var(--soft);font-size:.85rem}
.figures dd{margin:0;font-size:1.6rem;font-weight:650;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.figures small{display:block;color:var(--soft);font-size:.8rem;font-weight:400;letter-spacing:0;min-height:1.2em}
.grids{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(13rem,46%),1fr));gap:1rem}
.keys{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
.key::before{content:"";display:inline-block;width:.8em;height:.8em;margin-right:.45em;border-radius:3px;vertical-align:-.06em}
.key.a::before{background:var(--a)}.key.b::before{background:var(--b)}
.key.band::before{background:var(--a);opacity:.2}
.key.heat::before{background:linear-gradient(90deg,color-mix(in oklab,var(--heat) 18%,var(--card)),var(--heat));width:2.2em}
.key.zero::before{border:1.5px solid var(--heat)}
.key.failed::before{content:"×";background:none;color:var(--bad);font-weight:700;height:auto;vertical-align:0}
.key.away::before{background:var(--line);opacity:.6}
svg{display:block;width:100%;height:auto;overflow:visible;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
.narrow{display:none}
.axis line{stroke:var(--line)}.axis text{fill:var(--soft)}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.a,.mark.a{stroke:var(--a)}.line.b,.mark.b{stroke:var(--b)}.line.c,.mark.c{stroke:var(--soft)}
.dot.a,.bar.a,.fill.a{fill:var(--a)}.dot.b,.bar.b{fill:var(--b)}.dot.c,.fill.c{fill:var(--soft)}
.fill{opacity:.14}polygon.band{fill:var(--a);opacity:.13}
.hit rect{fill:transparent}
.hit line,.hit text,.mark{opacity:0;pointer-events:none}
.hit line{stroke:var(--soft);stroke-dasharray:2 3}.hit text{fill:var(--ink)}.mark{fill:var(--card);stroke-width:2}
.hit:hover line,.hit:hover text,.hit:hover .mark{opacity:1}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem}
.pair figcaption{margin:0 0 .4rem;color:var(--ink);font-size:.9rem;font-weight:600}
.scroll{overflow-x:auto;max-height:34rem;-webkit-overflow-scrolling:touch}
table{border-collapse:separate;border-spacing:2px;font-size:.8rem;font-variant-numeric:tabular-nums}
th{font-weight:400;color:var(--soft);text-align:left;white-space:nowrap}
tbody th,tfoot th{position:sticky;left:0;z-index:1;max-width:11rem;padding:0 .6rem 0 0;overflow:hidden;text-overflow:ellipsis;background:var(--card)}
.classes{min-width:100%}
.classes td{min-width:3.2em;height:2em;padding:0 .4em;text-align:right;border-radius:4px}
.classes thead th{vertical-align:bottom;text-align:center;padding-bottom:.3rem}
.classes thead span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:9rem;overflow:hidden;text-overflow:ellipsis}
.classes .total{color:var(--soft)}
td.heat{background:color-mix(in oklab,var(--heat) calc(14% + 86%*var(--v)),var(--card))}
td.strong{color:#fff}
@media (prefers-color-scheme:dark){td.strong{color:#1a0d05}}
.none{background:color-mix(in oklab,var(--line) 35%,var(--card))}
.rounds td{min-width:1.3rem;height:1.3rem;padding:0;border-radius:3px;text-align:center;line-height:1}
.rounds thead th{position:relative;height:1.1rem}.rounds thead span{position:absolute;left:50%;transform:translateX(-50%);bottom:0}
.rounds .away{background:color-mix(in oklab,var(--line) 55%,var(--card))}
.rounds .zero{box-shadow:inset 0 0 0 1.5px var(--heat)}
.rounds .failed{color:var(--bad);font-weight:700;background:color-mix(in oklab,var(--bad) 14%,var(--card))}
.events{margin:.4rem 0 0;padding:0;list-style:none;font-size:.9rem}.events li{padding:.25rem 0;border-top:1px solid var(--line);overflow-wrap:anywhere}.events b{margin-right:.4em}
.config{columns:2 20rem;column-gap:2rem;margin:.6rem 0 0;font-size:.85rem}
.config div{display:flex;gap:1rem;justify-content:space-between;padding:.25rem 0;border-bottom:1px solid var(--line);break-inside:avoid}
.config dt{color:var(--soft)}.config dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
footer{color:var(--soft);font-size:.85rem}
@media (max-width:42rem){.hero,.pair{grid-template-columns:1fr}.wide{display:none}.narrow{display:block}.figures{grid-template-columns:repeat(2,1fr)}}
@media print{body{background:#fff}section{break-inside:avoid}}
`;
