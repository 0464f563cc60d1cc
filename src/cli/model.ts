/** phoenix finetune and sample: what is done with a trained model. */
import { finetune } from '../commands/finetune.ts';
import type { FinetuneOptions, SampleOptions } from '../commands/options/index.ts';
import { sample } from '../commands/sample.ts';
import { formatCount } from '../report/units.ts';
import { noting, reading, type Terminal, UsageError } from './terminal.ts';

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
  if (options.grid === undefined) throw new UsageError('sample needs a file for the images: --grid FILE.png');
  const label = `drawing ${options.n ?? 'the'} images`;
  const { pixels: _, ...drawn } = await sample(options, {
    signal,
    onMessage: noting(terminal),
    onProgress: (done) => progress.update({ done: Math.round(done * 1000), total: 1000, label }),
  });
  progress.stop();
  json({ event: 'done', ...drawn, classes: drawn.classes && [...drawn.classes] });
  text(drawn.grid!);
}
