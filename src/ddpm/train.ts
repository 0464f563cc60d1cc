/**
 * The local training loop: which images a step sees, and how many steps a native call makes. It knows one model and one list of images,
 * nothing of a federation.
 */

import type { Images, Session } from '../bindings/session.ts';
import type { Vector } from '../bindings/vector.ts';
import { withCallbacks } from '../callbacks.ts';
import { PhoenixError } from '../errors.ts';
import { rng } from '../rng.ts';
import { checkHyper, type Fall, fallSchema, type Hyper, type Length, type Position, plannedSteps, rateAt } from './fit.ts';

/** How long one native call should last, in milliseconds: progress and aborts come about this often. */
const CALL_MS = 50;
/** A falling rate goes down in so many equal stairs over a training, or in one a step where there are fewer steps. */
const STAIRS = 64;

/** Where a loop stands after a native call. */
export type StepProgress = {
  /** Steps done, of `steps`. */
  step: number;
  steps: number;
  /** Mean loss of the call's steps. */
  loss: number;
  /** Over the loop so far. */
  imagesPerSecond: number;
};

export type TrainLocalOptions = {
  /** Trains `session.params` with the moments in `session.adamM` and `session.adamV`. */
  session: Session;
  images: Images;
  /** Positions of the images to train on, each in 0..images.count-1. */
  indices: Int32Array;
  /** Class of every image of `images`, for a class-conditional model. */
  classes?: Int32Array;
  hyper: Hyper;
  length: Length;
  position: Position;
  /** How the learning rate falls. @default it does not */
  fall?: Fall;
  /** The stream of everything random: order of the images, flips, t, noise, dropout. */
  key: bigint;
  /** What FedProx pulls towards; needed if `hyper.mu` > 0. */
  anchor?: Vector;
  /** What it throws or rejects with stops the training. */
  onStep?(progress: StepProgress): void;
  signal?: AbortSignal;
};

export type Trained = {
  steps: number;
  /** steps · batch */
  images: number;
  /** Mean over the steps. */
  loss: number;
  /** One per step. */
  losses: Float64Array;
  /** Steps since the moments were zero, for the next call. */
  adamStep: number;
};

/**
 * Trains `session.params` in place. An epoch is ceil(n/B) full batches that wrap around a permutation of the images, a fresh one each
 * epoch; with `localImages` the batches run on over one permutation after the other. Steps are grouped into native calls of about 50 ms;
 * the result does not depend on the grouping.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for hyper-parameters, a length, a fall, indices or an anchor out of range, and what
 * `session.train` throws, ERR_PHOENIX_NOT_FINITE among it; an abort rejects with `signal.reason`. `session.params` is then somewhere on the
 * way.
 */
export function trainLocal(options: TrainLocalOptions): Promise<Trained> {
  return withCallbacks('trainLocal', options, train);
}

async function train(options: TrainLocalOptions): Promise<Trained> {
  const { session, images, indices, classes, hyper, length, position, fall, key, anchor, onStep, signal } = options;
  checkHyper(hyper);
  const { batch } = hyper;
  const steps = plannedSteps(indices.length, batch, length);
  const outside = indices.find((index) => index < 0 || index >= images.count);
  if (outside !== undefined) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `Image ${outside} was to be trained on, but there are only images 0..${images.count - 1}.`,
    );
  }
  if (hyper.mu > 0 && !anchor)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'A training with mu > 0 needs an anchor: the parameters that it starts from.');

  const { lrAt, stairEnd } = falling(hyper.lr, steps, fall);
  const imageAt = drawingOrder(indices, batch, length, key);
  const pieces: Float64Array[] = [];
  const started = performance.now();
  let done = 0;
  let stepsPerCall = 1;
  while (done < steps) {
    signal?.throwIfAborted();
    const count = Math.min(stepsPerCall, stairEnd(done) - done);
    const firstStep = position.firstStep + done;
    const callStarted = performance.now();
    const { losses } = await session.train(
      images,
      {
        indices: Int32Array.from({ length: count * batch }, (_, i) => imageAt(firstStep + Math.floor(i / batch), i % batch)),
        classes,
        steps: count,
        hyper: { ...hyper, lr: lrAt(done) },
        key,
        firstStep,
        globalStep: position.globalStep + done,
        adamStep: position.adamStep + done,
        anchor: hyper.mu > 0 ? anchor : undefined,
      },
      signal,
    );
    pieces.push(losses);
    done += count;
    const now = performance.now();
    stepsPerCall = Math.max(1, Math.min(2 * count, Math.floor((CALL_MS * count) / (now - callStarted))));
    onStep?.({ step: done, steps, loss: mean(losses), imagesPerSecond: (1000 * done * batch) / (now - started) });
  }

  const losses = new Float64Array(steps);
  let at = 0;
  for (const piece of pieces) {
    losses.set(piece, at);
    at += piece.length;
  }
  return { steps, images: steps * batch, loss: mean(losses), losses, adamStep: position.adamStep + steps };
}

/**
 * The learning rate of each step, and the first step after it that has another. The rate of a stair is that of its middle.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT
 */
function falling(lr: number, steps: number, fall: Fall | undefined) {
  if (!fall) return { lrAt: () => lr, stairEnd: () => steps };
  const issue = fallSchema.safeParse(fall).error?.issues[0];
  if (issue) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The fall of the learning rate is ${JSON.stringify(fall)}: ${issue.message}.`);
  const stairs = Math.min(STAIRS, steps);
  const stairOf = (step: number) => Math.floor((step * stairs) / steps);
  const rateOf = (stair: number) => rateAt(fall.from + ((stair + 0.5) / stairs) * (fall.to - fall.from), fall.share);
  return {
    lrAt: (step: number) => lr * rateOf(stairOf(step)),
    stairEnd(step: number): number {
      let stair = stairOf(step);
      const rate = rateOf(stair);
      while (stair < stairs && rateOf(stair) === rate) stair++;
      return Math.ceil((stair * steps) / stairs);
    },
  };
}

/**
 * The image at position `slot` of the batch of `step`, a function of the key alone; asked for in rising order. Each pass shuffles the
 * images by Fisher and Yates, as far as they are asked for: a large data set costs no pause.
 */
function drawingOrder(indices: Int32Array, batch: number, length: Length, key: bigint): (step: number, slot: number) => number {
  const count = indices.length;
  const slotsPerPass = 'epochs' in length ? Math.ceil(count / batch) * batch : count;
  let pass = -1;
  let stream = rng(key);
  let order = indices;
  let shuffled = 0;
  return (step, slot) => {
    const drawn = step * batch + slot;
    if (Math.floor(drawn / slotsPerPass) !== pass) {
      pass = Math.floor(drawn / slotsPerPass);
      stream = rng(key, 'pass', pass);
      order = indices.slice();
      shuffled = 0;
    }
    const position = (drawn % slotsPerPass) % count;
    for (; shuffled <= position; shuffled++) {
      const other = shuffled + stream.int(count - shuffled);
      const image = order[other]!;
      order[other] = order[shuffled]!;
      order[shuffled] = image;
    }
    return order[position]!;
  };
}

const mean = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0) / values.length;
