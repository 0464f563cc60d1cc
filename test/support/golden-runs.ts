/**
 * Golden runs: short trainings whose results are checked in (test/golden/runs.json), so that a change of shape shows that behaviour stayed.
 * A row holds the commands of a run, its results in the clear (`projection`) and the hashes of its tensors and images (`tensors`). Chapter
 * 43 compares, scripts/golden-runs.mjs rewrites one row.
 */
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { addon } from '../../src/bindings/load.ts';

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type Fields = { [key: string]: Json };

export type GoldenResult = {
  /** What was learnt, in the clear. */
  projection: Fields;
  /** First 16 hex digits of the sha256 of each tensor of a checkpoint, and of the pixels of each image. */
  tensors: Record<string, string>;
};

export type GoldenRow = {
  /** What the run covers. */
  about: string;
  /** Why the row was last changed, and the commit before that change. */
  reason: string;
  before: string;
  /** Command lines of phoenix; DIR is a folder made for the run. */
  commands?: string[][];
  /** In place of commands: a program that prints a GoldenResult. It needs the emulator. */
  program?: string;
  /** Files put into the folder first, by name. */
  files?: Record<string, Json>;
} & GoldenResult;

export type GoldenRuns = {
  /** What bits depend on: the compiler of the addon, and the C library, whose functions it calls. */
  compiler: string;
  libc: string;
  rows: Record<string, GoldenRow>;
};

const root = fileURLToPath(new URL('../..', import.meta.url));
export const goldenPath = join(root, 'test', 'golden', 'runs.json');

export const readGoldenRuns = (): GoldenRuns => JSON.parse(readFileSync(goldenPath, 'utf8'));

/** What the bits of this machine's runs depend on. */
export function machine(): Pick<GoldenRuns, 'compiler' | 'libc'> {
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  return { compiler: addon('cpu').info().build, libc: header.glibcVersionRuntime ?? 'no glibc' };
}

// ---- running

/** The environment of a run: the portable instruction set, and nothing switched off. */
function environment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !/^PHOENIX_(CPU|CUDA)_/.test(name));
  return { ...Object.fromEntries(kept), PHOENIX_CPU_ISA: 'portable', PHOENIX_SIMT_CAPABILITY: '9.0' };
}

async function call(program: string, args: string[]): Promise<string> {
  const options = { cwd: root, env: environment(), maxBuffer: 64 << 20 };
  return (await promisify(execFile)(process.execPath, ['--import=tsx', program, ...args], options)).stdout;
}

/** Does what a row says, in a folder of its own. @throws Error with what the command wrote, if it fails */
export async function runGolden({ commands = [], program, files = {} }: GoldenRow): Promise<GoldenResult> {
  if (program !== undefined) return plain(JSON.parse(await call(program, [])));
  const dir = mkdtempSync(join(tmpdir(), 'phoenix-golden-'));
  try {
    for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), JSON.stringify(content));
    const result: GoldenResult = { projection: {}, tensors: {} };
    for (const command of commands) {
      const args = command.map((word) => (word.startsWith('DIR/') ? join(dir, word.slice(4)) : word));
      const printed = await call('src/cli.ts', args);
      if (command[0] === 'finetune') result.projection.finetune = finetuned(printed);
    }
    for (const name of readdirSync(dir).sort()) await collect(join(dir, name), name, result);
    return plain(result);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** As JSON gives it back: without what is undefined. */
const plain = <T>(value: T): T => JSON.parse(JSON.stringify(value));

// ---- results

/** Puts what lies at a path into the result: a run, an experiment, a checkpoint or an image. */
async function collect(at: string, name: string, result: GoldenResult): Promise<void> {
  if (name.endsWith('.safetensors')) Object.assign(result.tensors, tensorsOf(at, name));
  else if (name.endsWith('.png')) result.tensors[`${name} pixels`] = await pixelsOf(at);
  else if (existsSync(join(at, 'state.json'))) {
    const { round, state } = readJson(join(at, 'state.json'));
    result.projection[name] = runOf(at, state);
    Object.assign(result.tensors, tensorsOf(join(at, `checkpoint-${round}.safetensors`), name));
    for (const file of readdirSync(at).sort()) if (file.endsWith('.png')) await collect(join(at, file), file, result);
  } else if (existsSync(join(at, 'experiment.json'))) {
    result.projection[name] = scoresOf(join(at, 'scores'));
    for (const file of readdirSync(at))
      if (file.startsWith('own-classifier')) Object.assign(result.tensors, tensorsOf(join(at, file), 'classifier'));
  }
}

