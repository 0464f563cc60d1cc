/**
 * `npm run lint`: formatter and linter for TypeScript, JavaScript and JSON (biome), types (tsc), formatter for C++ and CUDA (clang-format).
 * `npm run lint -- --fix` rewrites what can be rewritten. All three run even if one fails.
 */
import { $, glob, which } from 'zx';

const fix = process.argv.includes('--fix');
const failed = [];

async function step(name, run) {
  console.log(`lint: ${name}`);
  const { exitCode } = await run({ nothrow: true, preferLocal: true, stdio: 'inherit' });
  if (exitCode !== 0) failed.push(name);
}

await step('biome', (options) => $(options)`biome check --error-on-warnings ${fix ? ['--write'] : []}`);
await step('tsc', (options) => $(options)`tsc -p tsconfig.check.json`);

const sources = await glob('native/**/*.{h,cpp,cu,cuh}');
if (sources.length === 0) throw new Error('lint: no file of native/ found; run it in the root of the package');
if (await which('clang-format', { nothrow: true })) {
  await step('clang-format', (options) => $(options)`clang-format ${fix ? ['-i'] : ['--dry-run', '-Werror']} ${sources}`);
} else {
  console.log(
    `lint: no clang-format on this machine: ${sources.length} C++ files NOT checked (Debian, Ubuntu: apt-get install clang-format)`,
  );
}

if (failed.length > 0) {
  console.log(`lint: failed: ${failed.join(', ')}`);
  process.exit(1);
}
