/** What the server of a federation does with reports and updates: options of its simulation and of the coordinator of real sites. */
import { histogramSources, statistics } from '../../fl/protocol.ts';
import { serverStepSchema, serverSteps } from '../../fl/server/server-step.ts';
import { diversityTargets } from '../../fl/strategies/diversity.ts';
import { filterKinds } from '../../fl/strategies/filter.ts';
import { above0, choice, featuresKind, flag, integer, names, number, numeric, orWord, strategyKind, thresholdKind } from './kinds.ts';
import { headed, option } from './option.ts';

export const aggregation = headed('Aggregation', {
  strategy: option({ kind: strategyKind, default: 'fedavg', where: 'coordinator', help: 'how aggregation weights are computed' }),
  diversity: {
    target: option({
      flag: '--diversity-target',
      kind: choice(diversityTargets),
      default: 'uniform',
      where: 'coordinator',
      help: 'what strategy diversity aims at: equally many images in all bins, as all known clients hold them together, or as the shared set holds them',
    }),
    pull: option({
      flag: '--diversity-pull',
      kind: number(1e-3, 1e6),
      default: 0.5,
      where: 'coordinator',
      help: 'λ of strategy diversity: how strongly it keeps to weights by examples',
    }),
  },
  hostile: option({
    kind: integer(0, 100_000),
    default: undefined,
    defaultText: 'a fifth of those that report',
    unit: 'clients',
    where: 'coordinator',
    help: 'Byzantine (hostile or broken) clients that trimmed-mean, krum and multi-krum tolerate',
  }),
  normBound: option({
    kind: above0(1e30),
    default: undefined,
    defaultText: 'none',
    where: 'coordinator',
    help: 'refuse updates with an L2 norm above this',
  }),
  normalise: option({
    kind: flag,
    default: false,
    where: 'coordinator',
    help: 'average updates per local step, so that clients with more steps do not count for more (FedNova); with a strategy that computes weights',
  }),
});

const stepLimits = serverStepSchema.shape;
const asPublished = { default: undefined, defaultText: 'as published for the server step', where: 'coordinator' } as const;
export const serverStep = headed('Server step', {
  serverStep: {
    kind: option({
      flag: '--server-step',
      kind: choice(names(serverSteps)),
      default: 'add',
      where: 'coordinator',
      help: 'how the server applies the mean update',
    }),
    lr: option({
      flag: '--server-lr',
      kind: orWord(numeric(stepLimits.lr.options[0]), 'fedexp'),
      ...asPublished,
      help: "learning rate of the server step; fedexp = larger the less the clients' updates agree (add, momentum, lookahead)",
    }),
    beta1: option({
      flag: '--server-beta1',
      kind: numeric(stepLimits.beta1),
      ...asPublished,
      help: 'momentum of the server step (all but add)',
    }),
    beta2: option({
      flag: '--server-beta2',
      kind: numeric(stepLimits.beta2),
      ...asPublished,
      help: 'decay of squares of the server step (adam, yogi)',
    }),
    tau: option({
      flag: '--server-tau',
      kind: numeric(stepLimits.tau),
      ...asPublished,
      help: 'smallest denominator of the server step (adam, yogi)',
    }),
  },
});

export const statisticsAsked = headed('Client statistics', {
  features: option({
    kind: featuresKind,
    default: 'pixels8',
    where: 'both',
    help: 'what images are compared by: pixels8 (means of an 8x8 grid) or a feature network (.safetensors or .onnx)',
  }),
  histogram: {
    of: option({
      flag: '--histogram-of',
      kind: choice(histogramSources),
      default: 'data',
      where: 'coordinator',
      help: "what a client's histogram counts: its training images, or samples of its model",
    }),
    noise: option({
      flag: '--histogram-noise',
      kind: number(0, 1e6),
      default: 0,
      unit: 'images',
      where: 'coordinator',
      help: 'standard deviation of the Gaussian noise on every count of a histogram',
    }),
    bins: option({
      kind: integer(2, 1024),
      default: 16,
      unit: 'bins',
      where: 'coordinator',
      help: "bins of feature space that the clients' histograms count: k-means of the shared set, or of what clients first report of their images",
    }),
  },
  probe: {
    every: option({
      flag: '--probe-every',
      kind: integer(1, 1_000_000),
      default: 5,
      unit: 'rounds',
      where: 'coordinator',
      help: 'how often a client computes statistics (histogram, scores), if the strategy or filter needs them',
    }),
    samples: option({
      flag: '--probe-samples',
      kind: integer(8, 4096),
      default: 64,
      unit: 'images',
      where: 'coordinator',
      help: 'samples that a client draws from its model for these statistics',
    }),
    steps: option({
      flag: '--probe-steps',
      kind: integer(1, 1000),
      default: 25,
      unit: 'steps',
      where: 'coordinator',
      help: 'steps of the sampler (ddim) for these samples',
    }),
  },
});

export const filter = headed('Filter', {
  filter: {
    kind: option({
      flag: '--filter',
      kind: choice(filterKinds),
      default: 'none',
      where: 'coordinator',
      help: 'clients whose models score poorly: keep them (none), exclude them until they score better (quarantine) or for good (disconnect)',
    }),
    by: option({
      flag: '--filter-by',
      kind: choice(statistics),
      default: 'loss',
      where: 'coordinator',
      help: "score of a client's model: its loss on held-out images, precision of its samples, or their Fréchet distance to the client's own images or to the shared set",
    }),
    threshold: option({
      flag: '--filter-threshold',
      kind: thresholdKind,
      default: '2x',
      where: 'coordinator',
      help: "when a score is poor: beyond a value (0.4), or worse than the clients' median by a factor (2x)",
    }),
    cohort: option({
      flag: '--filter-cohort',
      kind: integer(1, 100_000),
      default: undefined,
      defaultText: 'half of them',
      unit: 'clients',
      where: 'coordinator',
      help: 'clients that quarantine never excludes',
    }),
    guard: option({
      flag: '--filter-guard',
      kind: flag,
      default: true,
      where: 'coordinator',
      help: 'quarantine excludes no client without which the others would cover fewer bins. Disable it where images themselves may be spoilt',
    }),
  },
});
