/** What `npm run bench -- …` may be asked for. */
import { parseArgs } from 'node:util';
import { PhoenixError } from '../src/errors.ts';
import { type ModelName, models } from './models.ts';

export const parts = ['unet', 'round', 'kernels'] as const;
export type Part = (typeof parts)[number];

export type BenchOptions = {
  only: Part[];
  /** Models of the U-Net part with their batches. */
  rows: { model: ModelName; batch: number }[];
  threads: number;
  /** Undisturbed repetitions that are aimed at. */
  reps: number;
  quick: boolean;
  /** Seconds in all to spend on waiting for the machine to be idle. */
  patience: number;
  peers: boolean;
  json?: string;
  /** Print the tables of these files and measure nothing. */
  tables: string[];
};

export const help = `npm run bench -- [options]

  --only PART      ${parts.join(' | ')}; may be given more than once (default: all)
  --model MODEL    ${Object.keys(models).join(' | ')}; may be given more than once (default: all, cifar with batches 8 and 16)
  --batch N        images a step (default: the model's)
  --threads N      CPU threads, of Phoenix and of its peer (default: 1)
  --reps N         undisturbed repetitions of a step or round; twice as many are tried (default: 7, --quick: 3)
  --quick          small28 alone, one size an op: under two minutes
  --patience S     seconds in all to wait for the machine to be idle (default: 300, --quick: 15)
  --no-peers       without PyTorch
  --json FILE      also write everything as JSON
  --tables FILE    measure nothing, print what --json wrote as Markdown tables; may be given more than once
  --help

Environment: PHOENIX_PYTHON names a Python interpreter with PyTorch, besides python3 and /usr/bin/python3. PHOENIX_CPU_ISA=avx2|portable
takes a lesser instruction set. PHOENIX_ADDON_DIR names a folder with another build.
`;

/** @returns 'help' if that was asked for. @throws PhoenixError ERR_PHOENIX_ARGUMENT naming what is wrong and what is valid */
export function parseOptions(args: string[]): BenchOptions | 'help' {
  const values = parse(args);
  if (values.help) return 'help';
  const quick = values.quick ?? false;
  const names = oneOf('--model', values.model ?? (quick ? ['small28'] : Object.keys(models)), Object.keys(models) as ModelName[]);
  const batch = values.batch === undefined ? undefined : whole('--batch', values.batch, 1, 4096);
  return {
    only: oneOf('--only', values.only ?? [...parts], parts),
    rows: names.flatMap((model) => (batch === undefined ? models[model].batches : [batch]).map((size) => ({ model, batch: size }))),
    threads: whole('--threads', values.threads ?? '1', 1, 1024),
    reps: whole('--reps', values.reps ?? (quick ? '3' : '7'), 1, 1000),
    quick,
    patience: whole('--patience', values.patience ?? (quick ? '15' : '300'), 0, 86_400),
    peers: !values['no-peers'],
    json: values.json,
    tables: values.tables ?? [],
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        only: { type: 'string', multiple: true },
        model: { type: 'string', multiple: true },
        batch: { type: 'string' },
        threads: { type: 'string' },
        reps: { type: 'string' },
        quick: { type: 'boolean' },
        patience: { type: 'string' },
        'no-peers': { type: 'boolean' },
        json: { type: 'string' },
        tables: { type: 'string', multiple: true },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${(error as Error).message} See npm run bench -- --help.`);
  }
}

function oneOf<T extends string>(option: string, given: string[], valid: readonly T[]): T[] {
  const wrong = given.find((value) => !valid.some((name) => name === value));
  if (wrong !== undefined) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${option} is ${wrong}; it must be one of ${valid.join(', ')}.`);
  return [...new Set(given)] as T[];
}

function whole(option: string, text: string, least: number, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${option} is ${text}; it must be a whole number, ${least} to ${most}.`);
}
