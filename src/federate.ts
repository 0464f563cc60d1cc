/** Federated training of a diffusion model over clients that each hold a part of a dataset, as a run that can be resumed. */
import { z } from 'zod';
import { createImages } from './bindings/session.ts';
import { type FederateOptions, parseOptions, type Settings } from './config.ts';
import { readCheckpoint, saveCheckpoint } from './ddpm/checkpoint.ts';
import type { Dataset } from './ddpm/data/index.ts';
import { createSession } from './ddpm/session.ts';
import { plannedSteps } from './ddpm/train.ts';
import { warmupSteps } from './ddpm/unet.ts';
import { PhoenixError } from './errors.ts';
import type { RunEvents, RunResult } from './events.ts';
import { createClient } from './fl/client.ts';
import { initialState, runFederation } from './fl/federation.ts';
import { classHistogram, holdOut, parsePartition, partitioner } from './fl/partition/index.ts';
import { type ParameterSplit, parsePersonal, splitParameters } from './fl/personal.ts';
import { serverSteps } from './fl/server-step.ts';
import { strategies } from './fl/strategies/index.ts';
import { memoryTransport } from './fl/transports/memory.ts';
import type { ClientStep, FederationState, RoundRecord } from './fl/types.ts';
import { describeRun, drawGrid, gridDue, mayChange, prepare } from './prepare.ts';
import { writeReport } from './report/report.ts';
import { freshFolder, type Run, startRun } from './run/folder.ts';
import { readVectors, writeVectors } from './run/vector-file.ts';
import { formatBytes } from './units.ts';

/** The plain part of the state, in state.json. */
const plainState = z.object({ globalStep: z.int().min(0), images: z.int().min(0), warmupSteps: z.int().min(0), strategy: z.unknown() });

/** One client's part of the data, as indices into it. */
type Share = { id: string; train: Int32Array; heldOut: Int32Array; histogram?: number[] };

/**
 * Trains over simulated clients in this process and returns when `rounds` are done. The run folder holds configuration, log, checkpoints,
 * sample grids and report.html; with `resume` the run in `out` continues bit for bit after any interruption.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT or ERR_PHOENIX_CONFIG for options, ERR_PHOENIX_DATA for the dataset, ERR_PHOENIX_RUN for the run
 * folder (in use, existing, of another configuration), ERR_PHOENIX_ROUND for a round that no client finished, ERR_PHOENIX_NOT_FINITE,
 * ERR_PHOENIX_IO; an abort rejects with `signal.reason`
 */
export async function federate(options: FederateOptions, events: RunEvents = {}): Promise<RunResult> {
  const { onStart, onStep, onRound, onMessage, signal, fault } = events;
  const settings = parseOptions('federate', options);
  const { seed, rounds, fraction, resume, keep } = settings;
  const strategy =
    typeof settings.strategy === 'string'
      ? strategies[settings.strategy as keyof typeof strategies]({ hostile: settings.hostile })
      : settings.strategy;
  const serverStep = serverStepOf(settings);

  const prepared = await prepare(settings);
  const { dataset, classes, unet, noise, emaDecay } = prepared;
  const shares = dealImages(settings, dataset);
  const length = settings.localImages === undefined ? { epochs: settings.epochs ?? 1 } : { localImages: settings.localImages };
  const stepsOf = (share: Share) => plannedSteps(share.train.length, { ...length, batch: prepared.fit.batch });
  const stepsPerRound = shares.reduce((sum, share) => sum + stepsOf(share), 0) / shares.length;
  signal?.throwIfAborted();

  using session = createSession({ unet: unet, noise, device: settings.device, threads: settings.threads || undefined });
  const personal = parsePersonal(settings.personal);
  const split = personal && splitParameters(session.parameters, personal);
  using images = await createImages(dataset);
  const config = describeRun('federate', { ...settings, strategy: strategy.name }, prepared, session, {
    length: { ...length, optimizer: settings.optimizer },
    serverStep,
    personal: split && { patterns: personal, parameters: split.names, values: split.personalCount },
    clients: shares.map(({ id, train, heldOut, histogram }) => ({ id, examples: train.length, heldOut: heldOut.length, histogram })),
  });
  const state = await initialState({ session, seed, strategy, serverStep });
  try {
    const dir = settings.out ?? (await freshFolder('runs/federate'));
    const initial = {
      globalStep: 0,
      images: 0,
      warmupSteps: warmupSteps(Math.round(rounds * stepsPerRound), prepared.warmup),
      strategy: state.strategy,
    };
    await using run = await startRun(dir, config, { resume, keep, initial, mayChange: mayChange('federate'), fault });
    const plain = plainState.parse(run.state);
    for (const text of run.warnings) onMessage?.({ level: 'warning', text });
    if (split) onMessage?.({ level: 'info', text: explainSplit(split, session.parameterCount) });
    if (run.round > 0) onMessage?.({ level: 'info', text: `Continuing ${dir} after round ${run.round}.` });
    const begun: FederationState = await restore({ ...state, round: run.round, ...plain }, run, session.parameters);

    const transport = memoryTransport(
      shares.map(({ id, train, heldOut }) => createClient({ id, session, images, train, heldOut, classes, store: run.store, seed })),
    );
    onStart?.({
      kind: 'federate',
      dir,
      round: run.round,
      rounds,
      parameterCount: session.parameterCount,
      backend: session.info.backend,
      threads: session.threads,
    });
    const selected = Math.max(1, Math.round(fraction * shares.length));
    const imagesPlanned = plain.images + Math.round((rounds - run.round) * selected * stepsPerRound * prepared.fit.batch);
    const progress = progressOf({ rounds, selected, batch: prepared.fit.batch, images: plain.images, imagesPlanned });
    const records: RoundRecord[] = [];

    await runFederation(begun, {
      transport,
      strategy,
      fit: {
        ...prepared.fit,
        ...length,
        warmupSteps: plain.warmupSteps,
        optimizer: settings.optimizer,
        compress: settings.compress,
        personal,
      },
      parameters: session.parameters,
      rounds,
      seed,
      fraction,
      serverStep,
      emaDecay,
      normBound: settings.normBound,
      store: run.store,
      onStep: onStep && ((step) => onStep(progress(step))),
      onRound: async (after, record) => {
        const { round, globalStep, images, params, ema, serverMoments } = after;
        const metadata = {
          round: String(round),
          steps: String(globalStep),
          images: String(images),
          ...(personal && { personal: JSON.stringify(personal) }),
        };
        await run.stage('checkpoint', (path) => saveCheckpoint(path, { params, ema, table: session.parameters, unet, noise, metadata }));
        if (serverMoments.length > 0) await run.stage('moments', (path) => writeVectors(path, serverMoments));
        // The server's own personal layers are untrained: a grid would show nothing.
        if (!split && gridDue(round, rounds, settings.sampleEvery)) {
          await run.stage('samples', (path) => drawGrid(path, settings, prepared, session, ema, signal));
        }
        await run.commit({ globalStep, images, warmupSteps: plain.warmupSteps, strategy: after.strategy }, record);
        records.push(record);
        onRound?.(record);
      },
      signal,
    }).finally(() => transport.close());
    const report = await writeReport(dir);
    return { dir, rounds: run.round, checkpoint: run.file('checkpoint')!, report, samples: run.file('samples'), records };
  } finally {
    for (const vector of [state.params, state.ema, ...state.serverMoments]) vector.dispose();
  }
}

