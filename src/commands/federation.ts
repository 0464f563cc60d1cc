/**
 * A federation as a run, whoever its clients are: what `federate`, whose clients are in this process, and the coordinator of real sites
 * have in common.
 */
import { z } from 'zod';
import { chooseBackend, type Session } from '../bindings/session.ts';
import { saveCheckpoint } from '../ddpm/checkpoint/checkpoint.ts';
import { type Length, warmupSteps } from '../ddpm/fit.ts';
import type { FeatureSource } from '../ddpm/metrics/sources.ts';
import { type FederationOptions, initialState, runFederation } from '../fl/federation.ts';
import type { RoundRecord } from '../fl/protocol.ts';
import type { RoundIo } from '../fl/round.ts';
import type { ServerStep } from '../fl/server/server-step.ts';
import type { ParameterSplit } from '../fl/site/personal.ts';
import { type FederationState, plainState as federationState } from '../fl/state.ts';
import type { Strategy } from '../fl/strategy.ts';
import type { ClientStep } from '../fl/transport.ts';
import { writeReport } from '../report/report.ts';
import { formatBytes } from '../report/units.ts';
import type { Run } from '../run/commit.ts';
import type { RunConfig } from '../run/config.ts';
import { startRun } from '../run/start.ts';
import { writeVectors } from '../run/vector-file.ts';
import { type Course, endingOf, endingSchema, follow, lengthRule, roundsPlanned } from './course.ts';
import type { RunEvents, RunResult } from './events.ts';
import type { Settings } from './options/index.ts';
import { drawGrid, gridDue, lossWarning, mayChange, type PreparedModel } from './prepare.ts';
import { restore } from './resume.ts';

const count = z.int().min(0);
/** The plain part of the state, in state.json. */
const plainState = federationState.extend({ warmupSteps: count, lastImages: count.default(0), ending: endingSchema.optional() });
type PlainState = z.infer<typeof plainState>;

/** What a federation is told about its rounds, its training and its machine. */
export type FederationSettings = Pick<
  Settings<'federate'>,
  | 'seed'
  | 'rounds'
  | 'images'
  | 'epochs'
  | 'localImages'
  | 'lrFall'
  | 'fraction'
  | 'optimizer'
  | 'compress'
  | 'localWork'
  | 'normBound'
  | 'normalise'
  | 'samples'
  | 'device'
  | 'resume'
  | 'keep'
  | 'stealLock'
>;

/** Everything that a federation has before its first round. */
export type Federation = {
  settings: FederationSettings;
  prepared: PreparedModel;
  clientCount: number;
  /** What a client trains in a round, and how many steps that is for the mean client. */
  length: Length;
  stepsPerRound: number;
  strategy: Strategy;
  serverStep: ServerStep;
  session: Session;
  features: FeatureSource;
  /** Patterns of the personal layers, and the parameters that they fit. */
  personal?: string[];
  split?: ParameterSplit;
};

/** What its clients are reached by, and what is given to them. */
export type Reached = Pick<RoundIo, 'transport' | 'sharing' | 'probing' | 'waiting' | 'mostImages' | 'normalise'> & {
  /** Called, and waited for, before it is looked whether the run was told to finish. @default nothing is waited for */
  ready?(): Promise<void>;
  /** Called, and waited for, before each round, also before one that is repeated. */
  beforeRound?(round: number): Promise<void>;
  /** Whether a round that failed is repeated. @default it ends the run */
  again?(error: unknown, round: number): Promise<boolean>;
};

export type FederationRun = {
  /** The run folder, and its config.json. */
  dir: string;
  config: RunConfig;
  /** Paths into the configuration that a resume may give other values, in addition to those of `federate`. */
  mayChange?: string[];
  /** Called before the first round, with where the federation stands. */
  reach(run: Run, begun: FederationState): Promise<Reached>;
  /** Called with the run once it is open. */
  announce?(run: Run): void;
};

/** What a client trains in a round. */
export function lengthOfRound({ epochs, localImages }: Pick<FederationSettings, 'epochs' | 'localImages'>): Length {
  return localImages === undefined ? { epochs: epochs ?? 1 } : { localImages };
}

/** How much less travels with personal layers. */
export function explainSplit({ personalCount, names }: ParameterSplit, parameterCount: number): string {
  const share = ((100 * personalCount) / parameterCount).toFixed(1);
  const bytes = formatBytes(4 * personalCount);
  return `${names.length} personal layers with ${share} % of the parameters stay with each client, ${bytes} less each way before compression. Sample with: phoenix sample DIR --client ID.`;
}

