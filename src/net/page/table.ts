/** A view as plain text, for a terminal. */
import { formatBytes, formatCount, formatDuration, formatNumber } from '../../report/units.ts';
import {
  CREDENTIALS_SOON,
  daysLeft,
  describeSites,
  describeState,
  type FederationView,
  federationView,
  type SiteView,
  siteStates,
} from './view.ts';

const COLUMNS: [string, (site: SiteView, now: number) => string | undefined][] = [
  ['site', ({ id }) => id],
  ['state', ({ state }) => siteStates[state]],
  ['progress', ({ progress }) => progress && (progress.of > 0 ? `${Math.floor((100 * progress.done) / progress.of)} %` : undefined)],
  ['images/s', ({ imagesPerSecond }) => (imagesPerSecond === undefined ? undefined : formatNumber(imagesPerSecond))],
  ['loss', ({ loss }) => loss?.toPrecision(3)],
  ['weight', ({ weight }) => (weight === undefined ? undefined : `${formatNumber(100 * weight)} %`)],
  [
    'heartbeat',
    ({ heartbeat }, now) =>
      heartbeat === undefined ? undefined : `${formatDuration(Math.max(0, Math.round((now - heartbeat) / 1000)))} ago`,
  ],
  ['ping', ({ roundTrip }) => (roundTrip === undefined ? undefined : `${Math.round(roundTrip)} ms`)],
  ['up', ({ bytesUp }) => formatBytes(bytesUp)],
  ['down', ({ bytesDown }) => formatBytes(bytesDown)],
  ['images', ({ examples }) => (examples === undefined ? undefined : formatCount(examples))],
  ['version', ({ version }) => version],
  ['device', ({ device }) => device],
  ['valid', (site, now) => (daysLeft(site, now) === undefined ? undefined : `${daysLeft(site, now)} days`)],
];

/**
 * A view as lines of text: what is going on, a row a site (columns that no site has anything for are left out), and below what needs
 * somebody to look.
 */
export function statusTable(given: FederationView): string {
  const view = federationView.parse(given);
  const { federation, run, sites, waiting, time, engine, bytesUp, bytesDown } = view;
  const until = waiting?.until === undefined ? '' : `, ${formatDuration(Math.max(0, Math.round((waiting.until - time) / 1000)))} at most`;
  const head = [
    `${federation}${run ? `, run ${run}` : ''}. ${describeState(view)}${until}.`,
    ...(engine.connected ? [] : [`No connection to the server${engine.why ? `: ${engine.why}` : ''}.`]),
    `${describeSites(sites)} ${formatBytes(bytesUp)} up, ${formatBytes(bytesDown)} down.`,
  ];
  const rows = sites.map((site) => COLUMNS.map(([, cell]) => cell(site, time) ?? ''));
  const used = COLUMNS.map((_, column) => column < 2 || rows.some((row) => row[column] !== ''));
  const table = [COLUMNS.map(([name]) => name), ...rows].map((row) => row.filter((_, column) => used[column]));
  const widths = (table[0] ?? []).map((_, column) => Math.max(...table.map((row) => [...row[column]!].length)));
  const lines = table.map((row) =>
    row
      .map((cell, column) => cell + ' '.repeat(widths[column]! - [...cell].length))
      .join('  ')
      .trimEnd(),
  );
  return [...head, ...(sites.length > 0 ? ['', ...lines] : []), ...notes(view)].join('\n');
}

function notes({ sites, time }: FederationView): string[] {
  const troubles = sites.flatMap(({ id, trouble }) =>
    trouble ? [`${id}: ${trouble.text.replace(/[^.!?]$/, '$&.')}${trouble.advice ? ` ${trouble.advice}` : ''}`] : [],
  );
  const expiring = sites.flatMap((site) => {
    const days = daysLeft(site, time);
    return days !== undefined && days < CREDENTIALS_SOON
      ? [`${site.id}: its credentials ${days < 0 ? 'have expired' : `expire in ${days} days`}.`]
      : [];
  });
  const all = [...troubles, ...expiring];
  return all.length > 0 ? ['', ...all] : [];
}
