/**
 * Behaviour stays: short runs of everything that trains, compared with what is checked in (test/golden/runs.json). Where the addon's
 * compiler and the C library are the recorded ones, every tensor bit by bit and every number exactly; elsewhere what was learnt, to 1e-5.
 * If a change is meant: node scripts/golden-runs.mjs NAME "REASON".
 */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { device, emulated } from '../support/cuda.ts';
import { differences, type GoldenRow, goldenPath, layoutGolden, machine, readGoldenRuns, runGolden } from '../support/golden-runs.ts';

const golden = readGoldenRuns();
const here = machine();
const bits = golden.compiler === here.compiler && golden.libc === here.libc;

/** Two runs at a time: each has two threads. */
const lanes: Promise<unknown>[] = [Promise.resolve(), Promise.resolve()];
let turn = 0;
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const lane = turn++ % lanes.length;
  const done = lanes[lane]!.then(work);
  lanes[lane] = done.catch(() => {});
  return done;
}

test('what is compared here', (t) => {
  if (bits) t.log(`bits, and numbers exactly: ${here.compiler}, glibc ${here.libc}`);
  else
    t.log(
      `BITS ARE NOT COMPARED, only what was learnt to 1e-5: recorded with ${golden.compiler} and glibc ${golden.libc}, here are ${here.compiler} and ${here.libc}`,
    );
  if (!emulated) t.log(`RECORDED STEPS ARE NOT COMPARED: no emulator (${device})`);
  t.true(Object.keys(golden.rows).length >= 16);
});

test('every row says why it was last changed, and the commit before', (t) => {
  for (const [name, { reason, before, about }] of Object.entries(golden.rows)) {
    t.regex(reason ?? '', /\S/, `${name} has no reason`);
    t.regex(before ?? '', /^[0-9a-f]{7,40}$/, `${name} has no commit before its last change`);
    t.regex(about ?? '', /\S/, `${name} does not say what it covers`);
  }
});

test('the file is laid out as the script lays it out', (t) => {
  t.deepEqual(layoutGolden(golden).split('\n'), readFileSync(goldenPath, 'utf8').split('\n'));
});

test('a difference is told by its field or tensor, whichever side lacks it', (t) => {
  const row = { projection: { run: { loss: 1, notes: [] as string[] } }, tensors: { w: 'aa' } };
  t.deepEqual(differences(row, structuredClone(row), true), []);
  const near = { projection: { run: { loss: 1 + 1e-7, notes: ['new'] } }, tensors: { w: 'ab', v: 'cd' } };
  t.deepEqual(differences(row, near, true), [
    'projection › run › loss: expected 1, actual 1.0000001',
    'projection › run › notes: expected [], actual nothing',
    'tensors › w: expected "aa", actual "ab"',
    'projection › run › notes › 0: expected nothing, actual "new"',
    'tensors › v: expected nothing, actual "cd"',
  ]);
  t.deepEqual(differences(row, { ...near, projection: { run: { loss: 1 + 1e-7, notes: [] } } }, false), []);
  t.is(differences(row, { ...row, projection: { run: { loss: 1 + 1e-4, notes: [] } } }, false).length, 1);
});

for (const [name, row] of Object.entries(golden.rows)) compare(name, row);

function compare(name: string, row: GoldenRow): void {
  const possible = row.program === undefined || emulated ? test : test.skip;
  possible(`golden run: ${name}`, async (t) => {
    // Counted from the start of the file: a row waits for those before it.
    t.timeout(900_000);
    const moved = differences(row, await inTurn(() => runGolden(row)), bits);
    const more = moved.length > 10 ? `\n… and ${moved.length - 10} more` : '';
    t.is(moved.length, 0, `${name} moved (expected: after "${row.reason}", on ${row.before}):\n${moved.slice(0, 10).join('\n')}${more}`);
  });
}
