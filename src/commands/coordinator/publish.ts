/**
 * Gives the model of a run to its sites: at its end, and every so many rounds. It is made of what the run folder has committed, and a file
 * beside that says who has it, so that a process that was killed goes on, and a site that was away gets it when the run is started again.
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Session } from '../../bindings/session.ts';
import type { Vector } from '../../bindings/vector.ts';
import { readCheckpoint } from '../../ddpm/checkpoint/checkpoint.ts';
import { PhoenixError } from '../../errors.ts';
import { exists, io, readJson, writeWhole } from '../../files.ts';
import { gather } from '../../fl/server/gather.ts';
import type { ParameterSplit } from '../../fl/site/personal.ts';
import type { Transport } from '../../fl/transport.ts';
import { encodeVector } from '../../fl/wire/codec.ts';
import { blobOf } from '../../fl/wire/message.ts';
import type { Spec } from '../../net/spec.ts';
import { readLog } from '../../report/log.ts';
import { isRunFolder, jsonRules, openRun } from '../../run/folder.ts';
import type { Federation } from '../federation.ts';
import type { Settings } from '../options/index.ts';
import { packageInfo } from '../package-info.ts';
import { writePublished } from '../published.ts';
import { type CardFacts, modelCard } from './model-card.ts';

/** Largest licence in bytes. */
const MAX_LICENCE = 500_000;

const marker = z.strictObject({ schema: z.literal(1), round: z.int().min(1), to: z.array(z.string()) });
const counts = z.object({ globalStep: z.int().min(0), images: z.int().min(0) });

export type Publishing = {
  /** The run folder, the file that says who has which model, and where the operator's own copy goes. */
  runDir: string;
  marker: string;
  models: string;
  /** Its vectors are written: nobody else uses them between rounds. */
  session: Session;
  spec: Spec;
  split?: ParameterSplit;
  /** What the page says and the run folder does not. */
  facts: Omit<CardFacts, 'spec' | 'records' | 'steps' | 'images' | 'siteVersions'>;
  siteVersions(): string[];
  lostAfterSeconds: number;
  onMessage(level: 'info' | 'warning', text: string): void;
  signal?: AbortSignal;
};

/** What the page says of the training, from the options and what they came to. */
export function factsOf(
  { epochs = 1, localImages }: Pick<Settings<'coordinator'>, 'epochs' | 'localImages'>,
  { strategy, serverStep, prepared }: Pick<Federation, 'strategy' | 'serverStep' | 'prepared'>,
  licence: string | undefined,
): Publishing['facts'] {
  const { batch, lr, emaDecay } = prepared.hyper;
  const length = localImages === undefined ? `${epochs} ${epochs === 1 ? 'pass' : 'passes'} over its images` : `${localImages} images`;
  const { version: phoenix } = packageInfo();
  return { strategy: strategy.name, serverStep: serverStep.kind, emaDecay, length, batch, lr, phoenix, licence };
}

/** The text of a licence. @throws PhoenixError ERR_PHOENIX_ARGUMENT for a file that is no text, or too long; ERR_PHOENIX_IO */
export async function readLicence(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined;
  const refuse = (why: string) => new PhoenixError('ERR_PHOENIX_ARGUMENT', `option licence is ${path}, ${why}: name a text file.`);
  return io(
    path,
    async () => {
      const { size } = await stat(path);
      if (size > MAX_LICENCE) throw refuse(`which has ${size} bytes, of at most ${MAX_LICENCE}`);
      const bytes = await readFile(path);
      try {
        return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
      } catch {
        throw refuse('which is not text in UTF-8');
      }
    },
    { action: 'read' },
  );
}

/**
 * Gives the newest committed model to the sites that take part and lack it. Nothing is done before the first round. `again`: also to those
 * that lack it after it was given before; not while a round goes on, whose requests this would take back.
 */
export async function publishModel(transport: Transport, publishing: Publishing, again: boolean): Promise<void> {
  const { runDir, session, split, lostAfterSeconds, onMessage, signal } = publishing;
  if (!(await isRunFolder(runDir))) return;
  const { round, checkpoint, state } = await openRun(runDir);
  if (round === 0 || checkpoint === undefined) return;
  const before = (await exists(publishing.marker)) ? await readJson(publishing.marker, marker, jsonRules) : undefined;
  const has = before?.round === round ? before.to : [];
  const lacking = transport.clients.map(({ id }) => id).filter((id) => !has.includes(id));
  if (before?.round === round && (lacking.length === 0 || !again)) return;

  const { globalStep: steps, images } = counts.parse(state);
  await (await readCheckpoint(checkpoint)).load(session.params, session.ema, session.parameters);
  const card = await cardOf(publishing, { round, steps, images });
  const { models, spec } = publishing;
  const weights = split ? undefined : session.ema;
  const path = await writePublished(join(models, spec.run), { round, steps, images, card, weights, table: session.parameters, spec });
  onMessage('info', split ? `The model of round ${round} is given to the sites.` : `The model of round ${round} is in ${path}.`);

  const travelling = split ? session.createVector(split.sharedCount) : session.ema;
  try {
    if (split) await travelling.gather(session.ema, split.shared);
    const { given, failures } = await give(transport, lacking, { round, steps, images, card, travelling, lostAfterSeconds, signal });
    for (const { client, reason } of failures) onMessage('warning', `${client} has not got the model of round ${round}: ${reason}`);
    await writeWhole(publishing.marker, `${JSON.stringify({ schema: 1, round, to: [...has, ...given] })}\n`);
  } finally {
    if (split) travelling.dispose();
  }
}

type Giving = { round: number; steps: number; images: number; card: Uint8Array; travelling: Vector } & Pick<
  Publishing,
  'lostAfterSeconds' | 'signal'
>;

async function give(transport: Transport, ids: string[], { round, steps, images, card, travelling, lostAfterSeconds, signal }: Giving) {
  const { head: model, blob } = await encodeVector(travelling);
  const page = await blobOf(card);
  const head = { model, card: page.name, steps, images };
  const outcomes = transport.ask(ids, () => ({ kind: 'publish', head, blobs: [blob, page], last: true }), { round, signal });
  const { lastSeen } = transport;
  const { replies, failures } = await gather(ids, outcomes, { round, kind: 'publish', waiting: { lostAfterSeconds }, lastSeen, signal });
  return { given: replies.map(({ client }) => client), failures };
}

async function cardOf(
  { runDir, spec, facts, siteVersions }: Publishing,
  { round, steps, images }: { round: number; steps: number; images: number },
): Promise<Uint8Array> {
  const { rounds } = await readLog(join(runDir, 'log.jsonl'));
  const records = rounds.filter((record) => record.round <= round);
  const versions = [...new Set(siteVersions())].sort();
  return Buffer.from(modelCard({ ...facts, spec, records, steps, images, siteVersions: versions }));
}