/** Trains from where the run in `dir` stands to its end. @throws PhoenixError as `federate` does */
export async function trainFederation(world: Federation, how: FederationRun, events: RunEvents): Promise<RunResult> {
  const { settings, prepared, stepsPerRound, strategy, serverStep, session } = world;
  const { resume, keep, stealLock, device } = settings;
  const { dir } = how;
  const course = courseOf(settings);
  const state = await initialState({ session, seed: settings.seed, strategy, serverStep });
  try {
    const initial = {
      globalStep: 0,
      images: 0,
      lastImages: 0,
      warmupSteps: warmupSteps(Math.round(plannedRounds(world, course) * stepsPerRound), prepared.warmup),
      strategy: state.strategy,
      profiles: state.profiles,
      work: state.work,
    };
    await using run = await startRun(dir, how.config, {
      resume,
      keep,
      initial,
      mayChange: [...mayChange('federate'), ...(how.mayChange ?? [])],
      length: lengthRule(course),
      lock: { steal: stealLock },
      fault: events.fault,
    });
    const plain = plainState.parse(run.state);
    how.announce?.(run);
    const begun: FederationState = { ...state, round: run.round, ...plain };
    await restore(run, { params: begun.params, ema: begun.ema, moments: begun.serverMoments, table: session.parameters });
    const { parameterCount, info } = session;
    const rounds = roundsPlanned(course, { ...standingOf(world, begun), ending: endingOf(run, plain.ending) });
    const machine = { backend: info.backend, device: chooseBackend(device).why, threads: session.threads };
    await events.onStart?.({ kind: 'federate', dir, round: run.round, rounds, parameterCount, ...machine });

    const reached = await how.reach(run, begun);
    const records: RoundRecord[] = [];
    try {
      await runRounds(world, { run, course, begun, plain, records }, reached, events);
    } finally {
      await reached.transport.close();
    }
    const report = await writeReport(dir);
    return { dir, rounds: run.round, checkpoint: run.file('checkpoint')!, report, samples: run.file('samples'), records };
  } finally {
    for (const vector of [state.params, state.ema, ...state.serverMoments]) vector.dispose();
  }
}

/** Rounds of an open run that its warm-up is measured by. */
const OPEN_ROUNDS = 100;

function courseOf({ rounds, images, lrFall }: FederationSettings): Course {
  if (images !== undefined) return { unit: 'images', total: images, fall: lrFall };
  return { unit: 'rounds', total: rounds === 'open' ? undefined : rounds, fall: lrFall };
}

/** Clients that a round selects. */
const selectedOf = ({ settings, clientCount }: Federation) => Math.max(1, Math.round(settings.fraction * clientCount));

/** Where the federation stands; its next round is expected to be like the options say, times the local work that they have come to. */
function standingOf(world: Federation, { round, images, work }: Pick<FederationState, 'round' | 'images' | 'work'>) {
  const { prepared, stepsPerRound } = world;
  return { round, images, roundImages: Math.round(work * selectedOf(world) * stepsPerRound * prepared.hyper.batch) };
}

function plannedRounds(world: Federation, course: Course): number {
  return roundsPlanned(course, standingOf(world, { round: 0, images: 0, work: 1 })) ?? OPEN_ROUNDS;
}

type Begun = { run: Run; course: Course; begun: FederationState; plain: PlainState; records: RoundRecord[] };

/** Runs the rounds that are missing, and commits each. */
async function runRounds(
  world: Federation,
  { run, course, begun, plain, records }: Begun,
  { ready, beforeRound, again, ...reached }: Reached,
  events: RunEvents,
): Promise<void> {
  const { hyper } = world.prepared;
  const { onStep, onRound, onMessage, signal } = events;
  const io: RoundIo = { ...roundIo(world, run, plain.warmupSteps), ...reached, signal };
  let state = begun;
  let { lastImages } = plain;
  await follow(run, course, {
    ending: endingOf(run, plain.ending),
    standing: () => ({ ...standingOf(world, state), lastImages }),
    ready,
    onMessage,
    async round({ fall }, ending) {
      const rounds = roundsPlanned(course, { ...standingOf(world, state), ending });
      const progress = progressOf(world, course, state, rounds);
      const options: FederationOptions = {
        ...io,
        fit: { ...io.fit, fall },
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
      };
      for (let done = false; !done; ) {
        await beforeRound?.(state.round + 1);
        try {
          state = await runFederation(state, options);
          done = true;
        } catch (error) {
          if (signal?.aborted || !(await again?.(error, state.round + 1))) throw error;
        }
      }
    },
  });
}

/** What every round is run with, but its clients. */
function roundIo({ settings, prepared, length, strategy, serverStep, session, personal }: Federation, run: Run, warmup: number) {
  const { seed, fraction, optimizer, compress, localWork, normBound, normalise } = settings;
  const { hyper } = prepared;
  return {
    strategy,
    // The EMA is the server's, over rounds: clients keep none.
    fit: { hyper: { ...hyper, warmupSteps: warmup, emaDecay: 0 }, length, optimizer, compress: compress.updates, personal },
    taskCodec: compress.tasks === 'bf16' ? ('bf16' as const) : ('float32' as const),
    parameters: session.parameters,
    localWork: localWork.target === undefined ? undefined : { ...localWork, target: localWork.target },
    seed,
    createVector: session.createVector,
    fraction,
    serverStep,
    emaDecay: hyper.emaDecay,
    normBound,
    normalise,
    store: run.store,
  };
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
    ...prepared.metadata,
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

/** Turns the steps of a round's clients into the progress of the run. */
function progressOf(world: Federation, course: Course, begun: FederationState, rounds: number | undefined) {
  const { batch } = world.prepared.hyper;
  const { round: done, images: before, roundImages } = standingOf(world, begun);
  const imagesPlanned = course.unit === 'images' ? course.total! : before + ((rounds ?? done + 1) - done) * roundImages;
  const steps = new Map<string, number>();
  return ({ client, round, step, loss, imagesPerSecond }: ClientStep) => {
    steps.set(client, step);
    const images = before + batch * [...steps.values()].reduce((sum, made) => sum + made, 0);
    return {
      round,
      rounds,
      client: { id: client, number: [...steps.keys()].indexOf(client) + 1, of: selectedOf(world) },
      loss,
      imagesPerSecond,
      images,
      imagesPlanned: Math.max(images, imagesPlanned),
    };
  };
}
