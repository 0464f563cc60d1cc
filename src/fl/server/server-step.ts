/**
 * How the mean delta δ of a round moves the global parameters p:
 *   add        p ← p + lr·δ                                        FedAvg with lr 1 (McMahan et al. 2017)
 *   momentum   m ← beta1·m + δ;  p ← p + lr·m                      FedAvgM (Hsu et al. 2019, §3)
 *   adam       m ← beta1·m + (1-beta1)·δ;  v ← beta2·v + (1-beta2)·δ²;  p ← p + lr·m/(√v + tau)
 *   yogi       the same with v ← v - (1-beta2)·δ²·sign(v - δ²)     both Reddi et al. 2021, alg. 2
 * The moments are not bias-corrected; m starts at 0 and v at tau², the least that alg. 2 allows.
 */
import { z } from 'zod';
import type { CreateVector, Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';

const decay = z.number().min(0).lt(1);

/** A server step with the limits of its numbers. */
export const serverStepSchema = z.strictObject({
  kind: z.enum(['add', 'momentum', 'adam', 'yogi']),
  /** Server learning rate. */
  lr: z.number().gt(0).max(1000),
  /** Decay of the first moment. Used by all but 'add'. */
  beta1: decay,
  /** Decay of the second moment. Used by 'adam' and 'yogi'. */
  beta2: decay,
  /** Adaptivity τ: the larger, the closer to momentum. Used by 'adam' and 'yogi'. */
  tau: z.number().gt(0).max(1),
});
export type ServerStep = z.infer<typeof serverStepSchema>;
export type ServerStepKind = ServerStep['kind'];

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
export function checkServerStep(step: ServerStep, moments: Vector[]): void {
  const issue = serverStepSchema.safeParse(step).error?.issues[0];
  if (issue) {
    const name = issue.path.join('.') as keyof ServerStep;
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The server step has ${name} ${step[name]}. ${issue.message}.`);
  }
  const { kind } = step;
  if (moments.length !== momentCount[kind]) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
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
