/** The vectors of a committed round, back from the run folder. */
import type { ParameterEntry } from '../bindings/native.ts';
import type { Vector } from '../bindings/vector.ts';
import { readCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { PhoenixError } from '../errors.ts';
import type { Run } from '../run/commit.ts';
import { readVectors } from '../run/vector-file.ts';

export type Restored = { params: Vector; ema: Vector; moments: Vector[]; table: ParameterEntry[] };

/**
 * Reads what the last committed round left into vectors that are there; before the first round they stay as they are.
 * @throws PhoenixError ERR_PHOENIX_RUN where the round lacks a file, and what reading throws
 */
export async function restore(run: Run, { params, ema, moments, table }: Restored): Promise<void> {
  if (run.round === 0) return;
  const checkpoint = run.file('checkpoint');
  const kept = run.file('moments');
  if (!checkpoint || (kept === undefined) !== (moments.length === 0)) {
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${run.dir}/state.json is damaged: round ${run.round} lacks its checkpoint or moments. Begin a new run.`,
    );
  }
  await (await readCheckpoint(checkpoint)).load(params, ema, table);
  if (kept) await readVectors(kept, moments);
}
