/**
 * `npm run bench`: whole steps beside PyTorch, a federated round, and every op against the machine's peak, on a GPU that can be used or on
 * the CPU. See docs/benchmarks.md.
 */
import { writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { addon } from '../src/bindings/load.ts';
import { chooseBackend } from '../src/bindings/session.ts';
import { PhoenixError } from '../src/errors.ts';
import { benchGpu } from './gpu.ts';
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
  const { backend, why } = chooseBackend(options.device);
  const native = addon(backend);
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
  const result: BenchFile = { schema: 1, date: new Date().toISOString(), machine, addon: info, options, command: commandLine() };
  const save = () => {
    const seconds = (performance.now() - started) / 1000;
    if (options.json) writeFileSync(options.json, `${JSON.stringify({ ...result, seconds }, null, 2)}\n`);
  };
  if (backend === 'cuda') {
    print(`Phoenix ${info.backend}, ${info.build}. The CPU is not measured: --device cpu.`);
    const { found, skipped } = await findPeers(options);
    const interpreters = found.filter(({ cuda }) => cuda !== null);
    for (const { name, executable, cuda } of interpreters.slice(0, 1)) print(`Peer: ${name} (${executable}), ${cuda}`);
    if (interpreters.length === 0)
      print('Peer: SKIPPED, no Python with a PyTorch that can use the GPU was found: nothing to compare with.');
    const without = found.filter(({ cuda }) => cuda === null).map(({ name, executable }) => `${executable}: ${name} cannot use a GPU`);
    for (const reason of [...skipped, ...without]) print(`  no peer: ${reason}`);
    result.peers = { found: interpreters, skipped: [...skipped, ...without], environment: '' };
    await benchGpu({
      addon: native,
      options,
      interpreters,
      print,
      say,
      save(gpu) {
        result.gpu = gpu;
        save();
      },
    });
    print(`\n${((performance.now() - started) / 1000).toFixed(0)} s in all.`);
    if (options.json) print(`Written: ${options.json}`);
    return;
  }
  print(`Phoenix ${info.backend}, ${info.isa}, ${info.real}, ${info.build}; ${threads} thread${threads > 1 ? 's' : ''}`);
  print(`GPU: not measured, ${why}`);
  const watch = createWatch({ patienceSeconds: patience });

  if (only.includes('unet')) {
    const { found, skipped } = await findPeers(options);
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
    const round = await benchRound({ device: 'cpu', model: 'small28', threads, reps, stepsAClient: quick ? 1 : 4, watch });
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
    writeFileSync(options.json, `${JSON.stringify({ ...result, seconds, waitedSeconds }, null, 2)}\n`);
    print(`Written: ${options.json}`);
  }
}

const findPeers = async ({ peers }: BenchOptions) =>
  peers ? await findInterpreters() : { found: [], skipped: ['not asked for (--no-peers)'] };

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
