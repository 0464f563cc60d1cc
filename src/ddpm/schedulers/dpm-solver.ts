import { scheduler, transitions } from './step.ts';

/**
 * DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2): second-order multistep, predicting the image. With
 * λ = ln(√ᾱ/√(1-ᾱ)), h = λ_s - λ_t and r = h_prev/h:
 * x_s = (σ_s/σ_t)·x - α_s·(e^(-h) - 1)·((1 + 1/(2r))·x̂0 - 1/(2r)·x̂0_prev).
 * The first step has no x̂0_prev and the last has h = ∞: both are of first order, and the last is x = x̂0. Deterministic.
 */
export const dpmSolver = scheduler('dpm-solver', ['spacing', 'offset'], (noise, steps, { spacing, offset }) => {
  const lambda = (alphaBar: number) => 0.5 * Math.log(alphaBar / (1 - alphaBar));
  const path = transitions(noise, steps, { spacing, offset, usual: 'trailing', linspaceToZero: false });
  return path.map(({ t, from, to }, i) => {
    const alpha = Math.sqrt(from);
    const sigma = Math.sqrt(1 - from);
    const before = path[i - 1];
    const h = lambda(to) - lambda(from);
    const weight = -Math.sqrt(to) * Math.expm1(-h);
    const share = before === undefined || to === 1 ? 0 : h / (2 * (lambda(from) - lambda(before.from)));
    return { t, alpha, sigma, cx: Math.sqrt(1 - to) / sigma, c0: weight * (1 + share), c1: -weight * share, cz: 0 };
  });
});
