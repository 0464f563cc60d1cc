/** Installing and embedding (I), threads under limits (Q), and the self-check of a GPU (N1, N2). */
import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { howToBuild } from '../../src/bindings/load.ts';
import { cpuQuota, defaultThreads, threadsFor } from '../../src/bindings/threads.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { createSession } from '../../src/ddpm/session.ts';
import { built, cuda, emulated, usable } from '../support/cuda.ts';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const require = createRequire(import.meta.url);
const scratch = () => mkdtempSync(join(tmpdir(), 'phoenix-98-'));

/** A program's output and exit code, whatever it is. */
async function outcome(program: string, args: string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}) {
  try {
    const { stdout, stderr } = await run(program, args, options);
    return { code: 0, text: stdout + stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, text: stdout + stderr };
  }
}

const onEmulator = built && usable && emulated && cuda ? test : test.skip;

test('I1: prepare leaves an installed package as it is, and replaces dist of a checkout only when all has compiled', async (t) => {
  const installed = scratch();
  mkdirSync(join(installed, 'scripts'));
  mkdirSync(join(installed, 'dist'));
  writeFileSync(join(installed, 'package.json'), '{"type":"module"}');
  writeFileSync(join(installed, 'dist', 'index.js'), 'kept');
  cpSync(join(root, 'scripts', 'prepare.mjs'), join(installed, 'scripts', 'prepare.mjs'));
  const prepare = () => outcome(process.execPath, [join(installed, 'scripts', 'prepare.mjs')]);
  t.is((await prepare()).code, 0);
  t.is(readFileSync(join(installed, 'dist', 'index.js'), 'utf8'), 'kept', 'no src/: nothing is compiled');

  mkdirSync(join(installed, 'src'));
  symlinkSync(join(root, 'node_modules'), join(installed, 'node_modules'));
  writeFileSync(
    join(installed, 'tsconfig.json'),
    '{"compilerOptions":{"rootDir":"src","outDir":"dist","types":[],"noEmitOnError":true},"include":["src"]}',
  );
  writeFileSync(join(installed, 'src', 'index.ts'), 'export const x: number = "text";');
  t.not((await prepare()).code, 0);
  t.is(readFileSync(join(installed, 'dist', 'index.js'), 'utf8'), 'kept', 'what does not compile replaces nothing');
  writeFileSync(join(installed, 'src', 'index.ts'), 'export const x: number = 1;');
  const { code, text } = await prepare();
  t.is(code, 0, text);
  t.regex(readFileSync(join(installed, 'dist', 'index.js'), 'utf8'), /x = 1/);
  t.false(existsSync(join(installed, 'dist.old')) || existsSync(join(installed, 'dist.new')));
  rmSync(installed, { recursive: true });

  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const script of ['install', 'prepare'])
    t.true(manifest.files.includes(/scripts\/\w+\.mjs/.exec(manifest.scripts[script])![0]), `the package holds the script of ${script}`);
});

