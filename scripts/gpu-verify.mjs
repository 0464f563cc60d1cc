/**
 * `npm run gpu:verify`: whether the CUDA backend computes the right things on this machine's GPU, and nothing about speed: chapters 7x without the emulator
 * (poisoned outputs, guard words, every op against the definitions, Sessions, replayed steps), then the ops once more under compute-sanitizer
 * where that is
 * installed. Ends with 1 where no GPU can be used.
 */
import { $, glob, which } from 'zx';
import { buildNative } from './native.mjs';

const targets = ['phoenix-cpu', 'phoenix-ref', 'phoenix-cuda'];
await buildNative({ targets, onStart: (target) => console.log(`gpu:verify: building ${target}`) });

process.env.PHOENIX_TEST_GPU = '1';
delete process.env.PHOENIX_LIBCUDA;
const { stdout } = await $`${process.execPath} -p ${"JSON.stringify(require('./build/Release/phoenix-cuda.node').info())"}`;
const info = JSON.parse(stdout);
if (!info.usable) {
  console.error(`gpu:verify: no GPU can be used: ${info.device}`);
  process.exit(1);
}
console.log(`gpu:verify: ${info.device}`);

// The emulator's own chapter, and the repetitions for its other capability, say nothing of a GPU.
const chapters = (await glob('test/7*.test.ts')).filter((file) => !/70-simt|-80\./.test(file)).sort();
const run = $({ nothrow: true, preferLocal: true, stdio: 'inherit' });
const { exitCode } = await run`ava --serial ${chapters}`;
let failed = exitCode;

if (await which('compute-sanitizer', { nothrow: true })) {
  for (const tool of ['memcheck', 'racecheck', 'initcheck', 'synccheck']) {
    console.log(`gpu:verify: compute-sanitizer ${tool}`);
    const checked =
      await run`compute-sanitizer --tool ${tool} --target-processes all --error-exitcode 9 ${process.execPath} node_modules/ava/entrypoints/cli.mjs --serial --timeout=30m test/71-cuda-ops.test.ts`;
    failed ||= checked.exitCode;
  }
} else
  console.log(
    'gpu:verify: no compute-sanitizer on the PATH: memory, races and barriers are NOT checked on the GPU (the emulator checks them)',
  );
process.exitCode = failed;
