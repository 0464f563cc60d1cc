// Builds native addons with CMake through cmake-js: for the install script phoenix-cpu, and phoenix-cuda where a CUDA compiler is; for the
// tests also phoenix-ref, the kernels as PTX text, and the emulator that runs those.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { $, which } from 'zx';

const require = createRequire(import.meta.url);
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Hash of all that a build depends on: native sources, CMakeLists.txt, headers' versions, machine. */
const fingerprint = () => {
  const { CXX = '', PHOENIX_CUDA_ARCHS = '' } = process.env;
  const hash = createHash('sha256').update(`${process.platform} ${process.arch} ${CXX} ${PHOENIX_CUDA_ARCHS}`);
  // cmake-js brings the headers of Node-API, in a place that only it may know (pnpm, Yarn).
  const ofCmakeJs = createRequire(require.resolve('cmake-js/package.json'));
  for (const found of [require.resolve('node-addon-api/package.json'), ofCmakeJs.resolve('node-api-headers/package.json')])
    hash.update(JSON.parse(readFileSync(found, 'utf8')).version);
  const files = readdirSync(join(root, 'native'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  for (const file of [join(root, 'CMakeLists.txt'), ...files])
    hash.update(file.slice(root.length)).update('\0').update(readFileSync(file)).update('\0');
  return hash.digest('hex');
};

/**
 * How many compilers run at a time: the smaller of cores and CPU quota, since each takes memory too. A checkout that was never compiled
 * does not know the quota. CMAKE_BUILD_PARALLEL_LEVEL says otherwise.
 */
export const jobs = async (cores = availableParallelism()) => {
  const { threadsFor, cpuQuota } = await import('../dist/bindings/threads.js').catch(() => ({}));
  return String(process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? (threadsFor ? threadsFor({ cores, quota: cpuQuota() }) : cores));
};

/**
 * The CUDA compiler that phoenix-cuda is built with; undefined if there is none, or if PHOENIX_CUDA=OFF.
 * @throws Error if PHOENIX_CUDA=ON and there is none
 */
export const findNvcc = async () => {
  const wanted = process.env.PHOENIX_CUDA || 'AUTO';
  if (!/^(AUTO|ON|OFF|1|0)$/.test(wanted)) throw new Error(`PHOENIX_CUDA is '${wanted}', expected AUTO, ON or OFF`);
  if (wanted === 'OFF' || wanted === '0') return undefined;
  const folders = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda'].filter(Boolean);
  for (const name of ['nvcc', ...folders.map((folder) => join(folder, 'bin', 'nvcc'))]) {
    const path = await which(name, { nothrow: true });
    if (path) return path;
  }
  if (wanted !== 'AUTO')
    throw new Error('PHOENIX_CUDA is ON, but there is no nvcc: install the CUDA toolkit (13 or newer), or set CUDA_HOME to where it lies');
  return undefined;
};

/**
 * Waits for a command that says nothing; if it fails, the error has the end of what it would have said, the compiler's messages among it.
 */
const quietly = async (command) => {
  const { exitCode, stdout, stderr } = await command.nothrow();
  if (exitCode === 0) return;
  const lines = `${stdout}${stderr}`.trim().split('\n');
  throw new Error([...(lines.length > 80 ? ['...'] : []), ...lines.slice(-80)].join('\n'));
};

/**
 * Builds the emulator of a GPU (docs/simt.md) and programs that test kernels, the targets of native/test, into build/simt, or where
 * PHOENIX_SIMT_BUILD says.
 */
export const buildEmulator = async (nvcc, targets = ['cuda_sim', 'dispatch_list']) => {
  const build = process.env.PHOENIX_SIMT_BUILD ?? join(root, 'build', 'simt');
  const run = $({ stdio: ['ignore', 'pipe', 'pipe'] });
  await quietly(run`cmake -S ${join(root, 'native', 'test')} -B ${build} -DPHOENIX_NVCC=${nvcc}`);
  await quietly(run`cmake --build ${build} --target ${targets} --parallel ${await jobs()}`);
};

const requireTools = async () => {
  const missing = [];
  if (!(await which('cmake', { nothrow: true }))) missing.push('CMake 3.20 or newer');
  const compilers = process.env.CXX ? [process.env.CXX.split(' ')[0]] : ['c++', 'g++', 'clang++'];
  if (!(await Promise.all(compilers.map((name) => which(name, { nothrow: true })))).some(Boolean))
    missing.push('a C++20 compiler (GCC 11 or Clang 14, or newer)');
  if (!(await which('ninja', { nothrow: true })) && !(await which('make', { nothrow: true }))) missing.push('ninja or make');
  if (missing.length)
    throw new Error(
      `Phoenix builds its native addon from source and misses: ${missing.join('; ')}.\n` +
        'Install them and run npm install again. Debian and Ubuntu: apt-get install -y build-essential cmake. Fedora: dnf install gcc-c++ cmake make. macOS: xcode-select --install && brew install cmake.',
    );
};

/**
 * Builds the targets that are not up to date with the sources. Returns true if anything was built.
 * @param {{ targets?: string[], onStart?: (target: string) => void }} options
 */
export const buildNative = async ({ targets = ['phoenix-cpu'], onStart = () => {} } = {}) => {
  const current = fingerprint();
  const stamp = (target) => join(root, 'build', `${target}.stamp`);
  const stale = targets.filter(
    (target) =>
      !existsSync(join(root, 'build', 'Release', target.endsWith('-ptx') ? target : `${target}.node`)) ||
      !existsSync(stamp(target)) ||
      readFileSync(stamp(target), 'utf8') !== current,
  );
  if (!stale.length) return false;
  await requireTools();
  const cmakeJs = require.resolve('cmake-js/bin/cmake-js');
  const env = { ...process.env, CMAKE_BUILD_PARALLEL_LEVEL: await jobs() };
  for (const target of stale) {
    onStart(target);
    const failed = join(root, 'build', `${target}.failed`);
    try {
      await quietly($({ cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] })`${process.execPath} ${cmakeJs} build -l warn -T ${target}`);
    } catch (error) {
      // What `phoenix doctor` tells.
      mkdirSync(dirname(failed), { recursive: true });
      writeFileSync(failed, `${error.message.split('\n').slice(-12).join('\n')}\n`);
      throw error;
    }
    rmSync(failed, { force: true });
    writeFileSync(stamp(target), current);
  }
  return true;
};
