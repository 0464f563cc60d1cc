/**
 * The grid of an experiment: arms × partitions × seeds with an equal training budget. A grid file is JSON; what is in it becomes trainings
 * (each a run folder) and cells (an arm, a partition and a seed: a training and how its model is scored). Arms that differ only in how they
 * are scored share a training.
 */
import { z } from 'zod';
import { mergeOptions, OptionError, parseOptions } from '../commands/options/index.ts';
import { names } from '../commands/options/kinds.ts';
import { schedulers } from '../ddpm/schedulers/index.ts';
import { PhoenixError } from '../errors.ts';

/** Names become names of folders. */
const name = z.string().regex(/^[a-z0-9][a-z0-9-]{0,39}$/, 'a name of small letters, digits and hyphens, at most 40');
/** Options as a program gives them, those of a group in an object of their own. */
const value = z.union([z.string(), z.number(), z.boolean()]);
const options = z.record(z.string(), z.union([value, z.record(z.string(), value)]));

export const armSchema = z.strictObject({
  name,
  /** What is trained: one model on all images, one model per client on its own images, or a federation. */
  train: z.enum(['central', 'local', 'federated']).default('federated'),
  /** The weights that samples are drawn from. */
  weights: z.enum(['raw', 'ema']).default('ema'),
  /** Epochs that each client trains the global model on with its own images before it is scored, as pooled samples; 0 = none. */
  fineTune: z.int().min(0).max(1000).default(0),
  /** Options of `federate`, in addition to the grid's own. */
  options: options.default({}),
});
export type Arm = z.infer<typeof armSchema>;

export const partitionSchema = z.strictObject({
  name,
  /** As --partition, --fraction and --clients of `federate`. */
  partition: z.string(),
  fraction: z.number().gt(0).max(1).default(1),
  clients: z.int().min(1).max(10_000).optional(),
});
export type Partition = z.infer<typeof partitionSchema>;

/** The arms that a grid file names without defining them, in terms of `federate`. */
export const knownArms: Record<string, Omit<z.input<typeof armSchema>, 'name'>> = {
  centralised: { train: 'central' },
  'local-only': { train: 'local' },
  fedavg: { weights: 'raw' },
  'fedavg-ema': {},
  'fedavg-finetuned': { fineTune: 1 },
  sharing: { options: { sharing: { beta: 0.05, alpha: 0.5 } } },
  personal: { options: { personal: 'head' } },
  filtering: { options: { filter: { kind: 'quarantine' } } },
  diversity: { options: { strategy: 'diversity' } },
  composed: { options: { method: 'phoenix' } },
  'composed-global': { options: { method: 'phoenix', personal: 'none' } },
  'composed-finetuned': { options: { method: 'phoenix', personal: 'none' }, fineTune: 1 },
};

export const knownPartitions: Record<string, Omit<z.input<typeof partitionSchema>, 'name'>> = {
  iid: { partition: 'iid' },
  dirichlet: { partition: 'dirichlet:0.3' },
  shards: { partition: 'shards:2' },
  'shards-zipf': { partition: 'shards:2,zipf:1' },
  'half-a-round': { partition: 'shards:2', fraction: 0.5 },
  site: { partition: 'site' },
};

/** The arms that the gap is measured between: the one to close it from, and the one to close it to. */
export const BASELINE = 'fedavg-ema';
export const CEILING = 'centralised';
/** The arm whose pooled samples those of other arms are compared with. */
export const TUNED = 'fedavg-finetuned';

export const gridSchema = z.strictObject({
  name,
  /** As --data; a preset of real data leaves it to the command line. */
  data: z.string().min(1).optional(),
  size: z.int().min(4).max(1024).optional(),
  limit: z.int().min(1).optional(),
  /** As --range: which values of deep images become 0 and 255. Test images take what the training images took. */
  range: z.string().optional(),
  clients: z.int().min(2).max(10_000).default(10),
  /** Rounds of a federation in which all clients take part; with fewer per round there are more rounds. */
  rounds: z.int().min(1).max(1_000_000),
  /** Images a client trains on in a round. */
  localImages: z.int().min(1),
  /** Consent to arms whose shared set is of real training images, as --share-real of `federate`; without it they are refused. */
  shareReal: z.boolean().default(false),
  /** Options that all trainings have: preset, prediction, training.batch, training.lr, … */
  options: options.default({}),
  arms: z
    .array(z.union([name, armSchema]))
    .min(1)
    .max(100),
  partitions: z
    .array(z.union([name, partitionSchema]))
    .min(1)
    .max(100),
  /** Which of them are run: each block all its arms × partitions × seeds, the union of the blocks. */
  runs: z
    .array(
      z.strictObject({
        arms: z.array(name).min(1),
        partitions: z.array(name).min(1),
        seeds: z.array(z.int().min(0).max(1_000_000)).min(1).max(100),
      }),
    )
    .min(1),
  score: z.strictObject({
    /** Images drawn from each cell's final model. */
    samples: z.int().min(50).max(100_000),
    /** Steps of the sampler, and which. */
    steps: z.int().min(1).max(1000).default(25),
    scheduler: z.enum(names(schedulers)).default('ddim'),
    /** A point of the curves every so many rounds, of so many images; 0 = only the end. */
    every: z.int().min(0).default(0),
    curveSamples: z.int().min(50).max(100_000).default(500),
    /** Path of a feature network; without one a classifier is trained on the data. */
    features: z.string().min(1).optional(),
    /** Steps of its training. */
    classifierSteps: z.int().min(1).max(1_000_000).optional(),
  }),
});
export type GridFile = z.infer<typeof gridSchema>;

