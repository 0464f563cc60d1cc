#!/usr/bin/env node
/**
 * The command line: phoenix demo | federate | train | site | finish | finetune | sample | experiment | inspect | report | doctor, and more.
 *
 * Results go to stdout, progress and messages to stderr. With --json stdout holds JSON only: demo, federate and train write a line
 * {"event":"start", …}, a line {"event":"round", …} per round and {"event":"done", …} at the end; experiment writes {"event":"plan", …},
 * a line {"event":"cell", …} per cell and {"event":"done", …}; the other commands write one document; an error is the line
 * {"event":"error","code":…,"message":…}.
 * Exit codes: 0 done, 1 failed, 2 wrong usage, 129, 130, 143 stopped by SIGHUP, Ctrl-C, SIGTERM. A stream that cannot be written to stops
 * nothing; where stdout could not take a result for another reason than a reader that left, the exit code is 1.
 */
import { Command, CommanderError, Option } from 'commander';
import { OptionError, ofSimulation, optionTable } from '../commands/options/index.ts';
import { packageInfo } from '../commands/package-info.ts';
import { PhoenixError } from '../errors.ts';
import type { CommandLine } from './command-line.ts';
import { commandLines } from './commands.ts';
import { addOptions, collect, type Given } from './options.ts';
import { exitCodeOf, openTerminal, print, Stopped, UsageError, warn } from './terminal.ts';

function buildProgram(onJson: (asJson: boolean) => void): Command {
  const program = new Command('phoenix')
    .description('Trains image diffusion models (DDPM U-Nets) where the data is: over sites of a federation, simulated or real.')
    .version(packageInfo().version, '-v, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand(false)
    // Options behind a verb are the verb's, not those of the command before it.
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({ outputError: () => {} });
  for (const line of commandLines) addCommand(program, line, onJson);
  return program;
}

function addCommand(program: Command, line: CommandLine, onJson: (asJson: boolean) => void): void {
  const [verb, ...above] = line.name.split(' ').reverse() as [string, ...string[]];
  const parent = above.length > 0 ? program.commands.find((one) => one.name() === above[0])! : program;
  const command = parent.command(verb).description(line.description);
  const rows = line.table ? optionTable(line.table) : [];
  addOptions(command, rows, line);
  command.addOption(new Option('--json', 'JSON on stdout, everything else on stderr'));
  command.addHelpText('after', `\nExamples:\n${line.examples.map(([what, text]) => `  # ${what}\n  ${text}`).join('\n')}`);
  command.action(async () => {
    const given: Given = command.opts();
    onJson(given.json === true);
    const terminal = openTerminal(given.json === true);
    try {
      await line.run(collect(rows, command.args, given), terminal);
    } finally {
      terminal.progress.stop();
    }
  });
}

/** Why commander refused, with the names that are valid. */
function explainUsage(error: CommanderError, program: Command, argv: string[]): string {
  const message = error.message.replace(/^error: /, '');
  const first = program.commands.find((candidate) => candidate.name() === argv[0]);
  const command = first?.commands.find((candidate) => candidate.name() === argv[1]) ?? first;
  if (!command) {
    const valid = error.code === 'commander.unknownOption' ? '--help, --version, or a command: ' : 'Valid commands: ';
    return `${message}\n${valid}${program.commands.map((candidate) => candidate.name()).join(', ')}`;
  }
  const options = command.options.map((option) => option.long).join(', ');
  const name = command === first ? command.name() : `${first!.name()} ${command.name()}`;
  const elsewhere = name === 'coordinator' && ofSimulation(/'(--[a-z0-9-]+)/.exec(message)?.[1] ?? '');
  if (elsewhere) return `${message}\n${elsewhere}`;
  return `${message}\nValid options of phoenix ${name}: ${options}\nUsage: phoenix ${name} ${command.usage()}`;
}

/** Runs one command line, without the names of node and the program, and returns the exit code. */
async function main(argv: string[]): Promise<number> {
  let asJson = argv.includes('--json');
  const program = buildProgram((given) => {
    asJson = given;
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
    if (error instanceof UsageError || error instanceof OptionError) return fail('ERR_PHOENIX_ARGUMENT', error.message, 2);
    if (error instanceof Stopped) return error.exitCode;
    if (error instanceof PhoenixError) return fail(error.code, error.message, 1);
    return fail('ERR_PHOENIX_INTERNAL', `a bug: ${error instanceof Error ? error.stack : error}`, 1);
  }
}

process.exitCode = exitCodeOf(await main(process.argv.slice(2)));
