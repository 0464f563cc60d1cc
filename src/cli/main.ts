#!/usr/bin/env node
/**
 * The command line: phoenix demo | federate | train | finetune | sample | experiment | report | doctor.
 *
 * Results go to stdout, progress and messages to stderr. With --json stdout holds JSON only: demo, federate and train write a line
 * {"event":"start", …}, a line {"event":"round", …} a round and {"event":"done", …} at the end; experiment writes {"event":"plan", …},
 * a line {"event":"cell", …} a cell and {"event":"done", …}; the other commands write one document; an error is the line {"event":"error","code":…,"message":…}.
 * Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, 143 stopped by SIGTERM.
 */
import { Command, CommanderError, Option } from 'commander';
import { diagnose, formatDiagnosis } from '../commands/doctor.ts';
import type { RunEvents, RunResult, StepEvent } from '../commands/events.ts';
import { federate } from '../commands/federate.ts';
import { finetune } from '../commands/finetune.ts';
import {
  type Command as Configured,
  demoOptions,
  type ExperimentOptions,
  type FederateOptions,
  type FinetuneOptions,
  type OptionRow,
  optionTable,
  parseOptions,
  type SampleOptions,
  type TrainOptions,
} from '../commands/options/index.ts';
import { packageInfo } from '../commands/package-info.ts';
import { sample } from '../commands/sample.ts';
import { train } from '../commands/train.ts';
import { PhoenixError } from '../errors.ts';
import { experiment } from '../experiment/experiment.ts';
import type { Plan } from '../experiment/plan.ts';
import type { RoundRecord } from '../fl/protocol.ts';
import { describeDecision } from '../fl/strategies/filter.ts';
import { writeReport } from '../report/report.ts';
import { formatBytes, formatCount, formatDuration } from '../report/units.ts';
import { createProgress, type Progress } from './progress.ts';

/** Raw options of one call, as commander gives them: text, or true for a flag. */
type Raw = Record<string, unknown> & { json?: boolean };

/** What a command does its work with. */
type Terminal = {
  progress: Progress;
  /** Set by Ctrl-C and SIGTERM; its reason is a Stopped. */
  signal: AbortSignal;
  /** One line of JSON on stdout, if --json is given. */
  json(value: object): void;
  /** One line of text on stdout, unless --json is given. */
  text(line: string): void;
};

class UsageError extends Error {}
class Stopped extends Error {
  readonly exitCode: number;
  constructor(exitCode: number) {
    super('stopped');
    this.exitCode = exitCode;
  }
}

const print = (line: string): void => void process.stdout.write(`${line}\n`);
const warn = (line: string): void => void process.stderr.write(`${line}\n`);