export type Grid = Omit<GridFile, 'arms' | 'partitions'> & { arms: Arm[]; partitions: Partition[] };

/**
 * Checks a grid and fills in what it names: known arms and partitions, defaults.
 * @param source for messages: the file or preset
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT naming the field, what came and what is valid
 */
export function parseGrid(value: unknown, source: string): Grid {
  const parsed = gridSchema.safeParse(value);
  const refuse = (what: string) => new PhoenixError('ERR_PHOENIX_ARGUMENT', `${source} is no grid of an experiment: ${what}.`);
  if (!parsed.success) throw refuse(z.prettifyError(parsed.error).replaceAll('\n', ' '));
  const known = <T>(kind: string, entry: string, registry: Record<string, T>): T => {
    if (Object.hasOwn(registry, entry)) return registry[entry]!;
    throw refuse(`there is no ${kind} "${entry}": it must be one of ${Object.keys(registry).join(', ')}, or be defined in the grid`);
  };
  const grid: Grid = {
    ...parsed.data,
    arms: parsed.data.arms.map((arm) => (typeof arm === 'string' ? armSchema.parse({ name: arm, ...known('arm', arm, knownArms) }) : arm)),
    partitions: parsed.data.partitions.map((partition) =>
      typeof partition === 'string'
        ? partitionSchema.parse({ name: partition, ...known('partition', partition, knownPartitions) })
        : partition,
    ),
  };
  for (const [kind, entries] of [
    ['arm', grid.arms],
    ['partition', grid.partitions],
  ] as const) {
    const names = entries.map((entry) => entry.name);
    const twice = names.find((entry, i) => names.indexOf(entry) < i);
    if (twice) throw refuse(`the ${kind} "${twice}" is there twice`);
    for (const run of grid.runs)
      for (const wanted of run[`${kind}s`])
        if (!names.includes(wanted)) throw refuse(`its runs ask for the ${kind} "${wanted}"; there are ${names.join(', ')}`);
  }
  // Every option is checked before anything is trained.
  const checked = (whose: string, check: () => void) => {
    try {
      check();
    } catch (error) {
      throw error instanceof OptionError ? refuse(`${whose}: ${error.message.replace(/\.$/, '')}`) : error;
    }
  };
  checked('its options', () => void parseOptions('train', trainOptions(grid, 0, 1)));
  for (const arm of grid.arms) {
    if (arm.train !== 'federated' && (Object.keys(arm.options).length > 0 || arm.fineTune > 0))
      throw refuse(`the arm "${arm.name}" is trained ${arm.train}, so it can have neither options of federate nor fine-tuning`);
    if (arm.fineTune > 0 && isPersonal(arm)) throw refuse(`the arm "${arm.name}" has personal layers: its samples are pooled already`);
    if (arm.train !== 'federated') continue;
    checked(`the arm "${arm.name}"`, () => {
      for (const partition of grid.partitions) parseOptions('federate', federateOptions(grid, arm, partition, 0));
    });
  }
  return grid;
}

/** All options of a federated arm, with their defaults; whether it has consent to share real images, its grid says. */
export function settingsOf(arm: Arm) {
  return parseOptions('federate', mergeOptions('federate', { data: 'synthetic' }, arm.options, { sharing: { consent: true } }));
}

/** Whether real training images become public to all clients of an arm. */
export function sharesReal(arm: Arm): boolean {
  if (arm.train !== 'federated') return false;
  const { sharing } = settingsOf(arm);
  return sharing.beta > 0 && sharing.source === 'real';
}

