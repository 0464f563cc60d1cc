/** What holds for every strategy: checked on each round's weights, and as a whole by `checkStrategy` in tests. */

import { isDeepStrictEqual } from 'node:util';
import { checkArguments } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import { rng } from '../../rng.ts';
import type { Report } from '../protocol.ts';
import type { Profile } from '../state.ts';
import type { Strategy, Weights } from '../strategy.ts';

/** How far a sum of weights may be from 1, and weights of equal reports from each other. */
const TOLERANCE = 1e-9;

/**
 * One weight for each report, finite, ≥ 0, with the sum 1 to 1e-9.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT naming the strategy and what does not hold
 */
export function checkWeights(name: string, reports: Pick<Report, 'client'>[], weights: Weights): void {
  const refuse = (why: string): never => {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Strategy ${name}: ${why}.`);
  };
  const reported = new Set(reports.map((report) => report.client));
  const weighed = new Set(weights.map(({ client }) => client));
  if (weighed.size < weights.length) refuse('weights must name each client once');
  for (const { client, weight } of weights) {
    if (!reported.has(client)) refuse(`weights name ${client}, who did not report`);
    if (!(Number.isFinite(weight) && weight >= 0)) refuse(`weights must be finite and at least 0, not ${weight} for ${client}`);
  }
  const missing = reports.find((report) => !weighed.has(report.client));
  if (missing) refuse(`weights leave out ${missing.client}, who reported: give 0 to a client that does not count`);
  const sum = weights.reduce((total, { weight }) => total + weight, 0);
  if (Math.abs(sum - 1) > TOLERANCE) refuse(`weights must sum to 1, not ${sum}`);
}

/**
 * The contract of a strategy, over a few rounds of random reports: good weights (see checkWeights) that do not depend on the order of the
 * reports, equal weights for equal reports, reports left as they are, a state that is plain JSON. For tests, those of one's own strategies
 * too.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT naming what does not hold
 */
export function checkStrategy(strategy: Strategy): void {
  checkArguments('checkStrategy', { strategy }, { strategy: { name: 'text', init: 'function', weigh: 'function' } });
  const demand = (holds: boolean, what: string): void => {
    if (!holds) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Strategy ${strategy.name}: ${what}.`);
  };
  const weigh = (reports: Report[], state: unknown) => {
    const before = JSON.stringify(reports);
    const profiles = Object.fromEntries(reports.map(({ client, ...report }) => [client, profileOf(report)]));
    const answer = strategy.weigh(reports, state, profiles);
    demand(JSON.stringify(reports) === before, 'weigh must leave the reports as they are');
    checkWeights(strategy.name, reports, answer.weights);
    demand(isPlainJson(answer.state), 'its state must be plain JSON');
    return { ...answer, of: new Map(answer.weights.map(({ client, weight }) => [client, weight])) };
  };
  const close = (a: number | undefined, b: number | undefined) => Math.abs(a! - b!) <= TOLERANCE;

  const draw = rng(1, 'strategy contract');
  let state = strategy.init();
  demand(isPlainJson(state), 'its first state must be plain JSON; null if there is none');
  for (let round = 1; round <= 20; round++) {
    const reports = Array.from({ length: 1 + draw.int(12) }, (_, i) => randomReport(`client-${i}`, round, draw));
    const { of, state: next } = weigh(reports, structuredClone(state));
    const shuffled = weigh(
      Array.from(draw.permutation(reports.length), (i) => reports[i]!),
      structuredClone(state),
    );
    demand(
      reports.every(({ client }) => close(of.get(client), shuffled.of.get(client))),
      'weights must not depend on the order of the reports',
    );

    const equals = reports.map((report) => ({ ...reports[0]!, client: report.client }));
    const equal = weigh(equals, strategy.init());
    demand(
      equals.every(({ client }) => close(equal.of.get(client), 1 / equals.length)),
      'equal reports must give equal weights',
    );
    state = next;
  }
}

/** What a round makes of a report: see supplies.ts. */
function profileOf({ round, examples, quality, vendi, histogram }: Omit<Report, 'client'>): Profile {
  return { round, examples, quality, vendi, histogram };
}

function isPlainJson(state: unknown): boolean {
  const json = JSON.stringify(state);
  return json !== undefined && isDeepStrictEqual(JSON.parse(json), state);
}

function randomReport(client: string, round: number, draw: ReturnType<typeof rng>): Report {
  const steps = 1 + draw.int(50);
  const report: Report = {
    client,
    round,
    examples: 1 + draw.int(5000),
    images: 32 * steps,
    steps,
    loss: draw.gamma(1),
    evalImages: 0,
    deltaNorm: draw.gamma(2),
    seconds: draw.uniform(),
  };
  if (draw.int(4) === 0) return report;
  const histogram = Array.from({ length: 5 }, () => draw.int(20));
  return {
    ...report,
    quality: draw.uniform(),
    vendi: 1 + 10 * draw.uniform(),
    histogram,
    evalLoss: draw.gamma(1),
    evalLossLocal: draw.gamma(1),
    evalImages: 1 + draw.int(128),
  };
}
