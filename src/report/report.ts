/**
 * report.html of a run folder: one file that opens anywhere, without network or scripts. Loss curves, samples by round, which client holds
 * which classes, which clients took part, bytes sent, configuration. Everything in it comes from config.json, log.jsonl and the PNG grids
 * in the folder.
 */

import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { checkArguments } from '../arguments.ts';
import { io, writeWhole } from '../files.ts';
import { checkOutput, formats } from '../outputs.ts';
import type { RunConfig } from '../run/config.ts';
import { openRun } from '../run/folder.ts';
import { examineLog } from '../run/log-file.ts';
import { readLog } from './log.ts';
import { type Report, renderPage } from './page.ts';
import { formatBytes, formatCount } from './units.ts';

/** Grids on the page: enough to see progress, few enough for a small file. */
const MAX_GRIDS = 25;
const MAX_PNG_BYTES = 64 << 20;
const PNG_SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/**
 * Reads the run folder `dir`, finished or not, and writes the page (whole, or not at all).
 * @param out the file to write; by default `dir/report.html`
 * @returns the path of the report
 * @throws PhoenixError ERR_PHOENIX_RUN if the folder holds no run, or a damaged log or configuration; ERR_PHOENIX_ARGUMENT for a file that
 * cannot be the report; ERR_PHOENIX_IO if a file cannot be read or written
 */
export async function writeReport(dir: string, out?: string): Promise<string> {
  checkArguments('writeReport', { dir, out }, { dir: 'text', out: 'text?' });
  if (out !== undefined) await checkOutput(out, formats.html);
  const page = renderPage(await readReport(dir));
  const path = out ?? join(dir, 'report.html');
  await writeWhole(path, page, undefined, out === undefined ? { whenRefused: 'name a file elsewhere (--out FILE.html)' } : {});
  return path;
}

async function readReport(dir: string): Promise<Report> {
  const run = await openRun(dir);
  const { config } = run;
  const { options, data, clients, build, shared } = config;
  const log = await readLog(join(dir, 'log.jsonl'));
  const finding = await io(dir, () => examineLog(dir, run.log), { action: 'read' });
  // A line may be there before its round is committed.
  const rounds = log.rounds.filter((round) => round.round <= run.round);
  const remarks = rounds.length < run.round ? [`The log lacks ${run.round - rounds.length} of ${run.round} rounds.`] : [];
  if (finding.state === 'changed')
    remarks.push('The log is not the one that was committed: figures of rounds may be others than were computed.');
  const { schema: _, kind, options: __, clients: ___, ...facts } = config;
  return {
    kind,
    data: basename(options.data),
    facts: [
      options.partition ?? [],
      `${formatCount(data.count)} images`,
      `${data.width}×${data.height} ${data.channels === 1 ? 'gray' : 'RGB'}`,
      `preset ${options.preset}`,
      options.strategy ?? [],
      !shared
        ? []
        : options.sharing?.source === 'real'
          ? `a shared set of ${formatCount(shared.count)} images of the training data, which is public`
          : `a shared set of ${formatCount(shared.count)} drawn images`,
      `${formatCount(config.parameterCount)} parameters`,
      `${build.backend} ${build.isa}`,
      `seed ${options.seed}`,
    ]
      .flat()
      .map(String),
    plannedRounds: plannedRounds(kind, options, run.state),
    classNames: data.classNames,
    histograms: kind === 'federate' ? clients.flatMap(({ id, histogram }) => (histogram ? [{ client: id, counts: histogram }] : [])) : [],
    rounds,
    grids: await readGrids(dir, run.round, remarks),
    config: { ...options, ...facts, data: { ...data, name: undefined } },
    remarks,
  };
}

const endedSchema = z.object({ ending: z.object({ rounds: z.int() }) });

/** Rounds in all; undefined where they follow from images, or the run is open. */
function plannedRounds(kind: RunConfig['kind'], { rounds, epochs, images, commitImages }: RunConfig['options'], state: unknown) {
  const told = endedSchema.safeParse(state);
  if (told.success) return told.data.ending.rounds;
  const planned = kind === 'federate' ? rounds : commitImages === undefined ? epochs : undefined;
  return images === undefined && planned !== 'open' ? planned : undefined;
}

/** The sample grids up to a round: all of them or, of many, evenly chosen ones with the first and the last. What is no PNG is remarked. */
async function readGrids(dir: string, lastRound: number, remarks: string[]): Promise<Report['grids']> {
  const found = (await readdir(dir))
    .flatMap((name) => /^samples-(\d{1,15})\.png$/.exec(name)?.[1] ?? [])
    .map(Number)
    .filter((round) => round <= lastRound)
    .sort((a, b) => a - b);
  const shown =
    found.length <= MAX_GRIDS
      ? found
      : Array.from({ length: MAX_GRIDS }, (_, i) => found[Math.round((i * (found.length - 1)) / (MAX_GRIDS - 1))]!);
  const grids: Report['grids'] = [];
  for (const round of shown) {
    const path = join(dir, `samples-${round}.png`);
    const { size } = await stat(path);
    const png = size <= MAX_PNG_BYTES ? await readFile(path) : Buffer.alloc(0);
    if (png.subarray(0, 8).equals(PNG_SIGNATURE)) grids.push({ round, png });
    else remarks.push(`samples-${round}.png is left out: it is no PNG file of at most ${formatBytes(MAX_PNG_BYTES)}.`);
  }
  return grids;
}
