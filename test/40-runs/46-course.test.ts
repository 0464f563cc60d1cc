/** How long a run is and when its learning rate falls: rounds or images, open runs, finish, and runs that are made longer. */
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type Course, nextPart, roundsPlanned } from '../../src/commands/course.ts';
import type { RunEvents } from '../../src/commands/events.ts';
import { federate } from '../../src/commands/federate.ts';
import { finish } from '../../src/commands/finish.ts';
import type { FederateOptions } from '../../src/commands/options/index.ts';
import { train } from '../../src/commands/train.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import { fakeConfig, fakeRun } from '../support/fake-run.ts';
import { near } from '../support/near.ts';

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-course-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Two clients with kept moments and a server momentum: everything that a commit can hold. */
const little = {
  data: 'synthetic:32',
  size: 8,
  clients: 2,
  training: { batch: 8 },
  optimizer: 'keep',
  serverStep: { kind: 'momentum' },
  samples: { count: 4, steps: 2, every: 0 },
  threads: 1,
} satisfies FederateOptions;

const contentOf = async (path: string) => (await readFile(path)).toString('base64');
/** Rates of the rounds of a run, 1 where it does not fall. */
const rates = (records: RoundRecord[]) => records.map(({ rate = 1 }) => rate);

test('the parts of a run: its rounds or images, where the rate begins to fall, and its end', (t) => {
  const at = (round: number, images = 100 * round) => ({ round, images, lastImages: 100, roundImages: 100 });
  const rounds: Course = { unit: 'rounds', total: 4, fall: 0.5 };
  t.deepEqual(nextPart(rounds, at(0)), { isFirstToFall: false });
  t.deepEqual(nextPart(rounds, at(1)), { isFirstToFall: false });
  t.deepEqual(nextPart(rounds, at(2)), { fall: { share: 0.5, from: 0.5, to: 0.75 }, isFirstToFall: true });
  t.deepEqual(nextPart(rounds, at(3)), { fall: { share: 0.5, from: 0.75, to: 1 }, isFirstToFall: false });
  t.is(nextPart(rounds, at(4)), undefined);
  t.deepEqual(nextPart({ ...rounds, fall: 0 }, at(3)), { isFirstToFall: false });
  // A fall that begins within a round.
  t.deepEqual(nextPart({ ...rounds, fall: 0.4 }, at(2)), { fall: { share: 0.4, from: 0.5, to: 0.75 }, isFirstToFall: true });
  t.deepEqual(nextPart({ ...rounds, fall: 1 }, at(0)), { fall: { share: 1, from: 0, to: 0.25 }, isFirstToFall: true });

  const images: Course = { unit: 'images', total: 400, fall: 0.5 };
  t.deepEqual(nextPart(images, at(2)), { fall: { share: 0.5, from: 0.5, to: 0.75 }, isFirstToFall: true });
  t.deepEqual(nextPart(images, at(9, 340)), { fall: { share: 0.5, from: 0.85, to: 1 }, isFirstToFall: false });
  t.is(nextPart(images, at(9, 351)), undefined, 'the nearest end is behind it');
  t.deepEqual(nextPart({ ...images, total: 1 }, at(0)), { fall: { share: 0.5, from: 0, to: 1 }, isFirstToFall: true }, 'never no round');
  t.is(roundsPlanned(images, at(2)), 4);

  const open: Course = { unit: 'rounds', total: undefined, fall: 0.5 };
  t.deepEqual(nextPart(open, at(1000)), { isFirstToFall: false });
  t.is(roundsPlanned(open, at(1000)), undefined);
  const ending = { from: 30, rounds: 40 };
  t.deepEqual(nextPart(open, { ...at(30), ending }), { fall: { share: 0.25, from: 0.75, to: 31 / 40 }, isFirstToFall: true });
  t.is(nextPart(open, { ...at(40), ending }), undefined);
});

test('a run that is made longer goes back to before its fall, and ends as if it had been as long from the start', async (t) => {
  const base = await temporary(t);
  const whole = await federate({ ...little, rounds: 6, out: join(base, 'whole') });
  near(t, rates(whole.records), [1, 1, 1, 0.75, 0.25, 0], 1e-12);
  const dir = join(base, 'longer');
  const short = await federate({ ...little, rounds: 4, keep: 1, out: dir });
  near(t, rates(short.records), [1, 1, 0.5, 0], 1e-12);
  const ended = await contentOf(short.checkpoint);
  const said: string[] = [];
  const onMessage: RunEvents['onMessage'] = ({ text }) => said.push(text);
  const longer = await federate({ ...little, rounds: 6, out: dir, resume: true }, { onMessage });
  t.true(
    said.some((text) => /goes back to round 2, before its learning rate fell.*ended-4\.safetensors/.test(text)),
    said.join('\n'),
  );
  t.deepEqual(
    longer.records.map(({ round }) => round),
    [3, 4, 5, 6],
  );
  t.is(await contentOf(longer.checkpoint), await contentOf(whole.checkpoint));
  t.is(await contentOf(join(dir, 'ended-4.safetensors')), ended);
  const lines = (await readFile(join(dir, 'log.jsonl'), 'utf8')).trim().split('\n').slice(1);
  t.deepEqual(
    lines.map((line) => JSON.parse(line).round),
    [1, 2, 3, 4, 5, 6],
  );
});

