/**
 * Every option of Phoenix, once: key, type, default, unit, help and the commands that take it. Types, checks, the command line's options
 * and the rules of a resume all derive from this table; choices come from the registries.
 */
import type { z } from 'zod';
import { presets } from '../../ddpm/model/presets.ts';
import { schedulers } from '../../ddpm/schedulers/index.ts';
import { PhoenixError } from '../../errors.ts';
import { histogramSources, statistics } from '../../fl/protocol.ts';
import { serverSteps } from '../../fl/server/server-step.ts';
import { shareSources } from '../../fl/server/sharing.ts';
import { personalPresets } from '../../fl/site/personal.ts';
import { diversityTargets } from '../../fl/strategies/diversity.ts';
import { filterKinds } from '../../fl/strategies/filter.ts';
import { compressions } from '../../fl/wire/codec.ts';
import {
  above0,
  below1,
  choice,
  compressionKind,
  dataKind,
  featuresKind,
  flag,
  integer,
  type Kind,
  names,
  number,
  partitionKind,
  personalKind,
  strategyKind,
  text,
  thresholdKind,
} from './kinds.ts';

export type Command = 'federate' | 'train' | 'finetune' | 'sample' | 'experiment';

/** Stands for a default where there is none and the option must be given. */
const required = { required: true } as const;
type Required = typeof required;

type Option<K extends string, C extends Command, T, D> = {
  key: K;
  commands: readonly C[];
  kind: Kind<T>;
  /** `required`, a value, or undefined when the default comes from elsewhere (see defaultText). */
  default: D;
  /** The default in words, where it is no constant. */
  defaultText?: string;
  unit?: string;
  help: string;
  /** Given without a name on the command line. */
  positional?: true;
  /** A resumed run may have another value than the run began with: it does not change what is learnt, or only how long. */
  mayChange?: true;
};

const option = <const K extends string, const C extends Command, T, const D extends T | undefined | Required>(entry: Option<K, C, T, D>) =>
  entry;

