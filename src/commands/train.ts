/** Central training of a diffusion model on one dataset, as a run that can be resumed: what a federation is compared with. */
import { z } from 'zod';
import { chooseBackend, createImages, type Session } from '../bindings/session.ts';
import { readCheckpoint, saveCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { plannedSteps, warmupSteps } from '../ddpm/fit.ts';
import { evaluation, MAX_EVAL_IMAGES } from '../ddpm/held-out.ts';
import { createSession } from '../ddpm/session.ts';
import { trainLocal } from '../ddpm/train.ts';
import { PhoenixError } from '../errors.ts';
import { freshFolder } from '../files.ts';
import { classHistogram, holdOut } from '../fl/partition/index.ts';
import type { RoundRecord } from '../fl/protocol.ts';
import { everyPosition } from '../images.ts';
import { writeReport } from '../report/report.ts';
import { streamKey } from '../rng.ts';
import type { Run } from '../run/commit.ts';
import { startRun } from '../run/start.ts';
import { readVectors, writeVectors } from '../run/vector-file.ts';
import type { RunEvents, RunResult } from './events.ts';
import { parseOptions, type TrainOptions } from './options/index.ts';
import { describeRun, drawGrid, gridDue, mayChange, prepare } from './prepare.ts';

/** The one client there is, in names of streams and in config.json. */
const CENTRAL = 'central';

const plainState = z.object({ globalStep: z.int().min(0), images: z.int().min(0), warmupSteps: z.int().min(0) });

/**
 * Trains on nine tenths of a dataset and returns when all epochs are done. What lies between two checkpoints (an epoch, or `commitImages`)
 * is a round of the run: a line of the log, a commit that `resume` continues from bit for bit. Adam's moments and the per-step EMA go on
 * from round to round.
 * @throws PhoenixError as `federate` does; an abort rejects with `signal.reason`
 */
export async function train(options: TrainOptions, events: RunEvents = {}): Promise<RunResult> {
  const { onStart, onStep, onRound, onMessage, signal, fault } = events;
  const settings = parseOptions('train', options);
  const { seed, epochs, images: imagesInAll, commitImages, resume, keep } = settings;

  const prepared = await prepare(settings);
  const { dataset, classes, unet, noise, hyper } = prepared;
  const everyImage = everyPosition(dataset.count);
  const { train: indices, heldOut } = holdOut(everyImage, seed, CENTRAL);
  const length = commitImages === undefined ? { epochs: 1 } : { localImages: commitImages };
  const stepsPerRound = plannedSteps(indices.length, hyper.batch, length);
  const rounds =
    imagesInAll === undefined && commitImages === undefined
      ? epochs
      : Math.ceil((imagesInAll ?? epochs * indices.length) / (stepsPerRound * hyper.batch));
  signal?.throwIfAborted();

  using session = createSession({ unet: unet, noise, device: settings.device, threads: settings.threads || undefined });
  using images = await createImages(dataset, session);
  const histogram = dataset.labels && classHistogram(everyImage, dataset.labels, dataset.classNames.length);
  const config = describeRun('train', settings, prepared, session, {
    length,
    clients: [{ id: CENTRAL, examples: indices.length, heldOut: heldOut.length, histogram }],
  });
  await session.init(streamKey(seed, 'init'));
  await session.ema.copy(session.params, 0, session.parameterCount);

  const dir = settings.out ?? (await freshFolder('runs/train'));
  const initial = { globalStep: 0, images: 0, warmupSteps: warmupSteps(rounds * stepsPerRound, prepared.warmup) };
  await using run = await startRun(dir, config, { resume, keep, initial, mayChange: mayChange('train'), fault });
  let state = plainState.parse(run.state);
  for (const text of run.warnings) onMessage?.({ level: 'warning', text });
  if (run.round > 0) {
    onMessage?.({ level: 'info', text: `Continuing ${dir} after checkpoint ${run.round}.` });
    await restore(run, session);
  }
  const { parameterCount, threads } = session;
  const device = chooseBackend(settings.device).why;
  onStart?.({ kind: 'train', dir, round: run.round, rounds, parameterCount, backend: session.info.backend, device, threads });

  const imagesPlanned = rounds * stepsPerRound * hyper.batch;
  const evalKey = streamKey(seed, 'eval', CENTRAL);
  const held = evaluation({ session, images, heldOut, most: MAX_EVAL_IMAGES, classes, batch: hyper.batch, key: evalKey });
  const evaluate = async () => (await held.loss(signal)) ?? null;
  // Without a decay the Session keeps no EMA.
  const ema = hyper.emaDecay > 0 ? session.ema : undefined;

  const records: RoundRecord[] = [];
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
      key: streamKey(seed, 'train', CENTRAL, round),
      onStep:
        onStep &&
        (({ step, loss, imagesPerSecond }) =>
          onStep({ round, rounds, loss, imagesPerSecond, images: before.images + step * hyper.batch, imagesPlanned })),
      signal,
    });
    const evalLossLocal = await evaluate();
    const record: RoundRecord = {
      round,
      loss: trained.loss,
      evalLoss,
      evalLossLocal,
      images: trained.images,
      bytesUp: 0,
      bytesDown: 0,
      seconds: (performance.now() - started) / 1000,
      clients: [],
      failures: [],
      notes: [],
    };
    state = { ...before, globalStep: before.globalStep + trained.steps, images: before.images + trained.images };
    const metadata = { round: String(round), steps: String(state.globalStep), images: String(state.images) };
    await run.stage('checkpoint', (path) =>
      saveCheckpoint(path, { params: session.params, ema, table: session.parameters, unet, noise, metadata }),
    );
    await run.stage('moments', (path) => writeVectors(path, [session.adamM, session.adamV]));
    if (gridDue(round, rounds, settings.sampleEvery)) {
      await run.stage('samples', (path) => drawGrid(path, settings, prepared, session, ema ?? session.params, signal));
    }
    await run.commit(state, record);
    records.push(record);
    onRound?.(record);
    evalLoss = evalLossLocal;
  }
  const report = await writeReport(dir);
  return { dir, rounds: run.round, checkpoint: run.file('checkpoint')!, report, samples: run.file('samples'), records };
}

async function restore(run: Run, session: Session): Promise<void> {
  const checkpoint = run.file('checkpoint');
  const moments = run.file('moments');
  if (!checkpoint || !moments) {
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${run.dir}/state.json is damaged: round ${run.round} lacks its checkpoint or moments. Begin a new run.`,
    );
  }
  await (await readCheckpoint(checkpoint)).load(session.params, session.ema, session.parameters);
  await readVectors(moments, [session.adamM, session.adamV]);
}