/** Whether each client ends with a model of its own. */
export function isPersonal(arm: Arm): boolean {
  return arm.train === 'federated' && settingsOf(arm).personal !== 'none';
}

/** Whether an arm is scored on samples of every client's model, instead of on one model's. */
export function isMixture(arm: Arm): boolean {
  return arm.train === 'local' || arm.fineTune > 0 || isPersonal(arm);
}

/**
 * Whether a cell is scored during training, for curves. Not `local` arms, whose clients train one after the other, and not fine-tuned arms,
 * which would need an epoch per point.
 */
export function hasCurve({ train, fineTune }: Arm, grid: Grid): boolean {
  return grid.score.every > 0 && train !== 'local' && fineTune === 0;
}

/** A training of an experiment draws no grids, and keeps its last checkpoint alone. */
const QUIET = { samples: { every: 0 }, keep: 1 };

/** Options of `federate` of an arm; the data and the folder come later. */
export function federateOptions(grid: Grid, arm: Arm, { partition, fraction, clients }: Partition, seed: number) {
  const bySite = partition === 'site';
  const places = { clients: bySite ? clients : (clients ?? grid.clients), partition, fraction, localImages: grid.localImages };
  const sharing = { consent: grid.shareReal && sharesReal(arm) };
  return mergeOptions('federate', { data: 'synthetic', sharing }, grid.options, places, arm.options, { seed, ...QUIET });
}

/** Options of `train` for so many images; a checkpoint after every `commitImages`. */
export function trainOptions(grid: Grid, seed: number, images: number, commitImages = images) {
  return mergeOptions('train', { data: 'synthetic' }, grid.options, { seed, images, commitImages, ...QUIET });
}

// ---- equal work

export type Work = {
  clients: number;
  /** Images a client draws in a round: localImages, rounded up to full batches. */
  perClient: number;
  /** Clients in a round. */
  selected: number;
  /** Rounds after which a federation has drawn `total`, if every client selected draws `perClient`. */
  rounds: number;
  /** Images that every cell draws in all, whatever the arm. */
  total: number;
  /** Images that each client draws alone: total / clients. */
  alone: number;
};

/**
 * The work of one cell. `total` = rounds·clients·perClient is the same for all arms of a partition, and for all partitions with as many
 * clients: a centralised model draws it in batches of the same size, a client alone draws its share.
 */
export function equalWork(grid: Pick<Grid, 'rounds' | 'localImages'>, batch: number, clients: number, fraction: number): Work {
  const perClient = Math.ceil(grid.localImages / batch) * batch;
  const selected = Math.max(1, Math.round(fraction * clients));
  const total = grid.rounds * clients * perClient;
  const alone = Math.ceil(total / clients / batch) * batch;
  return { clients, perClient, selected, rounds: Math.ceil(total / (selected * perClient)), total, alone };
}

// ---- cells

/** The options of an arm in an order of their own, so that equal ones are equal as text. */
const sortedOptions = ({ options }: Arm) =>
  Object.entries(options)
    .map(([key, entry]) => [key, typeof entry === 'object' ? Object.entries(entry).sort() : entry] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));

/** A training: a run folder, or a folder of one a client. */
export type Training = {
  /** Name of its folder. */
  id: string;
  arm: Arm;
  /** Absent for a centralised one, which no partition changes. */
  partition?: Partition;
  seed: number;
};

export type Cell = { id: string; arm: Arm; partition?: Partition; seed: number; training: Training };

const cellId = (arm: Arm, partition: Partition | undefined, seed: number) =>
  [arm.name, ...(partition ? [partition.name] : []), `s${seed}`].join('.');

/** The cells of a grid, in the order of its runs; a centralised arm has one per seed. */
export function expandGrid(grid: Grid): Cell[] {
  const cells = new Map<string, Cell>();
  const trainings = new Map<string, Training>();
  for (const run of grid.runs)
    for (const partitionName of run.partitions)
      for (const seed of run.seeds)
        for (const armName of run.arms) {
          const arm = grid.arms.find((entry) => entry.name === armName)!;
          const partition = arm.train === 'central' ? undefined : grid.partitions.find((entry) => entry.name === partitionName)!;
          const id = cellId(arm, partition, seed);
          if (cells.has(id)) continue;
          const what = JSON.stringify([arm.train, sortedOptions(arm), partition, seed]);
          const training = trainings.get(what) ?? { id, arm, partition, seed };
          trainings.set(what, training);
          cells.set(id, { id, arm, partition, seed, training });
        }
  return [...cells.values()];
}
