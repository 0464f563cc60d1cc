/** Who may know whom: the layering of docs/architecture.md, read from the imports and includes themselves. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import ts from 'typescript';

const root = fileURLToPath(new URL('../..', import.meta.url));
const files = (folder: string, ending: RegExp): string[] =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => ending.test(name))
    .map((name) => join(folder, name))
    .sort();
const read = (file: string) => readFileSync(join(root, file), 'utf8');

/** The rooms of src/ in the order of who may know whom: a file imports from its own room and from those after it. */
const ROOMS = ['entry', 'cli', 'experiment', 'commands', 'net', 'report', 'run', 'fl', 'ddpm', 'bindings', 'leaf'] as const;
type Room = (typeof ROOMS)[number];
const LEAVES = ['src/rng.ts', 'src/errors.ts', 'src/arguments.ts', 'src/callbacks.ts', 'src/files.ts', 'src/outputs.ts', 'src/images.ts'];
/** What may touch the disk: these rooms, the datasets, and the files of a checkpoint. */
const DISK_ROOMS: Room[] = ['entry', 'cli', 'experiment', 'commands', 'net', 'report', 'run'];

/** The room of a file of src/: its first folder. A file directly in src/ is a leaf or an entry point. */
function roomOf(file: string): Room {
  if (LEAVES.includes(file)) return 'leaf';
  const folder = file.split('/')[1]!;
  if (folder.endsWith('.ts')) return 'entry';
  if ((ROOMS as readonly string[]).includes(folder)) return folder as Room;
  throw new Error(`${file} lies in no known room`);
}

/**
 * Who may change the disk: files.ts writes whole files; the log of a run and a site's log of what it sent are appended to and cut, and a
 * lock is linked into place.
 */
const WRITERS = ['src/files.ts', 'src/run/log-file.ts', 'src/run/lock.ts', 'src/net/sent-log.ts'];
const WRITES =
  /^(appendFile|chmod|copyFile|cp|createWriteStream|link|mkdir|mkdtemp|rename|rm|rmdir|symlink|truncate|unlink|utimes|writeFile)(Sync)?$/;

/** A part of `fl` that can be tested in milliseconds knows only the vocabulary, its own folder and the leaves. */
const PURE = ['src/fl/strategies/', 'src/fl/privacy/', 'src/fl/partition/'];
const PURE_MAY = ['src/fl/protocol.ts', 'src/fl/state.ts', 'src/fl/strategy.ts', ...LEAVES];
const DISK = /^node:(fs|fs\/promises)$|^sharp$/;
const TERMINAL = /^(cli-progress|commander|node:readline|node:readline\/promises|node:tty|zx)$/;
/** The leaves that touch the disk; what may not touch it imports neither. */
const DISK_LEAVES = ['src/files.ts', 'src/outputs.ts'];
const mayTouchDisk = (file: string) =>
  DISK_LEAVES.includes(file) ||
  DISK_ROOMS.includes(roomOf(file)) ||
  file.startsWith('src/ddpm/data/') ||
  file.startsWith('src/ddpm/checkpoint/') ||
  file === 'src/ddpm/metrics/onnx.ts' ||
  // What is there to load, how many CPUs are granted, and a cache.
  ['src/bindings/load.ts', 'src/bindings/threads.ts', 'src/bindings/self-check.ts'].includes(file);

