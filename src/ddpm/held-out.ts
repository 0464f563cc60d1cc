/** The loss on images that are held out: what a training is judged by as it goes on. */
import type { Images, Session } from '../bindings/session.ts';
import { atMost } from '../images.ts';

/** Most held-out images that a round is judged by. */
export const MAX_EVAL_IMAGES = 128;

export type EvaluationOptions = {
  session: Session;
  images: Images;
  /** Positions in `images`. */
  heldOut: Int32Array;
  /** Images that are used at most, evenly spaced. */
  most: number;
  classes?: Int32Array;
  /** Images of one pass. The noise that an image gets depends on its place in a batch: losses of unequal batches must not be compared. */
  batch: number;
  /** The stream of noise and diffusion times, the same at every call. */
  key: bigint;
};

export type Evaluation = {
  /** Images that are used. */
  count: number;
  /** The loss of the Session's parameters; undefined without images. An abort rejects with `signal.reason`. */
  loss(signal?: AbortSignal): Promise<number | undefined>;
};

/** Settles which held-out images a training is judged by. */
export function evaluation(options: EvaluationOptions): Evaluation {
  const { session, images, heldOut, most, classes, batch, key } = options;
  const indices = atMost(heldOut, most);
  return {
    count: indices.length,
    async loss(signal) {
      if (indices.length === 0) return undefined;
      return session.evalLoss(images, { indices, classes, batch, key, weights: session.params }, signal);
    },
  };
}
