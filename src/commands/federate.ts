/** Federated training of a diffusion model over clients that each hold a part of a dataset, as a run that can be resumed. */

import { z } from 'zod';
import { chooseBackend, createImages, type Images, type Session } from '../bindings/session.ts';
import { withCallbacks } from '../callbacks.ts';
import { saveCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { type Length, plannedSteps, warmupSteps } from '../ddpm/fit.ts';
import { type FeatureSource, featureSource } from '../ddpm/metrics/sources.ts';
import { unetModel } from '../ddpm/model/unet.ts';
import { createSession } from '../ddpm/session.ts';
import { freshFolder } from '../files.ts';
import { initialState, runFederation } from '../fl/federation.ts';
import type { RoundRecord } from '../fl/protocol.ts';
import type { RoundIo } from '../fl/round.ts';
import type { ServerStep } from '../fl/server/server-step.ts';
import { createClient } from '../fl/site/client.ts';
import { type ParameterSplit, parsePersonal, splitParameters } from '../fl/site/personal.ts';
import { type FederationState, plainState as federationState } from '../fl/state.ts';
import type { Strategy } from '../fl/strategy.ts';
import type { ClientStep } from '../fl/transport.ts';
import { memoryTransport } from '../fl/transports/memory.ts';
import { writeReport } from '../report/report.ts';
import { formatBytes } from '../report/units.ts';
import { streamKey } from '../rng.ts';
import type { Run } from '../run/commit.ts';
import { checkRunFolder, startRun } from '../run/start.ts';
import { writeVectors } from '../run/vector-file.ts';
import { type Course, endingOf, endingSchema, follow, lengthRule, roundsPlanned } from './course.ts';
import { dataMetadata, requireApart } from './data.ts';
import { type Deal, dealImages, explainShared, type Share } from './deal.ts';
import type { RunEvents, RunResult } from './events.ts';
import { type FederateOptions, idleOptions, parseOptions, type Settings } from './options/index.ts';
import { checkGrid, describeRun, drawGrid, gridDue, lossWarning, mayChange, type Prepared, prepare } from './prepare.ts';
import { restore } from './resume.ts';
import { probingOf, serverStepOf, sharingOf, strategyOf } from './wiring.ts';

/** Where runs go unless told otherwise, with a number behind. */
const FOLDER = 'runs/federate';

/** The plain part of the state, in state.json. */
const count = z.int().min(0);
const plainState = federationState.extend({ warmupSteps: count, lastImages: count.default(0), ending: endingSchema.optional() });
type PlainState = z.infer<typeof plainState>;

/** Everything that a federation has before its first round. */
type Federation = {
  settings: Settings<'federate'>;
  prepared: Prepared;
  deal: Deal;
  /** What a client trains in a round, and how many steps that is for the mean client. */
  length: Length;
  stepsPerRound: number;
  course: Course;
  strategy: Strategy;
  serverStep: ServerStep;
  session: Session;
  images: Images;
  features: FeatureSource;
  /** Patterns of the personal layers, and the parameters that they fit. */
  personal?: string[];
  split?: ParameterSplit;
};

/**
 * Trains over simulated clients in this process and returns when `rounds` are done. The run folder holds configuration, log, checkpoints,
 * sample grids and report.html; with `resume` the run in `out` continues bit for bit after any interruption.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT or ERR_PHOENIX_CONFIG for options, ERR_PHOENIX_DATA for the dataset, ERR_PHOENIX_RUN for the
 * run folder (in use, existing, of another configuration), ERR_PHOENIX_ROUND for a round that no client finished, ERR_PHOENIX_NOT_FINITE,
 * ERR_PHOENIX_IO; an abort rejects with `signal.reason`
 */
export function federate(options: FederateOptions, events: RunEvents = {}): Promise<RunResult> {
  return withCallbacks('federate', events, (guarded) => runFederated(options, guarded));
}

async function runFederated(options: FederateOptions, events: RunEvents): Promise<RunResult> {
  const { onStart, onMessage, signal, fault } = events;
  const settings = parseOptions('federate', options);
  const { resume, keep, stealLock, device, threads } = settings;
  const strategy = strategyOf(settings);
  const serverStep = serverStepOf(settings);
  const idle = idleOptions(options, settings, strategy.needs);
  if (idle) onMessage?.({ level: 'warning', text: idle });
  if (settings.out !== undefined) await checkRunFolder(settings.out, resume);

  // The data, the model, and what a round takes.
  await requireApart(settings.data, settings.out ?? FOLDER);
  const prepared = await prepare(settings, events);
  // A run with personal layers draws no grids.
  if (settings.personal === 'none') checkGrid(settings, prepared);
  const { unet, noise } = prepared;
  const deal = dealImages(settings, prepared.dataset);
  const length: Length = settings.localImages === undefined ? { epochs: settings.epochs ?? 1 } : { localImages: settings.localImages };
  const stepsPerRound = meanSteps(deal, prepared.hyper.batch, length);
  const course = courseOf(settings);
  signal?.throwIfAborted();

  using session = createSession({ model: unetModel(unet), noise, device, threads });
  const personal = parsePersonal(settings.personal);
  const split = personal && splitParameters(session.parameters, personal);
  using images = await createImages(prepared.dataset, session, deal.shared.each);
  const features = typeof settings.features === 'string' ? await featureSource(settings.features) : settings.features;
  const made = { settings, prepared, deal, length, stepsPerRound, course };
  const world: Federation = { ...made, strategy, serverStep, session, images, features, personal, split };
  const state = await initialState({ session, seed: settings.seed, strategy, serverStep });
  try {
    // The run folder, and where the run in it stands.
    const dir = settings.out ?? (await freshFolder(FOLDER));
    const initial = {
      globalStep: 0,
      images: 0,
      lastImages: 0,
      warmupSteps: warmupSteps(Math.round(plannedRounds(made) * stepsPerRound), prepared.warmup),
      strategy: state.strategy,
      profiles: state.profiles,
      work: state.work,
    };
    await using run = await startRun(dir, configOf(world), {
      resume,
      keep,
      initial,
      mayChange: mayChange('federate'),
      length: lengthRule(course),
      lock: { steal: stealLock },
      fault,
    });
    const plain = plainState.parse(run.state);
    announce(world, run, events);
    const begun: FederationState = { ...state, round: run.round, ...plain };
    await restore(run, { params: begun.params, ema: begun.ema, moments: begun.serverMoments, table: session.parameters });
    const { parameterCount, info } = session;
    const why = chooseBackend(device).why;
    const rounds = roundsPlanned(course, { ...standingOf(made, begun), ending: endingOf(run, plain.ending) });
    const start = { dir, round: run.round, rounds, parameterCount, backend: info.backend, device: why, threads: session.threads };
    await onStart?.({ kind: 'federate', ...start });

    const records = await runRounds(world, run, begun, plain, events);
    const report = await writeReport(dir);
    return { dir, rounds: run.round, checkpoint: run.file('checkpoint')!, report, samples: run.file('samples'), records };
  } finally {
    for (const vector of [state.params, state.ema, ...state.serverMoments]) vector.dispose();
  }
}

/** Rounds of an open run that its warm-up is measured by. */
const OPEN_ROUNDS = 100;

function courseOf({ rounds, images, lrFall }: Settings<'federate'>): Course {
  if (images !== undefined) return { unit: 'images', total: images, fall: lrFall };
  return { unit: 'rounds', total: rounds === 'open' ? undefined : rounds, fall: lrFall };
}

/** What the length of a federation is made of. */
type Planned = Pick<Federation, 'settings' | 'prepared' | 'deal' | 'stepsPerRound' | 'course'>;

/** Clients that a round selects. */
const selectedOf = ({ settings, deal }: Planned) => Math.max(1, Math.round(settings.fraction * deal.shares.length));

/** Where the federation stands; its next round is expected to be like the options say, times the local work that they have come to. */
function standingOf(planned: Planned, { round, images, work }: FederationState) {
  const { prepared, stepsPerRound } = planned;
  return { round, images, roundImages: Math.round(work * selectedOf(planned) * stepsPerRound * prepared.hyper.batch) };
}

function plannedRounds(planned: Planned): number {
  const { settings, prepared, stepsPerRound, course } = planned;
  const roundImages = Math.round(selectedOf(planned) * stepsPerRound * prepared.hyper.batch);
  return roundsPlanned(course, { round: 0, images: 0, roundImages }) ?? (settings.rounds === 'open' ? OPEN_ROUNDS : settings.rounds);
}

/** Steps of the mean client in a round. */
function meanSteps({ shares, shared }: Deal, batch: number, length: Length): number {
  const stepsOf = (share: Share) => plannedSteps(share.train.length + shared.each, batch, length);
  return shares.reduce((sum, share) => sum + stepsOf(share), 0) / shares.length;
}

/** config.json of the run. */
function configOf({ settings, prepared, deal, length, strategy, serverStep, session, features, personal, split }: Federation) {
  const { count, each, from } = deal.shared;
  const described = { ...settings, strategy: strategy.name, features: features.name };
  return describeRun('federate', described, prepared, session, {
    length: { ...length, optimizer: settings.optimizer },
    serverStep,
    features: strategy.needs && { name: features.name, fingerprint: features.fingerprint },
    shared: count > 0 ? { count, each, source: settings.sharing.source, from } : undefined,
    personal: split && { patterns: personal, parameters: split.names, values: split.personalCount },
    clients: deal.shares.map(({ id, train, heldOut, histogram }) => ({ id, examples: train.length, heldOut: heldOut.length, histogram })),
  });
}

/** Tells the caller what this run should be known for. */
function announce({ settings, deal, session, split }: Federation, run: Run, { onMessage }: RunEvents): void {
  for (const text of run.warnings) onMessage?.({ level: 'warning', text });
  if (split) onMessage?.({ level: 'info', text: explainSplit(split, session.parameterCount) });
  if (deal.shared.count > 0) onMessage?.({ level: 'info', text: explainShared(settings, deal) });
  if (run.round > 0) onMessage?.({ level: 'info', text: `Continuing ${run.dir} after round ${run.round}.` });
}

function explainSplit({ personalCount, names }: ParameterSplit, parameterCount: number): string {
  const share = ((100 * personalCount) / parameterCount).toFixed(1);
  const bytes = formatBytes(4 * personalCount);
  return `${names.length} personal layers with ${share} % of the parameters stay with each client, ${bytes} less each way before compression. Sample with: phoenix sample DIR --client ID.`;
}

/** Runs the rounds that are missing, and commits each. */
async function runRounds(
  world: Federation,
  run: Run,
  begun: FederationState,
  plain: PlainState,
  events: RunEvents,
): Promise<RoundRecord[]> {
  const { prepared, course, session } = world;
  const { hyper } = prepared;
  const { onStep, onRound, onMessage, signal } = events;
  const records: RoundRecord[] = [];
  const transport = memoryTransport(clientsOf(world, run), { carriesVectors: session.info.backend === 'cuda' });
  const options = await federationOptions(world, run, begun, plain, { transport, signal });
  let state = begun;
  let { lastImages } = plain;
  try {
    await follow(run, course, {
      ending: endingOf(run, plain.ending),
      standing: () => ({ ...standingOf(world, state), lastImages }),
      onMessage,
      async round({ fall }, ending) {
        const rounds = roundsPlanned(course, { ...standingOf(world, state), ending });
        const progress = progressOf(world, state, rounds);
        state = await runFederation(state, {
          ...options,
          fit: { ...options.fit, fall },
          rounds: state.round + 1,
          onStep: onStep && ((step) => onStep(progress(step))),
          onRound: async (after, record) => {
            lastImages = record.images;
            const committed = { ...after, warmupSteps: plain.warmupSteps, lastImages, ending };
            await commitRound(world, run, committed, { record, rounds, signal });
            records.push(record);
            const warning = lossWarning(record.loss, hyper);
            if (warning) onMessage?.({ level: 'warning', text: warning });
            await onRound?.(record);
          },
        });
      },
    });
  } finally {
    await transport.close();
  }
  return records;
}

/** What every round is run with. */
async function federationOptions(
  world: Federation,
  run: Run,
  begun: FederationState,
  plain: PlainState,
  { transport, signal }: Pick<RoundIo, 'transport' | 'signal'>,
): Promise<RoundIo> {
  const { settings, prepared, deal, length, strategy, serverStep, session, features, personal } = world;
  const { seed, fraction, optimizer, compress, localWork, normBound } = settings;
  const { hyper } = prepared;
  const reference = begun.bins ? undefined : deal.shared.images;
  return {
    transport,
    strategy,
    // The EMA is the server's, over rounds: clients keep none.
    fit: { hyper: { ...hyper, warmupSteps: plain.warmupSteps, emaDecay: 0 }, length, optimizer, compress: compress.updates, personal },
    taskCodec: compress.tasks === 'bf16' ? 'bf16' : 'float32',
    parameters: session.parameters,
    sharing: await sharingOf(settings, prepared, session, deal.shared),
    probing: strategy.needs && (await probingOf(settings, prepared, features, reference, signal)),
    localWork: localWork.target === undefined ? undefined : { ...localWork, target: localWork.target },
    seed,
    createVector: session.createVector,
    fraction,
    serverStep,
    emaDecay: hyper.emaDecay,
    normBound,
    store: run.store,
    signal,
  };
}

/** The clients, all in this process. They share one Session and one copy of the images. */
function clientsOf({ settings, prepared, deal, session, images, features }: Federation, run: Run) {
  const { seed } = settings;
  const { dataset, classes, classNames, unet, noise } = prepared;
  const withRoom = classes && Int32Array.from({ length: dataset.count + deal.shared.each }, (_, i) => classes[i] ?? 0);
  return deal.shares.map(({ id, train, heldOut }) =>
    createClient({
      id,
      session,
      images,
      train,
      heldOut,
      classes: withRoom,
      classCount: unet.numClasses,
      classNames,
      sharedFrom: dataset.count,
      probing: { images: dataset, noise, features },
      store: run.store,
      updates: run.scratch,
      seed,
      // All clients are in one process, so nothing is hidden from anybody, and equal runs must be equal bit for bit.
      secret: streamKey(seed, 'secret', id),
    }),
  );
}

type Committing = { record: RoundRecord; rounds: number | undefined; signal: AbortSignal | undefined };

/** Writes the files of a round and commits it. */
async function commitRound(
  { settings, prepared, session, personal, split }: Federation,
  run: Run,
  after: FederationState & PlainState,
  { record, rounds, signal }: Committing,
): Promise<void> {
  const { unet, noise, classNames } = prepared;
  const { round, params, ema, serverMoments, ...plainly } = after;
  const { globalStep, images } = plainly;
  const metadata = {
    round: String(round),
    steps: String(globalStep),
    images: String(images),
    ...dataMetadata(prepared.dataset),
    ...(personal && { personal: JSON.stringify(personal) }),
  };
  const table = session.parameters;
  await run.stage('checkpoint', (path) => saveCheckpoint(path, { params, ema, table, unet, noise, classNames, metadata }));
  if (serverMoments.length > 0) await run.stage('moments', (path) => writeVectors(path, serverMoments));
  // The server's own personal layers are untrained: a grid would show nothing.
  if (!split && gridDue(round, rounds, settings.samples.every))
    await run.stage('samples', (path) => drawGrid(path, settings, prepared, session, ema, signal));
  const { ending, ...always } = plainly;
  await run.commit({ ...always, ...(ending && { ending }) }, record);
}

/** Turns the steps of one client after the other in a round into the progress of the run. */
function progressOf(world: Federation, begun: FederationState, rounds: number | undefined) {
  const { batch } = world.prepared.hyper;
  const { round: done, images: before, roundImages } = standingOf(world, begun);
  const imagesPlanned = world.course.unit === 'images' ? world.course.total! : before + ((rounds ?? done + 1) - done) * roundImages;
  let images = before;
  let last = { client: '', step: 0 };
  let number = 0;
  return ({ client, round, step, loss, imagesPerSecond }: ClientStep) => {
    if (client !== last.client) {
      number++;
      last = { client, step: 0 };
    }
    images += (step - last.step) * batch;
    last.step = step;
    return {
      round,
      rounds,
      client: { id: client, number, of: selectedOf(world) },
      loss,
      imagesPerSecond,
      images,
      imagesPlanned: Math.max(images, imagesPlanned),
    };
  };
}
