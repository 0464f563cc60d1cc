/**
 * How the mean delta δ of a round moves the global parameters p:
 *   add        p ← p + lr·δ                                        FedAvg with lr 1 (McMahan et al. 2017)
 *   momentum   m ← beta1·m + δ;  p ← p + lr·m                      FedAvgM (Hsu et al. 2019, §3)
 *   adam       m ← beta1·m + (1-beta1)·δ;  v ← beta2·v + (1-beta2)·δ²;  p ← p + lr·m/(√v + tau)
 *   yogi       the same with v ← v - (1-beta2)·δ²·sign(v - δ²)     both Reddi et al. 2021, alg. 2
 * The moments are not bias-corrected; m starts at 0 and v at tau², the least that alg. 2 allows.
 */
import type { CreateVector, Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';

export type ServerStepKind = 'add' | 'momentum' | 'adam' | 'yogi';

export type ServerStep = {
  kind: ServerStepKind;
  /** Server learning rate, above 0. */
  lr: number;
  /** Decay of the first moment, in [0,1). Used by all but 'add'. */
  beta1: number;
  /** Decay of the second moment, in [0,1). Used by 'adam' and 'yogi'. */
  beta2: number;
  /** Adaptivity τ, above 0: the larger, the closer to momentum. Used by 'adam' and 'yogi'. */
  tau: number;
};

/** Sensible values for each kind; those of adam and yogi are of Reddi et al. 2021, §4 and appendix D. */
export const serverSteps: Record<ServerStepKind, ServerStep> = {
  add: { kind: 'add', lr: 1, beta1: 0, beta2: 0, tau: 1e-3 },
  momentum: { kind: 'momentum', lr: 1, beta1: 0.9, beta2: 0, tau: 1e-3 },
  adam: { kind: 'adam', lr: 0.01, beta1: 0.9, beta2: 0.99, tau: 1e-3 },
  yogi: { kind: 'yogi', lr: 0.01, beta1: 0.9, beta2: 0.99, tau: 1e-3 },
};

const momentCount: Record<ServerStepKind, number> = { add: 0, momentum: 1, adam: 2, yogi: 2 };

/** The moments that a server step starts with: none, [m], or [m, v]. */
export async function startMoments(step: ServerStep, length: number, createVector: CreateVector): Promise<Vector[]> {
  const moments = Array.from({ length: momentCount[step.kind] }, () => createVector(length));
  await moments[1]?.fill(step.tau ** 2);
  return moments;
}

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for a number out of range, or moments of another kind of step */
export function checkServerStep({ kind, lr, beta1, beta2, tau }: ServerStep, moments: Vector[]): void {
  const refuse = (why: string): never => {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', why);
  };
  if (!(kind in momentCount)) refuse(`A server step is one of ${Object.keys(momentCount).join(', ')}, not ${kind}.`);
  if (!(lr > 0 && lr < Infinity && tau > 0 && tau < Infinity)) refuse(`A server step needs lr and tau above 0, not ${lr} and ${tau}.`);
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1))
    refuse(`A server step needs beta1 and beta2 in [0,1), not ${beta1} and ${beta2}.`);
  if (moments.length !== momentCount[kind]) {
    refuse(
      `Server step ${kind} keeps ${momentCount[kind]} moments, but the state has ${moments.length}: continue with the kind that the run began with.`,
    );
  }
}

/** Moves `params` and `moments` in place by the mean `delta`. @throws PhoenixError as checkServerStep does; nothing has changed then */
export async function applyServerStep(step: ServerStep, params: Vector, delta: Vector, moments: Vector[]): Promise<void> {
  checkServerStep(step, moments);
  const { kind, lr, beta1, beta2, tau } = step;
  if (kind === 'add') await params.axpy(delta, lr);
  else await params.serverStep(kind, delta, moments[0]!, moments[1], { lr, beta1, beta2, tau });
}