test('I1: without an addon the advice fits the package manager', (t) => {
  t.regex(howToBuild('/app/node_modules/.pnpm/phoenix@0.1.0/node_modules/phoenix/', false), /pnpm approve-builds/);
  t.notRegex(howToBuild('/app/node_modules/.pnpm/phoenix@0.1.0/node_modules/phoenix/', false), /npm rebuild phoenix`;/);
  t.regex(howToBuild('/app/.yarn/unplugged/phoenix-npm-0.1.0/node_modules/phoenix/', true), /enableScripts: true/);
  t.regex(howToBuild('/app/node_modules/phoenix/', false), /npm rebuild phoenix/);
  t.regex(howToBuild('/src/phoenix/', false), /npm install/);
});

test('I2: what the build scripts import is declared, or found by way of what is', async (t) => {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const script of ['install.mjs', 'native.mjs', 'prepare.mjs']) {
    const text = readFileSync(join(root, 'scripts', script), 'utf8');
    const imported = [...text.matchAll(/(?:from|(?<!ofCmakeJs\.)resolve\(|require\() ?'([^'./][^']*)'/g)].map(([, name]) => name!);
    for (const name of imported.filter((found) => !found.startsWith('node:') && found !== 'typescript/bin/tsc')) {
      const owner = name
        .split('/')
        .slice(0, name.startsWith('@') ? 2 : 1)
        .join('/');
      t.true(owner in dependencies, `scripts/${script} uses ${name}`);
    }
  }
});

test('I3: a path with a space, a quote and a dollar sign reaches the compiler of CUDA whole', (t) => {
  const text = readFileSync(join(root, 'CMakeLists.txt'), 'utf8');
  const shells = [...text.matchAll(/sh -c "((?:\\.|[^"\\])*)"/g)].map(([, script]) => script!);
  t.true(shells.length > 0);
  for (const script of shells) t.notRegex(script, /\$\{/, 'no path is a part of the shell program: paths are its arguments');
  // nvcc itself hands paths to a shell, between quotes in which `$` has a meaning.
  const given = [...text.matchAll(/\$\{nvcc\} (\$\{cuda_flags\}[^)]*)\)/g)].map(([, args]) => args!);
  t.is(given.length, 2);
  const flags = /^set\(cuda_flags (.*)\)$/m.exec(text)![1]!;
  for (const args of [...given, flags]) t.notRegex(args, /\$\{(?:kernel|image|text|\w*_DIR(?:ECTORY)?)\}/, 'nvcc is given relative paths');
  for (const [, file] of text.matchAll(/\.incbin \\+"([^"\\]*)/g)) t.notRegex(file!, /\//, 'the assembler is given a name, no path');
});

test('I4: in a realm without Symbol.dispose a Session is opened, used and disposed of', async (t) => {
  const script = `
    import vm from 'node:vm'; import { readFileSync } from 'node:fs'; import { fileURLToPath, pathToFileURL } from 'node:url'; import { builtinModules } from 'node:module';
    const context = vm.createContext({ process, console, Buffer, URL, TextEncoder, TextDecoder, setImmediate, setTimeout, clearTimeout, AbortController, AbortSignal, performance, structuredClone });
    if (vm.runInContext('"dispose" in Symbol', context)) { console.log('has it'); process.exit(0); }
    const known = new Map();
    async function outside(specifier) {
      const found = await import(specifier);
      return new vm.SyntheticModule(Object.keys(found), function () { for (const key of Object.keys(found)) this.setExport(key, found[key]); }, { context });
    }
    async function link(specifier, from) {
      if (!specifier.startsWith('.') && !specifier.startsWith('file:')) { if (!known.has(specifier)) known.set(specifier, outside(specifier)); return known.get(specifier); }
      const url = new URL(specifier, from.identifier).href;
      if (!known.has(url)) known.set(url, Promise.resolve(new vm.SourceTextModule(readFileSync(fileURLToPath(url), 'utf8'), { context, identifier: url, initializeImportMeta: (meta) => { meta.url = url; }, importModuleDynamically: link })));
      return known.get(url);
    }
    const main = new vm.SourceTextModule(\`import { createSession, unetConfig, unetModel } from './index.js';
      const model = unetModel(unetConfig({ height: 8, width: 8, inChannels: 1, blockOutChannels: [8], layersPerBlock: 1, attention: [false], normGroups: 4 }));
      const session = createSession({ model, device: 'cpu' });
      console.log(typeof session[Symbol.dispose]); session[Symbol.dispose]();\`, { context, identifier: pathToFileURL(process.argv[2]).href });
    await main.link(link); await main.evaluate();`;
  const folder = scratch();
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  const file = join(folder, 'realm.mjs');
  writeFileSync(file, script);
  const { code, text } = await outcome(process.execPath, [
    '--experimental-vm-modules',
    '--no-warnings',
    file,
    join(root, 'dist', 'main.js'),
  ]);
  if (text.includes('has it')) t.log('skipped: realms of this Node have Symbol.dispose');
  else t.is(text.trim(), 'function', text);
  t.is(code, 0);
});

test('I5: a bundle that holds Phoenix says so when it needs the addon, whatever its format', async (t) => {
  const folder = scratch();
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  const esbuild = require(require.resolve('esbuild', { paths: [require.resolve('tsx')] }));
  writeFileSync(
    join(folder, 'app.mjs'),
    `import { createSession, unetConfig, unetModel } from ${JSON.stringify(join(root, 'dist', 'index.js'))};
     try { createSession({ model: unetModel(unetConfig({ height: 8, width: 8, inChannels: 1, blockOutChannels: [8], layersPerBlock: 1, attention: [false], normGroups: 4 })) }); console.log('made'); }
     catch (error) { console.log(error.code, error.message); }`,
  );
  for (const format of ['esm', 'cjs']) {
    const outfile = join(folder, `out.${format === 'esm' ? 'mjs' : 'cjs'}`);
    await esbuild.build({
      entryPoints: [join(folder, 'app.mjs')],
      bundle: true,
      platform: 'node',
      format,
      outfile,
      external: ['sharp', 'onnxruntime-node'],
      logLevel: 'silent',
    });
    const { code, text } = await outcome(process.execPath, [outfile], { cwd: root });
    t.is(code, 0, text);
    t.regex(text, /^ERR_PHOENIX_LOAD .*cannot be a part of a bundle.*--external:phoenix/, format);
  }
  rmSync(folder, { recursive: true });
});

test('I2: under Yarn Plug’n’Play, whose file handles cannot fsync and whose writeFile takes no pieces, a run is written whole', async (t) => {
  const folder = scratch();
  writeFileSync(
    join(folder, 'shim.mjs'),
    `import { open, writeFile } from 'node:fs/promises';
    import fs from 'node:fs';
    import { syncBuiltinESMExports } from 'node:module';
    const handle = await open(new URL(import.meta.url));
    const shape = Object.getPrototypeOf(handle);
    const lacks = () => { throw new Error('Method not implemented.'); };
    const whole = (content) => { if (typeof content !== 'string' && !ArrayBuffer.isView(content)) throw new TypeError('data must be text or bytes'); };
    const writeOf = shape.writeFile;
    Object.assign(shape, { sync: lacks, datasync: lacks, utimes: lacks, async writeFile(content, ...more) { whole(content); return writeOf.call(this, content, ...more); } });
    fs.promises.writeFile = async (path, content, ...more) => { whole(content); return writeFile(path, content, ...more); };
    syncBuiltinESMExports();
    await handle.close();`,
  );
  const shimmed = (...args: string[]) =>
    outcome(process.execPath, ['--import=tsx', `--import=${pathToFileURL(join(folder, 'shim.mjs'))}`, ...args], { cwd: root });
  const lacking = await shimmed(
    '--input-type=module',
    '-e',
    "await (await import('node:fs/promises')).writeFile('/dev/null', [Buffer.from('a')])",
  );
  t.regex(lacking.text, /data must be text or bytes/, 'the shim works');
  const dir = join(folder, 'run');
  const small = ['--data', 'synthetic:24', '--size', '8', '--sample-steps', '2', '--samples', '2', '--device', 'cpu'];
  const { code, text } = await shimmed('src/cli.ts', 'federate', ...small, '--clients', '2', '--rounds', '1', '--out', dir);
  t.is(code, 0, text);
  // A lock whose owner is judged by its heartbeat.
  writeFileSync(join(dir, 'lock'), JSON.stringify({ id: 'x', pid: 1, start: '1', boot: 'other', namespace: 'pid:[0]', host: 'elsewhere' }));
  const again = await shimmed(
    'src/cli.ts',
    'federate',
    ...small,
    '--clients',
    '2',
    '--rounds',
    '2',
    '--out',
    dir,
    '--resume',
    '--steal-lock',
  );
  t.is(again.code, 0, again.text);
  const drawn = await shimmed('src/cli.ts', 'sample', dir, '--n', '2', '--steps', '2', '--out', join(folder, 'drawn'));
  t.is(drawn.code, 0, drawn.text);
  rmSync(folder, { recursive: true });
});

test('I6: where the runtime allows no ArrayBuffer of foreign memory, results are copied', async (t) => {
  const folder = scratch();
  writeFileSync(
    join(folder, 'shim.c'),
    'int napi_create_external_arraybuffer(void) { return 22; } /* napi_no_external_buffers_allowed */\n',
  );
  const compiled = await outcome('cc', ['-shared', '-fPIC', '-o', join(folder, 'shim.so'), join(folder, 'shim.c')]);
  if (process.platform !== 'linux' || compiled.code !== 0) return t.log('skipped: needs Linux and a C compiler');
  const script = `import { createSession, unetConfig, unetModel, drawSamples, noise } from ${JSON.stringify(join(root, 'dist', 'index.js'))};
    const unet = unetConfig({ height: 8, width: 8, inChannels: 1, blockOutChannels: [8], layersPerBlock: 1, attention: [false], normGroups: 4 });
    const session = createSession({ model: unetModel(unet), device: 'cpu' }); await session.init(1n);
    const images = await drawSamples({ session, noise: noise(), count: 2, steps: 2, key: 1n });
    const bytes = await session.params.encode('bf16', 0, session.parameterCount);
    console.log(Array.from(images).join(), bytes.length, bytes.reduce((a, b) => a + b, 0));`;
  const plain = await outcome(process.execPath, ['--input-type=module', '-e', script]);
  const shimmed = await outcome(process.execPath, ['--input-type=module', '-e', script], {
    env: { ...process.env, LD_PRELOAD: join(folder, 'shim.so') },
  });
  t.is(plain.code, 0, plain.text);
  t.deepEqual(shimmed, plain);
  rmSync(folder, { recursive: true });
});

test('Q1: the default number of threads is the smaller of cores and CPU quota, and one for small networks', (t) => {
  const large = { height: 32, width: 32, channels: 128 };
  const unlimited = Number.POSITIVE_INFINITY;
  t.is(threadsFor({ cores: 64, quota: unlimited, network: large }), 64);
  t.is(threadsFor({ cores: 64, quota: 4, network: large }), 4);
  t.is(threadsFor({ cores: 2, quota: 8, network: large }), 2);
  t.is(threadsFor({ cores: 8, quota: 2.5, network: large }), 2);
  t.is(threadsFor({ cores: 8, quota: 0.5 }), 1);
  t.is(threadsFor({ cores: 8, quota: unlimited, network: { height: 8, width: 8, channels: 16 } }), 1, 'a small network');
  t.is(threadsFor({ cores: 8, quota: unlimited, network: { height: 28, width: 28, channels: 32 } }), 8);
  const unet = unetConfig({
    height: 8,
    width: 8,
    inChannels: 1,
    blockOutChannels: [8],
    layersPerBlock: 1,
    attention: [false],
    normGroups: 4,
  });
  const session = createSession({ model: unetModel(unet), device: 'cpu' });
  t.is(session.threads, 1, 'a Session asks');
  session.dispose();
});

/** A control group of this machine with a quota in CPUs; undefined where none can be made. */
function groupWith(quota: number): string | undefined {
  const name = `phoenix-test-${process.pid}`;
  for (const [mount, write] of [
    ['/sys/fs/cgroup', (folder: string) => writeFileSync(join(folder, 'cpu.max'), `${100_000 * quota} 100000`)],
    [
      '/sys/fs/cgroup/cpu',
      (folder: string) => {
        writeFileSync(join(folder, 'cpu.cfs_period_us'), '100000');
        writeFileSync(join(folder, 'cpu.cfs_quota_us'), `${100_000 * quota}`);
      },
    ],
  ] as const) {
    if (!existsSync(join(mount, 'cgroup.procs'))) continue;
    const folder = join(mount, name);
    try {
      mkdirSync(folder);
      write(folder);
      return folder;
    } catch {
      if (existsSync(folder)) rmdirSync(folder);
    }
  }
  return undefined;
}

test('Q1: the quota of a real control group is seen, and decides the default number of threads', async (t) => {
  const folder = groupWith(1.5);
  if (!folder) {
    t.log('SKIPPED: no control group with a CPU quota can be made here (root, and the controller cpu, are needed)');
    return t.pass();
  }
  t.teardown(() => rmdirSync(folder));
  // What computes outside of a Session, and the compilers of an installation, ask in the same place.
  const asks = `
    const { cpuQuota, defaultThreads } = await import(${JSON.stringify(join(root, 'src/bindings/threads.ts'))});
    const { checkFeatures, featureMatrix } = await import(${JSON.stringify(join(root, 'src/ddpm/metrics/features.ts'))});
    const { jobs } = await import(${JSON.stringify(join(root, 'scripts/native.mjs'))});
    const threads = defaultThreads({ height: 32, width: 32, channels: 128 });
    const metrics = checkFeatures({ x: featureMatrix(new Float64Array(4), 2) });
    // Operations on Vectors leave the threads behind that they started; the thread of a call itself ends with it.
    const { createVector } = await import(${JSON.stringify(join(root, 'src/bindings/vector.ts'))});
    const { readdirSync } = await import('node:fs');
    const { setTimeout: delay } = await import('node:timers/promises');
    const count = () => readdirSync('/proc/self/task').length;
    const leastOf = async (vector) => {
      await vector.scale(2);
      let least = count();
      for (let i = 0; i < 20; i++) {
        await delay(10);
        least = Math.min(least, count());
      }
      return least;
    };
    const before = await leastOf(createVector(1));
    const vectors = 1 + (await leastOf(createVector(1e6))) - before;
    console.log(JSON.stringify({ quota: cpuQuota(), threads, metrics, vectors, jobs: await jobs(64) }));`;
  const inside = 'echo $$ > "$0/cgroup.procs" && exec "$@"';
  const program = [process.execPath, '--import=tsx', '--input-type=module', '-e', asks];
  const { CMAKE_BUILD_PARALLEL_LEVEL: _, ...env } = process.env;
  const { code, text } = await outcome('sh', ['-c', inside, folder, ...program], { cwd: root, env });
  t.is(code, 0, text);
  t.deepEqual(JSON.parse(text), { quota: 1.5, threads: 1, metrics: 1, vectors: 1, jobs: '1' });
  const outside = await outcome(process.execPath, program.slice(1), { cwd: root, env });
  t.is(outside.code, 0, outside.text);
  t.is(JSON.parse(outside.text).vectors, defaultThreads(), 'where there is no quota, Vectors take what the machine has');
});

test('Q1: quotas of control groups, version 1 and 2, at any level', (t) => {
  const system = (files: Record<string, string>) => (path: string) => files[path];
  t.is(cpuQuota(system({})), Number.POSITIVE_INFINITY);
  t.is(cpuQuota(system({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': 'max 100000\n' })), Number.POSITIVE_INFINITY);
  t.is(cpuQuota(system({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': '50000 100000\n' })), 0.5);
  const nested = {
    '/proc/self/cgroup': '0::/a/b\n',
    '/sys/fs/cgroup/a/b/cpu.max': '400000 100000',
    '/sys/fs/cgroup/a/cpu.max': '150000 100000',
  };
  t.is(cpuQuota(system(nested)), 1.5);
  const first = { '/proc/self/cgroup': '4:cpu,cpuacct:/pod\n1:name=systemd:/pod\n' };
  const quota = {
    '/sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us': '200000\n',
    '/sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us': '100000\n',
  };
  t.is(cpuQuota(system({ ...first, ...quota })), 2);
  t.is(
    cpuQuota(system({ ...first, '/sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n', '/sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n' })),
    Number.POSITIVE_INFINITY,
  );
});

/** In a process of its own: which backend 'auto' takes, with an addon from `addons`, and what was said. */
async function auto(addons: string, cache: string) {
  const script = `const { chooseBackend } = await import(${JSON.stringify(join(root, 'dist', 'bindings', 'session.js'))}); console.log(JSON.stringify(chooseBackend('auto')));`;
  const env = { ...process.env, PHOENIX_ADDON_DIR: addons, XDG_CACHE_HOME: cache };
  return (await outcome(process.execPath, ['--input-type=module', '-e', script], { env })).text;
}

onEmulator('N1: auto takes a GPU that computes what the CPU computes, and remembers it', async (t) => {
  const cache = scratch();
  const release = join(root, 'build', 'Release');
  t.regex(await auto(release, cache), /"backend":"cuda"/);
  t.regex(await auto(release, cache), /"backend":"cuda"/, 'the second time from memory');
  t.true(existsSync(join(cache, 'phoenix')));
});

onEmulator('N2: with a kernel that computes something else, auto takes the CPU and says so', async (t) => {
  const [addons, cache, release] = [scratch(), scratch(), join(root, 'build', 'Release')];
  for (const name of ['phoenix-cpu.node', 'phoenix-cuda.node']) cpSync(join(release, name), join(addons, name));
  cpSync(join(release, 'phoenix-cuda-ptx'), join(addons, 'phoenix-cuda-ptx'), { recursive: true });
  for (const folder of ['80', '90a']) {
    const file = join(addons, 'phoenix-cuda-ptx', folder, 'silu.ptx');
    const text = readFileSync(file, 'utf8');
    const wrong = text.replace(/\bmul\.f32\b/g, 'add.f32').replace(/\bfma\.rn\.f32\b/g, 'fma.rz.f32');
    t.not(wrong, text);
    writeFileSync(file, wrong);
  }
  const said = await auto(addons, cache);
  t.regex(said, /"backend":"cpu","why":"no GPU is used: .*did not pass the self-check: silu_/, said);
  t.regex(said, /PHOENIX_SELF_CHECK/, 'a warning');
  t.false(existsSync(join(cache, 'phoenix')), 'a failure is not remembered');
  rmSync(addons, { recursive: true });
});
