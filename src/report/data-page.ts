/** The page of `phoenix inspect` as one HTML text: what a data set is read as, with a contact sheet. Pure: it shows what it is given. */
import type { Examination } from '../ddpm/data/examine.ts';
import { html, htmlDocument, type Markup } from './markup.ts';
import { formatCount, formatNumber } from './units.ts';

/** Rows of a table on the page. */
const MAX_ROWS = 1000;

/** The page as a complete HTML document. `summary`: the data in a line; `sheet`: a PNG. */
export function renderDataPage(found: Omit<Examination, 'sheet'>, summary: string, sheet: Uint8Array | undefined): string {
  const { path, kind, split, range, corrupt, odd, duplicates, classes, sites, warnings, leftOut } = found;
  const main = html`<header>
<p class="kicker">Phoenix · what a data set is read as</p>
<h1>${path}</h1>
<ul class="facts"><li>${kind}</li><li>${split} images</li><li>${summary}</li>${range !== null && html`<li>--range ${range} fits these values</li>`}</ul>
${warnings.map((warning) => html`<p class="remark">${warning}</p>`)}
</header>
${sheet && html`<section><h2>Contact sheet</h2><p>${explainSheet(found)}</p>${picture(sheet)}</section>`}
${sites.length > 0 && sitesSection(found)}
${
  classes.length > 0 &&
  section(
    'Classes',
    ['class', '#images'],
    classes.map(({ name, count }) => [name, formatCount(count)]),
  )
}
${storedSection(found)}
${
  corrupt.length > 0 &&
  section(
    'Files that cannot be used',
    ['file', 'why'],
    corrupt.map(({ file, reason }) => [file, reason]),
  )
}
${
  odd.length > 0 &&
  section(
    'Unusual files',
    ['file', 'what'],
    odd.map(({ file, what }) => [file, what]),
  )
}
${
  duplicates.length > 0 &&
  section(
    'Files of equal pixels',
    ['file', 'the same pixels as'],
    duplicates.map(([first = '', ...others]) => [first, others.join(', ')]),
  )
}
${
  leftOut.length > 0 &&
  section(
    'Left out',
    ['what', 'as for instance'],
    leftOut.map(({ count, what, examples }) => [`${formatCount(count)} ${what}`, examples.join(', ')]),
  )
}
<footer>Made by phoenix inspect.</footer>
`;
  return htmlDocument(`data ${path}`, main);
}

/** Deep images are shown on a range that a training without one does not have. */
function explainSheet({ stored, range }: Omit<Examination, 'sheet'>): string {
  const isDeep = stored.some(({ values }) => !/integers of [1-8] bits?$/.test(values));
  const shown = range === null ? 'each from its least to its greatest value' : `on a range, by default ${range}`;
  return `Some of the images, evenly chosen, as small squares.${isDeep ? ` Those of more than 8 bits are shown ${shown}.` : ''}`;
}

function picture(png: Uint8Array): Markup {
  return html`<img alt="Contact sheet of the images" src="data:image/png;base64,${Buffer.from(png).toString('base64')}">`;
}

/** Exact where values are whole numbers, as those of files mostly are. */
const show = (value: number) => (Number.isInteger(value) ? String(value) : formatNumber(value));

function storedSection({ stored, sizes }: Omit<Examination, 'sheet'>): Markup {
  const rows = stored.map(({ mode, values, count, low, high }) => [
    mode,
    values,
    low === null || high === null ? 'not looked at' : `${show(low)}..${show(high)}`,
    formatCount(count),
  ]);
  const sized = sizes.map(({ width, height, count }) => [`${width}×${height}`, formatCount(count)]);
  return html`<section><h2>How images are stored</h2>${table(['colours', 'stored as', 'from least to greatest value', '#images'], rows)}
${table(['width × height', '#images'], sized)}</section>`;
}

/** How many images each site has, of each class where there are classes. */
function sitesSection({ classes, sites }: Omit<Examination, 'sheet'>): Markup {
  const head = ['site', ...classes.map(({ name }) => `#${name}`), classes.length > 0 ? '#all' : '#images'];
  const rows = sites.map(({ name, count, classes: own = [] }) => [name, ...own.map(formatCount), formatCount(count)]);
  return section(classes.length > 0 ? 'Images of each site and class' : 'Images of each site', head, rows);
}

function section(title: string, head: string[], rows: string[][]): Markup {
  return html`<section><h2>${title}</h2>${table(head, rows)}</section>`;
}

/** A table; a heading that begins with # is that of a column of numbers. */
function table(head: string[], rows: string[][]): Markup {
  const shown = rows.slice(0, MAX_ROWS);
  const styles = head.map((title) => (title.startsWith('#') ? '' : 'text'));
  const titles = head.map((title, i) => html`<th scope="col" class="${styles[i]!}">${title.replace(/^#/, '')}</th>`);
  const row = ([first, ...cells]: string[]) =>
    html`<tr><th scope="row">${first}</th>${cells.map((cell, i) => html`<td class="${styles[i + 1]!}">${cell}</td>`)}</tr>`;
  return html`<div class="scroll"><table class="figures-table list"><thead><tr>${titles}</tr></thead>
<tbody>${shown.map(row)}</tbody></table></div>${shown.length < rows.length && html`<p>The first ${shown.length} of ${formatCount(rows.length)}.</p>`}`;
}
