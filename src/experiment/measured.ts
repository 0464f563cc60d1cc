/**
 * Cells that are kept outside of an experiment's folder, such as beside the code: a small file each, with what was trained and scored, on
 * what machine, and the score. An experiment takes them as done.
 */
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { addon } from '../bindings/load.ts';
import { packageInfo } from '../commands/package-info.ts';
import type { Dataset } from '../ddpm/data/index.ts';
import { PhoenixError } from '../errors.ts';
import { exists, type JsonRules, makeFolder, readJson, writeWhole } from '../files.ts';
import { type ScoredBy, scoredBySchema } from './features.ts';
import { armSchema, type Cell, type Grid, gridSchema, partitionSchema } from './grid.ts';
import { scoreSchema } from './store.ts';

/** What a cell's figures depend on, besides the machine. */
const askedSchema = z.strictObject({
  data: z.strictObject({ name: z.string(), fingerprint: z.string() }),
  grid: gridSchema.pick({ clients: true, rounds: true, localImages: true, options: true, score: true }),
  arm: armSchema,
  partition: partitionSchema.optional(),
  seed: z.int(),
});
export type Asked = z.infer<typeof askedSchema>;

/** With what it was computed. Figures have equal bits where all of these are equal. */
const machineSchema = z.strictObject({ phoenix: z.string(), node: z.string(), build: z.string(), isa: z.string(), libc: z.string() });
export type Machine = z.infer<typeof machineSchema>;

const measuredSchema = z.strictObject({
  schema: z.literal(1),
  asked: askedSchema,
  scorer: scoredBySchema,
  machine: machineSchema,
  /** Time that the training took, in seconds: of one of so many at once. */
  seconds: z.number().min(0),
  jobs: z.int().min(1),
  score: scoreSchema,
});
export type Measured = z.infer<typeof measuredSchema>;

const rules: JsonRules = {
  code: 'ERR_PHOENIX_RUN',
  maxBytes: 16 << 20,
  verdict: 'is no measured cell',
  advice: 'Remove it to have it measured anew.',
  version: 1,
};

export function machineOf(): Machine {
  const { build, isa } = addon().info();
  const { glibcVersionRuntime } = (process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }).header;
  return { phoenix: packageInfo().version, node: process.version, build, isa, libc: glibcVersionRuntime ?? process.platform };
}

/** What is asked of a cell. */
export function askedOf(grid: Grid, { name, fingerprint }: Pick<Dataset, 'name' | 'fingerprint'>, { arm, partition, seed }: Cell): Asked {
  const { clients, rounds, localImages, options, score } = grid;
  return plain({ data: { name, fingerprint }, grid: { clients, rounds, localImages, options, score }, arm, partition, seed });
}

const plain = <T>(value: T): T => JSON.parse(JSON.stringify(value));

export const measuredPath = (dir: string, cell: string): string => join(dir, `${cell}.json`);

/** @throws PhoenixError ERR_PHOENIX_RUN for a file that is no measured cell */
export async function readMeasured(path: string): Promise<Measured> {
  return readJson(path, measuredSchema, rules);
}

/**
 * A cell that was measured before; undefined if it is not in the folder.
 * @throws PhoenixError ERR_PHOENIX_RUN for a cell of the same name of which something else was asked, naming what
 */
export async function takeMeasured(dir: string, cell: string, asked: Asked): Promise<Measured | undefined> {
  const path = measuredPath(dir, cell);
  if (!(await exists(path))) return undefined;
  const measured = await readMeasured(path);
  const differing = fieldsOf(measured.asked).filter(([name, value]) => !isDeepStrictEqual(value, new Map(fieldsOf(asked)).get(name)));
  const added = fieldsOf(asked).filter(([name]) => !new Map(fieldsOf(measured.asked)).has(name));
  const names = [...differing, ...added].map(([name]) => name);
  if (names.length > 0)
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${path} was measured with another ${names.join(', ')} than the grid says. Remove it to have it measured anew, or choose another folder (--cells).`,
    );
  return measured;
}

/** 'data.name', 'grid.rounds', … with their values. */
const fieldsOf = (asked: Asked): [string, unknown][] =>
  Object.entries(plain(asked)).flatMap(([key, value]) =>
    typeof value === 'object' && value !== null
      ? Object.entries(value).map(([name, inner]): [string, unknown] => [`${key}.${name}`, inner])
      : [[key, value] as [string, unknown]],
  );

export async function keepMeasured(dir: string, measured: Measured): Promise<void> {
  await makeFolder(dir);
  await writeWhole(measuredPath(dir, measured.score.cell), `${JSON.stringify(measuredSchema.parse(measured), null, 1)}\n`);
}

/** A warning if cells were scored by several networks: one that an experiment trains itself has other bits on another machine. */
export function severalScorers(scorers: ScoredBy[]): string | undefined {
  const networks = new Set(scorers.map(({ fingerprint }) => fingerprint));
  if (networks.size < 2) return undefined;
  return `The cells were scored by ${networks.size} feature networks, trained on different machines: a difference between cells of different networks is less certain than it looks.`;
}
