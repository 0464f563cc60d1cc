/** Options of federate that go together: whole methods by name, and the demo. */

/**
 * Defaults of a whole method under one name. `phoenix` is data sharing, personal layers and threshold filtering as in the Phoenix paper,
 * with what is ours: quarantine instead of disconnection, weights by diversity, local work by drift, updates in int8 with error feedback,
 * tasks in bf16, momentum on the server. (The server's EMA is always kept.) The paper does not say its values; these are ours.
 */
export const methods = {
  plain: {},
  phoenix: {
    sharing: { beta: 0.05, alpha: 0.5 },
    personal: 'head',
    filter: { kind: 'quarantine' },
    strategy: 'diversity',
    diversity: { target: 'shared' },
    localWork: { target: 0.1, least: 0.75 },
    compress: { updates: 'int8', tasks: 'bf16' },
    serverStep: { kind: 'momentum', beta1: 0.6 },
  },
} as const;

/**
 * What `phoenix demo` runs: ten clients with two classes each, on the built-in shapes. v-prediction on the cosine schedule and knowing the
 * class give recognisable shapes soonest at so few steps; server momentum (FedAvgM) makes up for short rounds, and longer ones would let
 * the clients drift apart.
 */
export const demoOptions = {
  data: 'synthetic',
  clients: 10,
  partition: 'shards:2',
  rounds: 36,
  epochs: 2,
  preset: 'tiny',
  classConditional: true,
  prediction: 'v',
  schedule: 'cosine',
  training: { batch: 16, lr: 0.005 },
  serverStep: { kind: 'momentum', beta1: 0.6 },
  samples: { count: 40 },
} as const;
