/** Measured cells (src/experiment/measured.ts) trained and scored anew, and compared. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { experiment } from '../../src/experiment/experiment.ts';
import { type Machine, type Measured, machineOf, readMeasured } from '../../src/experiment/measured.ts';

/** A grid of this cell alone. */
function gridOf({ asked }: Measured, name: string): object {
  const { grid, arm, partition, seed } = asked;
  const place = partition ?? { name: 'iid', partition: 'iid' };
  const runs = [{ arms: [arm.name], partitions: [place.name], seeds: [seed] }];
  return { name, ...grid, shareReal: true, arms: [arm], partitions: [place], runs };
}

/** Whether figures have equal bits on both machines. */
export const isSameMachine = (a: Machine, b: Machine): boolean =>
  a.node === b.node && a.build === b.build && a.isa === b.isa && a.libc === b.libc;

/** Metrics that count samples or test images: one of them may fall on the other side of a limit. */
const COUNTED = /^(precision|recall|coverage|density|classes|ndb)_/;

export type Retrained = {
  /** Whether bits were compared; otherwise figures, to one part in a thousand, and counts to one. */
  bits: boolean;
  /** Metrics that differ: as measured, and now. */
  differing: { metric: string; measured: number; now: number | undefined }[];
};

/** `data`, `size`, `range`: what the cell was measured on, as the grid says it. */
export async function retrain(path: string, images: { data: string; size?: number; limit?: number; range?: string }): Promise<Retrained> {
  const measured = await readMeasured(path);
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-retrain-'));
  try {
    const grid = join(folder, 'grid.json');
    await writeFile(grid, JSON.stringify({ ...gridOf(measured, 'again'), ...images }));
    const cells = join(folder, 'cells');
    await experiment({ grid, out: join(folder, 'out'), cells });
    const again = await readMeasured(join(cells, `${measured.score.cell}.json`));
    const bits = isSameMachine(measured.machine, machineOf());
    const now = again.score.final!.metrics;
    const differing = Object.entries(measured.score.final!.metrics).flatMap(([metric, value]) => {
      const other = now[metric];
      const most = Math.max(1e-3 * Math.abs(value), COUNTED.test(metric) ? 1 / measured.asked.grid.score.samples : 0);
      const isNear = other === value || (!bits && other !== undefined && Math.abs(other - value) <= most);
      return isNear ? [] : [{ metric, measured: value, now: other }];
    });
    return { bits, differing };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
