/** The contract of a Store over one in memory, and over the two of a run folder: the one that lasts, and scratch. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { memoryStore } from '../../src/fl/store.ts';
import { startRun } from '../../src/run/start.ts';
import { durableStoreContract, storeContract } from '../contracts/store.ts';
import { fakeConfig } from '../support/fake-run.ts';

/** A run in a folder that goes with the test. */
async function openRun(t: ExecutionContext) {
  const base = await mkdtemp(join(tmpdir(), 'phoenix-store-'));
  const start = () => startRun(join(base, 'run'), fakeConfig, { resume: true, keep: 1, initial: null, mayChange: [] });
  let run = await start();
  t.teardown(async () => {
    await run.close();
    await rm(base, { recursive: true, force: true });
  });
  let round = 0;
  return {
    run,
    async reopen() {
      await run.commit(null, { round: ++round });
      await run.close();
      run = await start();
      return run.store;
    },
  };
}

storeContract('memory', async () => ({ store: memoryStore() }));
storeContract('scratch of a run', async (t) => ({ store: (await openRun(t)).run.scratch }));
durableStoreContract('store of a run', async (t) => {
  const { run, reopen } = await openRun(t);
  return { store: run.store, reopen };
});
