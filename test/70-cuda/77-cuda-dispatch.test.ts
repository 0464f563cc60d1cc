/**
 * The table that sends convolutions and linear layers to their CUDA kernels (native/kernels/cuda/gemm/dispatch.cpp), for the two larger
 * presets in bf16 on both architectures, without a device: what it says is checked in, so that a change is seen. Skipped aloud where
 * `npm test` has built no emulator.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const root = fileURLToPath(new URL('../..', import.meta.url));
const program = join(process.env.PHOENIX_SIMT_BUILD ?? join(root, 'build', 'simt'), 'dispatch_list');
const golden = join(root, 'test', 'golden', 'dispatch.txt');

(existsSync(program) ? test : test.skip)('which kernels the ops of two networks are sent to', (t) => {
  const listed = execFileSync(program, { encoding: 'utf8' });
  t.deepEqual(listed.split('\n'), readFileSync(golden, 'utf8').split('\n'), `If this is meant: ${program} > ${golden}`);
});
