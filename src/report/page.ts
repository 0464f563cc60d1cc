/** The page of a run as one HTML text: tables, hand-made SVG charts, pictures as data URIs. Pure: what it shows is what it is given. */

import type { RoundRecord } from '../fl/protocol.ts';
import { describeDecision } from '../fl/strategies/filter.ts';
import { barChart, highest, lineChart, lowest, type Point, responsive, type Series, sum } from './charts.ts';
import { html, htmlDocument, type Markup } from './markup.ts';
import { byteUnit, formatBytes, formatCount, formatDuration } from './units.ts';

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
  rounds: RoundRecord[];
  /** PNG files in order of rounds; the last one is shown large. */
  grids: { round: number; png: Uint8Array }[];
  /** Option or fact → value, shown as a table. */
  config: Record<string, unknown>;
  /** What a reader must know about the report itself, e.g. that the log was cut. */
  remarks: string[];
};

/** The report as a complete HTML document. */
export function renderPage(report: Report): string {
  const { rounds, grids } = report;
  const final = grids.at(-1);
  const earlier = grids.slice(0, -1);
  const clients = clientIds(report);
  const what = report.kind === 'federate' ? `${count(clients.length, 'client')} on ${report.data}` : `Training on ${report.data}`;
  const main = html`<header>
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
`;
  return htmlDocument(what, main);
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
  const told = rounds.flatMap((round) => round.loss ?? []);
  if (told.length > 0) tiles.push(tile('Training loss', loss(told.at(-1)!), told.length === 1 ? '' : `from ${loss(told[0]!)}`));
  if (heldOut.length > 0) {
    tiles.push(tile('Held-out loss', loss(heldOut.at(-1)!.y), heldOut.length === 1 ? '' : `from ${loss(heldOut[0]!.y)}`));
  }
  if (last.rate !== undefined) tiles.push(tile('Learning rate', `${Math.round(100 * last.rate)} %`, 'of what it was before its fall'));
  tiles.push(tile('Images seen', formatCount(images), seconds > 0 ? `${formatCount(Math.round(images / seconds))} a second` : ''));
  if (up + down > 0) tiles.push(tile('Sent', formatBytes(up + down), `${formatBytes(up)} up, ${formatBytes(down)} down`));
  tiles.push(tile('Time', formatDuration(seconds), rounds.length > 1 ? `${formatDuration(seconds / rounds.length)} per round` : ''));
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
  const series: Series[] = [
    { name: 'training', tone: 'a', points: rounds.flatMap(({ round, loss: y }) => (y === null ? [] : [{ x: round, y }])) },
  ];
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

function bytesSection(rounds: RoundRecord[]): Markup {
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

function participationSection(allRounds: RoundRecord[], allClients: string[]): Markup {
  const clients = allClients.slice(0, MAX_CLIENTS);
  const rounds = allRounds.slice(-Math.max(20, Math.floor(MAX_CELLS / clients.length)));
  const byRound = rounds.map((round) => ({
    weights: new Map(round.clients.map((entry) => [entry.client, entry])),
    failures: new Map(round.failures.map((entry) => [entry.client, entry])),
  }));
  const largest = Math.max(1e-12, highest(rounds.flatMap((round) => round.clients.map((entry) => entry.weight))));
  const cell = (client: string, index: number): Markup => {
    const where = `${client}, round ${rounds[index]!.round}`;
    const failure = byRound[index]!.failures.get(client);
    if (failure) return html`<td class="failed" title="${where}: failed (${failure.stage}): ${failure.reason}">×</td>`;
    const entry = byRound[index]!.weights.get(client);
    if (!entry) return html`<td class="away" title="${where}: not selected"></td>`;
    const { weight } = entry;
    const title = `${where}: weight ${percent(weight)}${entry.loss === undefined ? '' : `, loss ${loss(entry.loss)}`}, ${formatCount(entry.images)} images`;
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

function eventSection(rounds: RoundRecord[]): Markup | undefined {
  const events = rounds.flatMap((round) => [
    ...round.failures.map((failure) => ({ round: round.round, text: `${failure.client} failed (${failure.stage}): ${failure.reason}` })),
    ...(round.decisions ?? []).map((decision) => ({ round: round.round, text: describeDecision(decision) })),
    ...round.notes.map((text) => ({ round: round.round, text })),
  ]);
  if (events.length === 0) return undefined;
  const shown = events.slice(-100);
  return html`<section><h2>Events</h2>${shown.length < events.length && html`<p>The last ${shown.length} of ${events.length}.</p>`}
<ul class="events">${shown.map((event) => html`<li><b>Round ${event.round}</b> ${event.text}</li>`)}</ul></section>`;
}

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