/** How a file that may not changes the disk: by a function of node:fs that it names, or by a file opened to be written. */
function writesOf(file: string, source: ts.SourceFile): string[] {
  if (WRITERS.includes(file)) return [];
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) && /^node:fs/.test((node.moduleSpecifier as ts.StringLiteral).text)) {
      const names = node.importClause?.namedBindings;
      if (!names || !ts.isNamedImports(names)) found.push(`${file} imports all of node:fs: name the functions`);
      else
        for (const { name, propertyName } of names.elements) {
          const imported = (propertyName ?? name).text;
          if (WRITES.test(imported)) found.push(`${file} changes the disk (${imported}): only ${WRITERS.join(', ')} may`);
        }
    }
    if (ts.isCallExpression(node) && /^open(Sync)?$/.test(node.expression.getText(source)) && node.arguments.length > 1) {
      const flag = node.arguments[1]!.getText(source);
      if (flag !== "'r'") found.push(`${file} opens a file with ${flag}: only ${WRITERS.join(', ')} may write`);
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** What one file of src/ does against the rules. */
function breaches(file: string, text: string): string[] {
  const found: string[] = [];
  const room = roomOf(file);
  for (const { fileName } of ts.preProcessFile(text, true, true).importedFiles) {
    if (!fileName.startsWith('.')) {
      if (DISK.test(fileName) && !mayTouchDisk(file)) found.push(`${file} touches the disk (${fileName})`);
      if (TERMINAL.test(fileName) && room !== 'cli') found.push(`${file} touches the terminal (${fileName})`);
      continue;
    }
    const target = relative('.', join(dirname(file), fileName));
    if (!target.startsWith('src/')) found.push(`${file} imports ${target}, outside src/`);
    else if (ROOMS.indexOf(roomOf(target)) < ROOMS.indexOf(room)) found.push(`${file} (${room}) imports ${target} (${roomOf(target)})`);
    else if (DISK_LEAVES.includes(target) && !mayTouchDisk(file)) found.push(`${file} touches the disk (${target})`);
    else if (room === 'leaf' && !LEAVES.includes(target)) found.push(`${file} is a leaf and imports ${target}`);
    const own = PURE.find((folder) => file.startsWith(folder));
    if (own && !target.startsWith(own) && !PURE_MAY.includes(target))
      found.push(`${file} may import only ${PURE_MAY.join(', ')}, not ${target}`);
  }
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  found.push(...writesOf(file, source));
  if (room !== 'cli') {
    const visit = (node: ts.Node): void => {
      if (ts.isPropertyAccessExpression(node)) {
        const used = node.getText(source);
        if (/^(console\.|process\.(stdout|stderr|stdin|exit)$)/.test(used)) found.push(`${file} touches the terminal (${used})`);
      }
      ts.forEachChild(node, visit);
    };
    visit(source);
  }
  return found;
}

/** A circle of imports, types and dynamic ones included, as the files along it; none if there is none. */
function circle(imports: Record<string, string[]>): string[] {
  const done = new Set<string>();
  const walk = (file: string, path: string[]): string[] => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return [];
    const found = (imports[file] ?? []).map((next) => walk(next, [...path, file])).find(({ length }) => length > 0);
    done.add(file);
    return found ?? [];
  };
  return (
    Object.keys(imports)
      .map((file) => walk(file, []))
      .find(({ length }) => length > 0) ?? []
  );
}

/**
 * The rooms of native/, and whose headers each may include besides its own. `kernels` is what lies directly in native/kernels: the ops'
 * declarations and what all backends share. Backends know nothing of each other, and nobody above the kernels knows a backend.
 */
const NATIVE_ROOMS: Record<string, string[]> = {
  kernels: [],
  'kernels/host': ['kernels'],
  'kernels/ref': ['kernels'],
  'kernels/cpu': ['kernels', 'kernels/cpu/simd'],
  'kernels/cpu/simd': ['kernels'],
  'kernels/cuda': ['kernels', 'kernels/cuda/gemm', 'kernels/cuda/runtime'],
  'kernels/cuda/gemm': ['kernels', 'kernels/cuda', 'kernels/cuda/runtime'],
  'kernels/cuda/runtime': ['kernels', 'kernels/cuda', 'kernels/cuda/gemm'],
  'kernels/lab': ['kernels', 'kernels/cpu', 'kernels/cpu/simd'],
  unet: ['kernels'],
  metrics: ['kernels'],
  binding: ['kernels', 'unet', 'metrics'],
  test: ['kernels', 'kernels/cuda', 'kernels/cuda/gemm', 'kernels/cuda/runtime', 'unet'],
};
const nativeRoomOf = (file: string) => dirname(file).split('/').slice(1).join('/');

