/** Views for tests of the page: a federation of five sites in which much has happened, and one of many. */
import { type FederationView, federationView, type SiteView } from '../../src/net/page/view.ts';

/** A moment at which all views are made. */
export const NOW = Date.UTC(2026, 2, 10, 14, 5, 30);
const DAY = 86_400_000;

const site = (id: string, change: Partial<SiteView> = {}): SiteView => ({
  ...{ id, state: 'training', selected: true, heartbeat: NOW - 2000, roundTrip: 21, bytesUp: 4_712_345, bytesDown: 9_876_543 },
  ...{ examples: 1834, version: '0.2.0', device: 'CPU, 8 threads', credentialsUntil: NOW + 200.5 * DAY, weight: 0.25 },
  ...change,
});

/** Five sites, each in another state. */
export function busyView(change: Partial<FederationView> = {}): FederationView {
  const history = Array.from({ length: 11 }, (_, i) => ({
    ...{ round: i + 1, loss: 0.08 + 0.9 / (i + 1), evalLoss: 0.1 + 0.8 / (i + 1) },
    ...{ bytesUp: 1_600_000, bytesDown: 3_100_000 - 9000 * i, seconds: 184 + i },
  }));
  const sites = [
    site('hospital-a', { progress: { done: 712, of: 1000, unit: 'steps' }, imagesPerSecond: 148, loss: 0.1234 }),
    site('hospital-b', { state: 'uploading', progress: { done: 1_000_000, of: 1_600_000, unit: 'bytes' }, weight: 0.41, roundTrip: 48 }),
    site('clinic-süd', {
      ...{ state: 'refused', selected: false, weight: 0, device: 'NVIDIA L4', credentialsUntil: NOW + 12.5 * DAY },
      trouble: {
        ...{
          kind: 'refusal',
          round: 12,
          text: 'This site refuses train: it does not allow a histogram (site.json, allow.histogram: false).',
        },
        advice: 'Ask its administrator, or run without --strategy diversity.',
      },
    }),
    site('institute-d', {
      ...{ state: 'lost', heartbeat: NOW - 640_000, imagesPerSecond: undefined, weight: 0.09 },
      trouble: {
        kind: 'failure',
        round: 11,
        text: 'silent for ten minutes',
        advice: 'Its machine or its line is down: call its administrator.',
      },
    }),
    site('practice-e', { state: 'invited', selected: false, heartbeat: undefined, roundTrip: undefined, bytesUp: 0, bytesDown: 0 }),
  ];
  Object.assign(sites[4]!, { examples: undefined, version: undefined, device: undefined, credentialsUntil: undefined, weight: undefined });
  return federationView.parse({
    ...{ time: NOW, federation: 'lung', run: 'first', version: '0.2.0', state: 'running', round: 12, rounds: 50 },
    waiting: { what: 'the reports', sites: ['hospital-a', 'hospital-b'], until: NOW + 250_000 },
    engine: { connected: true },
    ...{ bytesUp: 17_600_000, bytesDown: 33_900_000, sites, history },
    weights: history.map(({ round }) => ({
      round,
      sites: sites.slice(0, round > 8 ? 4 : 3).map(({ id }, i) => ({ id, weight: [0.31, 0.4, 0.2, 0.09][i]! - 0.01 * (round % 3) })),
    })),
    decisions: [
      {
        ...{ round: 9, client: 'institute-d', action: 'quarantine', statistic: 'precision', value: 0.31, limit: 0.5 },
        reason: 'below half',
      },
    ],
    samples: { round: 11 },
    events: [
      { time: NOW - 400_000, level: 'info', text: 'Round 11 is committed: 3 of 4 sites.' },
      { time: NOW - 300_000, level: 'warning', text: 'institute-d has been silent for five minutes.' },
      { time: NOW - 20_000, level: 'error', text: 'clinic-süd refuses train (allow.histogram: false).' },
    ],
    ...change,
  });
}

/** A federation of that many sites in all kinds of states. */
export function manySites(count: number): FederationView {
  const states = ['training', 'training', 'fetching', 'waiting', 'idle', 'lost'] as const;
  const sites = Array.from({ length: count }, (_, i) =>
    site(`site-${String(i + 1).padStart(3, '0')}`, {
      ...{
        state: states[i % states.length]!,
        progress: { done: (i * 37) % 1000, of: 1000, unit: 'steps' },
        imagesPerSecond: 20 + (i % 90),
      },
      ...{ loss: 0.1 + (i % 17) / 100, weight: 1 / count, heartbeat: NOW - (i % 6 === 5 ? 700_000 : 1000 * (i % 5)) },
    }),
  );
  return busyView({ sites, weights: [{ round: 11, sites: sites.map(({ id }) => ({ id, weight: 1 / count })) }] });
}

/** A view as if it were made at another moment. */
export function viewAt(view: FederationView, now: number): FederationView {
  const later = now - view.time;
  const move = (at: number | undefined) => (at === undefined ? undefined : at + later);
  return {
    ...view,
    time: now,
    waiting: view.waiting && { ...view.waiting, until: move(view.waiting.until) },
    sites: view.sites.map((one) => ({ ...one, heartbeat: move(one.heartbeat), credentialsUntil: move(one.credentialsUntil) })),
    events: view.events.map((event) => ({ ...event, time: event.time + later })),
  };
}
