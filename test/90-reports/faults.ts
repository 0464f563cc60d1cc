/**
 * Faults that users of other tools reported, and that Phoenix must not have. Letters are kinds: C settings of checkpoints and samplers, D data
 * read with another meaning, W work lost at writing, L file systems and containers, P streams, signals and callbacks, I installing and
 * embedding, X internal errors and hangs, M messages, Q speed under limits, N clauses beyond these. Every fault has a test whose title begins
 * with its ID (90-faults.test.ts).
 */
export const FAULTS: Readonly<Record<string, string>> = {};
