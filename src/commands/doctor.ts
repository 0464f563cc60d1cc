/** What `phoenix doctor` finds out: what was built, what this machine has, which backend is used and why. Nothing here changes anything. */
import { execFile } from 'node:child_process';
import { readFile, stat } from 'node:fs/promises';
import { availableParallelism, cpus, freemem, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { addon, type Backend } from '../bindings/load.ts';
import type { AddonInfo } from '../bindings/native.ts';
import { chooseBackend } from '../bindings/session.ts';
import { cpuQuota } from '../bindings/threads.ts';
import { formatBytes } from '../report/units.ts';
import { packageInfo } from './package-info.ts';

export type Finding = { ok: true; version: string } | { ok: false; reason: string };

export type Diagnosis = {
  phoenix: string;
  node: string;
  nodeApi: string;
  /** e.g. 'linux-x64'. */
  platform: string;
  os: string;
  cpu: {
    model: string;
    cores: number;
    /** CPUs that control groups grant; absent without a limit. */
    quota?: number;
    /** Vector instructions that matter here and that the processor has. */
    instructions: string[];
  };
  /** In bytes; `total` is what this process may use where a limit is set. */
  memory: { total: number; free: number };
  /** What a build needs; `nvcc` only for the CUDA backend. */
  tools: { cmake: Finding; compiler: Finding; nvcc: Finding };
  gpu: Finding;
  addons: { name: string; file?: string; bytes?: number; info?: AddonInfo; reason?: string; failed?: string }[];
  /** The backend that 'auto' takes; absent if none can be loaded. */
  backend?: string;
  why: string;
};

const run = promisify(execFile);

/** The first line of a program's answer that matches, or why there is none. */
async function ask(program: string, args: string[], line = /\S/): Promise<Finding> {
  try {
    const { stdout } = await run(program, args, { timeout: 10_000 });
    const version = stdout.split('\n').find((text) => line.test(text));
    return version ? { ok: true, version: version.trim() } : { ok: false, reason: `${program} gave no answer` };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return { ok: false, reason: code === 'ENOENT' ? `no ${program} on the PATH` : `${program} failed: ${message.split('\n')[0]}` };
  }
}

async function firstOf(questions: (() => Promise<Finding>)[]): Promise<Finding> {
  const reasons: string[] = [];
  for (const question of questions) {
    const answer = await question();
    if (answer.ok) return answer;
    reasons.push(answer.reason);
  }
  return { ok: false, reason: reasons.join('; ') };
}

async function findGpu(): Promise<Finding> {
  const driver = await readFile('/proc/driver/nvidia/version', 'utf8').catch(() => undefined);
  const listed = await ask('nvidia-smi', ['--query-gpu=name,driver_version,memory.total', '--format=csv,noheader'], /,/);
  if (listed.ok) return listed;
  if (driver) return { ok: true, version: driver.split('\n')[0]!.trim() };
  return { ok: false, reason: `no NVIDIA driver (no /proc/driver/nvidia, ${listed.reason})` };
}

/** Instruction sets by the kernel's names, in the order in which they came. */
const INSTRUCTIONS = [
  'sse4_2',
  'avx',
  'avx2',
  'fma',
  'f16c',
  'avx512f',
  'avx512bw',
  'avx512vl',
  'avx512dq',
  'avx512_vnni',
  'avx512_bf16',
  'amx_bf16',
];

async function instructionSets(): Promise<string[]> {
  const text = await readFile('/proc/cpuinfo', 'utf8').catch(() => '');
  const flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(text)?.[1]?.trim().split(/\s+/));
  return [...INSTRUCTIONS, 'asimd', 'sve'].filter((name) => flags.has(name));
}

async function examineAddon(root: string, backend: Backend): Promise<Diagnosis['addons'][number]> {
  const name = `phoenix-${backend}`;
  const failed = await readFile(join(root, 'build', `${name}.failed`), 'utf8').catch(() => undefined);
  const file = join(root, 'build', 'Release', `${name}.node`);
  const built = await stat(file).catch(() => undefined);
  const where = built ? { file, bytes: built.size } : {};
  try {
    return { name, ...where, info: addon(backend).info() };
  } catch (error) {
    return { name, ...where, reason: (error as Error).message, ...(failed === undefined ? {} : { failed }) };
  }
}

