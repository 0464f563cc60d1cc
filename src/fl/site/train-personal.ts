/** Training of the personal layers alone. */
import { type Fall, plannedSteps } from '../../ddpm/fit.ts';
import { type TrainLocalOptions, trainLocal } from '../../ddpm/train.ts';
import type { ParameterSplit } from './personal.ts';

/**
 * trainLocal, in which only the personal parameters move: after each step the others are set back to what they were (their gradients still
 * count in clipping). Without a split everything moves.
 * @returns the number of steps, and their mean loss
 * @throws PhoenixError as trainLocal
 */
export async function trainPersonal(
  options: TrainLocalOptions,
  split: ParameterSplit | undefined,
): Promise<{ steps: number; loss: number }> {
  if (!split) return trainLocal(options);
  const { session, indices, hyper, length, position, fall, onStep } = options;
  const { batch } = hyper;
  const steps = plannedSteps(indices.length, batch, length);
  const frozen = session.createVector(split.sharedCount);
  const started = performance.now();
  let sum = 0;
  try {
    await frozen.gather(session.params, split.shared);
    for (let step = 0; step < steps; step++) {
      const { loss } = await trainLocal({
        ...options,
        length: { localImages: batch },
        position: { globalStep: position.globalStep + step, adamStep: position.adamStep + step, firstStep: position.firstStep + step },
        fall: fall && partOf(fall, step, steps),
        onStep: undefined,
      });
      sum += loss;
      await session.params.scatter(frozen, split.shared);
      const imagesPerSecond = (1000 * (step + 1) * batch) / (performance.now() - started);
      onStep?.({ step: step + 1, steps, loss, imagesPerSecond });
    }
  } finally {
    frozen.dispose();
  }
  return { steps, loss: sum / steps };
}

/** The part of a fall that one step of many covers. */
function partOf({ share, from, to }: Fall, step: number, steps: number): Fall {
  const at = (done: number) => from + (done / steps) * (to - from);
  return { share, from: at(step), to: at(step + 1) };
}
