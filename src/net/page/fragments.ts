/** A view as pieces of HTML, by the id of the element that each fills: the page sends those that have changed. Pure. */

import { describeDecision } from '../../fl/strategies/filter.ts';
import { barChart, highest, lineChart, responsive, type Series } from '../../report/charts.ts';
import { html, type Markup, render } from '../../report/markup.ts';
import { formatBytes, formatCount, formatDuration, formatNumber } from '../../report/units.ts';
import {
  CREDENTIALS_SOON,
  daysLeft,
  describeSites,
  describeState,
  type FederationView,
  type SiteView,
  siteStates,
  troubledStates,
  verbs,
} from './view.ts';

/** Fragments by the id of their element; `rows`: the ids of the rows of sites in their order, which are fragments too. */
export type Fragments = { parts: Map<string, string>; rows: string[] };

const MAX_EVENTS = 200;
const MAX_WEIGHT_SITES = 50;
const MAX_WEIGHT_ROUNDS = 20;

const ABSENT = html`<span class="soft">–</span>`;
const loss = (value: number): string => value.toPrecision(3);

const clockOf = (at: number): string => `${new Date(at).toISOString().slice(11, 19)} UTC`;

/** A moment, which the page's script shows as '8 s ago', 'in 4 min' or the local time. The piece itself does not change as time goes by. */
function moment(at: number, kind: 'ago' | 'in' | 'clock'): Markup {
  return html`<time datetime="${new Date(at).toISOString()}" data-${kind}="${at}">${clockOf(at)}</time>`;
}

function headline(view: FederationView): Markup {
  const { waiting, engine } = view;
  return html`<p class="now">${describeState(view)}${waiting?.until !== undefined && html`; the round ends at the latest <b>${moment(waiting.until, 'in')}</b>`}</p>
${!engine.connected && html`<p class="remark bad">The server between coordinator and sites cannot be reached${engine.why && `: ${engine.why}`}. Sites go on with what they have.</p>`}`;
}

function tiles(view: FederationView): Markup {
  const { sites, history, round, rounds } = view;
  const last = history.at(-1);
  const speed = sites.reduce((sum, { imagesPerSecond }) => sum + (imagesPerSecond ?? 0), 0);
  const alive = sites.filter(({ state }) => !['invited', 'offline', 'lost', 'revoked', 'left'].includes(state)).length;
  const tile = (name: string, value: string, detail = '') => html`<div><dt>${name}</dt><dd>${value}<small>${detail}</small></dd></div>`;
  const left = rounds === undefined || !last ? undefined : (rounds - last.round) * last.seconds;
  const parts = [
    tile('Round', String(round), rounds === undefined ? '' : `of ${rounds}`),
    tile('Sites', `${alive}`, `connected, of ${sites.length}`),
    tile('Training', speed < 1000 ? formatNumber(speed) : formatCount(speed), 'images a second'),
  ];
  if (last?.loss != null) parts.push(tile('Training loss', loss(last.loss), `in round ${last.round}`));
  if (last?.evalLoss != null) parts.push(tile('Held-out loss', loss(last.evalLoss), `before round ${last.round}`));
  parts.push(
    tile('Sent', formatBytes(view.bytesUp + view.bytesDown), `${formatBytes(view.bytesUp)} up, ${formatBytes(view.bytesDown)} down`),
  );
  if (last) parts.push(tile('Last round', formatDuration(last.seconds), left && left > 0 ? `about ${formatDuration(left)} to go` : ''));
  return html`${parts}`;
}

/** The columns of the table of sites, in the order of the cells of a row. */
export const COLUMNS = [
  'Site',
  'State',
  'Progress',
  'Images/s',
  'Loss',
  'Weight',
  'Heartbeat',
  'Up',
  'Down',
  'Version and device',
  'Credentials',
];

function progress({ id, progress }: SiteView): Markup {
  if (!progress || progress.of === 0) return ABSENT;
  const { done, of, unit } = progress;
  const words = unit === 'steps' ? `step ${formatCount(done)} of ${formatCount(of)}` : `${formatBytes(done)} of ${formatBytes(of)}`;
  return html`<progress max="${of}" value="${Math.min(done, of)}" aria-label="Progress of ${id}"></progress><small>${words}</small>`;
}

