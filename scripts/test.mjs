/**
 * `npm test [-- ARGUMENTS OF AVA]`: builds the addon that holds the definitions (phoenix-ref) and, where a CUDA compiler is, phoenix-cuda
 * with the emulator that it is tested on, then runs the tests. The last line is 'N passed, N failed', with ', N skipped' where tests were
 * skipped.
 */
import { stripVTControlCharacters } from 'node:util';
import { $ } from 'zx';
import { buildEmulator, buildNative, findNvcc } from './native.mjs';

const nvcc = await findNvcc();
const targets = ['phoenix-cpu', 'phoenix-ref', ...(nvcc ? ['phoenix-cuda', 'phoenix-cuda-ptx'] : [])];
await buildNative({ targets, onStart: (target) => console.log(`test: building ${target}`) });
if (nvcc) await buildEmulator(nvcc);
else console.log('test: no CUDA compiler (nvcc), or PHOENIX_CUDA=OFF: what the CUDA kernels compute is NOT tested');

const ava = $({ nothrow: true, preferLocal: true, stdio: ['inherit', 'pipe', 'inherit'] })`ava ${process.argv.slice(2)}`;
ava.stdout.pipe(process.stdout);
const { stdout, exitCode } = await ava;
const summary = stripVTControlCharacters(stdout);

// Ava marks each test and ends with lines such as '1 test failed', '2 uncaught exceptions'; it says how many passed only if all did.
const last = (pattern) => Number([...summary.matchAll(pattern)].at(-1)?.[1] ?? 0);
const passed = [...summary.matchAll(/^\s*[✔√] /gm)].length;
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
