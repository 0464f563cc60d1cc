/**
 * `node scripts/sanitize.mjs [-- ARGUMENTS OF AVA]`: builds phoenix-cpu and phoenix-ref with AddressSanitizer and
 * UndefinedBehaviorSanitizer into build/sanitize and runs the chapters of ops, models, data and federation on them, on GCC and Linux. What
 * a sanitizer reports ends the process, and so fails a test.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { $ } from 'zx';
import { root } from './native.mjs';

const require = createRequire(import.meta.url);
const folder = join(root, 'build', 'sanitize');

const { stdout } = await $`${process.env.CXX ?? 'c++'} -print-file-name=libasan.so`;
const library = stdout.trim();
if (!existsSync(library)) throw new Error(`sanitize: the compiler has no AddressSanitizer (${library} is not there)`);

const cmakeJs = require.resolve('cmake-js/bin/cmake-js');
const flags = '-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer';
const build = $({ cwd: root, stdio: 'inherit', env: { ...process.env, CXXFLAGS: flags, LDFLAGS: flags, PHOENIX_CUDA: 'OFF' } });
for (const target of ['phoenix-cpu', 'phoenix-ref']) await build`${process.execPath} ${cmakeJs} build -l warn -O ${folder} -T ${target}`;

const chapters = process.argv.slice(2);
const files =
  chapters.length > 0 ? chapters : ['00-source', '10-model', '20-data', '30-federation'].map((name) => `test/${name}/*.test.ts`);
const env = {
  ...process.env,
  PHOENIX_ADDON_DIR: join(folder, 'Release'),
  LD_PRELOAD: library,
  // V8 and Node keep memory until the process ends; tests ask for more memory than there is, and look at what is freed.
  ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:quarantine_size_mb=1',
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
};
const { exitCode } = await $({ cwd: root, env, nothrow: true, preferLocal: true, stdio: 'inherit' })`ava --timeout=30m ${files}`;
process.exitCode = exitCode ?? 1;
