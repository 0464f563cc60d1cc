/**
 * How the mean delta δ of a round moves the global parameters p:
 *   add        p ← p + lr·δ                                        FedAvg with lr 1 (McMahan et al. 2017)
 *   momentum   m ← beta1·m + δ;  p ← p + lr·m                      FedAvgM (Hsu et al. 2019, §3)
 *   lookahead  the same, and clients begin at p + lr·beta1·m       FedACG (Kim et al. 2024), Nesterov's momentum over rounds
 *   adam       m ← beta1·m + (1-beta1)·δ;  v ← beta2·v + (1-beta2)·δ²;  p ← p + lr·m/(√v + tau)
 *   yogi       the same with v ← v - (1-beta2)·δ²·sign(v - δ²)     both Reddi et al. 2021, alg. 2
 * The moments are not bias-corrected; m starts at 0 and v at tau², the least that alg. 2 allows.
 * With lr 'fedexp', add, momentum and lookahead weigh δ with η = (1 - beta1)·extrapolation (FedExP, Jhunjhunwala et al. 2023), which is
 * more than 1 - beta1 only where the clients' updates disagree, so that their mean is short: p ← p + η·δ, or m ← beta1·m + η·δ and p ← p +
 * m.
 */
import { z } from 'zod';
import type { CreateVector, Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';

const decay = z.number().min(0).lt(1);

/** A server step with the limits of its numbers. */
export const serverStepSchema = z.strictObject({
  kind: z.enum(['add', 'momentum', 'lookahead', 'adam', 'yogi']),
  /** Server learning rate. 'fedexp' goes with add, momentum and lookahead. */
  lr: z.union([z.number().gt(0).max(1000), z.literal('fedexp')], 'expected a number above 0 and at most 1000, or fedexp'),
  /** Decay of the first moment. Used by all but 'add'. */
  beta1: decay,
  /** Decay of the second moment. Used by 'adam' and 'yogi'. */
  beta2: decay,
  /** Adaptivity τ: the larger, the closer to momentum. Used by 'adam' and 'yogi'. */
  tau: z.number().gt(0).max(1),
});
export type ServerStep = z.infer<typeof serverStepSchema>;
export type ServerStepKind = ServerStep['kind'];

/** Sensible values for each kind; those of adam and yogi are of Reddi et al. 2021, §4 and appendix D, lookahead's of Kim et al. 2024. */
export const serverSteps: Record<ServerStepKind, ServerStep> = {
  add: { kind: 'add', lr: 1, beta1: 0, beta2: 0, tau: 1e-3 },
  momentum: { kind: 'momentum', lr: 1, beta1: 0.9, beta2: 0, tau: 1e-3 },
  lookahead: { kind: 'lookahead', lr: 1, beta1: 0.85, beta2: 0, tau: 1e-3 },
  adam: { kind: 'adam', lr: 0.01, beta1: 0.9, beta2: 0.99, tau: 1e-3 },
  yogi: { kind: 'yogi', lr: 0.01, beta1: 0.9, beta2: 0.99, tau: 1e-3 },
};

const momentCount: Record<ServerStepKind, number> = { add: 0, momentum: 1, lookahead: 1, adam: 2, yogi: 2 };

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
  const { kind, lr } = step;
  if (lr === 'fedexp' && (kind === 'adam' || kind === 'yogi'))
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `The server step ${kind} takes a number for lr: fedexp goes with add, momentum and lookahead.`,
    );
  if (moments.length !== momentCount[kind]) {
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `Server step ${kind} keeps ${momentCount[kind]} moments, but the state has ${moments.length}: continue with the kind that the run began with.`,
    );
  }
}

/** Most that FedExP extrapolates: where updates have nothing in common, a short mean is noise too. */
const MAX_EXTRAPOLATION = 3;

/**
 * FedExP's factor on the mean δ = Σ w·δ_i: max(1, Σ w·‖δ_i‖² / (2·‖δ‖²)), at most 3 here, without the paper's ε. 1 where updates agree, 2.6
 * for ten updates of one length with a mean cosine of 0.1.
 * @param updates weight and norm of each
 */
export function extrapolation(updates: readonly { weight: number; norm: number }[], meanNorm: number): number {
  const squares = updates.reduce((sum, { weight, norm }) => sum + weight * norm * norm, 0);
  const factor = squares / (2 * meanNorm * meanNorm);
  return factor > 1 ? Math.min(MAX_EXTRAPOLATION, factor) : 1;
}

/** The server learning rate of a round: a number as it is. */
export function rateOfRound({ lr, beta1 }: ServerStep, updates: readonly { weight: number; norm: number }[], meanNorm: number): number {
  return lr === 'fedexp' ? (1 - beta1) * extrapolation(updates, meanNorm) : lr;
}

/**
 * Where clients begin a round: with lookahead ahead of `params`, in a vector that is the caller's to dispose; undefined: at `params`.
 */
export async function startingPoint(
  { kind, lr, beta1 }: ServerStep,
  params: Vector,
  moments: Vector[],
  createVector: CreateVector,
): Promise<Vector | undefined> {
  if (kind !== 'lookahead') return undefined;
  const start = createVector(params.length);
  await start.copy(params, 0, params.length);
  await start.axpy(moments[0]!, beta1 * (lr === 'fedexp' ? 1 : lr));
  return start;
}

/**
 * Moves `params` and `moments` in place by the mean `delta`, which may be changed too. `rate`: as rateOfRound gives it.
 * @throws PhoenixError as checkServerStep does; nothing has changed then
 */
export async function applyServerStep(step: ServerStep, rate: number, params: Vector, delta: Vector, moments: Vector[]): Promise<void> {
  checkServerStep(step, moments);
  const { kind, lr, beta1, beta2, tau } = step;
  const [m, v] = moments;
  if (kind === 'add') await params.axpy(delta, rate);
  else if (kind === 'adam' || kind === 'yogi') await params.serverStep(kind, delta, m!, v, { lr: rate, beta1, beta2, tau });
  else {
    // A rate that changes from round to round belongs to its round's update, so then it is a part of m.
    if (lr === 'fedexp') await delta.scale(rate);
    await params.serverStep('momentum', delta, m!, undefined, { lr: lr === 'fedexp' ? 1 : lr, beta1, beta2, tau });
  }
}