/** What one file of native/ includes against the rules. Includes in quotes are ours, those in angle brackets the compiler's. */
function nativeBreaches(file: string, text: string): string[] {
  const found: string[] = [];
  const room = nativeRoomOf(file);
  const allowed = NATIVE_ROOMS[room];
  if (!allowed) return [`${file} lies in no known room`];
  for (const [, open, name] of text.matchAll(/^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]/gm)) {
    if (/^(napi|node_api|js_native_api)/.test(name!)) {
      if (room !== 'binding') found.push(`${file} includes ${name}: only native/binding speaks Node-API`);
      continue;
    }
    if (open === '<') {
      if (name!.includes('/') && !name!.startsWith('sys/')) found.push(`${file} includes <${name}>, which is not of the standard library`);
      continue;
    }
    const target = join('native', name!);
    const targetRoom = nativeRoomOf(target);
    // The tests share the emulator's checks.
    if (room === 'test' && /^(test|hopper|\w+_vectors)\.h$/.test(name!)) continue;
    if (!known.has(target)) found.push(`${file} includes "${name}": includes name a file from native/ on`);
    else if (targetRoom !== room && !allowed.includes(targetRoom)) found.push(`${file} (${room}) includes ${target}`);
    // The binding reads arguments and starts work. What computes over values lies in kernels, unet or metrics.
    if (room === 'binding' && target === 'native/kernels/parallel.h')
      found.push(`${file} includes ${target}: the binding computes nothing`);
    if (/\.(cpp|cu)$/.test(target)) found.push(`${file} includes the implementation ${target}; kernels meet in ops.h`);
  }
  return found;
}
const nativeFiles = files('native', /\.(h|cpp|cu|cuh)$/);
const known = new Set(nativeFiles);

