/** The options of `phoenix federate`: coordinator, clients and their simulation in one process. */
import { hyperSchema } from '../../ddpm/fit.ts';
import { shareSources } from '../../fl/server/sharing.ts';
import { personalPresets } from '../../fl/site/personal.ts';
import { compressions } from '../../fl/wire/codec.ts';
import { data, hyper, lrFall, machine, model, runFolder, samples, samplesEvery, seed } from './common.ts';
import { above0, choice, compressionKind, flag, integer, names, number, numeric, orWord, partitionKind, personalKind } from './kinds.ts';
import { methods } from './methods.ts';
import { flagOf, headed, option, placed, type Table } from './option.ts';
import { aggregation, filter, serverStep, statisticsAsked } from './server.ts';

export const partition = headed('Clients', {
  clients: option({
    kind: integer(1, 100_000),
    default: undefined,
    defaultText: '10, or the sites of --partition site',
    unit: 'clients',
    where: 'simulation',
    help: 'clients that the data is partitioned over',
  }),
  partition: option({
    kind: partitionKind,
    default: 'iid',
    where: 'simulation',
    help: 'how the data is divided: iid, dirichlet:ALPHA, shards:S (about S classes per client), shards:S,zipf:EXPONENT (the same, with unequal sizes), quantity:EXPONENT (unequal sizes), site',
  }),
  fraction: option({ kind: above0(1), default: 1, where: 'coordinator', help: 'share of the clients that train in a round' }),
  personal: option({
    kind: personalKind,
    default: 'none',
    where: 'coordinator',
    help: `layers that each client keeps to itself: none, ${names(personalPresets).join(', ')}, or patterns over parameter names, as "up_blocks.last.*,conv_out.*"`,
  }),
});

export const rounds = headed('Rounds', {
  rounds: option({
    kind: orWord(integer(1, 1_000_000), 'open'),
    default: 10,
    unit: 'rounds',
    mayChange: true,
    where: 'coordinator',
    help: 'rounds in total, also when resumed; open = until phoenix finish is called',
  }),
  images: option({
    kind: integer(1),
    default: undefined,
    defaultText: 'use --rounds',
    unit: 'images',
    mayChange: true,
    where: 'coordinator',
    help: 'instead of --rounds: images that all clients together train on; the run ends with the round that comes nearest to them',
  }),
  epochs: option({
    kind: integer(1, 1_000_000),
    default: undefined,
    defaultText: '1',
    unit: 'passes',
    where: 'coordinator',
    help: "passes over a client's own images per round",
  }),
  localImages: option({
    kind: integer(1),
    default: undefined,
    defaultText: 'use --epochs',
    unit: 'images',
    where: 'coordinator',
    help: 'instead of --epochs: images that a client trains on per round, rounded up to full batches',
  }),
  localWork: {
    target: option({
      flag: '--drift-target',
      kind: above0(1),
      default: undefined,
      defaultText: 'none',
      where: 'coordinator',
      help: "target for the mean cosine between two clients' updates: local images per round are adapted towards it",
    }),
    least: option({
      flag: '--work-least',
      kind: above0(1),
      default: 0.25,
      where: 'coordinator',
      help: 'least local images with --drift-target, as a share of --epochs or --local-images',
    }),
    most: option({
      flag: '--work-most',
      kind: number(1, 1000),
      default: 4,
      where: 'coordinator',
      help: 'most local images with --drift-target, as a multiple of --epochs or --local-images',
    }),
  },
});

const sharing = headed('Sharing', {
  sharing: {
    beta: option({
      flag: '--share-beta',
      kind: number(0, 1),
      default: 0,
      where: 'coordinator',
      help: "size of the shared set, relative to all clients' images; 0 = none. A real one takes --share-real",
    }),
    alpha: option({
      flag: '--share-alpha',
      kind: above0(1),
      default: 0.5,
      where: 'coordinator',
      help: 'share of the shared set that each client receives, at random, and trains on together with its own images',
    }),
    source: option({
      flag: '--share-source',
      kind: choice(shareSources),
      default: 'real',
      where: 'coordinator',
      help: 'what the shared set is: real training images, set aside before the partition, equally many of every class; or samples of the global model',
    }),
    consent: option({
      flag: '--share-real',
      kind: flag,
      default: false,
      mayChange: true,
      where: 'site',
      help: 'consent to a shared set of real training images, which become public to all clients: without it, options that would send any are refused',
    }),
    every: option({
      flag: '--share-every',
      kind: integer(1, 1_000_000),
      default: 10,
      unit: 'rounds',
      where: 'coordinator',
      help: 'a synthetic shared set is drawn anew every so many rounds',
    }),
  },
});

const training = headed('Training', {
  training: {
    ...hyper,
    mu: option({
      kind: numeric(hyperSchema.shape.mu),
      default: 0,
      where: 'coordinator',
      help: 'FedProx: pull towards the global model; 0 = off',
    }),
  },
  lrFall,
  optimizer: option({
    kind: choice(['reset', 'keep']),
    default: 'reset',
    where: 'coordinator',
    help: "a client's Adam moments: start at zero each round (reset), or stay (keep)",
  }),
});

const compression = headed('Compression', {
  compress: {
    updates: option({
      flag: '--compress',
      kind: compressionKind,
      default: 'none',
      where: 'coordinator',
      help: `how updates are sent: ${Object.entries(compressions)
        .map(([name, what]) => `${name} (${what})`)
        .join(', ')}; what an update leaves out is sent later`,
    }),
    tasks: option({
      flag: '--compress-tasks',
      kind: choice(['none', 'bf16']),
      default: 'none',
      where: 'coordinator',
      help: 'how the model is sent to the clients: float32 (none), or rounded to bfloat16 (bf16, half the bytes)',
    }),
  },
});

/** The values of a method as the command line would give them. */
function asFlags(method: object, table: Table): string {
  const valueAt = (path: readonly string[]) => path.reduce<unknown>((value, key) => (value as Record<string, unknown>)?.[key], method);
  return placed(table)
    .flatMap((place) => {
      const value = valueAt(place.path);
      return value === undefined ? [] : `${flagOf(place)} ${value}`;
    })
    .join(' ');
}

const ofMethods = { ...partition, ...rounds, ...sharing, ...aggregation, ...serverStep, ...filter, ...compression };
const method = headed('Method', {
  method: option({
    kind: choice(names(methods)),
    default: 'plain',
    where: 'coordinator',
    help: `defaults of a whole method. plain: none; phoenix: ${asFlags(methods.phoenix, ofMethods)}. phoenix has a shared set of real training images, which takes --share-real`,
  }),
});

/** What a simulation and the coordinator of real sites learn by, draw and compute with. */
export const learning = {
  ...statisticsAsked,
  ...filter,
  ...training,
  ...compression,
  ...headed('Sample grids', { samples: { ...samples, every: samplesEvery('rounds') } }),
  ...headed('Machine', { seed }),
  ...machine,
};

export const federateTable = {
  ...data,
  ...model,
  ...partition,
  ...rounds,
  ...method,
  ...aggregation,
  ...serverStep,
  ...sharing,
  ...learning,
  ...runFolder,
};