// biome-ignore lint/suspicious/noExplicitAny: files of a run, which its own tests check
const readJson = (file: string): any => JSON.parse(readFileSync(file, 'utf8'));

export const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex').slice(0, 16);

/**
 * The tensors of a safetensors file: eight bytes of length, a header in JSON, the data. A checkpoint's averaged (EMA) weights and its raw
 * ones, which it calls raw.<name>, share an entry.
 */
function tensorsOf(file: string, name: string): Record<string, string> {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE());
  const header: Record<string, { data_offsets: [number, number] }> = JSON.parse(bytes.toString('utf8', 8, start));
  const hash = (tensor: string) => {
    const [from, to] = header[tensor]!.data_offsets;
    return hashOf(bytes.subarray(start + from, start + to));
  };
  const tensors: Record<string, string> = {};
  for (const tensor of Object.keys(header).sort()) {
    const paired = tensor.startsWith('raw.') && header[tensor.slice(4)] !== undefined;
    if (tensor === '__metadata__' || paired) continue;
    const raw = header[`raw.${tensor}`] && hash(`raw.${tensor}`);
    tensors[`${name} ${tensor}`] = raw === undefined ? hash(tensor) : `ema ${hash(tensor)} raw ${raw}`;
  }
  return tensors;
}

async function pixelsOf(file: string): Promise<string> {
  const { data, info } = await sharp(file).raw().toBuffer({ resolveWithObject: true });
  return `${info.width}x${info.height}x${info.channels} ${hashOf(data)}`;
}

/** A run folder: the shape and the fit it trained with, its rounds, and where it stands. */
function runOf(dir: string, state: { globalStep: number; images: number; warmupSteps: number }): Json {
  const { unet, fit } = readJson(join(dir, 'config.json'));
  const lines = readFileSync(join(dir, 'log.jsonl'), 'utf8').trim().split('\n').slice(1);
  const rounds = lines.map((line) => roundOf(JSON.parse(line)));
  const { globalStep, images, warmupSteps } = state;
  return { unet, fit, rounds: Object.fromEntries(rounds), end: { globalStep, images, warmupSteps } };
}

/** What a round's line of the log says of learning. Times, bytes and norms are left out: they may differ in a run that learns the same. */
// biome-ignore lint/suspicious/noExplicitAny: a line of the log, which its own tests check
function roundOf(line: any): [string, Json] {
  const { round, loss, evalLoss, evalLossLocal, images, coherence, work, clients, failures, decisions, notes } = line;
  const each = clients.map((it: Fields) => [it.client, { weight: it.weight, loss: it.loss, quality: it.quality, vendi: it.vendi }]);
  return [
    `round ${round}`,
    { loss, evalLoss, evalLossLocal, images, coherence, work, clients: Object.fromEntries(each), failures, decisions, notes },
  ];
}

/** What the cells of an experiment scored. */
function scoresOf(dir: string): Fields {
  const cells: Fields = {};
  for (const file of readdirSync(dir).sort()) {
    if (!file.endsWith('.json')) continue;
    const { points, final } = readJson(join(dir, file));
    const { round, images, metrics, classes, classRecall, mixture, decisions } = final;
    const curve = points.map((point: Fields) => ({ round: point.round, images: point.images, metrics: point.metrics }));
    cells[basename(file, '.json')] = { round, images, metrics, classes, classRecall, mixture, decisions, curve };
  }
  return cells;
}

/** What `finetune --json` prints at its end. */
function finetuned(printed: string): Json {
  const { examples, steps, trained, parameterCount, evalLoss, evalLossAfter } = JSON.parse(printed.trim().split('\n').at(-1)!);
  return { examples, steps, trained, parameterCount, evalLoss, evalLossAfter };
}

