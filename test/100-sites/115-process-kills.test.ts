/**
 * A short form of scripts/site-kills.mjs: about 60 kills of a server, a coordinator and three sites that are processes, in drawn and in
 * named states; twice the server's store is deleted as well. The run ends with the bytes of one that nobody disturbs.
 */
import test from 'ava';
import { noServer } from '../support/nats.ts';
import { killedRun, STATES } from '../support/site-processes.ts';
import { SITES, undisturbedRun } from '../support/site-world.ts';

const real = noServer ? test.skip : test;
const ROUNDS = 20;
const KILLS = 60;

real('kills of processes in each of their states: the bytes of a run that nobody disturbs, and almost nothing trained twice', async (t) => {
  // A backstop for a federation that neither ends nor goes on: what is under way ends with this process.
  t.timeout(1_800_000);
  const plain = await undisturbedRun(ROUNDS);
  const seed = Number(process.env.PHOENIX_SEED ?? 1);
  const run = await killedRun({ rounds: ROUNDS, seed, kills: KILLS, least: 1 });
  t.log(`${run.kills} kills, ${run.trainings} trainings for ${ROUNDS} rounds of ${SITES.length} sites`, run.hits);
  const differing = plain.commits.find(({ sha256 }, i) => run.commits[i]?.sha256 !== sha256);
  t.is(differing, undefined, 'the first round that differs');
  t.deepEqual(
    run.bytes.map((bytes, i) => Buffer.compare(bytes, plain.bytes[i] ?? new Uint8Array())),
    plain.bytes.map(() => 0),
  );
  t.deepEqual(run.troubles, []);
  t.is(run.wipes, 2);
  for (const [role, states] of Object.entries(STATES)) t.true(states.filter((state) => run.hits[`${role}: ${state}`]).length > 1, role);
  t.true(run.kills >= KILLS / 2, `${run.kills} kills`);
  t.true(run.trainings - ROUNDS * SITES.length <= run.kills / 10, `${run.trainings} trainings`);
});
