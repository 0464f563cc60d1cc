/**
 * `npm run lint`: formatter and linter for TypeScript, JavaScript and JSON (biome), types (tsc), formatter for C++ and CUDA (clang-format),
 * width of lines. `npm run lint -- --fix` rewrites what can be rewritten; lines that are too wide are left to a person. All run even if one
 * fails.
 */
import { readFileSync } from 'node:fs';
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

const sources = await glob('{native,tools}/**/*.{h,cpp,cu,cuh}');
if (sources.length === 0) throw new Error('lint: no file of native/ or tools/ found; run it in the root of the package');
if (await which('clang-format', { nothrow: true })) {
  await step('clang-format', (options) => $(options)`clang-format ${fix ? ['-i'] : ['--dry-run', '-Werror']} ${sources}`);
} else {
  console.log(
    `lint: no clang-format on this machine: ${sources.length} C++ files NOT checked (Debian, Ubuntu: apt-get install clang-format)`,
  );
}

/** Columns of Markdown prose, and of comments. The formatters hold code to the latter, except for texts that they cannot break. */
const PROSE = 100;
const COMMENT = 140;
const width = (line) => [...line].length;

/** Lines of prose; headings, tables, code and the targets of links may be longer. */
function wideProse(text) {
  let fenced = false;
  return text.split('\n').flatMap((line, i) => {
    if (/^\s*```/.test(line)) fenced = !fenced;
    const isProse = !fenced && !/^(#|\||!\[| {4})/.test(line);
    return isProse && width(line.replace(/\]\([^)]*\)/g, ']')) > PROSE ? [i + 1] : [];
  });
}

/** Lines that are comments, or end in one. */
function wideComments(text) {
  return text.split('\n').flatMap((line, i) => (width(line) > COMMENT && /^\s*(\/\/|\/?\*)|[;,{})]\s+\/\/ /.test(line) ? [i + 1] : []));
}

const pages = await glob(['*.md', 'docs/**/*.md', 'test/**/*.md']);
const code = await glob(['{src,test,bench,scripts,examples}/**/*.{ts,mjs}', '{native,tools}/**/*.{h,cpp,cu,cuh}', '!native/**/lab/**']);
const checks = [
  ...pages.map((file) => ({ file, columns: PROSE, check: wideProse })),
  ...code.map((file) => ({ file, columns: COMMENT, check: wideComments })),
];
const wide = checks.flatMap(({ file, columns, check }) =>
  check(readFileSync(file, 'utf8')).map((line) => `${file}:${line}: wider than ${columns} columns`),
);
console.log(['lint: width', ...wide].join('\n'));
if (wide.length > 0) failed.push('width');

if (failed.length > 0) {
  console.log(`lint: failed: ${failed.join(', ')}`);
  process.exit(1);
}
