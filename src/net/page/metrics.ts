/** A view in the text format of Prometheus, version 0.0.4. */
import { type FederationView, type SiteView, siteStates } from './view.ts';

type Sample = { labels?: Record<string, string>; value: number | null | undefined };
type Metric = { name: string; type: 'gauge' | 'counter'; help: string; samples: Sample[] };

const escapeLabel = (value: string) => value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');

function render({ name, type, help, samples }: Metric): string {
  const lines = samples.flatMap(({ labels = {}, value }) => {
    if (value === undefined || value === null) return [];
    const inside = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(text)}"`);
    return [`${name}${inside.length > 0 ? `{${inside.join(',')}}` : ''} ${Number.isFinite(value) ? value : 'NaN'}`];
  });
  return lines.length > 0 ? `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join('\n')}\n` : '';
}

const gauge = (name: string, help: string, samples: Sample[]): Metric => ({ name, type: 'gauge', help, samples });
const counter = (name: string, help: string, samples: Sample[]): Metric => ({ name, type: 'counter', help, samples });

function federationMetrics(view: FederationView): Metric[] {
  const { sites, history, federation, run = '', version } = view;
  const last = history.at(-1);
  const states = Object.keys(siteStates) as SiteView['state'][];
  const one = (value: number | null | undefined): Sample[] => [{ value }];
  const sent = [
    { labels: { direction: 'up' }, value: view.bytesUp },
    { labels: { direction: 'down' }, value: view.bytesDown },
  ];
  const inState = states.map((state) => ({ labels: { state }, value: sites.filter((site) => site.state === state).length }));
  return [
    gauge('phoenix_info', 'Version of the coordinator.', [{ labels: { federation, run, version }, value: 1 }]),
    gauge('phoenix_engine_up', 'Whether the server between coordinator and sites is reached.', one(view.engine.connected ? 1 : 0)),
    gauge('phoenix_round', 'The round that is running, or the last one.', one(view.round)),
    gauge('phoenix_rounds_planned', 'Rounds of the run.', one(view.rounds)),
    counter('phoenix_rounds_done_total', 'Rounds done.', one(last?.round ?? 0)),
    gauge('phoenix_loss', 'Mean training loss of the last round.', one(last?.loss)),
    gauge('phoenix_held_out_loss', 'Held-out loss of the model that the last round began with.', one(last?.evalLoss)),
    gauge('phoenix_round_seconds', 'Duration of the last round.', one(last?.seconds)),
    counter('phoenix_sent_bytes_total', 'Bytes: up from sites to the coordinator, down the other way.', sent),
    gauge('phoenix_sites', 'Sites by state.', inState),
  ];
}

function siteMetrics({ sites, time }: FederationView): Metric[] {
  const each = (value: (site: SiteView) => number | undefined): Sample[] =>
    sites.map((site) => ({ labels: { site: site.id }, value: value(site) }));
  const seconds = (milliseconds: number | undefined) => (milliseconds === undefined ? undefined : milliseconds / 1000);
  const states = sites.map(({ id, state }) => ({ labels: { site: id, state }, value: 1 }));
  const heard = each(({ heartbeat }) => (heartbeat === undefined ? undefined : Math.max(0, (time - heartbeat) / 1000)));
  const left = each(({ credentialsUntil }) => (credentialsUntil === undefined ? undefined : (credentialsUntil - time) / 1000));
  return [
    gauge(
      'phoenix_site_selected',
      'Whether a site takes part in the round.',
      each(({ selected }) => (selected ? 1 : 0)),
    ),
    gauge('phoenix_site_state', 'State of a site.', states),
    gauge('phoenix_site_heartbeat_age_seconds', 'Time since the last heartbeat.', heard),
    gauge(
      'phoenix_site_round_trip_seconds',
      'Round trip to a site.',
      each(({ roundTrip }) => seconds(roundTrip)),
    ),
    gauge(
      'phoenix_site_images_per_second',
      'Images that a site trains on in a second.',
      each(({ imagesPerSecond }) => imagesPerSecond),
    ),
    gauge(
      'phoenix_site_loss',
      'Loss of the last steps of a site.',
      each(({ loss }) => loss),
    ),
    gauge(
      'phoenix_site_weight',
      'Weight of the update of a site in the last round.',
      each(({ weight }) => weight),
    ),
    counter(
      'phoenix_site_up_bytes_total',
      'Bytes from a site.',
      each(({ bytesUp }) => bytesUp),
    ),
    counter(
      'phoenix_site_down_bytes_total',
      'Bytes to a site.',
      each(({ bytesDown }) => bytesDown),
    ),
    gauge('phoenix_site_credentials_seconds', 'Time until the credentials of a site expire.', left),
  ];
}

/** All metrics of a federation; names begin with `phoenix_`. `view` comes from federationView.parse. */
export function metricsText(view: FederationView): string {
  return [...federationMetrics(view), ...siteMetrics(view)].map(render).join('');
}
