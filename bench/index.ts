/** `npm run bench`: whole steps beside PyTorch, a federated round, and every op against the machine's peak. See docs/performance.md. */
import { writeFile } from 'node:fs/promises';
import { cpus, release, totalmem } from 'node:os';
import { addon } from '../src/bindings/load.ts';
import { PhoenixError } from '../src/errors.ts';
import { benchKernels, kernelTables } from './kernels.ts';
import { type BenchOptions, help, parseOptions } from './options.ts';
import { findInterpreters, peerEnvironment } from './peer.ts';
import { createWatch } from './quiet.ts';
import { benchRound, roundTable } from './round.ts';
import { type BenchFile, markdownTables } from './tables.ts';
import { benchUNet, unetTable } from './unet.ts';

const print = (text: string): void => void process.stdout.write(`${text}\n`);
const say = (text: string): void => void process.stderr.write(`${text}\n`);

async function bench(options: BenchOptions): Promise<void> {
  const { only, threads, reps, quick, patience } = options;
  const started = performance.now();
  const native = addon('cpu');
  const info = native.info();
  const machine = {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: info.cores,
    memoryBytes: totalmem(),
    system: `${process.platform}-${process.arch} ${release()}`,
    node: process.version,
  };
  const settings = environment(threads);
  print(
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB; ${machine.system}; Node ${machine.node}`,
  );
  print(`Phoenix ${info.backend}, ${info.isa}, ${info.real}, ${info.build}; ${threads} thread${threads > 1 ? 's' : ''}`);
  print(
    'GPU: not measured, since this version computes on CPUs only. On a machine with an NVIDIA GPU this will also time the CUDA backend.',
  );
  const watch = createWatch({ patienceSeconds: patience });
  const result: BenchFile = { schema: 1, date: new Date().toISOString(), machine, addon: info, options, command: commandLine() };

  if (only.includes('unet')) {
    const { found, skipped } = options.peers ? await findInterpreters() : { found: [], skipped: ['not asked for (--no-peers)'] };
    print('');
    for (const { name, executable, build } of found) print(`Peer: ${name} (${executable}), ${build}; ${settings}`);
    for (const { name } of found.filter(({ slowBlas }) => slowBlas)) {
      print(
        `  NOTE: ${name} does its matrix products by the reference BLAS, so it is far slower than it could be; install libopenblas0-pthread.`,
      );
    }
    if (found.length === 0) print('Peer: SKIPPED, no Python with PyTorch was found, so there is nothing to compare with.');
    for (const reason of skipped) print(`  no peer: ${reason}`);
    const unet = await benchUNet({ ...options, interpreters: found, watch, say });
    print(`\n${unetTable(unet)}`);
    Object.assign(result, { peers: { found, skipped, environment: settings }, unet });
  }
  if (only.includes('round')) {
    say('federated round');
    const round = await benchRound({ threads, reps, quick, watch });
    print(`\n${roundTable(round)}`);
    Object.assign(result, { round });
  }
  if (only.includes('kernels')) {
    say('kernels');
    const kernels = await benchKernels({ addon: native, threads, quick, watch });
    print(`\n${kernelTables(kernels)}`);
    Object.assign(result, kernels);
  }

  const seconds = (performance.now() - started) / 1000;
  const waitedSeconds = watch.waitedSeconds();
  print(`\n${seconds.toFixed(0)} s in all, ${waitedSeconds.toFixed(0)} s of them waiting for the machine to be idle.`);
  if (watch.impatient()) {
    print(
      'NOTE: the machine was busy with other work for longer than --patience; what is marked "busy" is an indication, not a measurement.',
    );
  }
  if (options.json) {
    await writeFile(options.json, `${JSON.stringify({ ...result, seconds, waitedSeconds }, null, 2)}\n`);
    print(`Written: ${options.json}`);
  }
}

/** How this run was called, but for where its results go. */
function commandLine(): string {
  const isa = process.env.PHOENIX_CPU_ISA;
  const given = process.argv
    .slice(2)
    .join(' ')
    .replace(/ ?--json[ =]\S+/, '');
  return `${isa ? `PHOENIX_CPU_ISA=${isa} ` : ''}npm run bench -- ${given}`;
}

/** The variables that PyTorch's thread pools and instruction sets depend on, as the peer will see them. */
function environment(threads: number): string {
  const names = [
    'OMP_WAIT_POLICY',
    'OMP_PROC_BIND',
    'GOMP_SPINCOUNT',
    'KMP_BLOCKTIME',
    'MKL_NUM_THREADS',
    'ONEDNN_MAX_CPU_ISA',
    'ATEN_CPU_CAPABILITY',
  ];
  const given = names.filter((name) => process.env[name] !== undefined).map((name) => [name, process.env[name]!] as const);
  return [...Object.entries(peerEnvironment(threads)), ...given].map(([name, value]) => `${name}=${value}`).join(' ');
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === 'help') print(help);
  else if (options.tables.length > 0) print(await markdownTables(options.tables));
  else await bench(options);
} catch (error) {
  if (!(error instanceof PhoenixError)) throw error;
  say(`bench: ${error.message}`);
  process.exitCode = error.code === 'ERR_PHOENIX_ARGUMENT' ? 2 : 1;
}