function explainSplit({ personalCount, names }: ParameterSplit, count: number): string {
  const share = ((100 * personalCount) / count).toFixed(1);
  const bytes = formatBytes(4 * personalCount);
  return `${names.length} personal layers with ${share} % of the parameters stay with each client: ${bytes} less each way, before compression. Draw with: phoenix sample DIR --client ID.`;
}

/** The published values of the kind, with what the options say otherwise. */
function serverStepOf(settings: Settings<'federate'>) {
  const published = serverSteps[settings.serverStep];
  return {
    kind: settings.serverStep,
    lr: settings.serverLr ?? published.lr,
    beta1: settings.serverBeta1 ?? published.beta1,
    beta2: settings.serverBeta2 ?? published.beta2,
    tau: settings.serverTau ?? published.tau,
  };
}

/** Deals the images to clients and splits a held-out tenth off each. Clients of a site partition bear the sites' names. */
function dealImages(settings: Settings<'federate'>, dataset: Dataset): Share[] {
  const { count, labels, sites, siteNames, classNames } = dataset;
  const bySite = parsePartition(settings.partition).name === 'site';
  const clients = settings.clients ?? (bySite ? undefined : 10);
  const parts = partitioner(settings.partition).split({ count, labels, sites, clients, seed: settings.seed });
  const digits = String(parts.length).length;
  return parts.map((indices, i) => {
    const site = bySite ? siteNames?.[sites![indices[0]!]!] : undefined;
    const id = site ?? `client-${String(i + 1).padStart(digits, '0')}`;
    return {
      id,
      ...holdOut(indices, settings.seed, id),
      histogram: labels && classNames.length > 0 ? classHistogram(indices, labels, classNames.length) : undefined,
    };
  });
}

/** Puts the committed round's vectors into the state's. */
async function restore(state: FederationState, run: Run, table: Parameters<typeof saveCheckpoint>[1]['table']): Promise<FederationState> {
  if (run.round === 0) return state;
  const checkpoint = run.file('checkpoint');
  const moments = run.file('moments');
  if (!checkpoint || (moments === undefined) !== (state.serverMoments.length === 0)) {
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${run.dir}/state.json is damaged: round ${run.round} lacks its checkpoint or moments. Begin a new run.`,
    );
  }
  await (await readCheckpoint(checkpoint)).load(state.params, state.ema, table);
  if (moments) await readVectors(moments, state.serverMoments);
  return state;
}

/** Turns the steps of one client after the other into the progress of the run. */
function progressOf(run: { rounds: number; selected: number; batch: number; images: number; imagesPlanned: number }) {
  let { images } = run;
  let last = { client: '', round: 0, step: 0 };
  let number = 0;
  return ({ client, round, step, loss, imagesPerSecond }: ClientStep) => {
    if (round !== last.round) number = 0;
    if (round !== last.round || client !== last.client) {
      number++;
      last = { client, round, step: 0 };
    }
    images += (step - last.step) * run.batch;
    last.step = step;
    return {
      round,
      rounds: run.rounds,
      client: { id: client, number, of: run.selected },
      loss,
      imagesPerSecond,
      images,
      imagesPlanned: Math.max(images, run.imagesPlanned),
    };
  };
}
