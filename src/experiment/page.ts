/** report.html of an experiment: one file that opens anywhere, without network or scripts. */
import { describeDecision } from '../fl/strategies/filter.ts';
import { lineChart, responsive, type Series, tones } from '../report/charts.ts';
import { html, htmlDocument, type Markup } from '../report/markup.ts';
import { byteUnit, formatCount, formatNumber } from '../report/units.ts';
import { TUNED } from './grid.ts';
import { besideTunedOf, bytesOf, closedOf, type ExperimentReport, formatFigure, inColumns, NOTES, percent, recallOf } from './present.ts';
import { type Curve, kindOf, type PartitionResult, type Row } from './results.ts';

/** Metrics of which less is better, and more; the best arm of a column is marked. */
const LESS = ['fd', 'fd unseen sites', 'kd', 'ndb', 'jsd'];
const MORE = ['classes', 'recall', 'coverage', 'precision', 'entropy'];

/** The report as a complete HTML document. */
export function renderExperiment(report: ExperimentReport): string {
  const main = html`<header>
<p class="kicker">Phoenix · experiment at equal work</p>
<h1>${report.name}</h1>
<ul class="facts">${report.facts.map((fact) => html`<li>${fact}</li>`)}</ul>
${report.remarks.map((remark) => html`<p class="remark">${remark}</p>`)}
</header>
${report.results.map((result) => tableSection(result, report))}
<section><h2>How to read the tables</h2><ul class="events">${NOTES.map((note) => html`<li>${note}</li>`)}</ul></section>
${report.results.map((result) => curveSection(result, report))}
${pictureSection(report)}
${classSection(report)}
${filterSection(report)}
${clientSection(report)}
<footer>Made by Phoenix from the scores of this experiment; report.md holds the same tables as text, results.json as data.</footer>
`;
  return htmlDocument(`experiment ${report.name}`, main);
}

const titleOf = ({ partition }: PartitionResult): string =>
  `${partition.name}: ${partition.partition}${partition.fraction < 1 ? `, ${percent(partition.fraction)} of the clients per round` : ''}`;

function tableSection(result: PartitionResult, { metrics }: ExperimentReport): Markup {
  const { rows } = result;
  const bestOf = (name: string): number | undefined => {
    const values = rows.flatMap((row) => row.metrics[name]?.mean ?? []);
    if (values.length < 2) return undefined;
    if (LESS.includes(kindOf(name))) return Math.min(...values);
    return MORE.includes(kindOf(name)) ? Math.max(...values) : undefined;
  };
  const best = new Map(metrics.map((name) => [name, bestOf(name)]));
  const { first, others } = inColumns(metrics);
  const headsOf = (names: string[]) => names.map((name) => html`<th scope="col">${name}</th>`);
  const figuresOf = (row: Row, names: string[]) =>
    names.map((name) => {
      const figure = row.metrics[name];
      return html`<td class="${figure && figure.mean === best.get(name) ? 'best' : ''}">${figure ? formatFigure(figure) : '–'}</td>`;
    });
  return html`<section><h2>${titleOf(result)}</h2>
<div class="scroll"><table class="figures-table"><thead><tr><th scope="col">arm</th><th scope="col" class="text">scored as</th>${headsOf(first)}<th scope="col" class="text">gap closed</th><th scope="col">bytes</th>${headsOf(others)}<th scope="col" class="text">minus ${TUNED}</th><th scope="col">images</th></tr></thead>
<tbody>${rows.map(
    (row) =>
      html`<tr><th scope="row">${row.arm.name}</th><td class="text"><small>${row.scoredAs}</small></td>${figuresOf(row, first)}<td class="text">${closedOf(row)}</td><td>${bytesOf(row)}</td>${figuresOf(row, others)}<td class="text">${besideTunedOf(row)}</td><td>${formatCount(row.images.mean)}</td></tr>`,
  )}</tbody></table></div></section>`;
}

/** Each metric that curves have, over images trained on, over rounds and over bytes sent. */
function curveSection({ partition }: PartitionResult, { curves }: ExperimentReport): Markup | undefined {
  const arms = [...new Set(curves.flatMap((entry) => entry?.curves.map(({ arm }) => arm) ?? []))];
  const toneOf = (arm: string) => tones[arms.indexOf(arm) % tones.length]!;
  const charts = curves.flatMap((entry) => {
    if (!entry) return [];
    const own = entry.curves.filter((curve) => curve.partition === undefined || curve.partition === partition.name);
    return own.length > 0 ? [{ metric: entry.metric, own }] : [];
  });
  if (charts.length === 0) return undefined;
  const shown = [...new Set(charts.flatMap(({ own }) => own.map(({ arm }) => arm)))];
  return html`<section><h2>${partition.name}: over the course of training</h2>
<p class="keys">${shown.map((arm) => html`<span class="key ${toneOf(arm)}">${arm}</span>`)}</p>
${charts.map(({ metric, own }) => {
  const most = Math.max(1, ...own.flatMap(({ points }) => points.map(({ bytes }) => bytes)));
  const unit = byteUnit(most);
  const series = (x: (point: Curve['points'][number]) => number, from = own): Series[] =>
    from.map(({ arm, points }) => ({ name: arm, tone: toneOf(arm), points: points.map((point) => ({ x: x(point), y: point.value })) }));
  const chart = (label: string, xLabel: string, lines: Series[]) => (width: number, height: number) =>
    lineChart({ width, height, label, xLabel, xWhole: false, yLabel: metric, series: lines, spread: [], format: formatNumber });
  const overImages = chart(
    `${metric} over images`,
    'thousand images',
    series(({ images }) => images / 1000),
  );
  const sending = own.filter(({ points }) => points.some(({ bytes }) => bytes > 0));
  const overRounds = chart(
    `${metric} over rounds`,
    'rounds',
    series(({ round }) => round, sending),
  );
  const overBytes = chart(
    `${metric} over bytes`,
    unit.name,
    series(({ bytes }) => bytes / unit.factor, sending),
  );
  return html`<h3>${metric} over images trained on</h3>${responsive(overImages(760, 320), overImages(380, 260))}
${
  sending.length > 0 &&
  html`<h3>${metric} over rounds</h3>${responsive(overRounds(760, 320), overRounds(380, 260))}
<h3>${metric} over bytes sent</h3>${responsive(overBytes(760, 320), overBytes(380, 260))}`
}`;
})}</section>`;
}