function credentials(site: SiteView, now: number): Markup {
  const days = daysLeft(site, now);
  if (days === undefined) return ABSENT;
  const words = days < 0 ? 'expired' : `${days} ${days === 1 ? 'day' : 'days'}`;
  return days < CREDENTIALS_SOON ? html`<b class="warn">${words}</b>` : html`${words}`;
}

function row(site: SiteView, now: number): Markup {
  const { id, state, selected, trouble, heartbeat, roundTrip, examples, version, device } = site;
  const tone = troubledStates.includes(state) ? 'bad' : ['training', 'fetching', 'uploading', 'working'].includes(state) ? 'busy' : 'calm';
  const note =
    trouble &&
    html`<p class="trouble"><b>${trouble.kind === 'refusal' ? 'Refused' : 'Failed'}${trouble.round !== undefined && ` in round ${trouble.round}`}:</b> ${trouble.text}${trouble.advice && html` <i>${trouble.advice}</i>`}</p>`;
  const cells: (Markup | string)[] = [
    html`<span class="badge ${tone}">${siteStates[state]}</span>${selected && html`<small>in this round</small>`}${note}`,
    progress(site),
    site.imagesPerSecond === undefined ? ABSENT : formatNumber(site.imagesPerSecond),
    site.loss === undefined ? ABSENT : loss(site.loss),
    site.weight === undefined ? ABSENT : `${formatNumber(100 * site.weight)} %`,
    heartbeat === undefined
      ? ABSENT
      : html`${moment(heartbeat, 'ago')}${roundTrip !== undefined && html`<small>ping ${Math.round(roundTrip)} ms</small>`}`,
    formatBytes(site.bytesUp),
    formatBytes(site.bytesDown),
    version || device ? html`${version}${device && html`<small>${device}</small>`}` : ABSENT,
    credentials(site, now),
  ];
  const head = html`<th scope="row" role="rowheader">${id}${examples !== undefined && html`<small>${formatCount(examples)} images</small>`}</th>`;
  return html`${head}${cells.map((cell, i) => html`<td role="cell" data-label="${COLUMNS[i + 1]}" class="${CELL_CLASSES[i]}">${cell}</td>`)}`;
}
const CELL_CLASSES = ['state', 'bar', 'n', 'n', 'n', 'n', 'n', 'n', 'text', 'n'];

/** Id of the row of a site: names may hold any character. */
const rowId = (site: SiteView) => `s-${Buffer.from(site.id).toString('hex')}`;

function curves({ history }: FederationView): Markup | undefined {
  const trained = history.flatMap(({ round: x, loss: y }) => (y === null ? [] : [{ x, y }]));
  const heldOut = history.flatMap(({ round: x, evalLoss: y }) => (y === null ? [] : [{ x, y }]));
  const series = (
    [
      ['training', 'a', trained],
      ['held out', 'b', heldOut],
    ] as const
  ).flatMap<Series>(([name, tone, points]) => (points.length > 0 ? [{ name, tone, points: [...points] }] : []));
  if (series.length === 0) return undefined;
  const losses = (width: number, height: number) =>
    lineChart({ width, height, label: 'Loss by round', xLabel: 'round', yLabel: 'loss', series, spread: [], format: loss });
  return html`<h2>Loss</h2>
<p class="keys"><span class="key a">training: mean over the round’s images</span>${heldOut.length > 0 && html`<span class="key b">held out: the model that the round began with</span>`}</p>
${responsive(losses(580, 280), losses(380, 240))}`;
}

function bytes({ history }: FederationView): Markup | undefined {
  const rounds = history.filter(({ bytesUp, bytesDown }) => bytesUp + bytesDown > 0);
  if (rounds.length === 0) return undefined;
  return html`<h2>Bytes</h2><p class="keys"><span class="key a">up: sites to coordinator</span><span class="key b">down: coordinator to sites</span></p>
${responsive(barChart({ width: 580, height: 220, rounds }), barChart({ width: 380, height: 220, rounds }))}`;
}

