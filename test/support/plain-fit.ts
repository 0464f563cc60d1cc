/** Trainings as most tests make them: small batches, plain Adam, no weight decay, flips, weighting by noise or pull. */
import { type Hyper, plainHyper } from '../../src/ddpm/fit.ts';

/** Hyper-parameters of a test, but for those named. */
export function testHyper(change: Partial<Hyper> = {}): Hyper {
  return { ...plainHyper, batch: 4, lr: 1e-3, ...change };
}

/** What a round asks of each client, but for what a test says of the hyper-parameters. */
export function testFit<Length extends { epochs: number } | { localImages: number }>(length: Length, change: Partial<Hyper> = {}) {
  return { hyper: testHyper(change), length, optimizer: 'reset' as const };
}
