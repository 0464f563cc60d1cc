/** What will leave a site in a run: said before it joins, for its administrator. */

import { MAX_POINTS } from '../fl/protocol.ts';
import { mostBytes } from '../fl/wire/codec.ts';
import { formatBytes, formatCount } from '../report/units.ts';
import { lineOf, type Policy } from './policy.ts';

/** What a run says of itself before a site joins it. */
export type RunFacts = {
  /** Parameters of the model, and how many of them stay at the site. */
  parameters: number;
  personal: number;
  /** How updates are compressed, as in a request: none, bf16, int8 or topk:SHARE. */
  compress: string;
  rounds: number;
  /** Sites in the smallest round that the coordinator closes. */
  cohort: number;
  /** What is asked after training, and in how many of the rounds. @default nothing */
  probe?: {
    statistic?: boolean;
    vendi?: boolean;
    histogram?: { bins: number };
    /** Asked for once, to make bins of: numbers per point. */
    points?: { features: number };
    times: number;
  };
};

/** One kind of thing that leaves: `bytes` each time, at most; `times` in the run; the line of site.json that decides. */
export type LeavingItem = { what: string; bytes: number; times: number; line: string; allowed: boolean };

export type Leaving = {
  items: LeavingItem[];
  /** Most bytes in a round, and in the run, of what is allowed. */
  perRound: number;
  inAll: number;
  /** What the site's rules will refuse, in words; empty if the run can go to its end. */
  refusals: string[];
};

/** Most bytes of the head of a report without histogram and points, and of a number in it with its comma. */
const REPORT_BYTES = 1000;
const NUMBER_BYTES = 25;

/**
 * What leaves the site in a run, if it is asked for all that the run says. Bytes are at most; heartbeats, up to 4 kB every five seconds,
 * come on top.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a compression that is none
 */
export function whatLeaves(policy: Policy, { parameters, personal, compress, rounds, cohort, probe }: RunFacts): Leaving {
  const allow = policy.allow;
  const item = (name: keyof Policy['allow'], what: string, bytes: number, times: number): LeavingItem => ({
    what,
    bytes,
    times,
    line: lineOf(policy, `allow.${name}`),
    allowed: allow[name],
  });
  const trained = Math.min(rounds, policy.rounds ?? rounds);
  const sent = parameters - personal;
  const items = [
    item('train', 'report: counts, losses, norm of the update, seconds', REPORT_BYTES, trained),
    item('upload', `update: ${formatCount(sent)} parameters, ${compress}`, mostBytes(compress, sent), trained),
  ];
  if (probe?.statistic) items.push(item('statistic', 'score of the model', NUMBER_BYTES, probe.times));
  if (probe?.vendi) items.push(item('vendi', 'variety of samples of the model', NUMBER_BYTES, probe.times));
  if (probe?.histogram)
    items.push(item('histogram', `histogram of ${probe.histogram.bins} bins`, NUMBER_BYTES * probe.histogram.bins, probe.times));
  if (probe?.points)
    items.push(
      item('points', `up to ${MAX_POINTS} centres of clusters of its images`, MAX_POINTS * NUMBER_BYTES * probe.points.features, 1),
    );
  const leaving = items.filter(({ allowed, times }) => allowed && times > 0);
  const perRound = leaving.reduce((sum, { bytes }) => sum + bytes, 0);
  const inAll = leaving.reduce((sum, { bytes, times }) => sum + bytes * times, 0);
  return { items, perRound, inAll, refusals: refusalsOf(policy, items, { rounds, cohort, inAll }) };
}

/** What the rules will refuse of such a run. */
function refusalsOf(policy: Policy, items: LeavingItem[], run: { rounds: number; cohort: number; inAll: number }): string[] {
  const refusals = items.filter(({ allowed }) => !allowed).map(({ what, line }) => `${what} (${line})`);
  if (run.cohort < policy.smallestCohort) refusals.push(`rounds of ${run.cohort} sites (${lineOf(policy, 'smallestCohort')})`);
  if (policy.rounds !== null && run.rounds > policy.rounds)
    refusals.push(`rounds after ${policy.rounds} of ${run.rounds} (${lineOf(policy, 'rounds')})`);
  if (policy.megabytesSent !== null && run.inAll > policy.megabytesSent * 1e6)
    refusals.push(
      `what exceeds ${formatBytes(policy.megabytesSent * 1e6)}, of ${formatBytes(run.inAll)} (${lineOf(policy, 'megabytesSent')})`,
    );
  return refusals;
}

const often = (times: number) => (times === 1 ? 'once' : `${formatCount(times)} times`);

/** The same as lines of text. */
export function leavingText({ items, perRound, inAll, refusals }: Leaving): string[] {
  return [
    ...items
      .filter(({ allowed }) => allowed)
      .map(({ what, bytes, times, line }) => `sent ${often(times)}: ${what}, at most ${formatBytes(bytes)} (${line})`),
    `in a round at most ${formatBytes(perRound)}, in the run at most ${formatBytes(inAll)}`,
    ...refusals.map((refusal) => `this site will refuse ${refusal}`),
  ];
}
