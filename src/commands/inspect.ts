/** What a data set is read as, for a person before anything is trained on it: as text, as data, and as a page with a contact sheet. */
import { withCallbacks } from '../callbacks.ts';
import { type Examination, examine } from '../ddpm/data/examine.ts';
import { writeWhole } from '../files.ts';
import { checkOutput, formats } from '../outputs.ts';
import { renderDataPage } from '../report/data-page.ts';
import { formatCount } from '../report/units.ts';
import type { DataEvents } from './events.ts';
import { imageGrid } from './image-grid.ts';
import { type InspectOptions, parseOptions } from './options/index.ts';

export type Inspection = Omit<Examination, 'sheet'> & {
  /** Path of the page, if one was asked for. */
  page?: string;
};

/** Names of files that a text shows of one kind. */
const MAX_NAMED = 20;

/**
 * Looks at every image of a data set: counts, sizes, depths and values, classes and sites, files that cannot be used, unusual ones, equal
 * ones, what is left out, and a range where one is needed.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for options, ERR_PHOENIX_DATA for a path that cannot be read as data at all, ERR_PHOENIX_IO; an
 * abort rejects with `signal.reason`
 */
export function inspect(options: InspectOptions, events: DataEvents = {}): Promise<Inspection> {
  return withCallbacks('inspect', events, (guarded) => inspectData(options, guarded));
}

async function inspectData(options: InspectOptions, { signal, onRead }: DataEvents): Promise<Inspection> {
  const { data, split, range, out } = parseOptions('inspect', options);
  if (out !== undefined) await checkOutput(out, formats.html);
  const { sheet, ...found } = await examine(data, { split, range, signal, onProgress: onRead });
  if (out === undefined) return found;
  await writeWhole(out, renderDataPage(found, describeInspection(found), sheet && (await imageGrid(sheet))));
  return { ...found, page: out };
}

const counted = (count: number, noun: string) => `${formatCount(count)} ${noun}${count === 1 ? '' : 's'}`;

/** 'data: 24 images 16×16, 2 classes; left out: 12 deeper down' */
export function describeInspection({ count, sizes, classes, sites, leftOut, corrupt }: Omit<Inspection, 'page'>): string {
  const [first] = sizes;
  const size = !first ? [] : sizes.length === 1 ? `${first.width}×${first.height}` : `of ${sizes.length} sizes`;
  const withImages = (counts: { count: number }[]) => counts.filter((each) => each.count > 0).length;
  const parts = [
    [counted(count, 'image'), size].flat().join(' '),
    classes.length > 0 ? `${withImages(classes)} ${withImages(classes) === 1 ? 'class' : 'classes'}` : [],
    sites.length > 0 ? counted(withImages(sites), 'site') : [],
    corrupt.length > 0 ? `${formatCount(corrupt.length)} that cannot be used` : [],
  ].flat();
  const others = leftOut.map(({ count: files, what }) => `${files} ${what}`);
  return `data: ${parts.join(', ')}${others.length > 0 ? `; left out: ${others.join(', ')}` : ''}`;
}

/** The inspection as lines for a person. */
export function formatInspection(found: Inspection): string {
  const { kind, split, sizes, stored, classes, sites, range, corrupt, odd, duplicates, leftOut, warnings, page } = found;
  const list = (title: string, lines: string[]) => (lines.length === 0 ? [] : [`${title}:`, ...some(lines).map((line) => `  ${line}`)]);
  return [
    describeInspection(found),
    `kind     ${kind}, split ${split}`,
    `sizes    ${some(sizes.map(({ width, height, count }) => `${width}×${height} (${count})`)).join(', ') || 'none'}`,
    ...stored.map(
      ({ mode, values, count, low, high }) => `stored   ${mode}, ${values} (${count})${low === null ? '' : `: ${low}..${high}`}`,
    ),
    ...(classes.length > 0 ? [`classes  ${some(classes.map(({ name, count }) => `${name} (${count})`)).join(', ')}`] : []),
    ...(sites.length > 0 ? [`sites    ${some(sites.map(({ name, count }) => `${name} (${count})`)).join(', ')}`] : []),
    ...(range === null ? [] : [`range    --range ${range} fits these values; percentiles (--range 0.1%,99.9%) cut off the outermost`]),
    ...list(
      `cannot be used (${corrupt.length})`,
      corrupt.map(({ file, reason }) => `${file}: ${reason}`),
    ),
    ...list(
      `unusual (${odd.length})`,
      odd.map(({ file, what }) => `${file}: ${what}`),
    ),
    ...list(
      `equal pixels (${counted(duplicates.length, 'group')})`,
      duplicates.map((group) => some(group).join(', ')),
    ),
    ...list(
      'left out',
      leftOut.map(
        ({ count, what, examples }) =>
          `${count} ${what}${examples.length > 0 ? `: ${examples.join(', ')}${count > examples.length ? ', …' : ''}` : ''}`,
      ),
    ),
    ...warnings.map((text) => `warning: ${text}`),
    ...(page === undefined ? [] : [`page     ${page}`]),
  ].join('\n');
}

/** At most MAX_NAMED of some texts, and how many there are beside. */
function some(texts: string[]): string[] {
  const shown = texts.slice(0, MAX_NAMED);
  return texts.length > shown.length ? [...shown, `… and ${texts.length - shown.length} more`] : shown;
}