// ---- comparing

/** Every value by its path; an empty list or object is a value too. */
function leaves(value: Json, at = '', into = new Map<string, Json>()): Map<string, Json> {
  if (typeof value === 'object' && value !== null && Object.keys(value).length > 0)
    for (const [key, child] of Object.entries(value)) leaves(child, at ? `${at} › ${key}` : key, into);
  else into.set(at, value);
  return into;
}

function equal(expected: Json | undefined, actual: Json | undefined, tolerance: number): boolean {
  if (typeof expected === 'number' && typeof actual === 'number')
    return Math.abs(expected - actual) <= tolerance * Math.max(Math.abs(expected), Math.abs(actual));
  return JSON.stringify(expected) === JSON.stringify(actual);
}

/**
 * What moved, one line a field or tensor. Bits are compared if `bits` is set; without it the projection alone, its numbers to a relative
 * 1e-5.
 */
export function differences(expected: GoldenResult, actual: GoldenResult, bits: boolean): string[] {
  const [before, now] = [expected, actual].map(({ projection, tensors }) => leaves(plain({ projection, ...(bits && { tensors }) })));
  const moved: string[] = [];
  for (const at of new Set([...before!.keys(), ...now!.keys()])) {
    const [was, is] = [before!.get(at), now!.get(at)];
    if (equal(was, is, bits ? 0 : 1e-5)) continue;
    const show = (value: Json | undefined) => (value === undefined ? 'nothing' : JSON.stringify(value));
    moved.push(`${at}: expected ${show(was)}, actual ${show(is)}`);
  }
  return moved;
}

// ---- recording

/** JSON with one tensor, one command and one list or object of plain values per line, so that a change shows what moved. */
function layout(value: Json, indent = '', key = ''): string {
  const isPlain = (it: Json) => typeof it !== 'object' || it === null;
  if (isPlain(value)) return JSON.stringify(value);
  const inner = `${indent} `;
  const entries = Object.entries(value as Fields);
  const isList = Array.isArray(value);
  const named = entries.map(([name, child]) => ({
    name: isList ? '' : `${JSON.stringify(name)}: `,
    text: layout(child, inner, name),
    child,
  }));
  const broken = key === 'tensors' || named.some(({ child }) => !isPlain(child));
  const [open, close] = isList ? '[]' : '{}';
  if (!broken) return `${open}${named.map(({ name, text }) => name + text).join(', ')}${close}`;
  return `${open}\n${named.map(({ name, text }) => inner + name + text).join(',\n')}\n${indent}${close}`;
}

/** The text of runs.json. */
export const layoutGolden = (golden: GoldenRuns): string => `${layout(golden as unknown as Json)}\n`;

/**
 * Runs a row and writes what came into runs.json, with the reason and the commit that the working tree builds on.
 * @returns what moved
 * @throws Error for an unknown row, an empty reason, or a machine whose bits cannot be compared with the other rows'
 */
export async function recordGolden(name: string, reason: string): Promise<string[]> {
  const golden = readGoldenRuns();
  const row = golden.rows[name];
  if (!row) throw new Error(`There is no row "${name}" in test/golden/runs.json; there are ${Object.keys(golden.rows).join(', ')}.`);
  if (reason.trim() === '') throw new Error('A row changes for a reason: say it.');
  for (const [field, here] of Object.entries(machine()))
    if (golden[field as 'libc'] !== here)
      throw new Error(
        `The rows were recorded with ${field} ${golden[field as 'libc']}, and here it is ${here}: the bits of one row would not go with the others.`,
      );
  const result = await runGolden(row);
  const before = execFileSync('git', ['rev-parse', '--short=7', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim();
  const moved = row.projection && row.tensors ? differences(row, result, true) : ['the row is new'];
  const { about, commands, program, files } = row;
  // Read anew: another row may have been rewritten meanwhile.
  const now = readGoldenRuns();
  now.rows[name] = plain({ about, reason: reason.trim(), before, commands, program, files, ...result }) as GoldenRow;
  writeFileSync(goldenPath, `${layoutGolden(now)}`);
  return moved;
}
