/**
 * What each member of a composition does to a run that can be seen from outside: chapter 39 asserts it in every pair, against the run of
 * the same settings without the member. A member without an entry here fails the test.
 */
import type { ExecutionContext } from 'ava';
import type { NativeTrain } from '../../src/bindings/native.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';

/** A run as its effects are read from: five rounds of four clients. */
export type Outcome = {
  records: RoundRecord[];
  /** Parameters of the global model, before the first round and after the last; the last of them is `head`. */
  before: number[];
  after: number[];
  /** Moments that the server keeps. */
  moments: number;
  /** Keys of the Store after the last round. */
  keys: string[];
  /** Every training call. */
  calls: NativeTrain[];
  strategy: string;
  /** Whether the strategy, or its filter, asks for histograms. */
  asksHistograms: boolean;
};

type Effect = (t: ExecutionContext, run: Outcome, without: Outcome) => void;

const reports = ({ records }: Outcome) => records.flatMap(({ clients }) => clients);
const weightsOf = ({ records }: Outcome) => records.map(({ clients }) => clients.map(({ client, weight }) => [client, weight]));
const failuresOf = ({ records }: Outcome) => records.flatMap(({ failures }) => failures);
/** Whether some client's state holds an entry of that name; see fl/site/state.ts. */
const keeps = ({ keys }: Outcome, what: string) => keys.some((key) => new RegExp(`/${what}-\\d+$`).test(key));
const histogramsOf = (run: Outcome) => reports(run).flatMap(({ histogram }) => (histogram ? [histogram] : []));
/** Mean bytes of a message, which do not depend on how many clients a filter leaves. */
const perClient = (run: Outcome, which: 'bytesUp' | 'bytesDown') => {
  const sum = run.records.reduce((total, record) => total + record[which], 0);
  return sum / reports(run).length;
};

const anotherModel: Effect = (t, run, without) => t.notDeepEqual(run.after, without.after, 'the model is another one');

const otherWeights: Effect = (t, run, without) => {
  t.notDeepEqual(weightsOf(run), weightsOf(without), 'clients weigh otherwise than without the strategy');
  anotherModel(t, run, without);
};

const decides: Effect = (t, run, without) => {
  t.true(
    reports(run).some(({ quality }) => quality !== undefined),
    'clients were asked for their quality',
  );
  t.true(
    run.records.some(({ decisions }) => (decisions ?? []).length > 0),
    'there is a decision',
  );
  t.true(
    without.records.every(({ decisions }) => decisions === undefined),
    'there are none without the filter',
  );
};

/** `from`: the first round in which there is a set to share. */
const sharedOf = (run: Outcome) => reports(run).map(({ shared }) => shared);
const shares =
  (from: number): Effect =>
  (t, run, without) => {
    for (const { round, clients } of run.records)
      t.true(
        clients.every(({ shared }) => (round < from ? shared === undefined : shared! > 0)),
        `shared images of round ${round} are counted`,
      );
    t.notDeepEqual(sharedOf(run), sharedOf(without));
    anotherModel(t, run, without);
  };

const fewerBytes =
  (which: 'bytesUp' | 'bytesDown', least: number): Effect =>
  (t, run, without) => {
    const saved = perClient(without, which) - perClient(run, which);
    t.true(saved >= least, `a client's ${which} fall by ${least} at least, fell by ${saved}`);
  };

const otherHistograms: Effect = (t, run, without) => {
  t.is(histogramsOf(run).length > 0, run.asksHistograms, 'histograms come if they are asked for, and only then');
  if (run.asksHistograms) t.notDeepEqual(histogramsOf(run), histogramsOf(without), 'histograms are others');
};

const serverStep =
  (count: number): Effect =>
  (t, run, without) => {
    t.deepEqual([run.moments, without.moments], [count, 0], 'the server keeps its moments');
    anotherModel(t, run, without);
  };

export const effects: Record<string, Effect> = {
  'strategy diversity': otherWeights,
  'strategy pooled': otherWeights,
  'strategy to a reference': otherWeights,
  'strategy vendi': otherWeights,
  'strategy median': anotherModel,
  'strategy trimmed-mean': anotherModel,
  'strategy krum': otherWeights,
  'strategy multi-krum': otherWeights,
  'strategy geometric-median': otherWeights,
  'filter quarantine': decides,
  'filter disconnect': decides,
  'filter by loss': decides,
  'filter by precision': decides,
  'filter by the shared set': decides,
  'sharing real': shares(1),
  'sharing synthetic': shares(3),
  'personal personal'(t, run, without) {
    t.is(run.after.at(-1), run.before.at(-1), 'the global head stays as it was: no client sent one');
    t.not(without.after.at(-1), without.before.at(-1));
    t.true(keeps(run, 'personal'), 'clients keep their own');
    t.false(keeps(without, 'personal'));
  },
  'work drift'(t, run, without) {
    const changes = run.records.some(({ work }) => work !== 1);
    const measured = run.records.some(({ coherence }) => coherence !== undefined);
    // Krum takes one update, which has nobody to agree with.
    t.deepEqual([changes, measured], run.strategy === 'krum' ? [false, false] : [true, true], 'local work changes by the coherence');
    t.true(without.records.every(({ work }) => work === 1));
  },
  'updates int8': fewerBytes('bytesUp', 5),
  'updates bf16': fewerBytes('bytesUp', 5),
  'updates top-k': fewerBytes('bytesUp', 1),
  'tasks tasks in bf16': fewerBytes('bytesDown', 5),
  'probes of samples': otherHistograms,
  'probes noised': otherHistograms,
  'server momentum': serverStep(1),
  'server yogi': serverStep(2),
  'client kept moments'(t, run, without) {
    t.true(keeps(run, 'adam-m'), 'clients keep their moments');
    t.false(keeps(without, 'adam-m'));
    t.true(
      run.calls.some(({ adamStep, firstStep }) => adamStep > firstStep),
      'a later round goes on with the steps of an earlier one',
    );
  },
  'client passes and FedProx'(t, run) {
    t.true(
      run.calls.every(({ hyper, anchor }) => hyper.mu === 0.5 && anchor !== undefined),
      'every step is pulled towards the global model',
    );
    t.notDeepEqual(new Set(reports(run).map(({ steps }) => steps)).size, 1, 'clients make passes over sets of different sizes');
  },
  'round fraction'(t, run, without) {
    for (const { round, clients, failures } of run.records)
      t.is(
        clients.length + failures.filter(({ stage }) => stage === 'train').length,
        Math.min(2, clients.length + failures.length),
        `round ${round}`,
      );
    t.true(reports(run).length < reports(without).length);
  },
  'round lost clients'(t, run, without) {
    t.true(failuresOf(run).length > 0, 'a client was lost');
    t.true(failuresOf(run).every(({ client, round }) => (client === 'b' && round === 1) || (client === 'c' && round === 3)));
    t.is(failuresOf(without).length, 0);
  },
  'round a norm bound'(t, run, without) {
    t.true(
      failuresOf(run).some(({ reason }) => /norm/.test(reason)),
      'an update above the bound was refused',
    );
    t.is(failuresOf(without).length, 0);
    for (const { clients, failures } of run.records)
      for (const { client } of failures) t.is(clients.find((report) => report.client === client)!.weight, 0, 'and was not used');
  },
};
