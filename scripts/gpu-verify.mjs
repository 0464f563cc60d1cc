/**
 * `npm run gpu:verify [-- STEP …]`: whether the CUDA backend computes the right things on this machine's GPU, and nothing about speed.
 * Steps, the shortest first; each has a limit of time, since what is wrong there may hang:
 *   vectors    single instructions of Ampere and Hopper, and the products made of them, against plain loops bit for bit (native/test)
 *   ops        chapters 71 and 72: every op against the definitions, outputs poisoned, guard words whole
 *   sessions   chapters 73 and 74: training, sampling, recorded steps, federated rounds, the golden network
 *   training   chapter 76: bf16 follows fp32, equal seeds give equal bits
 *   sanitizer  chapter 72 under compute-sanitizer, where that is installed
 * PHOENIX_SKIP_BUILD=1: with what has been built. Ends with 1 if a step fails, or where no GPU can be used.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { $, which } from 'zx';
import { buildEmulator, buildNative, findNvcc, root } from './native.mjs';

const run = $({ nothrow: true, preferLocal: true, stdio: 'inherit', timeoutSignal: 'SIGKILL' });
const simt = process.env.PHOENIX_SIMT_BUILD ?? join(root, 'build', 'simt');
const NOT_RUN = 'not run';

/** The tests of a chapter, one process per file; what fails on the GPU is reported by the call that it belongs to. */
const chapters = (minutes, ...files) =>
  run({
    env: { ...process.env, CUDA_LAUNCH_BLOCKING: '1' },
    timeout: `${60 * minutes}s`,
  })`ava --serial ${files.map((file) => `test/70-cuda/${file}.test.ts`)}`.then(({ exitCode }) => exitCode);

const steps = {
  async vectors() {
    const program = join(simt, 'hopper_test');
    if (!existsSync(program)) return NOT_RUN;
    const env = { ...process.env, LD_PRELOAD: 'libcuda.so.1', LD_LIBRARY_PATH: `${simt}:${process.env.LD_LIBRARY_PATH ?? ''}` };
    const { stdout, exitCode } = await $({ nothrow: true, env, timeout: '120s', timeoutSignal: 'SIGKILL' })`${program} ${simt}`;
    const file = join(root, 'build', 'vectors.json');
    writeFileSync(file, stdout);
    console.log(`gpu:verify: vectors in ${file}`);
    // Without the driver's library the program runs on the emulator that it is linked with.
    return /emulator/.test(stdout) ? NOT_RUN : exitCode;
  },
  ops: () => chapters(4, '71-cuda-ops', '72-cuda-tiles'),
  sessions: () => chapters(3, '73-cuda-session', '74-cuda-golden'),
  training: () => chapters(8, '76-cuda-training'),
  async sanitizer() {
    if (!(await which('compute-sanitizer', { nothrow: true }))) return NOT_RUN;
    const codes = [];
    // Looking for a kernel in a module that has not got it is no error.
    for (const tool of ['memcheck', 'racecheck', 'initcheck', 'synccheck']) {
      console.log(`gpu:verify: compute-sanitizer ${tool}`);
      const { exitCode } =
        await run`compute-sanitizer --tool ${tool} --report-api-errors no --target-processes all --error-exitcode 9 ${process.execPath} node_modules/ava/entrypoints/cli.mjs --serial --timeout=30m test/70-cuda/72-cuda-tiles.test.ts`;
      codes.push(exitCode);
    }
    return codes.find((code) => code !== 0) ?? 0;
  },
};

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !(name in steps));
if (unknown.length > 0) {
  console.error(`gpu:verify: there is no step '${unknown[0]}'; there are ${Object.keys(steps).join(', ')}`);
  process.exit(2);
}
if (process.env.PHOENIX_SKIP_BUILD !== '1') {
  const targets = ['phoenix-cpu', 'phoenix-ref', 'phoenix-cuda'];
  await buildNative({ targets, onStart: (target) => console.log(`gpu:verify: building ${target}`) });
  const nvcc = await findNvcc();
  if (nvcc) await buildEmulator(nvcc, ['hopper_test']);
}

process.env.PHOENIX_TEST_GPU = '1';
delete process.env.PHOENIX_LIBCUDA;
const addon = join(process.env.PHOENIX_ADDON_DIR ?? join(root, 'build', 'Release'), 'phoenix-cuda.node');
const { stdout } = await $`${process.execPath} -p ${`JSON.stringify(require(${JSON.stringify(addon)}).info())`}`;
const info = JSON.parse(stdout);
if (!info.usable) {
  console.error(`gpu:verify: no GPU can be used: ${info.device}`);
  process.exit(1);
}
console.log(`gpu:verify: ${info.device}`);

const outcomes = [];
for (const name of asked.length > 0 ? asked : Object.keys(steps)) {
  const started = performance.now();
  const code = await steps[name]();
  const outcome = code === NOT_RUN ? 'NOT run on the GPU' : code === 0 ? 'passed' : `FAILED (${code === null ? 'out of time' : code})`;
  outcomes.push({ name, code, text: `${name.padEnd(10)} ${outcome}, ${((performance.now() - started) / 1000).toFixed(0)} s` });
}
console.log(`\ngpu:verify on ${info.device}\n${outcomes.map(({ text }) => `  ${text}`).join('\n')}`);
process.exitCode = outcomes.some(({ code }) => code !== 0 && code !== NOT_RUN) ? 1 : 0;