/** The name of an option on the command line: localImages → --local-images. */
const flagName = (key: string) => `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/**
 * Defaults of a whole method under one name. `phoenix` is data sharing, personal layers and threshold filtering as in the Phoenix paper, with what is ours:
 * quarantine instead of disconnection, weights by diversity, work by drift, updates in int8 with error feedback, tasks in bf16, momentum on the server. (The server's EMA
 * is always kept.) The paper does not say its values; these are ours.
 */
const methods = {
  plain: {},
  phoenix: {
    shareBeta: 0.05,
    shareAlpha: 0.5,
    personal: 'head',
    filter: 'quarantine',
    strategy: 'diversity',
    diversityTarget: 'shared',
    driftTarget: 0.1,
    workLeast: 0.75,
    compress: 'int8',
    compressTasks: 'bf16',
    serverStep: 'momentum',
    serverBeta1: 0.6,
  },
} as const;

const both = ['federate', 'train'] as const;
const all = ['federate', 'train', 'finetune', 'sample'] as const;
const everywhere = [...all, 'experiment'] as const;

const table = [
  option({
    key: 'data',
    commands: both,
    kind: dataKind,
    default: required,
    mayChange: true,
    help: 'dataset: CIFAR-10 binary, idx(.gz), an image folder, site-labelled records, or "synthetic[:N]"; what it holds is recognised',
  }),
  option({
    key: 'size',
    commands: both,
    kind: integer(4, 1024),
    default: undefined,
    defaultText: 'as the data',
    unit: 'pixels',
    help: 'resize images to this side',
  }),
  option({
    key: 'limit',
    commands: both,
    kind: integer(1),
    default: undefined,
    defaultText: 'all',
    unit: 'images',
    help: 'use only this many images of the dataset',
  }),
  option({ key: 'preset', commands: both, kind: choice(names(presets)), default: 'tiny', help: 'model and training defaults' }),

  option({
    key: 'clients',
    commands: ['federate'],
    kind: integer(1, 100_000),
    default: undefined,
    defaultText: '10, or the sites of --partition site',
    unit: 'clients',
    help: 'clients that the data is dealt to',
  }),
  option({
    key: 'partition',
    commands: ['federate'],
    kind: partitionKind,
    default: 'iid',
    help: 'how: iid, dirichlet:ALPHA, shards:S (classes a client; shards:S,zipf:EXPONENT with sizes that fall), quantity:EXPONENT, site',
  }),
  option({
    key: 'rounds',
    commands: ['federate'],
    kind: integer(1, 1_000_000),
    default: 10,
    unit: 'rounds',
    mayChange: true,
    help: 'rounds in all, also when resumed',
  }),
  option({
    key: 'epochs',
    commands: ['federate'],
    kind: integer(1, 1_000_000),
    default: undefined,
    defaultText: '1',
    unit: 'passes',
    help: "passes over a client's own images a round",
  }),
  option({
    key: 'epochs',
    commands: ['train'],
    kind: integer(1, 1_000_000),
    default: 10,
    unit: 'passes',
    mayChange: true,
    help: 'passes over the images in all, also when resumed',
  }),
  option({
    key: 'images',
    commands: ['train'],
    kind: integer(1),
    default: undefined,
    defaultText: 'use --epochs',
    unit: 'images',
    mayChange: true,
    help: 'instead of --epochs: images drawn in all, rounded up to whole checkpoints',
  }),
  option({
    key: 'localImages',
    commands: ['federate'],
    kind: integer(1),
    default: undefined,
    defaultText: 'use --epochs',
    unit: 'images',
    help: 'instead of --epochs: images a client draws a round, rounded up to full batches',
  }),
  option({
    key: 'commitImages',
    commands: ['train'],
    kind: integer(1),
    default: undefined,
    defaultText: 'one pass',
    unit: 'images',
    help: 'images between two checkpoints',
  }),
  option({
    key: 'method',
    commands: ['federate'],
    kind: choice(names(methods)),
    default: 'plain',
    help: `plain: as the other options say; phoenix: where they say nothing, ${Object.entries(methods.phoenix)
      .map(([key, value]) => `${flagName(key)} ${value}`)
      .join(' ')}`,
  }),
  option({ key: 'strategy', commands: ['federate'], kind: strategyKind, default: 'fedavg', help: 'how the clients are weighed' }),
  option({
    key: 'personal',
    commands: ['federate'],
    kind: personalKind,
    default: 'none',
    help: `layers that each client keeps to itself: none, ${names(personalPresets).join(', ')}, or patterns over parameter names, as "up_blocks.last.*,conv_out.*"`,
  }),
  option({
    key: 'hostile',
    commands: ['federate'],
    kind: integer(0, 100_000),
    default: undefined,
    defaultText: 'a fifth of those that arrive',
    unit: 'clients',
    help: 'hostile or broken clients that trimmed-mean, krum and multi-krum are to stand',
  }),
  option({
    key: 'normBound',
    commands: ['federate'],
    kind: above0(1e30),
    default: undefined,
    defaultText: 'none',
    help: 'refuse updates of a larger norm',
  }),
  option({ key: 'fraction', commands: ['federate'], kind: above0(1), default: 1, help: 'share of the clients that train in a round' }),

  option({
    key: 'shareBeta',
    commands: ['federate'],
    kind: number(0, 1),
    default: 0,
    help: "size of the shared set, of all clients' images; 0 = none. A set of real images is made public by this",
  }),
  option({
    key: 'shareAlpha',
    commands: ['federate'],
    kind: above0(1),
    default: 0.5,
    help: 'share of the shared set that each client receives, at random, and mixes into its own images',
  }),
  option({
    key: 'shareSource',
    commands: ['federate'],
    kind: choice(shareSources),
    default: 'real',
    help: 'what the shared set is: training images set aside before the partition, alike from every class, or images drawn from the global model',
  }),
  option({
    key: 'shareEvery',
    commands: ['federate'],
    kind: integer(1, 1_000_000),
    default: 10,
    unit: 'rounds',
    help: 'a synthetic shared set is drawn, and drawn anew, after this many rounds',
  }),
  option({
    key: 'diversityTarget',
    commands: ['federate'],
    kind: choice(diversityTargets),
    default: 'uniform',
    help: 'what strategy diversity wants the mixture of the clients to be: all bins alike, as all clients that are known hold them, or as the shared set does',
  }),
  option({
    key: 'diversityPull',
    commands: ['federate'],
    kind: number(1e-3, 1e6),
    default: 0.5,
    help: 'how strongly strategy diversity keeps to weights by examples (its λ)',
  }),
  option({
    key: 'bins',
    commands: ['federate'],
    kind: integer(2, 1024),
    default: 16,
    unit: 'bins',
    help: "bins of feature space that the clients' histograms count: k-means of the shared set, or of what clients first say of their images",
  }),
  option({
    key: 'features',
    commands: ['federate'],
    kind: featuresKind,
    default: 'pixels8',
    help: 'what images are compared by: pixels8 (means of an 8x8 grid) or a feature network (.safetensors or .onnx)',
  }),
  option({
    key: 'histogramOf',
    commands: ['federate'],
    kind: choice(histogramSources),
    default: 'data',
    help: "what a client's histogram counts: its training images, or samples of its model",
  }),
  option({
    key: 'histogramNoise',
    commands: ['federate'],
    kind: number(0, 1e6),
    default: 0,
    unit: 'images',
    help: 'standard deviation of the Gaussian noise on every count of a histogram',
  }),
  option({
    key: 'probeEvery',
    commands: ['federate'],
    kind: integer(1, 1_000_000),
    default: 5,
    unit: 'rounds',
    help: 'how often a client counts its histogram and scores its model, where strategy or filter ask for it',
  }),
  option({
    key: 'probeSamples',
    commands: ['federate'],
    kind: integer(8, 4096),
    default: 64,
    unit: 'images',
    help: 'samples that a client draws from its model for this',
  }),
  option({
    key: 'probeSteps',
    commands: ['federate'],
    kind: integer(1, 1000),
    default: 25,
    unit: 'steps',
    help: 'steps of the sampler (ddim) for these',
  }),
  option({
    key: 'filter',
    commands: ['federate'],
    kind: choice(filterKinds),
    default: 'none',
    help: 'clients with poor models: none are left out, they sit out until they are better, or they are disconnected for good',
  }),
  option({
    key: 'filterBy',
    commands: ['federate'],
    kind: choice(statistics),
    default: 'loss',
    help: "what a client's model is scored by: its loss on the client's held-out images, precision or Fréchet distance of its samples to the client's own images, or to the shared set",
  }),
  option({
    key: 'filterThreshold',
    commands: ['federate'],
    kind: thresholdKind,
    default: '2x',
    help: "when a score is poor: beyond a value, or worse than the clients' median by a factor, as 2x",
  }),
  option({
    key: 'filterCohort',
    commands: ['federate'],
    kind: integer(1, 100_000),
    default: undefined,
    defaultText: 'half of them',
    unit: 'clients',
    help: 'clients that quarantine always leaves in',
  }),
  option({
    key: 'filterGuard',
    commands: ['federate'],
    kind: flag,
    default: true,
    help: 'quarantine leaves nobody out without whom fewer bins are covered; not so where the images themselves may be spoilt',
  }),
  option({
    key: 'driftTarget',
    commands: ['federate'],
    kind: above0(1),
    default: undefined,
    defaultText: 'none',
    help: "adapts the clients' local images a round so that the mean cosine between two updates comes near this",
  }),
  option({
    key: 'workLeast',
    commands: ['federate'],
    kind: above0(1),
    default: 0.25,
    help: 'least local images with --drift-target, as a share of --epochs or --local-images',
  }),
  option({
    key: 'workMost',
    commands: ['federate'],
    kind: number(1, 1000),
    default: 4,
    help: 'most local images with --drift-target, as a multiple of --epochs or --local-images',
  }),

  option({
    key: 'batch',
    commands: both,
    kind: integer(1, 65_536),
    default: undefined,
    defaultText: 'as the preset',
    unit: 'images',
    help: 'images a step',
  }),
  option({
    key: 'lr',
    commands: both,
    kind: above0(10),
    default: undefined,
    defaultText: 'as the preset',
    help: "Adam's learning rate after warm-up",
  }),
  option({ key: 'weightDecay', commands: both, kind: number(0, 10), default: 0, help: 'decoupled weight decay (AdamW)' }),
  option({
    key: 'clip',
    commands: both,
    kind: number(0),
    default: undefined,
    defaultText: 'as the preset',
    help: 'largest gradient norm; 0 = no clipping',
  }),
  option({
    key: 'dropout',
    commands: both,
    kind: below1,
    default: undefined,
    defaultText: 'as the preset',
    help: 'dropout inside residual blocks',
  }),
  option({
    key: 'flip',
    commands: both,
    kind: flag,
    default: undefined,
    defaultText: 'as the preset',
    help: 'flip images horizontally at random',
  }),
  option({
    key: 'emaDecay',
    commands: both,
    kind: below1,
    default: undefined,
    defaultText: 'as the preset',
    help: 'largest decay a step of the averaged weights',
  }),
  option({ key: 'mu', commands: ['federate'], kind: number(0), default: 0, help: 'FedProx: pull towards the global model; 0 = off' }),
  option({
    key: 'optimizer',
    commands: ['federate'],
    kind: choice(['reset', 'keep']),
    default: 'reset',
    help: "whether a client's Adam moments start at zero each round or are kept",
  }),
  option({
    key: 'compress',
    commands: ['federate'],
    kind: compressionKind,
    default: 'none',
    help: `how updates are sent: ${Object.entries(compressions)
      .map(([name, what]) => `${name} (${what})`)
      .join(', ')}; what is left out is sent later`,
  }),
  option({
    key: 'compressTasks',
    commands: ['federate'],
    kind: choice(['none', 'bf16']),
    default: 'none',
    help: 'how the model is sent to the clients: as float32, or rounded to bfloat16, half the bytes',
  }),
  option({
    key: 'serverStep',
    commands: ['federate'],
    kind: choice(names(serverSteps)),
    default: 'add',
    help: 'how the server applies the mean update',
  }),
  option({
    key: 'serverLr',
    commands: ['federate'],
    kind: above0(1000),
    default: undefined,
    defaultText: 'as published for the server step',
    help: 'learning rate of the server step',
  }),
  option({
    key: 'serverBeta1',
    commands: ['federate'],
    kind: below1,
    default: undefined,
    defaultText: 'as published for the server step',
    help: 'momentum of the server step',
  }),
  option({
    key: 'serverBeta2',
    commands: ['federate'],
    kind: below1,
    default: undefined,
    defaultText: 'as published for the server step',
    help: 'decay of squares of the server step (adam, yogi)',
  }),
  option({
    key: 'serverTau',
    commands: ['federate'],
    kind: above0(1),
    default: undefined,
    defaultText: 'as published for the server step',
    help: 'smallest denominator of the server step (adam, yogi)',
  }),

  option({ key: 'prediction', commands: both, kind: choice(['eps', 'x0', 'v']), default: 'eps', help: 'what the network predicts' }),
  option({ key: 'schedule', commands: both, kind: choice(['linear', 'cosine']), default: 'linear', help: 'noise schedule' }),
  option({
    key: 'minSnrGamma',
    commands: both,
    kind: number(0, 1e6),
    default: 0,
    help: 'min-SNR loss weighting; 0 = off, 5 = as published',
  }),
  option({ key: 'classConditional', commands: both, kind: flag, default: false, help: 'condition the model on the class' }),

  option({
    key: 'samples',
    commands: both,
    kind: integer(1, 4096),
    default: 64,
    unit: 'images',
    mayChange: true,
    help: 'images in a sample grid',
  }),
  option({
    key: 'sampleEvery',
    commands: ['federate'],
    kind: integer(0),
    default: undefined,
    defaultText: 'five times over the run',
    unit: 'rounds',
    mayChange: true,
    help: 'a sample grid this often, and at the end; 0 = never',
  }),
  option({
    key: 'sampleEvery',
    commands: ['train'],
    kind: integer(0),
    default: undefined,
    defaultText: 'five times over the run',
    unit: 'checkpoints',
    mayChange: true,
    help: 'a sample grid this often, and at the end; 0 = never',
  }),
  option({
    key: 'sampleSteps',
    commands: both,
    kind: integer(1, 1000),
    default: 50,
    unit: 'steps',
    mayChange: true,
    help: 'steps of the sampler for grids',
  }),
  option({
    key: 'scheduler',
    commands: both,
    kind: choice(names(schedulers)),
    default: 'ddim',
    mayChange: true,
    help: 'sampler for grids',
  }),

  option({
    key: 'source',
    commands: ['finetune'],
    kind: text('path'),
    default: required,
    positional: true,
    help: 'a run folder, a checkpoint (.safetensors), or a diffusers folder',
  }),
  option({
    key: 'data',
    commands: ['finetune'],
    kind: dataKind,
    default: required,
    help: "the site's images: a dataset as for federate, brought to the size and channels of the model",
  }),
  option({
    key: 'epochs',
    commands: ['finetune'],
    kind: integer(1, 1_000_000),
    default: 5,
    unit: 'passes',
    help: "passes over the site's images",
  }),
  option({ key: 'batch', commands: ['finetune'], kind: integer(1, 65_536), default: 32, unit: 'images', help: 'images a step' }),
  option({ key: 'lr', commands: ['finetune'], kind: above0(10), default: 1e-3, help: "Adam's learning rate" }),
  option({
    key: 'checkpoint',
    commands: ['finetune'],
    kind: text('file.safetensors'),
    default: required,
    help: 'the file to write: a whole model, to draw from without naming a client',
  }),

  option({
    key: 'source',
    commands: ['sample'],
    kind: text('path'),
    default: required,
    positional: true,
    help: 'a checkpoint (.safetensors), a run folder, or a diffusers folder',
  }),
  option({ key: 'n', commands: ['sample'], kind: integer(1, 1_000_000), default: 64, unit: 'images', help: 'images to draw' }),
  option({ key: 'scheduler', commands: ['sample'], kind: choice(names(schedulers)), default: 'ddim', help: 'sampler' }),
  option({ key: 'steps', commands: ['sample'], kind: integer(1, 100_000), default: 50, unit: 'steps', help: 'steps of the sampler' }),
  option({ key: 'eta', commands: ['sample'], kind: number(0, 1), default: 0, help: 'noise added by ddim: 0 = none, 1 = as ddpm' }),
  option({
    key: 'raw',
    commands: ['sample'],
    kind: flag,
    default: false,
    help: 'draw with the raw weights instead of the averaged (EMA) ones',
  }),
  option({
    key: 'class',
    commands: ['sample'],
    kind: integer(0),
    default: undefined,
    defaultText: 'all in turn',
    help: 'class to draw, for a class-conditional model',
  }),
  option({
    key: 'client',
    commands: ['sample'],
    kind: text('id'),
    default: undefined,
    defaultText: 'none',
    help: 'for a run with personal layers: the client whose layers the model gets, or * for equal parts from every client',
  }),
  option({
    key: 'grid',
    commands: ['sample'],
    kind: text('file.png'),
    default: undefined,
    defaultText: 'none',
    help: 'write the images as one PNG',
  }),
  option({
    key: 'batch',
    commands: ['sample'],
    kind: integer(1, 65_536),
    default: 16,
    unit: 'images',
    help: 'images drawn at once; does not change them',
  }),

  option({
    key: 'grid',
    commands: ['experiment'],
    kind: text('grid'),
    default: required,
    positional: true,
    help: 'a grid file (.json) or a preset: smoke, fashion, deeppcb-sites, cifar10',
  }),
  option({
    key: 'data',
    commands: ['experiment'],
    kind: text('path'),
    default: undefined,
    defaultText: "the grid's",
    help: 'dataset with training and test images, in place of the one that the grid names',
  }),
  option({
    key: 'features',
    commands: ['experiment'],
    kind: text('file'),
    default: undefined,
    defaultText: "the grid's, or a classifier trained on the data",
    help: 'feature network that samples are scored by (.safetensors or .onnx)',
  }),
  option({
    key: 'stopAfter',
    commands: ['experiment'],
    kind: number(0, 1e6),
    default: undefined,
    defaultText: 'never',
    unit: 'minutes',
    help: 'stop at the first commit after this time; the same command continues',
  }),
  option({
    key: 'resume',
    commands: ['experiment'],
    kind: flag,
    default: false,
    help: 'as without it: the experiment in --out is continued, or begun if there is none',
  }),
  option({ key: 'plan', commands: ['experiment'], kind: flag, default: false, help: 'say what it would cost, and end' }),

  option({ key: 'seed', commands: all, kind: integer(0), default: 0, help: 'everything random follows from it' }),
  option({
    key: 'device',
    commands: everywhere,
    kind: choice(['auto', 'cpu', 'cuda']),
    default: 'auto',
    mayChange: true,
    help: 'where to compute',
  }),
  option({
    key: 'precision',
    commands: ['sample'],
    kind: choice(['fp32', 'bf16']),
    default: undefined,
    defaultText: 'bf16 on CUDA, fp32 on a CPU',
    help: 'how factors are multiplied; bf16 on a CPU needs AVX512_BF16, and rounds those of linear layers, attention and strided convolutions',
  }),
  option({
    key: 'threads',
    commands: everywhere,
    kind: integer(0, 1024),
    default: 0,
    defaultText: 'all cores',
    unit: 'threads',
    mayChange: true,
    help: 'CPU threads; does not change results',
  }),
  option({
    key: 'out',
    commands: ['experiment'],
    kind: text('dir'),
    default: undefined,
    defaultText: "runs/<the grid's name>",
    help: 'folder of the experiment; one that is there is continued',
  }),
  option({
    key: 'out',
    commands: both,
    kind: text('dir'),
    default: undefined,
    defaultText: 'runs/<command>-<n>',
    mayChange: true,
    help: 'run folder to make',
  }),
  option({
    key: 'resume',
    commands: both,
    kind: flag,
    default: false,
    mayChange: true,
    help: 'continue the run in --out, or begin it if there is none',
  }),
  option({
    key: 'keep',
    commands: both,
    kind: integer(1),
    default: 2,
    unit: 'checkpoints',
    mayChange: true,
    help: 'how many of the newest checkpoints stay',
  }),
];

type Entry = (typeof table)[number];

type Value<E> = E extends { kind: Kind<infer T>; default: infer D } ? (D extends undefined ? T | undefined : T) : never;

/** The checked options of a command: every key present, defaults filled in. */
export type Settings<C extends Command> = { [E in Entry as C extends E['commands'][number] ? E['key'] : never]: Value<E> };

type RequiredSettings<C extends Command> = {
  [E in Entry as C extends E['commands'][number] ? (E['default'] extends Required ? E['key'] : never) : never]: Value<E>;
};

/** The options of a command as a user gives them: only what has no default must be there. */
export type Options<C extends Command> = RequiredSettings<C> & Partial<Settings<C>>;

export type FederateOptions = Options<'federate'>;
export type TrainOptions = Options<'train'>;
export type FinetuneOptions = Options<'finetune'>;
export type SampleOptions = Options<'sample'>;
export type ExperimentOptions = Options<'experiment'>;

const entriesOf = (command: Command): Entry[] => table.filter((entry) => (entry.commands as readonly Command[]).includes(command));

/**
 * Checks raw options (from a command line, numbers as text, or from a program) and fills in defaults. A value of undefined counts as absent.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT naming an unknown option and the valid ones, or the option, the value and what is valid;
 * ERR_PHOENIX_CONFIG for options that contradict each other
 */
export function parseOptions<C extends Command>(command: C, raw: Record<string, unknown>): Settings<C> {
  const entries = entriesOf(command);
  for (const key of Object.keys(raw)) {
    if (entries.some((entry) => entry.key === key)) continue;
    const valid = entries.map((entry) => entry.key).join(', ');
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${command} has no option "${key}". Valid options: ${valid}.`);
  }
  const settings: Record<string, unknown> = {};
  const method: Record<string, unknown> = Object.hasOwn(methods, String(raw.method)) ? methods[raw.method as keyof typeof methods] : {};
  for (const entry of entries) settings[entry.key] = parseOption(entry, raw[entry.key] ?? method[entry.key]);
  if (command === 'federate' || command === 'train') checkTogether(settings);
  return settings as Settings<C>;
}

