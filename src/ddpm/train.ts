/**
 * The local training loop: which images a step sees, and how many steps a native call makes. It knows one model and one list of images,
 * nothing of a federation.
 */
import type { Images, Session } from '../bindings/session.ts';
import type { Vector } from '../bindings/vector.ts';
import { PhoenixError } from '../errors.ts';
import { rng } from '../rng.ts';

/** How long one native call should last, in milliseconds: progress and aborts come about this often. */
const CALL_MS = 50;

/** How to train; plain data. */
export type LocalFit = {
  /** Passes over the images, an integer ≥ 1; each is ceil(examples/batch) full batches. Exactly one of `epochs` and `localImages` is set. */
  epochs?: number;
  /** Images drawn, an integer ≥ 1, rounded up to full batches. */
  localImages?: number;
  /** Images a step, an integer ≥ 1; may be more than there are images. */
  batch: number;
  /** Learning rate after warm-up. */
  lr: number;
  /** Steps of linear warm-up, counted from `globalStep` 0; 0 = none. */
  warmupSteps: number;
  /** Decay of Adam's first and second moments, in [0,1). */
  beta1: number;
  beta2: number;
  /** Adam's eps (not privacy, not predicted noise). */
  adamEps: number;
  /** Decoupled weight decay (AdamW, Loshchilov & Hutter 2019); 0 = off. */
  weightDecay: number;
  /** Largest gradient norm; 0 = off. */
  clip: number;
  /** Whether images are mirrored at random. */
  flip: boolean;
  /** Min-SNR-γ loss weighting (Hang et al. 2023); 0 = off. */
  minSnrGamma: number;
  /** FedProx μ (Li et al. 2020): μ/2·|p - anchor|² is added to the loss; 0 = off. */
  mu: number;
  /** Optimizer steps that the model has behind it: drives warm-up and EMA. */
  globalStep: number;
  /** Largest decay of the per-step EMA in `session.ema`; 0 = none is kept. @default 0 */
  emaDecay?: number;
};

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
  fit: LocalFit;
  /** The stream of everything random: order of the images, flips, t, noise, dropout. */
  key: bigint;
  /** Step of the stream to begin at: n steps and then m steps from `firstStep: n` are n + m steps. @default 0 */
  firstStep?: number;
  /** Steps since the moments were zero. @default 0 */
  adamStep?: number;
  /** What FedProx pulls towards; needed if `fit.mu` > 0. */
  anchor?: Vector;
  onStep?(progress: StepProgress): void;
  signal?: AbortSignal;
};

export type Trained = {
  steps: number;
  /** steps · batch */
  images: number;
  /** Mean over the steps. */
  loss: number;
  /** One a step. */
  losses: Float64Array;
  /** Steps since the moments were zero, for the next call. */
  adamStep: number;
};

/**
 * Optimizer steps of `fit` over `examples` images: epochs·ceil(examples/batch), or ceil(localImages/batch).
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT unless exactly one of `epochs` and `localImages` is set and all are integers ≥ 1
 */
export function plannedSteps(examples: number, fit: Pick<LocalFit, 'epochs' | 'localImages' | 'batch'>): number {
  const { epochs, localImages, batch } = fit;
  if ((epochs === undefined) === (localImages === undefined)) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `Set exactly one of epochs and localImages, not ${epochs === undefined ? 'none' : 'both'}.`,
    );
  }
  for (const [name, value] of Object.entries({ examples, batch, ...(epochs === undefined ? { localImages } : { epochs }) })) {
    if (!Number.isSafeInteger(value) || value! < 1) {
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${name} must be an integer of at least 1, not ${value}.`);
    }
  }
  return epochs === undefined ? Math.ceil(localImages! / batch) : epochs * Math.ceil(examples / batch);
}

/**
 * Trains `session.params` in place. An epoch is ceil(n/B) full batches that wrap around a permutation of the images, a fresh one each
 * epoch; with `localImages` the batches run on over one permutation after the other. Steps are grouped into native calls of about 50 ms;
 * the result does not depend on the grouping.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a fit, indices or anchor out of range, and what `session.train` throws, ERR_PHOENIX_NOT_FINITE
 * among it; an abort rejects with `signal.reason`. `session.params` is then somewhere on the way.
 */
export async function trainLocal(options: TrainLocalOptions): Promise<Trained> {
  const { session, images, indices, classes, fit, key, firstStep = 0, adamStep = 0, anchor, onStep, signal } = options;
  const steps = plannedSteps(indices.length, fit);
  const outside = indices.find((index) => index < 0 || index >= images.count);
  if (outside !== undefined) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `Image ${outside} was to be trained on, but there are only images 0..${images.count - 1}.`,
    );
  }
  if (fit.mu > 0 && !anchor)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'A fit with mu > 0 needs an anchor: the parameters that training starts from.');

  const imageAt = drawingOrder(indices, fit, key);
  const pieces: Float64Array[] = [];
  const started = performance.now();
  let done = 0;
  let stepsPerCall = 1;
  while (done < steps) {
    signal?.throwIfAborted();
    const count = Math.min(stepsPerCall, steps - done);
    const first = firstStep + done;
    const callStarted = performance.now();
    const { losses } = await session.train(
      images,
      {
        indices: Int32Array.from({ length: count * fit.batch }, (_, i) => imageAt(first + Math.floor(i / fit.batch), i % fit.batch)),
        classes,
        steps: count,
        batch: fit.batch,
        flip: fit.flip,
        minSnrGamma: fit.minSnrGamma,
        key,
        firstStep: first,
        lr: fit.lr,
        warmup: fit.warmupSteps,
        beta1: fit.beta1,
        beta2: fit.beta2,
        eps: fit.adamEps,
        weightDecay: fit.weightDecay,
        clip: fit.clip,
        emaDecay: fit.emaDecay ?? 0,
        globalStep: fit.globalStep + done,
        adamStep: adamStep + done,
        mu: fit.mu,
        anchor: fit.mu > 0 ? anchor : undefined,
      },
      signal,
    );
    pieces.push(losses);
    done += count;
    const now = performance.now();
    stepsPerCall = Math.max(1, Math.min(2 * count, Math.floor((CALL_MS * count) / (now - callStarted))));
    onStep?.({ step: done, steps, loss: mean(losses), imagesPerSecond: (1000 * done * fit.batch) / (now - started) });
  }

  const losses = new Float64Array(steps);
  let at = 0;
  for (const piece of pieces) {
    losses.set(piece, at);
    at += piece.length;
  }
  return { steps, images: steps * fit.batch, loss: mean(losses), losses, adamStep: adamStep + steps };
}

/**
 * The image at position `slot` of the batch of `step`, a function of the key alone; asked for in rising order. Each pass shuffles the images
 * by Fisher and Yates, as far as they are asked for: a large data set costs no pause.
 */
function drawingOrder(indices: Int32Array, fit: LocalFit, key: bigint): (step: number, slot: number) => number {
  const count = indices.length;
  const slotsPerPass = fit.epochs === undefined ? count : Math.ceil(count / fit.batch) * fit.batch;
  let pass = -1;
  let stream = rng(key);
  let order = indices;
  let shuffled = 0;
  return (step, slot) => {
    const drawn = step * fit.batch + slot;
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
