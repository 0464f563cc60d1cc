/** The results of earlier runs (`--json`) as the Markdown tables of docs/performance.md. */
import { readFile } from 'node:fs/promises';
import { PhoenixError } from '../src/errors.ts';
import type { GpuResult } from './gpu.ts';
import { gpuKernelTable } from './gpu-kernels.ts';
import { ceilingLine, stateLine } from './gpu-machine.ts';
import { gpuStepTable } from './gpu-unet.ts';
import type { KernelResult, Peak } from './kernels.ts';
import type { RoundResult } from './round.ts';
import { figure, milliseconds } from './table.ts';
import type { UNetResult } from './unet.ts';

/** What bench/index.ts writes; a part that was not asked for is missing. */
export type BenchFile = {
  schema: 1;
  date: string;
  machine: { cpu: string; cores: number; memoryBytes: number; system: string; node: string };
  addon: { isa: string; build: string };
  options: { threads: number };
  command: string;
  peers?: { found: { name: string; build: string; cuda?: string | null }[]; skipped: string[]; environment: string };
  unet?: UNetResult[];
  round?: RoundResult;
  peak?: Peak;
  kernels?: KernelResult[];
  gpu?: GpuResult;
};

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT if a file is missing or not one of `--json` */
export async function markdownTables(files: string[]): Promise<string> {
  const runs = await Promise.all(files.map(read));
  return runs.map(markdown).join('\n\n');
}

async function read(file: string): Promise<BenchFile> {
  try {
    const run = JSON.parse(await readFile(file, 'utf8')) as BenchFile;
    if (run.schema === 1 && run.machine && run.options) return run;
  } catch (error) {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `--tables ${file}: ${(error as Error).message}`);
  }
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `--tables ${file}: it must be a file that --json wrote.`);
}

function markdown(run: BenchFile): string {
  if (run.gpu) return gpuMarkdown(run, run.gpu);
  const { machine, addon, options, peers } = run;
  const threads = `${options.threads} thread${options.threads > 1 ? 's' : ''}`;
  const built = (peers?.found ?? []).map(({ name, build }) => `${name} (${build})`).join('; ');
  const parts = [
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.system}, Node ${machine.node}; ` +
      `**${threads}, ${addon.isa}**, ${addon.build}${built && `; ${built}; ${peers!.environment}`}. ` +
      `\`${run.command}\`, ${run.date.slice(0, 10)}:`,
  ];
  if (run.unet) parts.push(steps(run.unet), memory(run.unet));
  if (run.round) parts.push(round(run.round));
  if (run.kernels && run.peak)
    parts.push(`Peak: ${figure(run.peak.gflops)} GFLOP/s, ${figure(run.peak.gbytesPerSecond)} GB/s.`, ops(run.kernels));
  return parts.join('\n\n');
}

function gpuMarkdown({ addon, peers, command, date }: BenchFile, gpu: GpuResult): string {
  const peer = peers?.found.at(0);
  const found = [stateLine(gpu.before), gpu.underLoad && `while training: ${stateLine(gpu.underLoad)}`].filter(Boolean).join('; ');
  const parts = [
    `${gpu.emulated ? '**Emulated: no figure says anything of speed.** ' : ''}${gpu.device}; ${found}; ${addon.build}` +
      `${peer ? `; ${peer.name} (${peer.cuda})` : ''}. \`${command}\`, ${date.slice(0, 10)}. ${ceilingLine(gpu.ceiling, gpu.device)}`,
  ];
  const as = (headings: string[], rows: string[][]) =>
    table(
      headings.map((heading) => heading.replace(/^>/, '')),
      rows,
    );
  if (gpu.steps.length > 0) parts.push(gpuStepTable(gpu.steps, as));
  if (gpu.round) parts.push(round(gpu.round));
  if (gpu.kernels.length > 0) parts.push(gpuKernelTable(gpu.kernels, as));
  if (gpu.leftOut.length > 0) parts.push(`Left out: ${gpu.leftOut.join('; ')}.`);
  return parts.join('\n\n');
}

type Pair = { ours: UNetResult; peer?: UNetResult };

/** Rows of Phoenix, each with a peer's row of the same job, once for each peer. */
function pairs(results: UNetResult[]): Pair[] {
  return results
    .filter(({ engine }) => engine === 'Phoenix')
    .flatMap((ours): Pair[] => {
      const same = ({ model, batch, job }: UNetResult) => model === ours.model && batch === ours.batch && job === ours.job;
      const peers = results.filter((row) => same(row) && row.engine !== 'Phoenix');
      return peers.length > 0 ? peers.map((peer) => ({ ours, peer })) : [{ ours }];
    });
}

function steps(results: UNetResult[]): string {
  const span = ({ step }: UNetResult) =>
    `${milliseconds(step.medianSeconds)} (${milliseconds(step.minSeconds)}–${milliseconds(step.maxSeconds)})${step.quiet ? '' : ' busy'}`;
  return table(
    ['model', 'step', 'Phoenix ms', 'peer ms', 'peer', 'Phoenix images/s', 'the peer takes … times as long'],
    pairs(results).map(({ ours, peer }) => [
      `${ours.model} b${ours.batch}`,
      ours.job,
      span(ours),
      peer ? span(peer) : '–',
      peer ? `${peer.engine}, ${peer.settings}` : '–',
      figure(ours.imagesPerSecond),
      peer?.ratio === undefined ? '–' : peer.ratio.toFixed(2),
    ]),
  );
}

function memory(results: UNetResult[]): string {
  const megabytes = (bytes: number | null | undefined) => (bytes ? figure(bytes / 1e6) : '–');
  return table(
    ['memory for training', 'Phoenix MB', 'peer MB'],
    pairs(results)
      .filter(({ ours }) => ours.job === 'train')
      .map(({ ours, peer }) => [`${ours.model} b${ours.batch}`, megabytes(ours.memoryBytes), megabytes(peer?.memoryBytes)]),
  );
}

const round = ({ model, clients, steps, images, round, imagesPerSecond, federationShare, bytesUp, bytesDown }: RoundResult): string =>
  table(
    ['federated round', 'ms', 'images/s', 'not training', 'MB up', 'MB down'],
    [
      [
        `${model ?? 'small28'}, ${clients} clients, ${steps} steps, ${images} images${round.quiet ? '' : ', busy'}`,
        milliseconds(round.medianSeconds),
        figure(imagesPerSecond),
        `${(100 * federationShare).toFixed(1)} %`,
        figure(bytesUp / 1e6),
        figure(bytesDown / 1e6),
      ],
    ],
  );

const ops = (kernels: KernelResult[]): string =>
  table(
    ['op', 'size', 'µs', 'rate', 'of peak'],
    kernels.map(({ op, label, medianSeconds, rate, unit, share, quiet }) => [
      op,
      quiet ? label : `${label} (busy)`,
      figure(medianSeconds * 1e6),
      `${figure(rate)} ${unit}`,
      `${(100 * share).toFixed(0)} %`,
    ]),
  );

function table(headings: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  return [line(headings), line(headings.map(() => '---')), ...rows.map(line)].join('\n');
}
