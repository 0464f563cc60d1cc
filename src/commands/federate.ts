/** Federated training of a diffusion model over clients that each hold a part of a dataset, as a run that can be resumed. */
import { z } from 'zod';
import { chooseBackend, createImages, type Session } from '../bindings/session.ts';
import { readCheckpoint, saveCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import type { DatasetFacts } from '../ddpm/data/index.ts';
import { plannedSteps, warmupSteps } from '../ddpm/fit.ts';
import { featureSource } from '../ddpm/metrics/sources.ts';
import { drawSamples, toPixels } from '../ddpm/sample.ts';
import { createSession } from '../ddpm/session.ts';
import { PhoenixError } from '../errors.ts';
import { freshFolder } from '../files.ts';
import { initialState, runFederation } from '../fl/federation.ts';
import { classHistogram, holdOut, parsePartition, partitioner } from '../fl/partition/index.ts';
import type { RoundRecord } from '../fl/protocol.ts';
import { serverSteps } from '../fl/server/server-step.ts';
import { carveShared } from '../fl/server/sharing.ts';
import type { Sharing } from '../fl/server/supplies.ts';
import { createClient } from '../fl/site/client.ts';
import { type ParameterSplit, parsePersonal, splitParameters } from '../fl/site/personal.ts';
import { type FederationState, plainState as federationState } from '../fl/state.ts';
import { filtered } from '../fl/strategies/filter.ts';
import { strategies } from '../fl/strategies/index.ts';
import type { Strategy } from '../fl/strategy.ts';
import type { ClientStep } from '../fl/transport.ts';
import { memoryTransport } from '../fl/transports/memory.ts';
import { classesInTurn, readAt, valuesAt } from '../images.ts';
import { writeReport } from '../report/report.ts';
import { formatBytes } from '../report/units.ts';
import { streamKey } from '../rng.ts';
import type { Run } from '../run/commit.ts';
import { startRun } from '../run/start.ts';
import { readVectors, writeVectors } from '../run/vector-file.ts';
import type { RunEvents, RunResult } from './events.ts';
import { type FederateOptions, parseOptions, type Settings } from './options/index.ts';
import { describeRun, drawGrid, gridDue, mayChange, type Prepared, prepare } from './prepare.ts';

/** The plain part of the state, in state.json. */
const plainState = federationState.extend({ warmupSteps: z.int().min(0) });

/** The shared set: how many images it has, how many of them each client gets, and of a real one which. */
type Shared = { count: number; each: number; images?: Int32Array };

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
  const strategy = strategyOf(settings);
  const serverStep = serverStepOf(settings);

  const prepared = await prepare(settings);
  const { dataset, classes, unet, noise, hyper } = prepared;
  const { shares, shared } = dealImages(settings, dataset);
  const length = settings.localImages === undefined ? { epochs: settings.epochs ?? 1 } : { localImages: settings.localImages };
  const stepsOf = (share: Share) => plannedSteps(share.train.length + shared.each, hyper.batch, length);
  const stepsPerRound = shares.reduce((sum, share) => sum + stepsOf(share), 0) / shares.length;
  signal?.throwIfAborted();

  using session = createSession({ unet: unet, noise, device: settings.device, threads: settings.threads || undefined });
  const personal = parsePersonal(settings.personal);
  const split = personal && splitParameters(session.parameters, personal);
  using images = await createImages(dataset, session, shared.each);
  const withRoom = classes && Int32Array.from({ length: dataset.count + shared.each }, (_, i) => classes[i] ?? 0);
  const features = typeof settings.features === 'string' ? await featureSource(settings.features) : settings.features;
  const described = { ...settings, strategy: strategy.name, features: features.name };
  const config = describeRun('federate', described, prepared, session, {
    length: { ...length, optimizer: settings.optimizer },
    serverStep,
    features: strategy.needs && { name: features.name, fingerprint: features.fingerprint },
    sharing: shared.count > 0 ? { count: shared.count, each: shared.each, source: settings.shareSource } : undefined,
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
      profiles: state.profiles,
      work: state.work,
    };
    await using run = await startRun(dir, config, { resume, keep, initial, mayChange: mayChange('federate'), fault });
    const plain = plainState.parse(run.state);
    for (const text of run.warnings) onMessage?.({ level: 'warning', text });
    if (split) onMessage?.({ level: 'info', text: explainSplit(split, session.parameterCount) });
    if (shared.count > 0) onMessage?.({ level: 'info', text: explainShared(settings, shared) });
    if (run.round > 0) onMessage?.({ level: 'info', text: `Continuing ${dir} after round ${run.round}.` });
    const begun: FederationState = await restore({ ...state, round: run.round, ...plain }, run, session.parameters);

    const transport = memoryTransport(
      shares.map(({ id, train, heldOut }) =>
        createClient({
          id,
          session,
          images,
          train,
          heldOut,
          classes: withRoom,
          classCount: unet.numClasses,
          sharedFrom: dataset.count,
          probing: { images: dataset, noise, features },
          store: run.store,
          updates: run.scratch,
          seed,
          // All in one process, so nothing is hidden from anybody, and a run must not differ from its like.
          secret: streamKey(seed, 'secret', id),
        }),
      ),
      { carriesVectors: session.info.backend === 'cuda' },
    );
    onStart?.({
      kind: 'federate',
      dir,
      round: run.round,
      rounds,
      parameterCount: session.parameterCount,
      backend: session.info.backend,
      device: chooseBackend(settings.device).why,
      threads: session.threads,
    });
    const selected = Math.max(1, Math.round(fraction * shares.length));
    const imagesPlanned = plain.images + Math.round((rounds - run.round) * selected * stepsPerRound * hyper.batch);
    const progress = progressOf({ rounds, selected, batch: hyper.batch, images: plain.images, imagesPlanned });
    const records: RoundRecord[] = [];

    await runFederation(begun, {
      transport,
      strategy,
      fit: {
        // The EMA is the server's, over rounds: clients keep none.
        hyper: { ...hyper, warmupSteps: plain.warmupSteps, emaDecay: 0 },
        length,
        optimizer: settings.optimizer,
        compress: settings.compress,
        personal,
      },
      taskCodec: settings.compressTasks === 'bf16' ? 'bf16' : 'float32',
      parameters: session.parameters,
      sharing: shared.count > 0 ? await sharingOf(settings, prepared, session, shared) : undefined,
      probing: strategy.needs && {
        every: settings.probeEvery,
        samples: settings.probeSamples,
        steps: settings.probeSteps,
        histogramOf: settings.histogramOf,
        histogramNoise: settings.histogramNoise,
        bins: settings.bins,
        reference: begun.bins || !shared.images ? undefined : await features.extract(await readAt(dataset, shared.images), { signal }),
      },
      localWork:
        settings.driftTarget === undefined
          ? undefined
          : { target: settings.driftTarget, least: settings.workLeast, most: settings.workMost },
      rounds,
      seed,
      createVector: session.createVector,
      fraction,
      serverStep,
      emaDecay: hyper.emaDecay,
      normBound: settings.normBound,
      store: run.store,
      onStep: onStep && ((step) => onStep(progress(step))),
      onRound: async (after, record) => {
        const { round, params, ema, serverMoments, ...plainly } = after;
        const { globalStep, images } = plainly;
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
        await run.commit({ ...plainly, warmupSteps: plain.warmupSteps }, record);
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
  return `${names.length} personal layers with ${share} % of the parameters stay with each client, ${bytes} less each way before compression. Sample with: phoenix sample DIR --client ID.`;
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

/** The strategy that the options name, behind the filter that they ask for. */
function strategyOf(settings: Settings<'federate'>): Strategy {
  const { strategy, hostile, diversityTarget: target, diversityPull: pull, filter } = settings;
  const base = typeof strategy === 'string' ? strategies[strategy as keyof typeof strategies]({ hostile, target, pull }) : strategy;
  if (filter === 'none') return base;
  const { filterBy: statistic, filterThreshold: threshold, filterCohort: cohort, filterGuard: guard } = settings;
  return filtered(base, { kind: filter, statistic, threshold, cohort, guard }) as Strategy;
}

/**
 * Sets images aside for everybody, deals the others to clients and splits a held-out tenth off each. Clients of a site partition bear the sites' names.
 */
export function dealImages(settings: Settings<'federate'>, dataset: DatasetFacts): { shares: Share[]; shared: Shared } {
  const { labels, sites, siteNames, classNames } = dataset;
  const { seed, shareBeta, shareAlpha, shareSource } = settings;
  const real = shareBeta > 0 && shareSource === 'real';
  const { shared: images, rest } = carveShared(dataset, real ? shareBeta : 0, seed);
  const size = real ? images.length : Math.round(shareBeta * dataset.count);
  if (shareBeta > 0 && size === 0)
    throw new PhoenixError('ERR_PHOENIX_CONFIG', `shareBeta ${shareBeta} of ${dataset.count} images is none: take more.`);
  const shared = { count: size, each: size > 0 ? Math.max(1, Math.round(shareAlpha * size)) : 0, ...(real && { images }) };

  const bySite = parsePartition(settings.partition).name === 'site';
  const clients = settings.clients ?? (bySite ? undefined : 10);
  const ofRest = (column: Int32Array | undefined) => column && valuesAt(column, rest);
  const parts = partitioner(settings.partition).split({ count: rest.length, labels: ofRest(labels), sites: ofRest(sites), clients, seed });
  const digits = String(parts.length).length;
  const shares = parts.map((positions, i) => {
    const indices = positions.map((position) => rest[position]!);
    const site = bySite ? siteNames?.[sites![indices[0]!]!] : undefined;
    const id = site ?? `client-${String(i + 1).padStart(digits, '0')}`;
    return {
      id,
      ...holdOut(indices, seed, id),
      histogram: labels && classNames.length > 0 ? classHistogram(indices, labels, classNames.length) : undefined,
    };
  });
  return { shares, shared };
}

function explainShared({ shareSource, shareEvery }: Settings<'federate'>, { count: images, each }: Shared): string {
  return shareSource === 'real'
    ? `The shared set has ${images} real training images. They are public to all clients now, and each client receives ${each} of them.`
    : `The shared set has ${images} images drawn from the global model every ${shareEvery} rounds. Each client receives ${each} of them.`;
}

async function sharingOf(
  settings: Settings<'federate'>,
  prepared: Prepared,
  session: Session,
  { count: images, images: real }: Shared,
): Promise<Sharing> {
  const { shareAlpha: alpha, shareEvery: every, probeSteps: steps, seed } = settings;
  const { dataset, classes, unet, noise, hyper } = prepared;
  if (real) {
    return { alpha, set: { ...(await readAt(dataset, real)), classes: classes && valuesAt(classes, real) } };
  }
  const { numClasses } = unet;
  const drawn = classesInTurn(images, numClasses);
  return {
    alpha,
    every,
    async draw({ ema: weights }, round, signal) {
      const key = streamKey(seed, 'shared set', round);
      const batch = Math.min(images, hyper.batch);
      const values = await drawSamples({ session, noise, count: images, batch, steps, key, weights, classes: drawn, signal });
      return { count: images, pixels: toPixels(values), classes: drawn };
    },
  };
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
