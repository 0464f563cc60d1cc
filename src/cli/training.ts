/** phoenix demo, federate, train and finish. */

import { runIn } from '../commands/coordinator/folder.ts';
import type { RunEvents, RunResult, StepEvent } from '../commands/events.ts';
import { federate } from '../commands/federate.ts';
import { finish } from '../commands/finish.ts';
import type { FederateOptions, FinishOptions, TrainOptions } from '../commands/options/index.ts';
import { train } from '../commands/train.ts';
import type { RoundRecord } from '../fl/protocol.ts';
import { describeDecision } from '../fl/strategies/filter.ts';
import { formatCount, formatDuration } from '../report/units.ts';
import { noting, reading, Stopped, type Terminal, warn } from './terminal.ts';

export function runFederate(name: 'demo' | 'federate', options: FederateOptions, terminal: Terminal): Promise<void> {
  return runTraining(name, (events) => federate(options, events), terminal);
}

export function runTrain(options: TrainOptions, terminal: Terminal): Promise<void> {
  return runTraining('train', (events) => train(options, events), terminal);
}

export async function runFinish(options: FinishOptions, { json, text }: Terminal): Promise<void> {
  const { dir, round, over } = await finish({ ...options, dir: await runIn(options.dir) });
  json({ event: 'done', dir, round, over });
  text(
    `${dir} was told to finish: after its next commit its learning rate falls over ${over} round${over === 1 ? '' : 's'}, then it ends. ` +
      `${round} are done now. If nothing trains it at present, resume it.`,
  );
}

export async function runTraining(
  name: string,
  work: (events: RunEvents) => Promise<RunResult | undefined>,
  terminal: Terminal,
  again = (dir: string) => `phoenix ${name} … --out ${dir} --resume`,
): Promise<void> {
  const { progress, signal, json } = terminal;
  let dir: string | undefined;
  let rounds: number | undefined;
  const events: RunEvents = {
    signal,
    onStart(event) {
      dir = event.dir;
      rounds = event.rounds;
      json({ event: 'start', ...event });
      const { parameterCount, backend, device, threads } = event;
      progress.note(
        `${formatCount(parameterCount)} parameters on ${backend} (${device}), ${threads} thread${threads === 1 ? '' : 's'}; run folder ${dir}`,
      );
    },
    onStep(event) {
      const { images, imagesPlanned, loss, imagesPerSecond } = event;
      progress.update({
        done: images,
        total: imagesPlanned,
        label: where(event),
        stage: event.rounds === undefined ? `round ${event.round}` : undefined,
        loss,
        imagesPerSecond,
      });
    },
    onRound(record) {
      json({ event: 'round', ...record });
      progress.note(summarize(record, rounds));
    },
    onRead: reading(progress),
    onMessage: noting(terminal),
  };
  const stopped = () => warn(dir === undefined ? 'Stopped before the run began.' : `Stopped. Continue with: ${again(dir)}`);
  let result: RunResult | undefined;
  try {
    result = await work(events);
  } catch (error) {
    progress.stop();
    if (error instanceof Stopped) stopped();
    throw error;
  }
  progress.stop();
  if (result) return showResult(result, terminal);
  json({ event: 'stopped', ...(dir !== undefined && { dir }) });
  stopped();
}

function showResult({ records, ...paths }: RunResult, { json, text }: Terminal): void {
  const last = records.at(-1);
  const seconds = records.reduce((sum, record) => sum + record.seconds, 0);
  json({ event: 'done', ...paths, loss: last?.loss, evalLoss: last?.evalLoss, seconds });
  text(last ? `Done: ${summarize(last, paths.rounds)}` : `Nothing to do: all ${paths.rounds} rounds of this run are done.`);
  text(`model    ${paths.checkpoint}`);
  if (paths.samples) text(`samples  ${paths.samples}`);
  text(`report   ${paths.report}`);
}

const roundOf = (round: number, rounds: number | undefined) => (rounds === undefined ? `round ${round}` : `round ${round}/${rounds}`);

function where({ round, rounds, client }: StepEvent): string {
  return client ? `${roundOf(round, rounds)}, client ${client.number}/${client.of}` : roundOf(round, rounds);
}

function summarize({ round, loss, evalLoss, seconds, failures, notes, decisions = [] }: RoundRecord, rounds: number | undefined): string {
  const parts = [roundOf(round, rounds)];
  if (loss !== null) parts.push(`loss ${loss.toPrecision(3)}`);
  if (evalLoss !== null) parts.push(`held out ${evalLoss.toPrecision(3)}`);
  parts.push(formatDuration(seconds));
  for (const failure of failures) parts.push(`${failure.client} failed (${failure.stage}): ${failure.reason}`);
  return [...parts, ...decisions.map(describeDecision), ...notes].join(', ');
}
