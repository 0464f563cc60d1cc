/**
 * The folder of an experiment:
 *
 *   experiment.json            the grid, the data and what samples are scored by; a resume must agree with it
 *   runs/<training>/           a run folder for each training (one per client for clients alone)
 *   scores/<cell>.json         what a cell has scored so far: points of the curves, then the end; replaced whole
 *   scores/<cell>.png          samples of its final model
 *   own-classifier-*.safetensors
 *   report.html, report.md, results.json
 */
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';
import { exists, io, type JsonRules, makeFolder, readJson, writeWhole } from '../files.ts';
import { decision } from '../fl/protocol.ts';
import { isRunFolder } from '../run/folder.ts';
import { type Lock, type LockOptions, takeLock } from '../run/lock.ts';
import { scoredBySchema } from './features.ts';

const standing = { round: z.int().min(0), images: z.number().min(0), bytesUp: z.number().min(0), bytesDown: z.number().min(0) };
const metrics = z.record(z.string(), z.number());

export const scoreSchema = z.strictObject({
  schema: z.literal(1),
  cell: z.string(),
  arm: z.string(),
  /** Absent where the partition changes nothing. */
  partition: z.string().optional(),
  seed: z.int(),
  points: z.array(z.strictObject({ ...standing, metrics })),
  /** Absent until the training has ended and its model is scored. */
  final: z
    .strictObject({
      ...standing,
      metrics,
      /** Samples of each class, and recall within each class of the test images. */
      classes: z.array(z.number()).optional(),
      classRecall: z.array(z.number().nullable()).optional(),
      /** For pooled samples: samples of each client's model, by class where classes are counted. */
      mixture: z.array(z.strictObject({ client: z.string(), samples: z.int(), classes: z.array(z.number()).optional() })).optional(),
      /** What became of each client of a federation: images it holds, rounds it counted in, its last loss and held-out losses. */
      clients: z.array(
        z.strictObject({
          client: z.string(),
          examples: z.number(),
          rounds: z.int(),
          meanWeight: z.number(),
          loss: z.number().nullable(),
          evalLoss: z.number().nullable(),
          evalLossLocal: z.number().nullable(),
        }),
      ),
      /** What the filter decided, with its figures. */
      decisions: z.array(decision.extend({ round: z.int() })),
    })
    .optional(),
});
export type CellScore = z.infer<typeof scoreSchema>;
export type FinalScore = NonNullable<CellScore['final']>;

const basisSchema = z.looseObject({
  schema: z.literal(1),
  grid: z.record(z.string(), z.unknown()),
  scorer: scoredBySchema.optional(),
});

/** How the files of an experiment are refused. */
const jsonRules: JsonRules = { code: 'ERR_PHOENIX_RUN', maxBytes: 256 << 20, advice: 'Remove it to have it made anew.', version: 1 };

const readIfThere = async <T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> =>
  (await exists(path)) ? readJson(path, schema, jsonRules) : undefined;

/**
 * Makes the folder, and takes its lock.
 * @throws PhoenixError ERR_PHOENIX_RUN if another process works in it, or it is the folder of a run; ERR_PHOENIX_IO
 */
export function lockFolder(dir: string, options: LockOptions): Promise<Lock> {
  return io(dir, async () => {
    if (await isRunFolder(dir))
      throw new PhoenixError('ERR_PHOENIX_RUN', `${dir} is the folder of a run, not of an experiment. Choose another one (--out).`);
    await makeFolder(join(dir, 'scores'));
    return takeLock(dir, options);
  });
}

/**
 * Notes what the experiment in a folder is, or checks that it is this one, as far as is known of it by now. The grid may have grown: by
 * arms and partitions, and in what is run of it; and consent to share images may have been given.
 * @returns all that is noted by now
 * @throws PhoenixError ERR_PHOENIX_RUN for an experiment that differs, naming where; ERR_PHOENIX_IO
 */
export async function noteBasis(dir: string, basis: { grid: object } & Record<string, unknown>): Promise<z.infer<typeof basisSchema>> {
  const path = join(dir, 'experiment.json');
  const now = JSON.parse(JSON.stringify({ schema: 1, ...basis })) as z.infer<typeof basisSchema>;
  const before = await readIfThere(path, basisSchema);
  if (before) {
    const differing = [...new Set([...Object.keys(before), ...Object.keys(now)])].flatMap((key) =>
      key === 'grid'
        ? [...new Set([...Object.keys(before.grid), ...Object.keys(now.grid)])]
            .filter((field) => !['runs', 'shareReal'].includes(field) && !isGrown(before.grid[field], now.grid[field]))
            .map((field) => `grid.${field}`)
        : before[key] === undefined || now[key] === undefined || isDeepStrictEqual(before[key], now[key])
          ? []
          : [key],
    );
    if (differing.length > 0)
      throw new PhoenixError(
        'ERR_PHOENIX_RUN',
        `${dir} holds an experiment that differs in ${differing.join(', ')}: its cells could not be compared. Choose another folder (--out).`,
      );
  }
  const noted = { ...before, ...now };
  await writeWhole(path, `${JSON.stringify(noted, null, 1)}\n`);
  return noted;
}

/**
 * Whether a field of a grid is what it was; of arms and partitions, which are lists, whether all that were there are still there,
 * unchanged.
 */
const isGrown = (before: unknown, now: unknown): boolean =>
  Array.isArray(before) && Array.isArray(now)
    ? before.every((entry) => now.some((other) => isDeepStrictEqual(entry, other)))
    : isDeepStrictEqual(before, now);

export function scorePath(dir: string, cell: string): string {
  return join(dir, 'scores', `${cell}.json`);
}

/** What a cell has scored so far. @throws PhoenixError ERR_PHOENIX_RUN for a damaged file */
export function readScore(dir: string, cell: string): Promise<CellScore | undefined> {
  return readIfThere(scorePath(dir, cell), scoreSchema);
}

export function writeScore(dir: string, score: CellScore): Promise<void> {
  return writeWhole(scorePath(dir, score.cell), `${JSON.stringify(scoreSchema.parse(score), null, 1)}\n`);
}
