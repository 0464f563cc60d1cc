/**
 * `node scripts/install-check.mjs [MANAGER …]`: the package as a user installs it, from its tarball into an empty project in a folder with
 * a space and other odd characters in its name, without CUDA. Managers: npm, pnpm (install scripts blocked, then allowed; nothing hoisted),
 * yarn-pnp, yarn-modules; jest and vitest are test runners on npm's installation. Without arguments npm and pnpm, as CI does; `all` is all.
 * Each step installs, trains a step, draws two images, and looks whether the package is still whole. Exit code 1 if one fails.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { $ } from 'zx';
import { root } from './native.mjs';

const base = mkdtempSync(join(tmpdir(), 'phoenix-install-'));
const env = {
  ...process.env,
  PHOENIX_CUDA: 'OFF',
  npm_config_audit: 'false',
  npm_config_fund: 'false',
  COREPACK_ENABLE_DOWNLOAD_PROMPT: '0',
};
for (const name of Object.keys(env)) if (/^npm_(?!config_(registry|cache))/.test(name)) delete env[name];

const { stdout: packed } = await $({ cwd: root, env })`npm pack --silent --ignore-scripts --pack-destination ${base}`;
const tarball = join(base, packed.trim().split('\n').at(-1));

/** An empty project; the folder's name holds what shells and compilers like to split at. */
function project(name, files = {}) {
  const folder = join(base, `${name} é $x`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, 'package.json'),
    JSON.stringify({ name: 'project', version: '1.0.0', private: true, ...files['package.json'] }),
  );
  for (const [file, text] of Object.entries(files)) if (file !== 'package.json') writeFileSync(join(folder, file), text);
  return folder;
}

/** Runs a command in a project; its output in the error if it ends with another code than expected. */
async function run(cwd, command, args, { code = 0, says = /(?:)/ } = {}) {
  const done = await $({ cwd, env, nothrow: true, stdio: ['ignore', 'pipe', 'pipe'] })`${command} ${args}`;
  const text = done.stdout + done.stderr;
  if ((done.exitCode !== 0) !== (code !== 0) || !says.test(text))
    throw new Error(
      `${command} ${args.join(' ')} in ${cwd}: exit code ${done.exitCode}, expected ${code} and ${says}\n${text.slice(-3000)}`,
    );
  return text;
}

const TRAIN = [
  'train',
  '--data',
  'synthetic:40',
  '--size',
  '8',
  '--preset',
  'tiny',
  '--epochs',
  '1',
  '--samples',
  '1',
  '--sample-steps',
  '1',
];
/** Trains a step, and draws from the run: files of one piece and of many are written, and read. */
async function works(folder, command, args) {
  await run(folder, command, [...args, ...TRAIN, '--out', 'run']);
  await run(folder, command, [...args, 'sample', 'run', '--n', '2', '--steps', '1', '--out', 'drawn']);
}

const steps = {
  async npm() {
    const folder = project('npm');
    await run(folder, 'npm', ['install', tarball]);
    await works(folder, 'npx', ['--no-install', 'phoenix']);
    // npm rebuild runs `prepare` for what it takes for a checkout.
    await run(folder, 'npm', ['rebuild', 'phoenix']);
    await run(folder, 'npx', ['--no-install', 'phoenix', 'doctor'], { says: /Backend\s+cpu/ });
  },
  async pnpm() {
    const pnpm = ['--yes', 'pnpm@10'];
    const folder = project('pnpm', { 'pnpm-workspace.yaml': 'hoist: false\n' });
    await run(folder, 'npx', [...pnpm, 'add', tarball]);
    const installed = join(folder, 'node_modules', 'phoenix');
    await run(folder, 'npx', [...pnpm, 'exec', 'phoenix', ...TRAIN, '--out', 'run'], { code: 1, says: /pnpm approve-builds/ });
    // The advice that was wrong before must do no harm.
    await $({ cwd: folder, env, nothrow: true, stdio: 'ignore' })`npm rebuild phoenix`;
    if (!existsSync(join(installed, 'dist', 'cli.js'))) throw new Error(`npm rebuild has destroyed ${installed}`);
    writeFileSync(join(folder, 'pnpm-workspace.yaml'), 'hoist: false\nonlyBuiltDependencies:\n  - phoenix\n');
    await run(folder, 'npx', [...pnpm, 'rebuild', 'phoenix']);
    await works(folder, 'npx', [...pnpm, 'exec', 'phoenix']);
  },
  'yarn-pnp': () => yarn('pnp'),
  'yarn-modules': () => yarn('node-modules'),
  async jest() {
    const folder = await withNpm('jest', ['jest@29']);
    writeFileSync(join(folder, 'a.test.mjs'), runnerTest(''));
    await run(folder, process.execPath, [
      '--experimental-vm-modules',
      'node_modules/jest/bin/jest.js',
      '--testMatch',
      '**/*.test.mjs',
      '--transform',
      '{}',
    ]);
  },
  async vitest() {
    const folder = await withNpm('vitest', ['vitest@3']);
    writeFileSync(join(folder, 'a.test.mjs'), runnerTest("import { expect, test } from 'vitest';"));
    for (const pool of ['forks', 'threads', 'vmThreads']) await run(folder, 'npx', ['--no-install', 'vitest', 'run', `--pool=${pool}`]);
  },
};

async function yarn(linker) {
  const folder = project(`yarn-${linker}`, {
    '.yarnrc.yml': `nodeLinker: ${linker}\nenableScripts: true\nenableTelemetry: false\n`,
    'yarn.lock': '',
  });
  const yarn = ['--yes', '@yarnpkg/cli-dist@4'];
  await run(folder, 'npx', [...yarn, 'add', `phoenix@file:${tarball}`]);
  await works(folder, 'npx', [...yarn, 'exec', 'phoenix']);
}

async function withNpm(name, packages) {
  const folder = project(name);
  await run(folder, 'npm', ['install', tarball, ...packages]);
  return folder;
}

const runnerTest = (imports) => `${imports}
import { createSession, drawSamples, noise, openDataset, unetConfig, unetModel } from 'phoenix';
test('a Session draws', async () => {
  const unet = unetConfig({ height: 8, width: 8, inChannels: 1, blockOutChannels: [8], layersPerBlock: 1, attention: [false], normGroups: 4 });
  const session = createSession({ model: unetModel(unet), device: 'cpu' });
  await session.init(1n);
  expect((await drawSamples({ session, noise: noise(), count: 1, steps: 2, key: 1n })).length).toBe(64);
  session.dispose();
  await expect(openDataset('/nowhere')).rejects.toMatchObject({ code: 'ERR_PHOENIX_DATA' });
});
`;

const asked = process.argv.slice(2);
const names = asked.length === 0 ? ['npm', 'pnpm'] : asked.includes('all') ? Object.keys(steps) : asked;
const unknown = names.filter((name) => !(name in steps));
if (unknown.length > 0) throw new Error(`install-check: there is no step '${unknown[0]}'; there are ${Object.keys(steps).join(', ')}, all`);
for (const name of names) {
  const started = performance.now();
  try {
    await steps[name]();
    console.log(`install-check: ${name} passed, ${((performance.now() - started) / 1000).toFixed(0)} s`);
  } catch (error) {
    console.log(`install-check: ${name} FAILED\n${error.message}`);
    process.exitCode = 1;
  }
}
if (!process.exitCode) rmSync(base, { recursive: true, force: true });
else console.log(`install-check: see ${base}`);
