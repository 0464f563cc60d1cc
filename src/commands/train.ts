/** Central training of a diffusion model on one dataset, as a run that can be resumed: what a federation is compared with. */

import { z } from 'zod';
import { chooseBackend, createImages, type Images, type Session } from '../bindings/session.ts';
import { withCallbacks } from '../callbacks.ts';
import { saveCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { type Length, plannedSteps, warmupSteps } from '../ddpm/fit.ts';
import { evaluation, MAX_EVAL_IMAGES } from '../ddpm/held-out.ts';
import { unetModel } from '../ddpm/model/unet.ts';
import { createSession } from '../ddpm/session.ts';
import { type Trained, trainLocal } from '../ddpm/train.ts';
import { freshFolder } from '../files.ts';
import { classHistogram, holdOut } from '../fl/partition/index.ts';
import type { RoundRecord } from '../fl/protocol.ts';
import { everyPosition } from '../images.ts';
import { writeReport } from '../report/report.ts';
import { streamKey } from '../rng.ts';
import type { Run } from '../run/commit.ts';
import { checkRunFolder, startRun } from '../run/start.ts';
import { writeVectors } from '../run/vector-file.ts';
import { dataMetadata, requireApart } from './data.ts';
import type { RunEvents, RunResult } from './events.ts';
import { parseOptions, type Settings, type TrainOptions } from './options/index.ts';
import { checkGrid, describeRun, drawGrid, gridDue, lossWarning, mayChange, type Prepared, prepare } from './prepare.ts';
import { restore } from './resume.ts';

/** Where runs go unless told otherwise, with a number behind. */
const FOLDER = 'runs/train';

/** The one client there is, in names of streams and in config.json. */
const CENTRAL = 'central';

const plainState = z.object({ globalStep: z.int().min(0), images: z.int().min(0), warmupSteps: z.int().min(0) });
type PlainState = z.infer<typeof plainState>;

/** What is trained between two checkpoints, and how many of them there are. */
type Rounds = { length: Length; stepsPerRound: number; rounds: number };

/** Everything that a training has before its first step. */
type Training = {
  settings: Settings<'train'>;
  prepared: Prepared;
  plan: Rounds;
  session: Session;
  images: Images;
  /** Positions of the images to train on, and of those to judge by. */
  indices: Int32Array;
  heldOut: Int32Array;
};

/**
 * Trains on nine tenths of a dataset and returns when all epochs are done. The training between two checkpoints (an epoch, or
 * `commitImages`) is a round of the run: a line of the log, a commit that `resume` continues from bit for bit. Adam's moments and the
 * per-step EMA go on from round to round.
 * @throws PhoenixError as `federate` does; an abort rejects with `signal.reason`
 */
export function train(options: TrainOptions, events: RunEvents = {}): Promise<RunResult> {
  return withCallbacks('train', events, (guarded) => runTrain(options, guarded));
}

async function runTrain(options: TrainOptions, events: RunEvents): Promise<RunResult> {
  const { onStart, onMessage, signal, fault } = events;
  const settings = parseOptions('train', options);
  const { seed, resume, keep, stealLock, device, threads } = settings;
  if (settings.out !== undefined) await checkRunFolder(settings.out, resume);

  // The data, the model, and what a round takes.
  await requireApart(settings.data, settings.out ?? FOLDER);
  const prepared = await prepare(settings, events);
  checkGrid(settings, prepared);
  const { dataset, unet, noise } = prepared;
  const everyImage = everyPosition(dataset.count);
  const { train: indices, heldOut } = holdOut(everyImage, seed, CENTRAL);
  const plan = roundsOf(settings, indices.length, prepared.hyper.batch);
  const { rounds, length, stepsPerRound } = plan;
  signal?.throwIfAborted();

  using session = createSession({ model: unetModel(unet), noise, device, threads });
  using images = await createImages(dataset, session);
  const histogram = dataset.labels && classHistogram(everyImage, dataset.labels, dataset.classNames.length);
  const clients = [{ id: CENTRAL, examples: indices.length, heldOut: heldOut.length, histogram }];
  const config = describeRun('train', settings, prepared, session, { length, clients });
  await session.init(streamKey(seed, 'init'));
  await session.ema.copy(session.params, 0, session.parameterCount);

  // The run folder, and where the run in it stands.
  const dir = settings.out ?? (await freshFolder(FOLDER));
  const initial = { globalStep: 0, images: 0, warmupSteps: warmupSteps(rounds * stepsPerRound, prepared.warmup) };
  await using run = await startRun(dir, config, {
    resume,
    keep,
    initial,
    mayChange: mayChange('train'),
    lock: { steal: stealLock },
    fault,
  });
  const state = plainState.parse(run.state);
  for (const text of run.warnings) onMessage?.({ level: 'warning', text });
  if (run.round > 0) onMessage?.({ level: 'info', text: `Continuing ${dir} after checkpoint ${run.round}.` });
  const { params, ema, adamM, adamV, parameters: table, parameterCount, info } = session;
  await restore(run, { params, ema, moments: [adamM, adamV], table });
  const why = chooseBackend(device).why;
  const start = { dir, round: run.round, rounds, parameterCount, backend: info.backend, device: why, threads: session.threads };
  await onStart?.({ kind: 'train', ...start });

  const records = await trainRounds({ settings, prepared, plan, session, images, indices, heldOut }, run, state, events);
  const report = await writeReport(dir);
  return { dir, rounds: run.round, checkpoint: run.file('checkpoint')!, report, samples: run.file('samples'), records };
}

function roundsOf({ epochs, images, commitImages }: Settings<'train'>, examples: number, batch: number): Rounds {
  const length: Length = commitImages === undefined ? { epochs: 1 } : { localImages: commitImages };
  const stepsPerRound = plannedSteps(examples, batch, length);
  const rounds =
    images === undefined && commitImages === undefined ? epochs : Math.ceil((images ?? epochs * examples) / (stepsPerRound * batch));
  return { length, stepsPerRound, rounds };
}

/** Trains the rounds that are missing, and commits each. */
async function trainRounds(training: Training, run: Run, begun: PlainState, events: RunEvents): Promise<RoundRecord[]> {
  const { settings, prepared, plan, session, images, indices, heldOut } = training;
  const { onStep, onRound, onMessage, signal } = events;
  const { hyper, classes } = prepared;
  const { rounds, length } = plan;
  const imagesPlanned = rounds * plan.stepsPerRound * hyper.batch;
  const evalKey = streamKey(settings.seed, 'eval', CENTRAL);
  const held = evaluation({ session, images, heldOut, most: MAX_EVAL_IMAGES, classes, batch: hyper.batch, key: evalKey });
  const evaluate = async () => (await held.loss(signal)) ?? null;
  const records: RoundRecord[] = [];
  let state = begun;
  let evalLoss = run.round < rounds ? await evaluate() : null;
  while (run.round < rounds) {
    const round = run.round + 1;
    const started = performance.now();
    const before = state;
    const trained = await trainLocal({
      session,
      images,
      indices,
      classes,
      hyper: { ...hyper, warmupSteps: before.warmupSteps },
      length,
      position: { globalStep: before.globalStep, adamStep: before.globalStep, firstStep: 0 },
      key: streamKey(settings.seed, 'train', CENTRAL, round),
      onStep:
        onStep &&
        (({ step, loss, imagesPerSecond }) =>
          onStep({ round, rounds, loss, imagesPerSecond, images: before.images + step * hyper.batch, imagesPlanned })),
      signal,
    });
    const evalLossLocal = await evaluate();
    const seconds = (performance.now() - started) / 1000;
    const record = centralRecord(round, trained, { evalLoss, evalLossLocal, seconds });
    state = { ...before, globalStep: before.globalStep + trained.steps, images: before.images + trained.images };
    await commitRound(training, run, state, record, signal);
    records.push(record);
    const warning = lossWarning(record.loss, hyper);
    if (warning) onMessage?.({ level: 'warning', text: warning });
    await onRound?.(record);
    evalLoss = evalLossLocal;
  }
  return records;
}

/** A round of one trainer: nothing is sent, and no client takes part. */
function centralRecord(
  round: number,
  { loss, images }: Trained,
  { evalLoss, evalLossLocal, seconds }: Pick<RoundRecord, 'evalLoss' | 'evalLossLocal' | 'seconds'>,
): RoundRecord {
  return { round, loss, evalLoss, evalLossLocal, images, bytesUp: 0, bytesDown: 0, seconds, clients: [], failures: [], notes: [] };
}

/** Writes the files of a round and commits it. */
async function commitRound(
  { settings, prepared, plan, session }: Training,
  run: Run,
  state: PlainState,
  record: RoundRecord,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { unet, noise, classNames, hyper } = prepared;
  const { params, adamM, adamV, parameters: table } = session;
  // Without a decay the Session keeps no EMA.
  const ema = hyper.emaDecay > 0 ? session.ema : undefined;
  const metadata = {
    round: String(record.round),
    steps: String(state.globalStep),
    images: String(state.images),
    ...dataMetadata(prepared.dataset),
  };
  await run.stage('checkpoint', (path) => saveCheckpoint(path, { params, ema, table, unet, noise, classNames, metadata }));
  await run.stage('moments', (path) => writeVectors(path, [adamM, adamV]));
  if (gridDue(record.round, plan.rounds, settings.samples.every))
    await run.stage('samples', (path) => drawGrid(path, settings, prepared, session, ema ?? params, signal));
  await run.commit(state, record);
}
