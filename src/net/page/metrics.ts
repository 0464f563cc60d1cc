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

/** All metrics of a federation; names begin with `phoenix_`. */
export function metricsText(view: FederationView): string {
  const { sites, time, history } = view;
  const one = (value: number | null | undefined): Sample[] => [{ value }];
  const each = (value: (site: SiteView) => number | undefined): Sample[] =>
    sites.map((site) => ({ labels: { site: site.id }, value: value(site) }));
  const last = history.at(-1);
  const metrics: Metric[] = [
    {
      name: 'phoenix_info',
      type: 'gauge',
      help: 'Version of the coordinator.',
      samples: [{ labels: { federation: view.federation, run: view.run ?? '', version: view.version }, value: 1 }],
    },
    {
      name: 'phoenix_engine_up',
      type: 'gauge',
      help: 'Whether the server between coordinator and sites is reached.',
      samples: one(view.engine.connected ? 1 : 0),
    },
    { name: 'phoenix_round', type: 'gauge', help: 'The round that is running, or the last one.', samples: one(view.round) },
    { name: 'phoenix_rounds_planned', type: 'gauge', help: 'Rounds of the run.', samples: one(view.rounds) },
    { name: 'phoenix_rounds_done_total', type: 'counter', help: 'Rounds done.', samples: one(last?.round ?? 0) },
    { name: 'phoenix_loss', type: 'gauge', help: 'Mean training loss of the last round.', samples: one(last?.loss) },
    {
      name: 'phoenix_held_out_loss',
      type: 'gauge',
      help: 'Held-out loss of the model that the last round began with.',
      samples: one(last?.evalLoss),
    },
    { name: 'phoenix_round_seconds', type: 'gauge', help: 'Duration of the last round.', samples: one(last?.seconds) },
    {
      name: 'phoenix_sent_bytes_total',
      type: 'counter',
      help: 'Bytes: up from sites to the coordinator, down the other way.',
      samples: [
        { labels: { direction: 'up' }, value: view.bytesUp },
        { labels: { direction: 'down' }, value: view.bytesDown },
      ],
    },
    {
      name: 'phoenix_sites',
      type: 'gauge',
      help: 'Sites by state.',
      samples: (Object.keys(siteStates) as SiteView['state'][]).map((state) => ({
        labels: { state },
        value: sites.filter((site) => site.state === state).length,
      })),
    },
    {
      name: 'phoenix_site_selected',
      type: 'gauge',
      help: 'Whether a site takes part in the round.',
      samples: each(({ selected }) => (selected ? 1 : 0)),
    },
    {
      name: 'phoenix_site_state',
      type: 'gauge',
      help: 'State of a site.',
      samples: sites.map(({ id, state }) => ({ labels: { site: id, state }, value: 1 })),
    },
    {
      name: 'phoenix_site_heartbeat_age_seconds',
      type: 'gauge',
      help: 'Time since the last heartbeat.',
      samples: each(({ heartbeat }) => (heartbeat === undefined ? undefined : Math.max(0, (time - heartbeat) / 1000))),
    },
    {
      name: 'phoenix_site_round_trip_seconds',
      type: 'gauge',
      help: 'Round trip to a site.',
      samples: each(({ roundTrip }) => (roundTrip === undefined ? undefined : roundTrip / 1000)),
    },
    {
      name: 'phoenix_site_images_per_second',
      type: 'gauge',
      help: 'Images that a site trains on in a second.',
      samples: each(({ imagesPerSecond }) => imagesPerSecond),
    },
    { name: 'phoenix_site_loss', type: 'gauge', help: 'Loss of the last steps of a site.', samples: each(({ loss }) => loss) },
    {
      name: 'phoenix_site_weight',
      type: 'gauge',
      help: 'Weight of the update of a site in the last round.',
      samples: each(({ weight }) => weight),
    },
    { name: 'phoenix_site_up_bytes_total', type: 'counter', help: 'Bytes from a site.', samples: each(({ bytesUp }) => bytesUp) },
    { name: 'phoenix_site_down_bytes_total', type: 'counter', help: 'Bytes to a site.', samples: each(({ bytesDown }) => bytesDown) },
    {
      name: 'phoenix_site_credentials_seconds',
      type: 'gauge',
      help: 'Time until the credentials of a site expire.',
      samples: each(({ credentialsUntil }) => (credentialsUntil === undefined ? undefined : (credentialsUntil - time) / 1000)),
    },
  ];
  return metrics.map(render).join('');
}
