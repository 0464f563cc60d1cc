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
${sheet && html`<section><h2>Contact sheet</h2><p>Some of the images, evenly chosen, as small squares.</p>${picture(sheet)}</section>`}
${storedSection(found)}
${
  classes.length > 0 &&
  listSection(
    'Classes',
    classes.map(({ name, count }) => [name, formatCount(count)]),
  )
}
${
  sites.length > 0 &&
  listSection(
    'Sites',
    sites.map(({ name, count }) => [name, formatCount(count)]),
  )
}
${
  corrupt.length > 0 &&
  listSection(
    'Files that cannot be used',
    corrupt.map(({ file, reason }) => [file, reason]),
  )
}
${
  odd.length > 0 &&
  listSection(
    'Unusual files',
    odd.map(({ file, what }) => [file, what]),
  )
}
${
  duplicates.length > 0 &&
  listSection(
    'Files of equal pixels',
    duplicates.map(([first = '', ...others]) => [first, others.join(', ')]),
  )
}
${
  leftOut.length > 0 &&
  listSection(
    'Left out',
    leftOut.map(({ count, what, examples }) => [`${formatCount(count)} ${what}`, examples.join(', ')]),
  )
}
<footer>Made by phoenix inspect.</footer>
`;
  return htmlDocument(`data ${path}`, main);
}

function picture(png: Uint8Array): Markup {
  return html`<img alt="Contact sheet of the images" src="data:image/png;base64,${Buffer.from(png).toString('base64')}">`;
}

function storedSection({ stored, sizes }: Omit<Examination, 'sheet'>): Markup {
  const rows = stored.map(({ mode, values, count, low, high }) => [
    `${mode}, ${values}`,
    formatCount(count),
    low === null || high === null ? '' : `${formatNumber(low)}..${formatNumber(high)}`,
  ]);
  const sized = sizes.map(({ width, height, count }) => [`${width}×${height}`, formatCount(count), '']);
  return html`<section><h2>How images are stored</h2>${table([...rows, ...sized], ['', 'images', 'values'])}</section>`;
}

function listSection(title: string, rows: string[][]): Markup {
  return html`<section><h2>${title}</h2>${table(rows)}</section>`;
}

function table(rows: string[][], head?: string[]): Markup {
  const shown = rows.slice(0, MAX_ROWS);
  return html`<div class="scroll"><table class="figures-table">${head && html`<thead><tr>${head.map((cell) => html`<th scope="col">${cell}</th>`)}</tr></thead>`}
<tbody>${shown.map(([first, ...cells]) => html`<tr><th scope="row">${first}</th>${cells.map((cell) => html`<td class="text">${cell}</td>`)}</tr>`)}</tbody></table></div>${
    shown.length < rows.length && html`<p>The first ${shown.length} of ${formatCount(rows.length)}.</p>`
  }`;
}
