// Kills the server, the coordinator and the sites of a small federation 200 times, each in each of its states at least three times,
// and compares the bytes with those of a run that nobody disturbs. Prints a table and JSON.
// node --import=tsx scripts/site-kills.mjs [KILLS [SEED [ROUNDS]]]
const { killedRun, STATES } = await import('../test/support/site-processes.ts');
const { SITES, undisturbedRun } = await import('../test/support/site-world.ts');

const [kills = 200, seed = 1, rounds = 60] = process.argv.slice(2).map(Number);
const begin = performance.now();
const plain = await undisturbedRun(rounds);
const run = await killedRun({
  ...{ rounds, seed, kills, least: 3 },
  onKill: (what, number) => console.error(`${((performance.now() - begin) / 1000).toFixed(1)} s: kill ${number}, ${what}`),
});
const rows = Object.entries(STATES).flatMap(([role, states]) =>
  states.map((state) => ({ role, state, kills: run.hits[`${role}: ${state}`] ?? 0 })),
);
console.table(rows);
const equal =
  run.bytes.length === plain.bytes.length && run.bytes.every((bytes, i) => Buffer.compare(bytes, plain.bytes[i] ?? new Uint8Array()) === 0);
const other = plain.commits.findIndex(({ sha256 }, i) => run.commits[i]?.sha256 !== sha256);
if (other >= 0) console.log('The first round that differs, undisturbed and with kills:', plain.commits[other], run.commits[other]);
const { hits, wipes, troubles } = run;
const again = run.trainings - rounds * SITES.length;
const seconds = Math.round((performance.now() - begin) / 1000);
console.log(JSON.stringify({ equal, kills: run.kills, wipes, rounds, trainings: run.trainings, again, seconds, hits, troubles }));
const isComplete = run.kills >= kills && rows.every((row) => row.kills >= 3);
if (!isComplete) console.log('Some states were killed less than three times, or the run ended before all kills: give it more rounds.');
process.exitCode = equal && isComplete && troubles.length === 0 && again <= kills / 20 ? 0 : 1;
