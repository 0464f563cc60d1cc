/**
 * What each CUDA kernel takes of a multiprocessor, as ptxas says it while phoenix-cuda is built: registers per thread, bytes spilled, bytes
 * of static shared memory. No kernel takes more than native/kernels/cuda/budget.json allows; one that is not in it spills nothing. `node
 * scripts/budget.mjs` writes the table anew. Nor may ptxas note that it serialises wgmma or ignores setmaxnreg. Skipped aloud where
 * phoenix-cuda is not built here.
 */
import { readFile } from 'node:fs/promises';
import test from 'ava';

type Usage = { registers: number; spilled: number; shared: number };
type Budget = Record<string, Record<string, Usage>>;
const { usageOfKernels, lossesOfKernels } = await import('../../scripts/budget.mjs' as string); // a script of plain JavaScript
const usage: Budget = usageOfKernels();
const count = Object.keys(usage).length;

(count > 0 ? test : test.skip)('no CUDA kernel takes more than its budget', async (t) => {
  const budget: Budget = JSON.parse(await readFile(new URL('../../native/kernels/cuda/budget.json', import.meta.url), 'utf8'));
  const over: string[] = [];
  const unknown: string[] = [];
  for (const [kernel, architectures] of Object.entries(usage))
    for (const [architecture, used] of Object.entries(architectures)) {
      const allowed = budget[kernel]?.[architecture];
      if (!allowed) unknown.push(`${kernel} (${architecture})`);
      for (const what of ['registers', 'spilled', 'shared'] as const)
        if (used[what] > (allowed ? allowed[what] : what === 'spilled' ? 0 : Infinity))
          over.push(`${kernel} (${architecture}): ${used[what]} ${what}, ${allowed?.[what] ?? 0} allowed`);
    }
  if (unknown.length > 0) t.log(`not in the budget yet: ${unknown.join(', ')}`);
  t.true(count > 20, `${count} kernels`);
  t.deepEqual(over, []);
  t.deepEqual(lossesOfKernels(), []);
});
