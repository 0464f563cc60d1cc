/**
 * `node scripts/golden-runs.mjs NAME "REASON"`: runs one row of test/golden/runs.json and writes what came, with the reason and the commit
 * that the change builds on; prints what moved. One row at a time, so that each has a reason of its own.
 */
import { tsImport } from 'tsx/esm/api';

const [name, reason, ...surplus] = process.argv.slice(2);
if (name === undefined || reason === undefined || reason.trim() === '' || surplus.length > 0) {
  console.error('usage: node scripts/golden-runs.mjs NAME "REASON": the row to rewrite, and why its values change');
  process.exit(2);
}
/** @type {typeof import('../test/support/golden-runs.ts')} */
const { recordGolden } = await tsImport('../test/support/golden-runs.ts', import.meta.url);
const moved = await recordGolden(name, reason);
console.log(moved.length === 0 ? `${name}: nothing moved.` : `${name}: ${moved.length} values moved.`);
for (const line of moved.slice(0, 40)) console.log(`  ${line}`);
if (moved.length > 40) console.log(`  … and ${moved.length - 40} more`);
