/** The cells of one training: it goes from point to point of their curves, and each is scored there and at the end. */
import { join } from 'node:path';
import { imageGrid } from '../commands/image-grid.ts';
import { writeWhole } from '../files.ts';
import { atMost, everyPosition, pick, slice } from '../images.ts';
import type { Rates } from './cost.ts';
import type { Score, Scorer } from './features.ts';
import { type Cell, type Grid, hasCurve, type Training, type Work } from './grid.ts';
import { type Drawn, draw, drawUnseen, folderOf, type Lab, roundsOf, type Standing, standingOf, trainTo } from './models.ts';
import { type CellScore, type FinalScore, writeScore } from './store.ts';

/** Tells progress in seconds of the plan. `at`: so much more than what was added. */
export type Clock = { rates: Rates; at(label: string, more: number): void; add(seconds: number): void };

/** Clocks of trainings that go on at once, and tell their progress together. */
export function clocksOf(
  rates: Rates,
  total: number,
  onProgress?: (progress: { label: string; done: number; total: number }) => void,
): () => Clock {
  let done = 0;
  const underWay = new Map<Clock, number>();
  return () => {
    const clock: Clock = {
      rates,
      at(label, more) {
        underWay.set(clock, more);
        const sum = [...underWay.values()].reduce((a, b) => a + b, done);
        onProgress?.({ label, done: Math.min(total, sum), total });
      },
      add(seconds) {
        underWay.delete(clock);
        done += seconds;
      },
    };
    return clock;
  };
}

export type TrainingOptions = {
  lab: Lab;
  scorer: Scorer;
  training: Training;
  /** The cells that are scored on this training. */
  cells: Cell[];
  work: Work;
  /** What cells have scored, by id; new scores are put there. */
  scores: Map<string, CellScore>;
  clock: Clock;
};

/** Trains on, and scores the cells of the training at every point of the curves and at the end. */
export async function runTraining({ lab, scorer, training, cells, work, scores, clock }: TrainingOptions): Promise<void> {
  const { every, samples, curveSamples } = lab.grid.score;
  const period = cells.some(({ arm }) => hasCurve(arm, lab.grid)) ? (every * work.total) / lab.grid.rounds : Infinity;
  let standing = await standingOf(lab, training, work);
  for (;;) {
    // A point that a kill has left unscored is scored first: the training stands where it is due.
    if (!cells.some((cell) => isDue(lab.grid, cell, scores.get(cell.id), standing, period))) {
      const begun = standing.images;
      const target = period === Infinity ? work.total : (Math.floor(begun / period) + 1) * period;
      standing = await trainTo(lab, training, work, target, (images) =>
        clock.at(`${training.id}: training`, (images - begun) / clock.rates.train),
      );
      clock.add((standing.images - begun) / clock.rates.train);
      if (!standing.ended && standing.images < target) return;
    }
    const { ended, ...point } = standing;
    for (const cell of cells) {
      if (!isDue(lab.grid, cell, scores.get(cell.id), standing, period)) continue;
      if (lab.due()) return;
      const count = ended ? samples : curveSamples;
      const drawn = await draw(lab, cell, count, (share) => clock.at(`${cell.id}: drawing`, (share * count) / clock.rates.sample));
      clock.add(count / clock.rates.sample);
      const unseen = ended ? await drawUnseen(lab, cell, scorer.unseenSites, samples) : undefined;
      const score = await scorer.score(drawn.images, ended ? { unseen, equal: drawn.equal } : undefined);
      const before: CellScore = scores.get(cell.id) ?? {
        schema: 1,
        cell: cell.id,
        arm: cell.arm.name,
        partition: cell.partition?.name,
        seed: cell.seed,
        points: [],
      };
      const after: CellScore = ended
        ? {
            ...before,
            final: { ...point, images: point.images + (drawn.trainedOn ?? 0), ...(await finalOf(lab, cell, scorer, drawn, score)) },
          }
        : { ...before, points: [...before.points, { ...point, metrics: score.metrics }] };
      if (ended) await drawPicture(lab, cell, drawn);
      await writeScore(lab.dir, after);
      scores.set(cell.id, after);
    }
    if (ended) return;
  }
}

/** Whether a training stands at its end or at a point of the curves, and the cell has not been scored there. */
function isDue(grid: Grid, { arm }: Cell, score: CellScore | undefined, { images, ended }: Standing, period: number): boolean {
  if (score?.final) return false;
  if (!hasCurve(arm, grid)) return ended;
  return ended || (score?.points.at(-1)?.images ?? 0) < Math.floor(images / period) * period;
}

async function finalOf(lab: Lab, cell: Cell, scorer: Scorer, drawn: Drawn, score: Score): Promise<Omit<FinalScore, keyof Standing>> {
  const rounds = cell.training.arm.train === 'federated' ? await roundsOf(folderOf(lab, cell.training)) : [];
  const { metrics, classes, classRecall } = score;
  return {
    metrics,
    classes,
    classRecall,
    mixture: drawn.clients && (await mixtureOf(drawn, scorer)),
    clients: clientsOf(rounds),
    decisions: rounds.flatMap(({ round, decisions = [] }) => decisions.map((decision) => ({ round, ...decision }))),
  };
}

/** Classes in each client's part of the pooled samples. */
async function mixtureOf({ images, clients }: Drawn, scorer: Scorer): Promise<NonNullable<FinalScore['mixture']>> {
  const parts: NonNullable<FinalScore['mixture']> = [];
  let first = 0;
  for (const { id, count } of clients!) {
    parts.push({ client: id, samples: count, classes: await scorer.classesOf(slice(images, first, count)) });
    first += count;
  }
  return parts;
}

function clientsOf(rounds: Awaited<ReturnType<typeof roundsOf>>): FinalScore['clients'] {
  const byClient = new Map<string, FinalScore['clients'][number]>();
  for (const { clients } of rounds)
    for (const { client, weight = 0, loss = null, examples = 0, ...more } of clients) {
      const known = byClient.get(client);
      const counted = weight > 0 ? 1 : 0;
      const [evalLoss, evalLossLocal] = [more.evalLoss, more.evalLossLocal].map((value) => (typeof value === 'number' ? value : null));
      byClient.set(client, {
        client,
        examples,
        rounds: (known?.rounds ?? 0) + counted,
        meanWeight: (known?.meanWeight ?? 0) + weight / rounds.length,
        loss,
        evalLoss: evalLoss!,
        evalLossLocal: evalLossLocal!,
      });
    }
  return [...byClient.values()].sort((a, b) => a.client.localeCompare(b.client, 'en', { numeric: true }));
}

/** Images of a picture: of pooled samples equally many of each client, one client per row where they fit. */
const PICTURE = 40;

async function drawPicture(lab: Lab, cell: Cell, { images, clients }: Drawn): Promise<void> {
  // Evenly over the whole, so that every client of a mixture is there.
  const shown = clients ? pick(images, atMost(everyPosition(images.count), PICTURE)) : slice(images, 0, Math.min(PICTURE, images.count));
  const png = await imageGrid(shown, { columns: 10 });
  await writeWhole(join(lab.dir, 'scores', `${cell.id}.png`), png);
}
