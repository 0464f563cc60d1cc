/** phoenix finetune and sample: what is done with a trained model. */
import { finetune } from '../commands/finetune.ts';
import type { FinetuneOptions, SampleOptions } from '../commands/options/index.ts';
import { type SampleEvents, sample } from '../commands/sample.ts';
import { type SampledFiles, sampleFiles } from '../commands/sample-files.ts';
import { formatCount } from '../report/units.ts';
import { noting, reading, Stopped, type Terminal, UsageError, warn } from './terminal.ts';

export async function runFinetune(options: FinetuneOptions, terminal: Terminal): Promise<void> {
  const { progress, signal, json, text } = terminal;
  const done = await finetune(options, {
    signal,
    onRead: reading(progress),
    onMessage: noting(terminal),
    onStep: ({ step, steps, loss, imagesPerSecond }) =>
      progress.update({ done: step, total: steps, label: 'training', loss, imagesPerSecond }),
  });
  progress.stop();
  json({ event: 'done', ...done });
  const { trained, parameterCount, examples, steps, evalLoss, evalLossAfter } = done;
  text(`${formatCount(trained)} of ${formatCount(parameterCount)} parameters trained on ${formatCount(examples)} images, ${steps} steps`);
  if (evalLoss !== undefined) text(`held-out loss ${evalLoss.toPrecision(3)} before, ${evalLossAfter!.toPrecision(3)} after`);
  text(`model    ${done.checkpoint}`);
}

export async function runSample(options: SampleOptions, terminal: Terminal): Promise<void> {
  const { progress, signal, json, text } = terminal;
  if (options.grid === undefined && options.out === undefined)
    throw new UsageError('sample needs a place for the images: --out DIR for a file each, or --grid FILE.png for one picture.');
  const label = `drawing ${options.n ?? 'the'} images`;
  const total = Number(options.n ?? 1000);
  const events: SampleEvents = {
    signal,
    onMessage: noting(terminal),
    onProgress: (done) => progress.update({ done: done * total, total, label }),
  };
  if (options.out !== undefined) return runSampleFiles(options, events, terminal);
  const { pixels: _, ...drawn } = await sample(options, events);
  progress.stop();
  json({ event: 'done', ...drawn, classes: drawn.classes && [...drawn.classes] });
  text(drawn.grid!);
}

async function runSampleFiles(options: SampleOptions, events: SampleEvents, { progress, json, text }: Terminal): Promise<void> {
  let done: SampledFiles;
  try {
    done = await sampleFiles(options, events);
  } catch (error) {
    progress.stop();
    if (error instanceof Stopped) warn(`Stopped. The same command goes on in ${options.out}.`);
    throw error;
  }
  progress.stop();
  json({ event: 'done', ...done });
  text(`${formatCount(done.drawn)} images drawn, ${formatCount(done.count - done.drawn)} were there`);
  text(`images   ${done.out}`);
  text(`index    ${done.index}`);
}
