/**
 * The coordinator's page as a document: its frame, style and script. What it shows are the fragments, which the script keeps up to date.
 */
import { createHash } from 'node:crypto';
import { html, htmlDocument, type Markup, STYLE } from '../../report/markup.ts';
import { COLUMNS, fragmentsOf } from './fragments.ts';
import { type FederationView, HEARTBEAT_LATE } from './view.ts';

const OWN_STYLE = `
:root{--ok:#2e7d4f;--warn:#8a5a00}
@media (prefers-color-scheme:dark){:root{--ok:#6fcf97;--warn:#e5c04b}}
main{max-width:88rem}
.kicker{color:color-mix(in oklab,var(--a) 85%,var(--ink))}
[hidden]{display:none!important}
.soft,small{color:var(--soft)}.bad{color:var(--bad)}.warn{color:var(--warn);font-weight:600}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.now{margin:.8rem 0 0;font-size:1.1rem}.now b{font-weight:600}
.away-note{margin:0;padding:.5rem 1rem;position:sticky;top:0;z-index:3;background:var(--bad);color:#fff;font-weight:600}
@media (prefers-color-scheme:dark){.away-note{color:#1a0d05}}
#summary{margin:0 0 .7rem;color:var(--soft);font-size:.9rem}
.figures{grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr))}
.scroll:focus-visible{outline:2px solid var(--b);outline-offset:3px;border-radius:6px}
.sites{width:100%;border-spacing:0;font-size:.85rem}
.sites th,.sites td{padding:.5rem .7rem;border-bottom:1px solid var(--line);vertical-align:top;text-align:right;white-space:nowrap}
.sites thead th{position:sticky;top:0;z-index:2;background:var(--card);color:var(--soft)}
.sites tbody th{color:var(--ink);font-weight:600;min-width:8rem;max-width:14rem;overflow-wrap:anywhere;white-space:normal}
.sites tr>:first-child{padding-left:0}
.list .scroll{max-height:min(80vh,60rem)}
.sites small{display:block;font-weight:400}
.sites thead th:first-child,.sites tbody th,.sites .state,.sites .bar,.sites .text,.sites thead .text{text-align:left}
.sites .state{white-space:normal;min-width:13rem}.sites .bar{min-width:8.5rem}.sites .text{white-space:normal;min-width:8rem;overflow-wrap:anywhere}
.badge{display:inline-block;padding:.05rem .55rem;border-radius:99px;border:1px solid var(--line);white-space:nowrap}
.badge.busy{border-color:var(--ok);color:var(--ok)}.badge.bad{border-color:var(--bad);color:var(--bad);font-weight:600}
.trouble{margin:.35rem 0 0;max-width:26rem;white-space:normal;overflow-wrap:anywhere}.trouble i{display:block;font-style:normal;color:var(--soft)}
progress{appearance:none;display:block;width:100%;height:.55rem;margin:.3rem 0 .2rem;border:0;border-radius:99px;overflow:hidden;background:var(--line)}
progress::-webkit-progress-bar{background:var(--line)}progress::-webkit-progress-value{background:var(--a)}progress::-moz-progress-bar{background:var(--a)}
.weights td{min-width:2.6rem;height:1.7rem;padding:0 .3rem;text-align:right;border-radius:3px}
.weights thead th{text-align:right;padding:0 .3rem}.weights thead th:first-child{text-align:left}.weights .away{color:var(--soft);text-align:center}
${Array.from({ length: 10 }, (_, i) => `.h${i}{background:color-mix(in oklab,var(--heat) ${4 + 4 * i}%,var(--card))}`).join('')}
.orders{margin-top:.8rem}.orders button{font:inherit;font-size:.85rem;padding:.25rem .9rem;margin-right:.3rem;border-radius:99px;border:1px solid var(--line);background:var(--card);color:var(--ink);cursor:pointer}
.events{max-height:24rem;overflow:auto}.events time{color:var(--soft);font-variant-numeric:tabular-nums;margin-right:.4em}
.events .error b{color:var(--bad)}.events .warning b{color:var(--warn)}
#samples figure{max-width:34rem}a{color:var(--b)}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));column-gap:1.1rem;align-items:start}
.two>div{min-width:0}
@media (max-width:72rem){
.sites,.sites tbody,.sites tr{display:block}.sites thead{display:none}
.sites tr{padding:.7rem 0;border-bottom:1px solid var(--line);display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:.45rem 1rem}
.sites th,.sites td,.sites tbody th{display:block;padding:0;border:0;text-align:left;min-width:0;max-width:none}
.sites tbody th,.sites .state{grid-column:1/-1;position:static}
.sites td:not(.state)::before{content:attr(data-label);display:block;color:var(--soft);font-size:.75rem}
.sites td:has(>.soft){display:none}
.list .scroll{max-height:none;overflow:visible}.trouble{max-width:none}
}
`;