/** Examines this machine and this installation. Never throws for what is missing: it says so. */
export async function diagnose(): Promise<Diagnosis> {
  const { root, version } = packageInfo();
  const [cmake, compiler, nvcc, gpu, instructions, addons] = await Promise.all([
    ask('cmake', ['--version'], /version/),
    firstOf(['c++', 'g++', 'clang++'].map((program) => () => ask(program, ['--version']))),
    firstOf(['nvcc', '/usr/local/cuda/bin/nvcc'].map((program) => () => ask(program, ['--version'], /release/))),
    findGpu(),
    instructionSets(),
    Promise.all((['cpu', 'cuda', 'ref'] as const).map((backend) => examineAddon(root, backend))),
  ]);
  const cpu = addons[0]!;
  const choice = cpu.info && chooseBackend('auto');
  const limit = process.constrainedMemory?.() ?? 0;
  const quota = cpuQuota();
  return {
    phoenix: version,
    node: process.version,
    nodeApi: process.versions.napi ?? 'none',
    platform: `${process.platform}-${process.arch}`,
    os: release(),
    cpu: {
      model: cpus()[0]?.model.trim() ?? 'unknown',
      cores: availableParallelism(),
      ...(quota < Number.POSITIVE_INFINITY ? { quota } : {}),
      instructions,
    },
    memory: { total: limit > 0 ? Math.min(limit, totalmem()) : totalmem(), free: freemem() },
    tools: { cmake, compiler, nvcc },
    gpu,
    addons,
    backend: choice?.backend,
    why:
      choice?.backend === 'cuda'
        ? choice.why
        : cpu.reason?.startsWith('PHOENIX_')
          ? cpu.reason.replace(/\.$/, '')
          : whyCpu(cpu.info, choice?.why),
  };
}

function whyCpu(cpu: AddonInfo | undefined, noGpu: string | undefined): string {
  if (!cpu)
    return 'no addon can be loaded: it is built by the install script, with CMake and a C++20 compiler; the line of phoenix-cpu says how to run it';
  return `${noGpu}; ${cpu.isa} is the best of ${cpu.isas.join(', ')} on this processor`;
}

const found = (finding: Finding) => (finding.ok ? finding.version : `none: ${finding.reason}`);

/** A diagnosis as lines for a terminal. */
export function formatDiagnosis(diagnosis: Diagnosis): string {
  const { cpu, memory, tools } = diagnosis;
  const rows: [string, string][] = [
    ['Phoenix', diagnosis.phoenix],
    ['Node', `${diagnosis.node}, Node-API ${diagnosis.nodeApi}, ${diagnosis.platform}, ${diagnosis.os}`],
    [
      'Processor',
      `${cpu.model}, ${cpu.cores} core${cpu.cores === 1 ? '' : 's'}${cpu.quota === undefined ? '' : `, of which a control group grants ${cpu.quota}`}`,
    ],
    ['Instructions', cpu.instructions.join(' ') || 'unknown'],
    ['Memory', `${formatBytes(memory.total)}, ${formatBytes(memory.free)} free`],
    ['CMake', found(tools.cmake)],
    ['C++ compiler', found(tools.compiler)],
    ['CUDA compiler', found(tools.nvcc)],
    ['GPU', found(diagnosis.gpu)],
    ...diagnosis.addons.map((entry): [string, string] => [entry.name, describeAddon(entry)]),
    ['Backend', `${diagnosis.backend ?? 'NONE'}: ${diagnosis.why}`],
  ];
  const width = Math.max(...rows.map(([name]) => name.length)) + 2;
  return rows.map(([name, text]) => `${name.padEnd(width)}${text.replaceAll('\n', `\n${' '.repeat(width)}`)}`).join('\n');
}

function describeAddon({ name, file, bytes, info, reason, failed }: Diagnosis['addons'][number]): string {
  if (info) {
    const usable = info.backend === 'cuda' ? `, ${info.usable ? '' : 'CANNOT BE USED: '}${info.device}` : '';
    const size = bytes === undefined ? '' : `, ${formatBytes(bytes)}`;
    return `${info.real}${info.backend === 'cpu' ? `, ${info.isa}` : ''}, ${info.build}${size}${usable}${file ? `, ${file}` : ''}`;
  }
  if (failed !== undefined && !file) return `NOT BUILT: its build failed, and ended with\n${failed.trimEnd()}`;
  if (name === 'phoenix-ref' && !file) return 'not built (only the tests need it)';
  if (name === 'phoenix-cuda' && !file) return 'not built: npm install builds it where a CUDA compiler is found';
  return `CANNOT BE LOADED: ${reason}`;
}
