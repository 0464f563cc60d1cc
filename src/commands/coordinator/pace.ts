/** How much a site trains in a round that is not to take long: by how fast its last trainings were. */
import { type Length, plannedSteps } from '../../ddpm/fit.ts';
import type { Hello, RoundRecord } from '../../fl/protocol.ts';
import type { MessageEvent } from '../events.ts';
import { lengthOfRound } from '../federation.ts';
import type { Settings } from '../options/index.ts';
import type { Keeper } from './view.ts';

/** Trainings that a speed is measured over. */
const TRAININGS = 3;

/** Images per second of a site's last trainings, as its reports say; undefined where it has trained none, or says no time. */
export function speedOf(site: string, history: readonly RoundRecord[]): number | undefined {
  const last = history
    .flatMap(({ clients }) => clients.filter(({ client, seconds }) => client === site && seconds !== undefined && seconds > 0))
    .slice(-TRAININGS);
  const seconds = last.reduce((sum, report) => sum + report.seconds!, 0);
  return seconds > 0 ? last.reduce((sum, { images }) => sum + images, 0) / seconds : undefined;
}

export type Pace = {
  /** Longest local training. */
  roundSeconds: number;
  batch: number;
  length: Length;
  history: readonly RoundRecord[];
};

/**
 * Most local images of the sites that would not train as much as planned in time: full batches, at least one. A site without a measured
 * speed is not among them.
 */
export function paceOf(clients: Hello[], { roundSeconds, batch, length, history }: Pace): Record<string, number> {
  return Object.fromEntries(
    clients.flatMap(({ id, examples }) => {
      const speed = speedOf(id, history);
      const planned = plannedSteps(examples, batch, length);
      const steps = speed === undefined ? planned : Math.max(1, Math.floor((roundSeconds * speed) / batch));
      return steps < planned ? [[id, steps * batch]] : [];
    }),
  );
}

type Told = {
  settings: Pick<Settings<'coordinator'>, 'roundSeconds' | 'epochs' | 'localImages'>;
  keep: Pick<Keeper, 'records' | 'note'>;
  events: { onMessage?(event: MessageEvent): void };
};

/** The same as the options say, told to the operator: nothing without roundSeconds. */
export function settlePace(clients: Hello[], batch: number, { settings, keep, events }: Told): Record<string, number> {
  const { roundSeconds } = settings;
  if (roundSeconds === undefined) return {};
  const most = paceOf(clients, { roundSeconds, batch, length: lengthOfRound(settings), history: keep.records() });
  const slow = Object.entries(most).map(([id, images]) => `${id} ${images}`);
  if (slow.length > 0) {
    const text = `So that the round takes ${roundSeconds} seconds, some sites train on fewer images: ${slow.join(', ')}.`;
    keep.note('info', text);
    events.onMessage?.({ level: 'info', text });
  }
  return most;
}
