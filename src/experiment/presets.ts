/**
 * Grids that come with Phoenix. docs/experiments.md says what each is for and what it costs. Their data sets are public, so they consent to
 * a shared set of real images.
 */

/** Every arm that a partition with classes can carry. */
const arms = [
  'centralised',
  'local-only',
  'fedavg',
  'fedavg-ema',
  'fedavg-finetuned',
  'sharing',
  'personal',
  'filtering',
  'diversity',
  'composed',
  'composed-global',
  'composed-finetuned',
];

/** Half a minute of work, to see that everything runs; its figures mean nothing. */
const smoke = {
  name: 'smoke',
  shareReal: true,
  data: 'synthetic:400',
  size: 16,
  clients: 4,
  rounds: 4,
  localImages: 32,
  options: { preset: 'tiny', prediction: 'v', schedule: 'cosine', training: { batch: 16, lr: 0.004 } },
  arms: [
    'centralised',
    'local-only',
    'fedavg',
    'fedavg-ema',
    'fedavg-finetuned',
    { name: 'composed', options: { method: 'phoenix', probe: { samples: 16, steps: 4, every: 2 } } },
  ],
  partitions: ['shards', 'iid'],
  runs: [
    { arms: ['centralised', 'fedavg-ema'], partitions: ['shards'], seeds: [0, 1] },
    { arms: ['local-only', 'fedavg', 'fedavg-finetuned', 'composed'], partitions: ['shards'], seeds: [0] },
    { arms: ['fedavg-ema'], partitions: ['iid'], seeds: [0] },
  ],
  score: { samples: 60, steps: 4, every: 2, curveSamples: 50, classifierSteps: 80 },
};

/**
 * For two CPU cores with AVX-512: 25 trainings of 409,600 images and 34 scored cells, about two hours (docs/experiments.md). Thereof are
 * trainings 89 %, drawing 6 %, probes of clients 3 %. The limit is 150 minutes.
 */
const fashion = {
  name: 'fashion',
  shareReal: true,
  size: 16,
  clients: 10,
  rounds: 40,
  localImages: 1024,
  options: { preset: 'tiny', prediction: 'v', schedule: 'cosine', training: { batch: 32, lr: 0.002 } },
  arms,
  partitions: ['shards', 'iid', 'dirichlet', 'shards-zipf', 'half-a-round'],
  runs: [
    { arms: ['centralised', 'fedavg', 'fedavg-ema', 'composed', 'composed-global'], partitions: ['shards'], seeds: [0, 1, 2] },
    { arms, partitions: ['shards'], seeds: [0] },
    { arms: ['fedavg-ema', 'fedavg-finetuned', 'composed'], partitions: ['iid', 'dirichlet', 'shards-zipf', 'half-a-round'], seeds: [0] },
  ],
  score: { samples: 2000, steps: 25, every: 8, curveSamples: 500 },
};

/** Seven boards as sites, four more that only test images are of. */
const deeppcbSites = {
  name: 'deeppcb-sites',
  shareReal: true,
  size: 32,
  rounds: 30,
  localImages: 512,
  options: { preset: 'tiny', prediction: 'v', schedule: 'cosine', training: { batch: 32, lr: 0.002 } },
  arms,
  partitions: ['site'],
  runs: [{ arms, partitions: ['site'], seeds: [0] }],
  score: { samples: 1000, steps: 25, every: 10, curveSamples: 500 },
};

/** The size of Ho et al. 2020, for one large GPU: run it in pieces with --stop-after. */
const cifar10 = {
  name: 'cifar10',
  shareReal: true,
  clients: 10,
  rounds: 100,
  localImages: 2560,
  options: { preset: 'cifar', training: { batch: 128, lr: 2e-4, flip: true } },
  arms,
  partitions: ['shards', 'iid', 'dirichlet'],
  runs: [
    { arms: ['centralised', 'fedavg', 'fedavg-ema', 'composed', 'composed-global'], partitions: ['shards'], seeds: [0, 1, 2] },
    { arms, partitions: ['shards'], seeds: [0] },
    { arms: ['fedavg-ema', 'fedavg-finetuned', 'composed'], partitions: ['iid', 'dirichlet'], seeds: [0] },
  ],
  score: { samples: 10_000, steps: 50, every: 25, curveSamples: 2000 },
};

/** All presets, checked like a file when they are used. */
export const experimentPresets: Record<string, unknown> = { smoke, fashion, 'deeppcb-sites': deeppcbSites, cifar10 };
