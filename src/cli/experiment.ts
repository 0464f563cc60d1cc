/** phoenix experiment. */
import type { ExperimentOptions } from '../commands/options/index.ts';
import { experiment } from '../experiment/experiment.ts';
import type { Plan } from '../experiment/plan.ts';
import { formatBytes, formatCount, formatDuration } from '../report/units.ts';
import { noting, Stopped, type Terminal, warn } from './terminal.ts';

export async function runExperiment(options: ExperimentOptions, terminal: Terminal): Promise<void> {
  const { progress, signal, json, text } = terminal;
  let dir: string | undefined;
  let result: Awaited<ReturnType<typeof experiment>>;
  try {
    result = await experiment(options, {
      signal,
      onPlan(plan) {
        dir = plan.dir;
        json({ event: 'plan', ...plan });
        progress.note(describePlan(plan));
      },
      onCell({ cell, final }, done, cells) {
        json({ event: 'cell', cell, done, cells, metrics: final!.metrics });
        const [name, value] = Object.entries(final!.metrics)[0]!;
        progress.note(`${cell}: ${name} ${value.toPrecision(4)} (${done} of ${cells} cells)`);
      },
      onProgress: (state) => progress.update(state),
      onMessage: noting(terminal),
    });
  } catch (error) {
    progress.stop();
    if (error instanceof Stopped)
      warn(dir === undefined ? 'Stopped before the experiment began.' : `Stopped. The same command continues ${dir}.`);
    throw error;
  }
  progress.stop();
  json({ event: 'done', ...result });
  if (options.plan) return;
  const { cells, done, report, markdown } = result;
  text(done === cells ? `Done: ${cells} cells.` : `Time is up: ${done} of ${cells} cells are done; the same command continues.`);
  if (report) {
    text(`report   ${report}`);
    text(`tables   ${markdown}`);
  }
}

function describePlan(plan: Plan): string {
  const parts = [`${plan.cells} cells of ${plan.trainings} trainings, ${formatCount(plan.imagesPerCell)} images each`];
  if (plan.done > 0) parts.push(`${plan.done} cells done`);
  if (plan.done < plan.cells)
    parts.push(
      `${formatCount(plan.parameterCount)} parameters`,
      `to do: ${formatCount(plan.imagesLeft)} images to train on, ${formatCount(plan.samplesLeft)} to draw, about ${formatDuration(plan.secondsLeft)} as measured now, besides metrics and probes`,
      `${formatBytes(plan.bytes)} of models, updates and shared images sent at most by all federations`,
    );
  return `Experiment ${plan.name} in ${plan.dir}: ${parts.join('; ')}.`;
}