/** Includes in quotes of the emulator, tools/simt: its own files. Only its seeded defects are written with the kernels' instructions. */
function emulatorBreaches(file: string, text: string): string[] {
  return [...text.matchAll(/^[ \t]*#[ \t]*include[ \t]*"([^"]+)"/gm)].flatMap(([, name]) =>
    existsSync(join(root, dirname(file), name!)) || (file === 'tools/simt/test/defects.cu' && known.has(join('native', name!)))
      ? []
      : [`${file} includes "${name}", which is not of the emulator`],
  );
}

test('imports of src/ run only from one room to those after it: cli, experiment, commands, net, report, run, fl, ddpm, bindings, leaves', (t) => {
  const sources = files('src', /\.ts$/);
  t.true(sources.length > 5);
  t.deepEqual(
    sources.flatMap((file) => breaches(file, read(file))),
    [],
  );
});

test('no circle of imports in src/', (t) => {
  const importsOf = (file: string) =>
    ts
      .preProcessFile(read(file), true, true)
      .importedFiles.flatMap(({ fileName }) => (fileName.startsWith('.') ? relative('.', join(dirname(file), fileName)) : []));
  t.deepEqual(circle(Object.fromEntries(files('src', /\.ts$/).map((file) => [file, importsOf(file)]))), []);
  t.deepEqual(circle({ a: ['b', 'd'], b: ['c'], c: ['e', 'b'], d: [], e: [] }), ['b', 'c', 'b'], 'one that there is, is seen');
  t.deepEqual(circle({ a: ['b', 'c'], b: ['d'], c: ['d'], d: [] }), [], 'two ways to one file are none');
});

test('native: backends know nothing of each other, unet and metrics know what backends share, only binding knows Node-API', (t) => {
  t.true(nativeFiles.length > 5);
  t.deepEqual(
    nativeFiles.flatMap((file) => nativeBreaches(file, read(file))),
    [],
  );
  const emulator = files('tools/simt', /\.(h|cpp|cu)$/);
  t.true(emulator.length > 5);
  t.deepEqual(
    emulator.flatMap((file) => emulatorBreaches(file, read(file))),
    [],
  );
});

test('a breach is seen', (t) => {
  const seen = (file: string, text: string) => t.is(breaches(file, text).length, 1, `${file}: ${text}`);
  seen('src/ddpm/train.ts', "import type { Task } from '../fl/protocol.ts';");
  seen('src/commands/train.ts', "import { main } from '../cli/main.ts';");
  seen('src/run/folder.ts', "import { federate } from '../commands/federate.ts';");
  seen('src/commands/train.ts', "import { Command } from 'commander';");
  seen('src/fl/round.ts', "export { openRun } from '../run/folder.ts';");
  seen('src/bindings/session.ts', "const unet = await import('../ddpm/model/unet.ts');");
  seen('src/errors.ts', "import { sample } from './sample.ts';");
  seen('src/rng.ts', "import { addon } from './bindings/load.ts';");
  seen('src/fl/site/client.ts', "import { readFile } from 'node:fs/promises';");
  seen('src/ddpm/sample.ts', "import sharp from 'sharp';");
  seen('src/fl/site/client.ts', "import { readJson } from '../../files.ts';");
  seen('src/ddpm/train.ts', "import { io } from '../files.ts';");
  seen('src/commands/sample.ts', "import { readFile, writeFile } from 'node:fs/promises';");
  seen('src/report/report.ts', "import { rm as removed } from 'node:fs/promises';");
  seen('src/report/report.ts', "import * as fs from 'node:fs';");
  seen('src/run/vector-file.ts', "import { open } from 'node:fs/promises'; await open(path, 'w');");
  seen('src/fl/federation.ts', 'console.log(1);');
  seen('src/ddpm/noise.ts', "process.stdout.write('x');");
  seen('src/fl/strategies/fedavg.ts', "import { runRound } from '../round.ts';");
  seen('src/fl/partition/iid.ts', "import type { Dataset } from '../../ddpm/data/types.ts';");
  seen('src/index.ts', "import { x } from '../../scripts/native.mjs';");
  t.deepEqual(breaches('src/fl/strategies/fedavg.ts', "import type { Report } from '../protocol.ts';\n// console.log('a comment')"), []);
  t.deepEqual(breaches('src/run/vector-file.ts', "import { open } from 'node:fs/promises'; await open(path, 'r'); await open(path);"), []);
  t.deepEqual(breaches('src/files.ts', "import { writeFile } from 'node:fs/promises';"), []);
  t.deepEqual(breaches('src/cli/main.ts', "import { federate } from '../commands/federate.ts'; console.log(1)"), []);
  const include = (file: string, name: string) => nativeBreaches(file, `#include ${name}\n`);
  t.is(include('native/kernels/cpu/conv2d.cpp', '<napi.h>').length, 1);
  t.is(include('native/kernels/cpu/conv2d.cpp', '"unet/arena.h"').length, 1);
  t.is(include('native/kernels/cpu/conv2d.cpp', '"kernels/cuda/conv2d.cuh"').length, 1);
  t.is(include('native/kernels/cuda/conv2d.cpp', '"kernels/cpu/gemm.h"').length, 1);
  t.is(include('native/kernels/context.cpp', '"kernels/cuda/runtime/launch.h"').length, 1);
  t.is(include('native/unet/tape.cpp', '"kernels/cuda/runtime/side_stream.h"').length, 1);
  t.is(include('native/kernels/other/x.cpp', '"kernels/ops.h"').length, 1);
  t.is(include('native/binding/vector.cpp', '"kernels/parallel.h"').length, 1);
  t.is(include('native/unet/unet.cpp', '"kernels/missing.h"').length, 1);
  t.is(include('native/unet/unet.cpp', '"unet.h"').length, 1);
  t.is(include('native/kernels/ref/linear.cpp', '"kernels/ref/conv2d.cpp"').length, 1);
  t.is(emulatorBreaches('tools/simt/driver.cpp', '#include "kernels/ops.h"').length, 1);
  t.deepEqual(include('native/unet/unet.cpp', '"kernels/ops.h"'), []);
});