test('going back to before the fall survives a kill at any operation on the disk', async (t) => {
  const base = await temporary(t);
  const longer = { ...fakeConfig, options: { ...fakeConfig.options, rounds: 4 } };
  const ended = { rounds: 2, holdAt: 1, config: { ...fakeConfig, options: { ...fakeConfig.options, rounds: 2 } } };
  const again = { rounds: 4, config: longer, resume: true };
  await fakeRun(join(base, 'whole'), { rounds: 4, config: longer });
  const expected = await contentOf(join(base, 'whole', 'checkpoint-4.safetensors'));
  const points: string[] = [];
  await fakeRun(join(base, 'points'), ended);
  await fakeRun(join(base, 'points'), { ...again, fault: (point) => void points.push(point) });
  const stopped = new Error('stopped');
  for (const [i, point] of points.entries()) {
    const dir = join(base, `at-${i}`);
    await fakeRun(dir, ended);
    let seen = 0;
    const fault = () => {
      if (seen++ === i) throw stopped;
    };
    await t.throwsAsync(fakeRun(dir, { ...again, fault }), { is: stopped }, point);
    await fakeRun(dir, again);
    t.is(await contentOf(join(dir, 'checkpoint-4.safetensors')), expected, `stopped at ${point}`);
    const names = await readdir(dir);
    t.true(
      names.includes('ended-2.safetensors') && !names.includes('before-fall.json') && !names.some((name) => name.endsWith('.tmp')),
      point,
    );
  }
});

test('a run that is made longer before its fall goes on from where it is', async (t) => {
  const base = await temporary(t);
  const whole = await federate({ ...little, rounds: 6, out: join(base, 'whole') });
  const dir = join(base, 'run');
  const pause = new AbortController();
  const enough = new Error('enough');
  const onRound = ({ round }: RoundRecord) => round === 2 && pause.abort(enough);
  await t.throwsAsync(federate({ ...little, rounds: 4, out: dir }, { onRound, signal: pause.signal }), { is: enough });
  const rest = await federate({ ...little, rounds: 6, out: dir, resume: true });
  t.deepEqual(
    rest.records.map(({ round }) => round),
    [3, 4, 5, 6],
  );
  t.is(await contentOf(rest.checkpoint), await contentOf(whole.checkpoint));
  t.false((await readdir(dir)).some((name) => name.startsWith('ended-')));
});

test('an open run goes on until it is told to finish: then its rate falls, and it ends', async (t) => {
  const base = await temporary(t);
  const open = { ...little, rounds: 'open' as const };
  /** Tells the run to finish after round 2. */
  const told = (dir: string): RunEvents => ({
    onRound: async ({ round }) => {
      if (round === 2) t.deepEqual(await finish({ dir, over: 2 }), { dir, round: 2, over: 2 });
    },
  });
  const dir = join(base, 'run');
  const { records, rounds, checkpoint } = await federate({ ...open, out: dir }, told(dir));
  t.is(rounds, 4);
  near(t, rates(records), [1, 1, 0.5, 0], 1e-12);
  t.false(existsSync(join(dir, 'finish.json')));

  // Killed in the fall, and resumed: the same bytes, and the request is not followed twice.
  const other = join(base, 'stopped');
  const pause = new AbortController();
  const enough = new Error('enough');
  const { onRound } = told(other);
  await t.throwsAsync(
    federate(
      { ...open, out: other },
      {
        signal: pause.signal,
        onRound: async (record) => {
          await onRound!(record);
          if (record.round === 3) pause.abort(enough);
        },
      },
    ),
    { is: enough },
  );
  const refusal = await t.throwsAsync(finish({ dir: other }));
  t.regex(refusal!.message, /falls already, since round 2: the run ends after 4 rounds/);
  const rest = await federate({ ...open, out: other, resume: true });
  t.is(rest.rounds, 4);
  t.is(await contentOf(rest.checkpoint), await contentOf(checkpoint));

  // Resumed as it is it stays finished; with another length it goes on from before the fall.
  t.deepEqual((await federate({ ...open, out: other, resume: true })).records, []);
  const longer = await federate({ ...open, rounds: 5, out: other, resume: true });
  t.deepEqual(
    longer.records.map(({ round }) => round),
    [3, 4, 5],
  );
});

test('finish ends a run of a known length early, also when it does not run; and central training', async (t) => {
  const base = await temporary(t);
  const dir = join(base, 'run');
  const pause = new AbortController();
  const enough = new Error('enough');
  const options = { data: 'synthetic:32', size: 8, training: { batch: 8 }, samples: { count: 4, steps: 2 }, threads: 1 };
  const events: RunEvents = { signal: pause.signal, onRound: ({ round }) => void (round === 4 && pause.abort(enough)) };
  await t.throwsAsync(train({ ...options, epochs: 50, out: dir }, events), { is: enough });
  t.deepEqual(await finish({ dir }), { dir, round: 4, over: 1 });
  const rest = await train({ ...options, epochs: 50, out: dir, resume: true });
  t.is(rest.rounds, 5);
  near(t, rates(rest.records), [0], 1e-12);
  await t.throwsAsync(finish({ dir: base }), { code: 'ERR_PHOENIX_RUN' });
});

test('a federation of so many images ends with the round that comes nearest to them', async (t) => {
  const base = await temporary(t);
  const perRound = 2 * 16;
  const { rounds, records } = await federate({ ...little, images: 3 * perRound + 10, out: join(base, 'run') });
  t.is(rounds, 3);
  t.true(rates(records)[2]! < 0.2);
  const said: string[] = [];
  await federate({ ...little, rounds: 2, images: perRound, out: join(base, 'idle') }, { onMessage: ({ text }) => said.push(text) });
  t.true(
    said.some((text) => /Nothing in this run uses --rounds \(goes with a run without --images\)/.test(text)),
    said.join('\n'),
  );
});