/** What runs in the browser: takes fragments as they come, and shows moments relative to the coordinator's clock. */
export const SCRIPT = `'use strict';
(() => {
  const byId = (id) => document.getElementById(id);
  let ahead = 0;
  const span = (seconds) => {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return s + ' s';
    if (s < 3600) return Math.floor(s / 60) + ' min ' + (s % 60) + ' s';
    if (s < 172800) return Math.floor(s / 3600) + ' h ' + Math.floor((s % 3600) / 60) + ' min';
    return Math.floor(s / 86400) + ' days';
  };
  const show = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const tick = () => {
    const now = Date.now() + ahead;
    for (const time of document.querySelectorAll('time[data-ago]')) {
      const seconds = (now - Number(time.dataset.ago)) / 1000;
      show(time, span(seconds) + ' ago');
      time.classList.toggle('warn', seconds > ${HEARTBEAT_LATE});
    }
    for (const time of document.querySelectorAll('time[data-in]')) show(time, 'in ' + span((Number(time.dataset.in) - now) / 1000));
    for (const time of document.querySelectorAll('time[data-clock]')) show(time, new Date(Number(time.dataset.clock)).toLocaleTimeString());
  };
  const order = (ids) => {
    const body = byId('rows');
    for (const row of [...body.children]) if (!ids.includes(row.id)) row.remove();
    ids.forEach((id, i) => {
      let row = byId(id);
      if (!row) {
        row = document.createElement('tr');
        row.id = id;
        row.setAttribute('role', 'row');
      }
      if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null);
    });
  };
  const source = new EventSource('/events');
  source.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    ahead = message.time - Date.now();
    if (message.rows) order(message.rows);
    for (const [id, part] of message.parts) {
      const element = byId(id);
      if (!element) continue;
      element.innerHTML = part;
      element.hidden = part === '';
    }
    document.title = message.title;
    byId('away').hidden = true;
    document.body.dataset.updates = String(Number(document.body.dataset.updates ?? 0) + 1);
    tick();
  };
  const asked = {
    finish: 'Finish the run? Its learning rate begins to fall now, and the run ends with that.',
    stop: 'Stop the coordinator? It is started again on its machine.',
  };
  document.addEventListener('click', async ({ target }) => {
    const order = target.dataset?.order;
    if (!order || (asked[order] && !confirm(asked[order]))) return;
    const said = byId('said');
    try {
      const answer = await fetch('/' + order, { method: 'POST', headers: { 'X-Phoenix-Order': order } });
      show(said, await answer.text());
    } catch {
      show(said, 'The coordinator did not answer.');
    }
    said.hidden = false;
  });
  source.onerror = () => { byId('away').hidden = false; };
  setInterval(tick, 1000);
  tick();
})();
`;

const styleHash = createHash('sha256')
  .update(STYLE + OWN_STYLE)
  .digest('base64');
/** What the page may load: its own script, stream and picture, and the one style sheet in it. */
const SOURCES = `default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'sha256-${styleHash}'; base-uri 'none'; form-action 'none'`;
/** The policy as a header, which may also forbid frames. */
export const CONTENT_POLICY = `${SOURCES}; frame-ancestors 'none'`;

/** The title of the window. */
export function titleOf({ federation, round, rounds }: FederationView): string {
  return `${federation}: round ${round}${rounds === undefined ? '' : ` of ${rounds}`}`;
}

/** The page as of a view, which comes from federationView.parse. */
export function pageDocument(view: FederationView): string {
  const { parts, rows } = fragmentsOf(view);
  const fill = (id: string): Markup => ({ markup: parts.get(id) ?? '' });
  const section = (id: string) => html`<section id="${id}"${parts.get(id) === '' && ' hidden'}>${fill(id)}</section>`;
  const heading = COLUMNS.map(
    (name, i) => html`<th scope="col" role="columnheader"${[1, 2, 9].includes(i) && html` class="text"`}>${name}</th>`,
  );
  const main = html`<p class="away-note" id="away" role="status" hidden>No connection to the coordinator. What is shown is what it said last.</p>
<header>
<p class="kicker">Phoenix · federation</p>
<h1 id="name">${fill('name')}</h1>
<div id="headline" aria-live="polite">${fill('headline')}</div>
<ul class="facts" id="facts">${fill('facts')}</ul>
<div class="orders" id="orders"${parts.get('orders') === '' && ' hidden'}>${fill('orders')}</div><p class="remark" id="said" role="status" hidden></p>
<noscript><p class="remark">Without JavaScript this page does not change: load it again for what is new.</p></noscript>
</header>
<section><h2 class="unseen">Figures</h2><dl class="figures" id="tiles">${fill('tiles')}</dl></section>
<section class="list"><h2>Sites</h2><div id="summary">${fill('summary')}</div>
<div class="scroll" tabindex="0"><table class="sites" role="table"><caption class="unseen">Sites, one a row</caption>
<thead role="rowgroup"><tr role="row">${heading}</tr></thead>
<tbody id="rows" role="rowgroup">${rows.map((id) => html`<tr id="${id}" role="row">${fill(id)}</tr>`)}</tbody></table></div></section>
<div class="two"><div>${section('curves')}${section('samples')}${section('decisions')}</div>
<div>${section('bytes')}${section('weights')}${section('events')}</div></div>
<footer>This page changes by itself. For programs: <a href="/state.json">state.json</a>, <a href="/metrics">metrics</a>.</footer>
`;
  const head = html`<link rel="icon" href="data:,">\n<script src="/page.js" defer></script>\n`;
  return htmlDocument(titleOf(view), main, { policy: SOURCES, style: OWN_STYLE, head });
}