function parseOption(entry: Entry, raw: unknown): unknown {
  const name = entry.positional
    ? entry.key
    : flagName(entry.key).slice(2) === entry.key
      ? `option ${entry.key}`
      : `option ${entry.key} (${flagName(entry.key)})`;
  const unit = entry.unit ? ` (${entry.unit})` : '';
  if (raw === undefined) {
    if (entry.default !== required) return entry.default;
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${name} is missing: it must be ${entry.kind.valid}${unit}.`);
  }
  const parsed = (entry.kind.schema as z.ZodType).safeParse(raw);
  if (parsed.success) return parsed.data;
  const custom = entry.kind.explains && parsed.error.issues.find((issue) => issue.code === 'custom');
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `${name} must be ${entry.kind.valid}${unit}, not ${show(raw)}.${custom ? ` ${custom.message}` : ''}`,
  );
}

function show(value: unknown): string {
  const shown =
    typeof value === 'string' ? JSON.stringify(value) : typeof value === 'object' && value !== null ? 'an object' : String(value);
  return shown.length > 80 ? `${shown.slice(0, 80)}…` : shown;
}

function checkTogether(settings: Record<string, unknown>): void {
  const refuse = (message: string) => {
    throw new PhoenixError('ERR_PHOENIX_CONFIG', message);
  };
  if (settings.epochs !== undefined && settings.localImages !== undefined)
    refuse('Both epochs and localImages are given: a round has one length, so leave one of them out.');
  if (settings.shareSource === 'synthetic' && (settings.shareBeta as number) > 0 && settings.personal !== 'none')
    refuse('shareSource synthetic draws from the global model, which personal layers leave untrained: take real images, or personal none.');
  if (settings.filter !== 'none' && settings.filterBy === 'frechet-shared' && settings.shareBeta === 0)
    refuse('filterBy frechet-shared needs a shared set: set shareBeta, or take another statistic.');
  if (
    settings.strategy === 'diversity' &&
    settings.diversityTarget === 'shared' &&
    (settings.shareBeta === 0 || settings.shareSource !== 'real')
  )
    refuse('diversityTarget shared needs real shared images: set shareBeta, or take the target uniform or pooled.');
  if (settings.resume && settings.out === undefined) refuse('resume needs out (--out DIR): the folder of the run to continue.');
}

/** One option as a command line shows it. */
export type OptionRow = {
  key: string;
  /** '--local-images'; for a positional one '<source>'. */
  flag: string;
  /** 'n' in '--local-images <n>'; absent for a flag. */
  placeholder?: string;
  choices?: readonly string[];
  /** What is valid, to complete "must be …". */
  valid: string;
  unit?: string;
  default?: string | number | boolean;
  /** The default in words; absent if the option is required. */
  defaultText?: string;
  required: boolean;
  positional: boolean;
  /** A flag whose default is not simply false, so that it has a --no- form. */
  negatable: boolean;
  help: string;
};

/** The options of a command, in the order of its help. */
export function optionTable(command: Command): OptionRow[] {
  return entriesOf(command).map((entry) => {
    const { key, kind, unit, help } = entry;
    const value = entry.default === required ? undefined : (entry.default as string | number | boolean | undefined);
    return {
      key,
      flag: entry.positional ? `<${key}>` : flagName(key),
      placeholder: kind.placeholder,
      choices: kind.choices,
      valid: kind.valid,
      unit,
      default: value,
      defaultText: entry.defaultText ?? (value === undefined || value === false ? undefined : String(value)),
      required: entry.default === required,
      positional: entry.positional ?? false,
      negatable: kind.placeholder === undefined && entry.default === undefined,
      help,
    };
  });
}

/** The options of a command that a resumed run may give other values. */
export const changeableOptions = (command: Command): string[] =>
  entriesOf(command)
    .filter((entry) => entry.mayChange)
    .map((entry) => entry.key);

/**
 * What `phoenix demo` runs: ten clients with two classes each, on the built-in shapes. v-prediction on the cosine schedule and knowing the class
 * give recognisable shapes soonest at so few steps; server momentum (FedAvgM) makes up for short rounds, and longer ones would let the clients
 * drift apart.
 */
export const demoOptions: FederateOptions = {
  data: 'synthetic',
  clients: 10,
  partition: 'shards:2',
  rounds: 36,
  epochs: 2,
  preset: 'tiny',
  batch: 16,
  lr: 0.005,
  serverStep: 'momentum',
  serverBeta1: 0.6,
  prediction: 'v',
  schedule: 'cosine',
  classConditional: true,
  samples: 40,
  out: undefined,
};