function buildProgram(run: (work: (terminal: Terminal) => Promise<void>, raw: Raw) => Promise<void>): Command {
  const program = new Command('phoenix')
    .description('Trains diffusion models where the data is: federated DDPM in Node.')
    .version(packageInfo().version, '-v, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: () => {} });

  const training = (name: string, configured: 'federate' | 'train', description: string, defaults: Record<string, unknown>) => {
    const command = withOptions(program.command(name).description(description), configured, defaults);
    command.action((raw: Raw) => run((terminal) => runTraining(name, configured, { ...defaults, ...raw }, terminal), raw));
  };
  training(
    'demo',
    'federate',
    'Ten clients that each hold two classes of built-in shapes learn one model; takes every option of federate.',
    demoOptions,
  );
  training('federate', 'federate', 'Trains one model over clients that each hold a part of a dataset.', {});
  training('train', 'train', 'Trains a model on one dataset in one place, to compare a federation with.', {});

  withOptions(
    program.command('finetune').description("Trains a model on one site's images: its personal layers, where it has some, else all of it."),
    'finetune',
    {},
  ).action((source: string, raw: Raw) => run((terminal) => runFinetune({ ...raw, source }, terminal), raw));
  withOptions(program.command('sample').description('Draws images from a trained model into a PNG.'), 'sample', {}).action(
    (source: string, raw: Raw) => run((terminal) => runSample({ ...raw, source }, terminal), raw),
  );
  withOptions(
    program
      .command('experiment')
      .description('Trains every cell of a grid of arms, partitions and seeds at equal work, scores it and reports.'),
    'experiment',
    {},
  ).action((grid: string, raw: Raw) => run((terminal) => runExperiment({ ...raw, grid }, terminal), raw));
  program
    .command('report')
    .description('Writes report.html of a run, finished or not.')
    .argument('<dir>', 'run folder')
    .addOption(jsonOption())
    .action((dir: string, raw: Raw) =>
      run(async ({ json, text }) => {
        const report = await writeReport(dir);
        json({ event: 'done', report });
        text(report);
      }, raw),
    );
  program
    .command('doctor')
    .description('Says what was built, what this machine has, and which backend is used and why.')
    .addOption(jsonOption())
    .action((raw: Raw) =>
      run(async ({ json, text }) => {
        const diagnosis = await diagnose();
        json(diagnosis);
        text(formatDiagnosis(diagnosis));
        if (!diagnosis.backend) throw new PhoenixError('ERR_PHOENIX_LOAD', `No backend can be used: ${diagnosis.why}.`);
      }, raw),
    );
  return program;
}

const jsonOption = () => new Option('--json', 'JSON on stdout, everything else on stderr');

/** Makes the options of a command out of config.ts's table. Values are checked there too, so commander sees text only. */
function withOptions(command: Command, configured: Configured, defaults: Record<string, unknown>): Command {
  for (const row of optionTable(configured)) {
    const help = describe(row, defaults[row.key]);
    if (row.positional) command.argument(row.flag, row.help);
    else command.addOption(new Option(row.placeholder ? `${row.flag} <${row.placeholder}>` : row.flag, help));
    if (row.negatable) command.addOption(new Option(row.flag.replace('--', '--no-'), `not ${row.flag}`));
  }
  return command.addOption(jsonOption());
}

/** 'passes over the images (passes, default 10)' */
function describe(row: OptionRow, given: unknown): string {
  const notes: string[] = [];
  if (row.choices) notes.push(row.choices.join(' | '));
  if (row.unit) notes.push(row.unit);
  if (given !== undefined) notes.push(`default ${given}`);
  else if (row.required) notes.push('required');
  else if (row.defaultText) notes.push(`default ${row.defaultText}`);
  return notes.length > 0 ? `${row.help} (${notes.join(', ')})` : row.help;
}

/** Checks options before anything is read or written, so that a wrong one is wrong usage. */
function checkOptions(configured: Configured, raw: Raw): Record<string, unknown> {
  const { json: _, ...options } = raw;
  try {
    parseOptions(configured, options);
  } catch (error) {
    throw error instanceof PhoenixError ? new UsageError(error.message, { cause: error }) : error;
  }
  return options;
}

async function runTraining(name: string, configured: 'federate' | 'train', raw: Raw, terminal: Terminal): Promise<void> {
  const { progress, signal, json, text } = terminal;
  const options = checkOptions(configured, raw);
  let dir: string | undefined;
  let rounds = 0;
  const events: RunEvents = {
    signal,
    onStart(event) {
      dir = event.dir;
      rounds = event.rounds;
      json({ event: 'start', ...event });
      progress.note(
        `${formatCount(event.parameterCount)} parameters on ${event.backend} (${event.device}), ${event.threads} threads; run folder ${dir}`,
      );
    },
    onStep: (event) =>
      progress.update({
        done: event.images,
        total: event.imagesPlanned,
        label: where(event),
        loss: event.loss,
        imagesPerSecond: event.imagesPerSecond,
      }),
    onRound(record) {
      json({ event: 'round', ...record });
      progress.note(summarize(record, rounds));
    },
    onMessage: ({ text: message, level }) => progress.note(level === 'warning' ? `warning: ${message}` : message),
  };
  let result: RunResult;
  try {
    result = configured === 'federate' ? await federate(options as FederateOptions, events) : await train(options as TrainOptions, events);
  } catch (error) {
    progress.stop();
    if (error instanceof Stopped)
      warn(dir === undefined ? 'Stopped before the run began.' : `Stopped. Continue with: phoenix ${name} … --out ${dir} --resume`);
    throw error;
  }
  progress.stop();
  const { records, ...paths } = result;
  const last = records.at(-1);
  json({
    event: 'done',
    ...paths,
    loss: last?.loss,
    evalLoss: last?.evalLoss,
    seconds: records.reduce((sum, record) => sum + record.seconds, 0),
  });
  text(last ? `Done: ${summarize(last, result.rounds)}` : `Nothing to do: all ${result.rounds} rounds of this run are done.`);
  text(`model    ${result.checkpoint}`);
  if (result.samples) text(`samples  ${result.samples}`);
  text(`report   ${result.report}`);
}

function where({ round, rounds, client }: StepEvent): string {
  return client ? `round ${round}/${rounds}, client ${client.number}/${client.of}` : `round ${round}/${rounds}`;
}

function summarize({ round, loss, evalLoss, seconds, failures, notes, decisions = [] }: RoundRecord, rounds: number): string {
  const parts = [`round ${round}/${rounds}`];
  if (loss !== null) parts.push(`loss ${loss.toPrecision(3)}`);
  if (evalLoss !== null) parts.push(`held out ${evalLoss.toPrecision(3)}`);
  parts.push(formatDuration(seconds));
  for (const failure of failures) parts.push(`${failure.client} failed (${failure.stage}): ${failure.reason}`);
  return [...parts, ...decisions.map(describeDecision), ...notes].join(', ');
}

async function runFinetune(raw: Raw, { progress, signal, json, text }: Terminal): Promise<void> {
  const options = checkOptions('finetune', raw);
  const done = await finetune(options as FinetuneOptions, {
    signal,
    onStep: ({ step, steps, loss, imagesPerSecond }) =>
      progress.update({ done: step, total: steps, label: 'training', loss, imagesPerSecond }),
  });
  progress.stop();
  json({ event: 'done', ...done });
  const { trained, parameterCount, examples, steps, evalLoss, evalLossAfter } = done;
  text(`${formatCount(trained)} of ${formatCount(parameterCount)} parameters trained on ${formatCount(examples)} images, ${steps} steps`);
  if (evalLoss !== undefined) text(`held-out loss ${evalLoss.toPrecision(3)} before, ${evalLossAfter!.toPrecision(3)} after`);
  text(`model    ${done.checkpoint}`);
}

async function runSample(raw: Raw, { progress, signal, json, text }: Terminal): Promise<void> {
  const options = checkOptions('sample', raw);
  if (options.grid === undefined) throw new UsageError('sample needs a file for the images: --grid FILE.png');
  const label = `drawing ${options.n ?? 'the'} images`;
  const { pixels: _, ...drawn } = await sample(options as SampleOptions, {
    signal,
    onProgress: (done) => progress.update({ done: Math.round(done * 1000), total: 1000, label }),
  });
  progress.stop();
  json({ event: 'done', ...drawn, classes: drawn.classes && [...drawn.classes] });
  text(drawn.grid!);
}

async function runExperiment(raw: Raw, { progress, signal, json, text }: Terminal): Promise<void> {
  const options = checkOptions('experiment', raw) as ExperimentOptions;
  let dir: string | undefined;
  let result: Awaited<ReturnType<typeof experiment>>;
  try {
    result = await experiment(options, {
      signal,
      onPlan(plan) {
        dir = plan.dir;
        json({ event: 'plan', ...plan });
        progress.note(describePlan(plan));
      },
      onCell({ cell, final }, done, cells) {
        json({ event: 'cell', cell, done, cells, metrics: final!.metrics });
        const [name, value] = Object.entries(final!.metrics)[0]!;
        progress.note(`${cell}: ${name} ${value.toPrecision(4)} (${done} of ${cells} cells)`);
      },
      onProgress: (state) => progress.update(state),
      onMessage: ({ text: message, level }) => progress.note(level === 'warning' ? `warning: ${message}` : message),
    });
  } catch (error) {
    progress.stop();
    if (error instanceof Stopped)
      warn(dir === undefined ? 'Stopped before the experiment began.' : `Stopped. The same command continues ${dir}.`);
    throw error;
  }
  progress.stop();
  json({ event: 'done', ...result });
  if (options.plan) return;
  const open = result.cells - result.done;
  text(
    open === 0
      ? `Done: ${result.cells} cells.`
      : `Time is up: ${result.done} of ${result.cells} cells are done; the same command continues.`,
  );
  if (result.report) {
    text(`report   ${result.report}`);
    text(`tables   ${result.markdown}`);
  }
}

function describePlan(plan: Plan): string {
  const parts = [
    `${plan.cells} cells of ${plan.trainings} trainings, ${formatCount(plan.imagesPerCell)} images each`,
    plan.done > 0 ? `${plan.done} cells done` : [],
    plan.done < plan.cells
      ? [
          `${formatCount(plan.parameterCount)} parameters`,
          `to do: ${formatCount(plan.imagesLeft)} images to train on, ${formatCount(plan.samplesLeft)} to draw, about ${formatDuration(plan.secondsLeft)} as measured now, besides metrics and probes`,
          `${formatBytes(plan.bytes)} of models, updates and shared images sent at most by all federations`,
        ]
      : [],
  ];
  return `Experiment ${plan.name} in ${plan.dir}: ${parts.flat().join('; ')}.`;
}

/** Ctrl-C or SIGTERM once stops after the running call, twice at once. */
function stopOnSignals(progress: Progress): AbortController {
  const controller = new AbortController();
  const stop = (exitCode: number) => () => {
    progress.stop();
    if (controller.signal.aborted) process.exit(exitCode);
    warn('Stopping after the running call; once more stops at once.');
    controller.abort(new Stopped(exitCode));
  };
  process.on('SIGINT', stop(130));
  process.on('SIGTERM', stop(143));
  return controller;
}

/** Why commander refused, with the names that are valid. */
function explainUsage(error: CommanderError, program: Command, argv: string[]): string {
  const message = error.message.replace(/^error: /, '');
  const command = program.commands.find((candidate) => candidate.name() === argv[0]);
  if (!command) {
    const valid = error.code === 'commander.unknownOption' ? '--help, --version, or a command: ' : 'Valid commands: ';
    return `${message}\n${valid}${program.commands.map((candidate) => candidate.name()).join(', ')}`;
  }
  const options = command.options.map((option) => option.long).join(', ');
  return `${message}\nValid options of phoenix ${command.name()}: ${options}\nUsage: phoenix ${command.name()} ${command.usage()}`;
}

/** Runs one command line, without the names of node and the program, and returns the exit code. */
async function main(argv: string[]): Promise<number> {
  let asJson = argv.includes('--json');
  const program = buildProgram(async (work, raw) => {
    asJson = raw.json === true;
    const progress = createProgress({ stream: process.stderr });
    const { signal } = stopOnSignals(progress);
    try {
      await work({
        progress,
        signal,
        json: (value) => asJson && print(JSON.stringify(value)),
        text: (line) => void (asJson || print(line)),
      });
    } finally {
      progress.stop();
    }
  });
  if (argv.length === 0) {
    warn(program.helpInformation().trimEnd());
    return 2;
  }
  const fail = (code: string, message: string, exitCode: number) => {
    if (asJson) print(JSON.stringify({ event: 'error', code, message }));
    warn(`phoenix: ${message}`);
    return exitCode;
  };
  try {
    await program.parseAsync(argv, { from: 'user' });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError)
      return error.exitCode === 0 ? 0 : fail('ERR_PHOENIX_ARGUMENT', explainUsage(error, program, argv), 2);
    if (error instanceof UsageError) return fail('ERR_PHOENIX_ARGUMENT', error.message, 2);
    if (error instanceof Stopped) return error.exitCode;
    if (error instanceof PhoenixError) return fail(error.code, error.message, 1);
    return fail('ERR_PHOENIX_INTERNAL', `a bug: ${error instanceof Error ? error.stack : error}`, 1);
  }
}

// A reader that has seen enough (`phoenix … | head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});
process.exitCode = await main(process.argv.slice(2));
