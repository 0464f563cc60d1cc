/** What `npm run bench -- …` may be asked for. */
import { parseArgs } from 'node:util';
import type { Device } from '../src/bindings/session.ts';
import { PhoenixError } from '../src/errors.ts';
import { type Mode, modes } from './gpu-unet.ts';
import { type ModelName, models, standard } from './models.ts';

export const parts = ['unet', 'round', 'kernels'] as const;
export type Part = (typeof parts)[number];

export type BenchOptions = {
  device: Device;
  only: Part[];
  /** Of the U-Net part. */
  models: ModelName[];
  /** Images per step, where it is not the model's. */
  batch?: number;
  threads: number;
  /** Undisturbed repetitions that are aimed at. */
  reps: number;
  quick: boolean;
  /** Seconds in all to spend on waiting for the machine to be idle. */
  patience: number;
  /** Seconds in all that the measurements on a GPU may take. */
  budget: number;
  peers: boolean;
  /** Of the peer on a GPU. */
  modes: Mode[];
  json?: string;
  /** Print the tables of these files and measure nothing. */
  tables: string[];
};

export const help = `npm run bench -- [options]

  --device DEVICE  auto | cpu | cuda: what is measured; auto takes a GPU that can be used (default: auto)
  --only PART      ${parts.join(' | ')}; may be given more than once (default: all)
  --model MODEL    ${Object.keys(models).join(' | ')}; may be given more than once (default: all but tiny8)
  --batch N        images per step (default: the model's; cifar on a CPU 8 and 16, on a GPU 128, and denoising 1, 16 and 128)
  --threads N      CPU threads, of Phoenix and of its peer (default: 1)
  --reps N         repetitions of a step or round, on a CPU undisturbed ones: twice as many are tried (default: 7, --quick: 3)
  --quick          small28 alone, few sizes of an op, no compiled peer: under two minutes
  --patience S     on a CPU: seconds in all to wait for the machine to be idle (default: 300, --quick: 15)
  --budget S       on a GPU: seconds in all; what no longer fits is left out, and said (default: 540, --quick: 110)
  --no-peers       without PyTorch
  --peer MODE      on a GPU: ${modes.join(' | ')}; may be given more than once (default: all)
  --json FILE      also write everything as JSON; on a GPU as the figures come
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
  return {
    device: oneOf('--device', [values.device ?? 'auto'], ['auto', 'cpu', 'cuda'] as const)[0]!,
    only: oneOf('--only', values.only ?? [...parts], parts),
    models: oneOf('--model', values.model ?? (quick ? ['small28'] : standard), Object.keys(models) as ModelName[]),
    batch: values.batch === undefined ? undefined : whole('--batch', values.batch, 1, 4096),
    threads: whole('--threads', values.threads ?? '1', 1, 1024),
    reps: whole('--reps', values.reps ?? (quick ? '3' : '7'), 1, 1000),
    quick,
    patience: whole('--patience', values.patience ?? (quick ? '15' : '300'), 0, 86_400),
    budget: whole('--budget', values.budget ?? (quick ? '110' : '540'), 1, 86_400),
    peers: !values['no-peers'],
    modes: oneOf('--peer', values.peer ?? (quick ? ['eager', 'graph'] : [...modes]), modes),
    json: values.json,
    tables: values.tables ?? [],
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        device: { type: 'string' },
        only: { type: 'string', multiple: true },
        model: { type: 'string', multiple: true },
        batch: { type: 'string' },
        threads: { type: 'string' },
        reps: { type: 'string' },
        quick: { type: 'boolean' },
        patience: { type: 'string' },
        budget: { type: 'string' },
        'no-peers': { type: 'boolean' },
        peer: { type: 'string', multiple: true },
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
