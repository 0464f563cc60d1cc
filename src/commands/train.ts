/** Central training of a diffusion model on one dataset, as a run that can be resumed: what a federation is compared with. */

import { z } from 'zod';
import { chooseBackend, createImages, type Images, type Session } from '../bindings/session.ts';
import { withCallbacks } from '../callbacks.ts';
import { saveCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { type Length, plannedSteps, rateAt, warmupSteps } from '../ddpm/fit.ts';
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
import { type Course, type Ending, endingOf, endingSchema, follow, lengthOf, lengthRule, type Part } from './course.ts';
import { requireApart } from './data.ts';
import type { RunEvents, RunResult } from './events.ts';
import { parseOptions, type Settings, type TrainOptions } from './options/index.ts';
import { checkGrid, describeRun, drawGrid, gridDue, lossWarning, mayChange, type Prepared, prepare } from './prepare.ts';
import { restore } from './resume.ts';

/** Where runs go unless told otherwise, with a number behind. */
const FOLDER = 'runs/train';

/** The one client there is, in names of streams and in config.json. */
const CENTRAL = 'central';

const count = z.int().min(0);
const plainState = z.object({ globalStep: count, images: count, warmupSteps: count, ending: endingSchema.optional() });
type PlainState = z.infer<typeof plainState>;

/** What is trained between two checkpoints, and how long the run is. */
type Plan = { length: Length; stepsPerRound: number; roundImages: number; course: Course };

/** Passes of an open run that its warm-up is measured by. */
const OPEN_PASSES = 100;

/** Everything that a training has before its first step. */
type Training = {
  settings: Settings<'train'>;
  prepared: Prepared;
  plan: Plan;
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
  const plan = planOf(settings, indices.length, prepared.hyper.batch);
  const { length, stepsPerRound, course } = plan;
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
  const initial = { globalStep: 0, images: 0, warmupSteps: warmupSteps((course.total ?? OPEN_PASSES) * stepsPerRound, prepared.warmup) };
  await using run = await startRun(dir, config, {
    resume,
    keep,
    initial,
    mayChange: mayChange('train'),
    length: lengthRule(course),
    lock: { steal: stealLock },
    fault,
  });
  const state = plainState.parse(run.state);
  for (const text of run.warnings) onMessage?.({ level: 'warning', text });
  if (run.round > 0) onMessage?.({ level: 'info', text: `Continuing ${dir} after checkpoint ${run.round}.` });
  const { params, ema, adamM, adamV, parameters: table, parameterCount, info } = session;
  await restore(run, { params, ema, moments: [adamM, adamV], table });
  const why = chooseBackend(device).why;
  const rounds = lengthOf(course, endingOf(run, state.ending)).total;
  const start = { dir, round: run.round, rounds, parameterCount, backend: info.backend, device: why, threads: session.threads };
  await onStart?.({ kind: 'train', ...start });

  const records = await trainRounds({ settings, prepared, plan, session, images, indices, heldOut }, run, state, events);
  const report = await writeReport(dir);
  return { dir, rounds: run.round, checkpoint: run.file('checkpoint')!, report, samples: run.file('samples'), records };
}

function planOf({ epochs, images, commitImages, lrFall }: Settings<'train'>, examples: number, batch: number): Plan {
  const length: Length = commitImages === undefined ? { epochs: 1 } : { localImages: commitImages };
  const stepsPerRound = plannedSteps(examples, batch, length);
  const roundImages = stepsPerRound * batch;
  const asked = images ?? (epochs === 'open' ? undefined : epochs * examples);
  const passes = images === undefined && commitImages === undefined && epochs !== 'open' ? epochs : undefined;
  const total = passes ?? (asked === undefined ? undefined : Math.ceil(asked / roundImages));
  return { length, stepsPerRound, roundImages, course: { unit: 'rounds', total, fall: lrFall } };
}

/** Trains the rounds that are missing, and commits each. */
async function trainRounds(training: Training, run: Run, begun: PlainState, events: RunEvents): Promise<RoundRecord[]> {
  const { settings, prepared, plan, session, images, indices, heldOut } = training;
  const { onStep, onRound, onMessage, signal } = events;
  const { hyper, classes } = prepared;
  const { course, length, roundImages } = plan;
  const evalKey = streamKey(settings.seed, 'eval', CENTRAL);
  const held = evaluation({ session, images, heldOut, most: MAX_EVAL_IMAGES, classes, batch: hyper.batch, key: evalKey });
  const records: RoundRecord[] = [];
  let state = begun;
  let evalLoss: number | null | undefined;
  const evaluate = async () => (await held.loss(signal)) ?? null;

  async function trainRound({ fall }: Part, ending: Ending | undefined): Promise<void> {
    const round = run.round + 1;
    const rounds = lengthOf(course, ending).total;
    const before = state;
    evalLoss ??= await evaluate();
    const started = performance.now();
    const imagesPlanned = (rounds ?? round) * roundImages;
    const trained = await trainLocal({
      session,
      images,
      indices,
      classes,
      hyper: { ...hyper, warmupSteps: before.warmupSteps },
      length,
      position: { globalStep: before.globalStep, adamStep: before.globalStep, firstStep: 0 },
      fall,
      key: streamKey(settings.seed, 'train', CENTRAL, round),
      onStep:
        onStep &&
        (({ step, loss, imagesPerSecond }) =>
          onStep({ round, rounds, loss, imagesPerSecond, images: before.images + step * hyper.batch, imagesPlanned })),
      signal,
    });
    const evalLossLocal = await evaluate();
    const seconds = (performance.now() - started) / 1000;
    const rate = fall && rateAt(fall.to, fall.share);
    const record = centralRecord(round, trained, { evalLoss, evalLossLocal, seconds, ...(rate !== undefined && { rate }) });
    const { globalStep, images: drawn, warmupSteps } = before;
    state = { globalStep: globalStep + trained.steps, images: drawn + trained.images, warmupSteps, ...(ending && { ending }) };
    await commitRound(training, run, state, { record, rounds, signal });
    records.push(record);
    const warning = lossWarning(record.loss, hyper);
    if (warning) onMessage?.({ level: 'warning', text: warning });
    await onRound?.(record);
    evalLoss = evalLossLocal;
  }

  await follow(run, course, {
    ending: endingOf(run, begun.ending),
    standing: () => ({ round: run.round, images: state.images, lastImages: roundImages, roundImages }),
    round: trainRound,
    onMessage,
  });
  return records;
}

/** A round of one trainer: nothing is sent, and no client takes part. */
function centralRecord(
  round: number,
  { loss, images }: Trained,
  measured: Pick<RoundRecord, 'evalLoss' | 'evalLossLocal' | 'seconds' | 'rate'>,
): RoundRecord {
  return { round, loss, images, bytesUp: 0, bytesDown: 0, clients: [], failures: [], notes: [], ...measured };
}

/** Writes the files of a round and commits it. */
async function commitRound(
  { settings, prepared, session }: Training,
  run: Run,
  state: PlainState,
  { record, rounds, signal }: { record: RoundRecord; rounds: number | undefined; signal: AbortSignal | undefined },
): Promise<void> {
  const { unet, noise, classNames, hyper } = prepared;
  const { params, adamM, adamV, parameters: table } = session;
  // Without a decay the Session keeps no EMA.
  const ema = hyper.emaDecay > 0 ? session.ema : undefined;
  const metadata = {
    round: String(record.round),
    steps: String(state.globalStep),
    images: String(state.images),
    ...prepared.metadata,
  };
  await run.stage('checkpoint', (path) => saveCheckpoint(path, { params, ema, table, unet, noise, classNames, metadata }));
  await run.stage('moments', (path) => writeVectors(path, [adamM, adamV]));
  if (gridDue(record.round, rounds, settings.samples.every))
    await run.stage('samples', (path) => drawGrid(path, settings, prepared, session, ema ?? params, signal));
  await run.commit(state, record);
}