function pictureSection({ pictures }: ExperimentReport): Markup | undefined {
  if (pictures.length === 0) return undefined;
  return html`<section><h2>Samples</h2><p>Of the final models; where samples are pooled, of one client’s model after the other.</p>
<div class="grids">${pictures.map(
    ({ cell, png }) =>
      html`<figure><img alt="Images drawn from ${cell}" src="data:image/png;base64,${Buffer.from(png).toString('base64')}"><figcaption>${cell}</figcaption></figure>`,
  )}</div></section>`;
}

function classSection({ scores, classNames }: ExperimentReport): Markup | undefined {
  const rows = scores.flatMap(({ cell, final }) => (final?.classes ? [{ cell, counts: final.classes, recall: final.classRecall }] : []));
  if (rows.length === 0) return undefined;
  return html`<section><h2>Classes of the samples</h2><p>How many samples show each class. The stronger the colour, the more; the title of a field has recall within the class.</p>
<div class="scroll"><table class="classes"><thead><tr><th></th>${classNames.map((name) => html`<th scope="col"><span>${name}</span></th>`)}</tr></thead>
<tbody>${rows.map(({ cell, counts, recall }) => {
    const largest = Math.max(1, ...counts);
    return html`<tr><th scope="row">${cell}</th>${counts.map((images, k) => {
      const within = recall?.[k] == null ? '' : `, recall ${formatNumber(recall[k])}`;
      return html`<td class="heat${images > 0.8 * largest && ' strong'}" style="--v:${(images / largest).toFixed(3)}" title="${classNames[k]}: ${images} samples${within}">${images}</td>`;
    })}</tr>`;
  })}</tbody></table></div></section>`;
}

function filterSection({ filtering }: ExperimentReport): Markup | undefined {
  if (filtering.length === 0) return undefined;
  return html`<section><h2>Who was filtered</h2><ul class="events">${filtering.map(({ cell, decisions, ...more }) => [
    html`<li><b>${cell}</b>${recallOf(more)}${decisions.length === 0 && '; nobody was filtered'}</li>`,
    ...decisions.map((decision) => html`<li>round ${decision.round}: ${describeDecision(decision)}</li>`),
  ])}</ul></section>`;
}

/** Rows of clients that a page can carry. */
const MAX_CLIENTS = 400;

function clientSection({ scores }: ExperimentReport): Markup | undefined {
  const rows = scores.flatMap(({ cell, final }) => (final?.clients ?? []).map((client) => ({ cell, ...client })));
  const mixtures = scores.flatMap(({ cell, final }) => (final?.mixture ?? []).map((part) => ({ cell, ...part })));
  if (rows.length === 0 && mixtures.length === 0) return undefined;
  const number = (value: number | null) => (value === null ? '–' : formatNumber(value));
  return html`<section><h2>Clients</h2><p>Held-out losses are of the last round in which the client took part: of the global model that it received, and of its own after training.${rows.length > MAX_CLIENTS && ` The first ${MAX_CLIENTS} of ${rows.length} rows; report.md has all.`}</p>
<div class="scroll"><table class="figures-table"><thead><tr><th scope="col">cell</th><th scope="col" class="text">client</th><th scope="col">images</th><th scope="col">rounds counted</th><th scope="col">mean weight</th><th scope="col">loss</th><th scope="col">held out, global</th><th scope="col">held out, own</th></tr></thead>
<tbody>${rows
    .slice(0, MAX_CLIENTS)
    .map(
      (row) =>
        html`<tr><th scope="row">${row.cell}</th><td class="text">${row.client}</td><td>${formatCount(row.examples)}</td><td>${row.rounds}</td><td>${percent(row.meanWeight)}</td><td>${number(row.loss)}</td><td>${number(row.evalLoss)}</td><td>${number(row.evalLossLocal)}</td></tr>`,
    )}</tbody></table></div>
${
  mixtures.length > 0 &&
  html`<h3>Parts of the pooled samples</h3><div class="scroll"><table class="figures-table"><thead><tr><th scope="col">cell</th><th scope="col" class="text">client</th><th scope="col">samples</th><th scope="col" class="text">by class</th></tr></thead>
<tbody>${mixtures
    .slice(0, MAX_CLIENTS)
    .map(
      (part) =>
        html`<tr><th scope="row">${part.cell}</th><td class="text">${part.client}</td><td>${part.samples}</td><td class="text">${part.classes?.join(' ') ?? '–'}</td></tr>`,
    )}</tbody></table></div>`
}</section>`;
}
