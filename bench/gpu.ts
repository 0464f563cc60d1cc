/**
 * `npm run bench` on a GPU: ceilings, whole steps beside PyTorch, ops, a federated round, within a budget of time. Results are handed on as
 * they come, so that a run that is ended early still leaves figures.
 */
import type { Addon } from '../src/bindings/native.ts';
import { benchGpuKernels, type GpuKernelResult, gpuKernelTable } from './gpu-kernels.ts';
import { type Ceiling, ceilingLine, type GpuState, gpuState, HOPPER_TFLOPS, higher, measureCeiling, stateLine } from './gpu-machine.ts';
import {
  benchOurs,
  benchPeer,
  type GpuRow,
  type GpuStepResult,
  gpuStepTable,
  jobsOf,
  type Mode,
  type Ours,
  openOurs,
  peerCeiling,
} from './gpu-unet.ts';
import { models } from './models.ts';
import type { BenchOptions } from './options.ts';
import type { Interpreter } from './peer.ts';
import { createWatch } from './quiet.ts';
import { benchRound, type RoundResult, roundTable } from './round.ts';
import { milliseconds } from './table.ts';

export type GpuResult = {
  device: string;
  /** The figures are an emulator's: they say that everything runs, and nothing of speed. */
  emulated: boolean;
  before: GpuState;
  /** While the first row trained. */
  underLoad: GpuState;
  after: GpuState;
  ceiling: Ceiling;
  practicalTflops: number;
  /** Steps that were replays of a recorded one. */
  replays: number;
  steps: GpuStepResult[];
  round?: RoundResult;
  kernels: GpuKernelResult[];
  /** What was asked for and has no figure, and why. */
  leftOut: string[];
};

export type GpuOptions = {
  addon: Addon;
  options: BenchOptions;
  interpreters: Interpreter[];
  print(text: string): void;
  say(text: string): void;
  /** Called after every figure. */
  save(result: GpuResult): void;
};

/** Shares of the budget: what a part may use at most, but for the last, which has the rest. */
const SHARES = { ceiling: 0.1, steps: 0.45, round: 0.08, kernels: 0.2 };