function weights({ weights: all }: FederationView): Markup | undefined {
  const rounds = all.slice(-MAX_WEIGHT_ROUNDS);
  const ids = [...new Set(rounds.flatMap(({ sites }) => sites.map(({ id }) => id)))];
  if (ids.length === 0) return undefined;
  const shown = ids.slice(0, MAX_WEIGHT_SITES);
  const byRound = rounds.map(({ sites }) => new Map(sites.map(({ id, weight }) => [id, weight])));
  const largest = Math.max(1e-12, highest(rounds.flatMap(({ sites }) => sites.map(({ weight }) => weight))));
  const cell = (id: string, index: number) => {
    const weight = byRound[index]!.get(id);
    if (weight === undefined) return html`<td class="away">–</td>`;
    return html`<td class="h${Math.round((9 * weight) / largest)}">${formatNumber(Number((100 * weight).toFixed(1)))}</td>`;
  };
  return html`<h2>Weights</h2><p>Share of each site in the mean update of a round, in per cent; a dash: it did not take part.${
    shown.length < ids.length && ` The first ${shown.length} of ${ids.length} sites.`
  }</p><div class="scroll" tabindex="0"><table class="weights"><caption class="unseen">Weights by site and round, in per cent</caption>
<thead><tr><th scope="col">Site</th>${rounds.map(({ round }) => html`<th scope="col">${round}</th>`)}</tr></thead>
<tbody>${shown.map((id) => html`<tr><th scope="row">${id}</th>${rounds.map((_, index) => cell(id, index))}</tr>`)}</tbody></table></div>`;
}

function decisions({ decisions: all }: FederationView): Markup | undefined {
  if (all.length === 0) return undefined;
  const shown = all.slice(-MAX_EVENTS).reverse();
  return html`<h2>Filter</h2><ul class="events">${shown.map((one) => html`<li><b>Round ${one.round}</b> ${describeDecision(one)}</li>`)}</ul>`;
}

function samples({ samples: newest }: FederationView): Markup | undefined {
  if (!newest) return undefined;
  return html`<h2>Newest samples</h2><figure><img alt="Grid of images drawn from the model after round ${newest.round}" src="/samples.png?round=${newest.round}"><figcaption>After round ${newest.round}</figcaption></figure>`;
}

function events({ events: all }: FederationView): Markup {
  if (all.length === 0) return html`<h2>Events</h2><p>None yet.</p>`;
  const shown = all.slice(-MAX_EVENTS).reverse();
  return html`<h2>Events</h2>${shown.length < all.length && html`<p>The last ${shown.length} of ${all.length}.</p>`}
<ul class="events">${shown.map(
    ({ time, level, text }) =>
      html`<li class="${level}">${moment(time, 'clock')} ${level !== 'info' && html`<b>${level}</b> `}${text}</li>`,
  )}</ul>`;
}

/** All pieces of the page; an empty one hides its element. `view` comes from federationView.parse. */
export function fragmentsOf(view: FederationView): Fragments {
  const { sites, time } = view;
  const parts = new Map<string, Markup | string | undefined>([
    ['name', view.federation],
    ['headline', headline(view)],
    ['facts', html`${view.run && html`<li>run ${view.run}</li>`}<li>Phoenix ${view.version}</li>`],
    ['tiles', tiles(view)],
    ['orders', view.verbs && html`${view.verbs.map((verb) => html`<button type="button" data-order="${verb}">${verbs[verb]}</button> `)}`],
    ['summary', describeSites(sites)],
    ['curves', curves(view)],
    ['bytes', bytes(view)],
    ['weights', weights(view)],
    ['decisions', decisions(view)],
    ['samples', samples(view)],
    ['events', events(view)],
    ...sites.map((site) => [rowId(site), row(site, time)] as const),
  ]);
  return { parts: new Map([...parts].map(([id, part]) => [id, render(part)])), rows: sites.map(rowId) };
}
