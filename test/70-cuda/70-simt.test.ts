/**
 * The SIMT emulator (tools/simt): its own tests, on both compute capabilities and in several orders of threads. simt_test checks every
 * supported opcode against a formula of the host's, the driver API, and that each seeded defect is reported (docs/simt.md); hopper_test
 * (native/test) the instructions and products that our kernels are made of.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const build = process.env.PHOENIX_SIMT_BUILD ?? join(root, 'build', 'simt');

async function findNvcc(): Promise<string | undefined> {
  const folders = [process.env.CUDA_PATH, process.env.CUDA_HOME, '/usr/local/cuda'].filter((folder) => folder !== undefined);
  for (const path of ['nvcc', ...folders.map((folder) => join(folder, 'bin', 'nvcc'))]) {
    try {
      await run(path, ['--version']);
      return path;
    } catch {
      // Not this one.
    }
  }
  return undefined;
}

const nvcc = await findNvcc();
if (nvcc === undefined) {
  test.skip('no CUDA compiler: the emulator and its checks of CUDA kernels are not run', () => {});
} else {
  test.before(async () => {
    const hint = existsSync(nvcc) ? [`-DPHOENIX_NVCC=${nvcc}`] : [];
    await run('cmake', ['-S', join(root, 'native', 'test'), '-B', build, ...hint]);
    await run('cmake', ['--build', build, '--target', 'simt_test', 'hopper_test', '--parallel', '2']);
  });
  const runProgram = (program: string, environment: Record<string, string>) =>
    run(join(build, program), [build], { env: { ...process.env, PHOENIX_SIMT_QUIET: '1', ...environment } }).catch(
      (error: { stdout?: string; message: string }) => ({ stdout: `${error.stdout ?? ''}\n${error.message}` }),
    );
  for (const capability of ['8.0', '9.0'])
    for (const schedule of ['forward', 'reverse', 'random:7'])
      test(`opcodes, driver API and seeded defects: capability ${capability}, threads ${schedule}`, async (t) => {
        const { stdout } = await runProgram('simt_test', { PHOENIX_SIMT_CAPABILITY: capability, PHOENIX_SIMT_SCHEDULE: schedule });
        t.regex(stdout, /^\d{4,} checks, 0 failed$/m, stdout);
      });
  test("Ampere's instructions alone, as plain loops say: capability 8.0", async (t) => {
    const { stdout } = await runProgram('hopper_test', { PHOENIX_SIMT_CAPABILITY: '8.0' });
    t.regex(stdout, /"failed": 0,/, stdout);
    t.regex(stdout, /copy_async_kernel/);
  });
  for (const schedule of ['forward', 'random:7'])
    test(`instructions of Ampere and Hopper, and the convolutions made of Hopper's, as plain loops say: threads ${schedule}`, async (t) => {
      const { stdout } = await runProgram('hopper_test', { PHOENIX_SIMT_CAPABILITY: '9.0', PHOENIX_SIMT_SCHEDULE: schedule });
      t.regex(stdout, /"failed": 0,/, stdout);
      t.notRegex(stdout, /not ok/);
    });
}