export async function benchGpu({ addon, options, interpreters, print, say, save }: GpuOptions): Promise<GpuResult> {
  const { only, reps, quick, budget } = options;
  const info = addon.info();
  const emulated = /emulator/.test(info.device);
  const started = performance.now();
  const end = started + 1000 * budget;
  const endOf = (part: keyof typeof SHARES) => Math.min(end, performance.now() + 1000 * budget * SHARES[part]);

  const before = await gpuState();
  print(`GPU: ${info.device}; as found: ${stateLine(before)}`);
  if (emulated) print('EMULATED: the figures below say that everything runs, and nothing of the speed of any GPU.');
  let ceiling: Ceiling = { tflops: 0, gbytesPerSecond: 0, from: { tflops: 'nobody', gbytesPerSecond: 'nobody' } };
  const result: GpuResult = {
    device: info.device,
    emulated,
    before,
    underLoad: null,
    after: null,
    ceiling,
    practicalTflops: HOPPER_TFLOPS,
    replays: 0,
    steps: [],
    kernels: [],
    leftOut: [],
  };
  const leftOut = (what: string, why: unknown) => {
    result.leftOut.push(`${what}: ${why instanceof Error ? why.message : why}`);
    say(`  left out: ${result.leftOut.at(-1)}`);
    save(result);
  };
  const interpreter = interpreters[0];
  const measures: [string, () => Ceiling | Promise<Ceiling>][] = [['Phoenix', () => measureCeiling(addon, emulated)]];
  if (interpreter) measures.push([interpreter.name, () => peerCeiling(interpreter, endOf('ceiling'))]);
  for (const [name, measure] of measures) {
    try {
      ceiling = result.ceiling = higher(ceiling, await measure());
    } catch (error) {
      leftOut(`the ceiling of ${name}`, error);
    }
  }
  print(ceilingLine(ceiling, info.device));
  save(result);

  const onResult = (step: GpuStepResult) => {
    result.steps.push(step);
    const { model, batch, job, engine, settings, ratio } = step;
    say(
      `  ${model} b${batch} ${job}: ${milliseconds(step.step.medianSeconds)} ms, ${engine} ${settings}${ratio ? `; Phoenix is ${ratio.toFixed(2)} x` : ''}`,
    );
    save(result);
  };
  const steps = { ceiling, reps: emulated ? 1 : reps, emulated, onResult };

  /** Phoenix alone, then the peer's modes in turn with it. */
  async function benchRow(row: GpuRow, modes: Mode[], alone: boolean, until: number): Promise<void> {
    const name = `${row.model} b${row.batch} ${row.precision}`;
    let ours: Ours | undefined;
    try {
      if (performance.now() > until) throw new Error('no time left');
      say(`${name}: ${((until - performance.now()) / 1000).toFixed(0)} s left for it`);
      ours = await openOurs(row);
      for (const job of alone ? jobsOf(row) : [])
        await benchOurs(ours, row, job, until, steps)
          .then((state) => {
            result.underLoad ??= state;
          })
          .catch((error) => leftOut(`${name}: ${job.job} b${job.batch}`, error));
    } catch (error) {
      leftOut(name, error);
      ours?.dispose();
      return;
    }
    try {
      for (const mode of interpreter ? modes : []) {
        if (performance.now() > until) leftOut(`${name} beside ${interpreter!.name} ${mode}`, 'no time left');
        else
          await benchPeer(ours, row, interpreter!, mode, until, steps).catch((error) =>
            leftOut(`${name} beside ${interpreter!.name} ${mode}`, error),
          );
      }
    } finally {
      ours.dispose();
    }
  }

  const rows: GpuRow[] = [...options.models]
    .sort((a, b) => Number(b === 'cifar') - Number(a === 'cifar'))
    .map((model) => {
      const { train, denoise } = models[model].gpu;
      const batch = options.batch ?? train;
      return { model, batch, denoise: options.batch ? [options.batch] : denoise, precision: 'bf16' };
    });
  if (only.includes('unet')) {
    const until = endOf('steps');
    const uncompiled = options.modes.filter((mode) => mode !== 'compile');
    for (const row of rows) await benchRow(row, uncompiled, true, until);
    const [first] = rows;
    if (first && !quick) await benchRow({ ...first, denoise: [], precision: 'fp32' }, [], true, until);
    print(`\n${gpuStepTable(result.steps)}`);
  }
  if (only.includes('round')) {
    say('federated round');
    const until = endOf('round');
    try {
      const size = emulated
        ? { model: 'tiny8' as const, reps: 1, stepsAClient: 1 }
        : { model: 'small28' as const, reps: Math.min(reps, 5), stepsAClient: quick ? 8 : 64 };
      result.round = await benchRound({ device: 'cuda', ...size, watch: createWatch({ patienceSeconds: 0 }), until });
      print(`\n${roundTable(result.round)}`);
      save(result);
    } catch (error) {
      leftOut('federated round', error);
    }
  }
  if (only.includes('kernels')) {
    say('ops');
    const add = (kernel: GpuKernelResult) => {
      result.kernels.push(kernel);
      save(result);
    };
    const until = endOf('kernels');
    const { leftOut: missing } = benchGpuKernels({ addon, ceiling, reps: emulated ? 1 : reps, quick, emulated, until, say, onResult: add });
    result.leftOut.push(...missing);
    print(`\n${gpuKernelTable(result.kernels)}`);
  }
  if (only.includes('unet') && interpreter && options.modes.includes('compile')) {
    say('beside a compiled peer, in the time that is left');
    const known = result.steps.length;
    for (const row of rows) await benchRow(row, ['compile'], false, end);
    print(`\n${gpuStepTable(result.steps.slice(known))}`);
  }
  result.after = await gpuState();
  result.replays = addon.info().replays;
  if (result.underLoad) print(`\nWhile training: ${stateLine(result.underLoad)}`);
  if (result.leftOut.length > 0) print(`\nLeft out:\n${result.leftOut.map((line) => `  ${line}`).join('\n')}`);
  save(result);
  return result;
}
