/**
 * `npm test [-- ARGUMENTS OF AVA]`: builds the addon that holds the definitions (phoenix-ref), then runs the tests. The last line is
 * 'N passed, N failed', with ', N skipped' where tests were skipped.
 */
import { $ } from 'zx';
import { buildNative } from './native.mjs';

await buildNative({ targets: ['phoenix-cpu', 'phoenix-ref'] });

const ava = $({ nothrow: true, stdio: ['inherit', 'pipe', 'inherit'] })`ava ${process.argv.slice(2)}`;
ava.stdout.pipe(process.stdout);
const { stdout, exitCode } = await ava;

// Ava ends with lines such as '12 tests passed', '1 test failed', '2 uncaught exceptions'.
const last = (pattern) => Number([...stdout.matchAll(pattern)].at(-1)?.[1] ?? 0);
const passed = last(/^\s*(\d+) tests? passed/gm);
const skipped = last(/^\s*(\d+) tests? skipped/gm);
const broken = [
  /^\s*(\d+) tests? failed/gm,
  /^\s*(\d+) hooks? failed/gm,
  /^\s*(\d+) uncaught exceptions?/gm,
  /^\s*(\d+) unhandled rejections?/gm,
  /^\s*(\d+) tests? remaining/gm,
].reduce((sum, pattern) => sum + last(pattern), 0);
const failed = exitCode === 0 ? broken : Math.max(1, broken);

process.stdout.write(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`);
process.exitCode = failed > 0 ? 1 : 0;
