/** Server, coordinator and sites as processes that are killed, over the real wire: the bytes of one process that nobody disturbs. */
import test from 'ava';
import { noServer } from '../support/nats.ts';
import { killedRun, STATES } from '../support/site-processes.ts';
import { SITES, undisturbedBytes } from '../support/site-world.ts';

/** Enough to hit every state of every role; scripts/site-kills.mjs does 200. */
const ROUNDS = 8;
const KILLS = 26;

(noServer ? test.skip : test)('a kill in every state of every role, and a server whose store is deleted twice: equal bytes', async (t) => {
  t.timeout(900_000);
  const run = await killedRun({ rounds: ROUNDS, seed: 1, kills: KILLS, least: 1 });
  t.deepEqual(run.bytes, await undisturbedBytes(ROUNDS));
  t.deepEqual(run.troubles, []);
  const superfluous = run.trainings - ROUNDS * SITES.length;
  t.log(`${run.kills} kills, ${run.wipes} deleted stores, ${superfluous} trainings done again`, run.hits);
  t.is(run.kills, KILLS);
  t.is(run.wipes, 2);
  // A training that ends just before its process is killed, and before it is committed, is done again.
  t.true(superfluous >= 0 && superfluous <= 3, `${superfluous} trainings done again`);
  for (const [role, states] of Object.entries(STATES))
    for (const state of states) t.true(`${role}: ${state}` in run.hits, `${role} was killed in its state ${state}`);
});
