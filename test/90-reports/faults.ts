/**
 * Faults that users of other tools reported, and that Phoenix must not have. Letters are kinds: C settings of checkpoints and samplers, D data
 * read with another meaning, W work lost at writing, L file systems and containers, P streams, signals and callbacks, I installing and
 * embedding, X internal errors and hangs, M messages, Q speed under limits, N clauses beyond these. Every fault has a test whose title begins
 * with its ID (90-faults.test.ts).
 */
export const FAULTS: Readonly<Record<string, string>> = {
  C1: 'A checkpoint says how it is to be sampled, and its clipping, variance or times were read past.',
  C2: 'A diffusers folder whose scheduler file lies elsewhere was sampled as a linear schedule and eps.',
  C3: 'One step with ddpm or ddim gave noise as a picture.',
  C4: 'eta was taken and ignored by samplers that do not have it.',
  D2: 'A class was its position among the folders that happened to be there: --class 1 drew folder 10.',
  D8: 'A test part without the first class was scored with classes shifted by one.',
  N10: 'Misspelt fields of a configuration, and options of samplers that are not here, were ignored without a word.',
  N11: 'A scheduler file with -Infinity, as Python writes it, was refused; what its class leaves out was taken from another class.',
  N12: 'Clients whose labels count different lists of classes trained one model together.',
  N13: 'Sites of test and training images were compared by number.',
};
