/** Adam as it is usually set, without weight decay, flips, weighting by noise or a pull: what most tests train with. */
export const plainFit = {
  warmupSteps: 0,
  beta1: 0.9,
  beta2: 0.999,
  adamEps: 1e-8,
  weightDecay: 0,
  clip: 1,
  flip: false,
  minSnrGamma: 0,
  mu: 0,
};
