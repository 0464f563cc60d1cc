/** What the page, `phoenix status` and the metrics show of a running coordinator. */
import type { RoundRecord } from '../../fl/protocol.ts';
import type { Federation } from '../../net/credentials.ts';
import { cleanText, type FederationView, type SiteView, type Verb } from '../../net/page/view.ts';
import type { SiteState, Sites } from '../../net/sites.ts';

/** Events that are kept for the page. */
const MAX_EVENTS = 200;
/** Rounds whose weights are shown. */
const MAX_WEIGHTS = 50;

export type Watched = {
  federation: () => Federation;
  version: string;
  run: string;
  sites: () => Sites | undefined;
  /** A site that was not heard of for this long is lost. */
  lostAfterSeconds: number;
};

/** What the coordinator tells of itself as it goes on. */
export type Keeper = {
  view(): FederationView;
  set(change: Partial<Pick<FederationView, 'state' | 'round' | 'rounds' | 'waiting' | 'serverWork' | 'engine'>>): void;
  note(level: 'info' | 'warning' | 'error', text: string): void;
  /** Rounds that were done, also before this process began. */
  add(...records: RoundRecord[]): void;
  records(): readonly RoundRecord[];
  /** The sample grid of a round, a PNG file. */
  draw(round: number, png: Uint8Array): void;
  samples(): Uint8Array | undefined;
  /** Called with every change. */
  onChange(listener: () => void): void;
};

export function keeper(watched: Watched): Keeper {
  let now: Pick<FederationView, 'state' | 'round' | 'rounds' | 'waiting' | 'serverWork' | 'engine'> = {
    state: 'waiting',
    round: 0,
    engine: { connected: true },
  };
  const events: FederationView['events'] = [];
  const records: RoundRecord[] = [];
  let grid: { round: number; png: Uint8Array } | undefined;
  const listeners: (() => void)[] = [];
  const changed = () => {
    for (const listener of listeners) listener();
  };
  return {
    onChange: (listener) => void listeners.push(listener),
    set(change) {
      now = { ...now, ...change };
      changed();
    },
    note(level, text) {
      events.push({ time: Date.now(), level, text });
      events.splice(0, events.length - MAX_EVENTS);
      changed();
    },
    draw(round, png) {
      grid = { round, png };
    },
    samples: () => grid?.png,
    records: () => records,
    add(...done) {
      records.push(...done);
      changed();
    },
    view() {
      const sites = watched.sites();
      const traffic = sites?.wire.traffic() ?? { bytesUp: 0, bytesDown: 0 };
      const last = records.at(-1);
      return {
        ...now,
        time: Date.now(),
        federation: watched.federation().name,
        run: watched.run,
        version: watched.version,
        ...traffic,
        sites: Object.keys(watched.federation().sites)
          .sort()
          .map((id) => siteView(id, watched, sites?.find(id), last, now.waiting?.sites ?? [])),
        history: records,
        weights: records.slice(-MAX_WEIGHTS).map(({ round, clients }) => ({
          round,
          sites: clients.map(({ client, weight }) => ({ id: client, weight: Math.min(1, weight) })),
        })),
        decisions: records.flatMap(({ round, decisions = [] }) => decisions.map((one) => ({ ...one, round }))),
        ...(grid && { samples: { round: grid.round } }),
        verbs: verbsOf(now.state),
        events,
      };
    },
  };
}

/** What can be told to a coordinator in this state. */
function verbsOf(state: FederationView['state']): Verb[] {
  if (state === 'stopped' || state === 'failed') return [];
  if (state === 'done') return ['stop'];
  return [state === 'paused' ? 'resume' : 'pause', 'finish', 'stop'];
}

function siteView(id: string, watched: Watched, site: SiteState | undefined, last: RoundRecord | undefined, asked: string[]): SiteView {
  const { key } = watched.federation().sites[id]!;
  const { has, beat, lastSeen } = site ?? {};
  const quiet = lastSeen === undefined ? Infinity : performance.now() - lastSeen;
  const failure = last?.failures.find(({ client }) => client === id);
  const trouble = site?.unreadable ?? has?.problem ?? (failure && `${failure.stage}: ${failure.reason}`);
  const own = last?.clients.find(({ client }) => client === id);
  return {
    id,
    state: stateOf(key !== undefined, site, quiet / 1000, watched.lostAfterSeconds),
    selected: asked.includes(id),
    ...(beat?.step && { progress: { done: beat.step.step, of: beat.step.steps, unit: 'steps' as const }, ...stepOf(beat.step) }),
    ...(Number.isFinite(quiet) && beat && { heartbeat: Date.now() - quiet }),
    ...(beat?.traffic ?? { bytesUp: 0, bytesDown: 0 }),
    ...(has?.hello && { examples: has.hello.examples }),
    ...(has && { version: has.phoenix, ...(has.device && { device: has.device }) }),
    ...(own && { weight: Math.min(1, own.weight) }),
    ...(trouble && { trouble: { kind: 'failure' as const, text: cleanText(trouble), ...(failure && { round: failure.round }) } }),
  };
}

const stepOf = ({ loss, imagesPerSecond }: { loss: number; imagesPerSecond: number }) => ({ loss, imagesPerSecond });

function stateOf(isEnrolled: boolean, site: SiteState | undefined, quietSeconds: number, lostAfterSeconds: number): SiteView['state'] {
  if (!isEnrolled) return 'invited';
  if (!site?.beat) return 'offline';
  if (quietSeconds > lostAfterSeconds) return 'lost';
  if (site.want?.is === 'refused') return 'refused';
  if (site.beat.is !== 'working') return site.beat.is === 'joining' ? 'fetching' : 'idle';
  return site.beat.kind === 'train' ? 'training' : site.beat.kind === 'upload' ? 'uploading' : 'working';
}
