/**
 * Phoenix: trains diffusion models where the data is. Start with `federate`; README.md shows it in ten lines, examples/ in full. What a
 * service at a site imports is in 'phoenix/site', what judges samples in 'phoenix/metrics'. docs/api.md lists every name with its type.
 */

// Whole commands: what the command line does, with events in place of text and an AbortSignal.

export type { DataEvents, MessageEvent, RunEvents, RunResult, StartEvent, StepEvent } from './commands/events.ts';
export { federate } from './commands/federate.ts';
export { type Finetuned, type FinetuneEvents, finetune } from './commands/finetune.ts';
export { type Finishing, finish } from './commands/finish.ts';
export { type Inspection, inspect } from './commands/inspect.ts';
export type {
  ExperimentOptions,
  FederateOptions,
  FinetuneOptions,
  FinishOptions,
  InspectOptions,
  SampleOptions,
  TrainOptions,
} from './commands/options/index.ts';
export { type SampleEvents, type Samples, sample } from './commands/sample.ts';
export { type SampledFiles, sampleFiles } from './commands/sample-files.ts';
export { train } from './commands/train.ts';
export { type ExperimentEvents, type ExperimentResult, experiment } from './experiment/experiment.ts';
export type { Plan } from './experiment/plan.ts';

// Runs: what a command has left in its folder.

export { type GridOptions, imageGrid } from './commands/image-grid.ts';
export { writeReport } from './report/report.ts';
export type { RunConfig } from './run/config.ts';
export { openRun, type RunView } from './run/folder.ts';

// Federated learning: rounds over clients, however they are reached, with strategies of your own.

export { type FederationOptions, initialState, runFederation } from './fl/federation.ts';
export { type Partitioner, partitioner, partitions } from './fl/partition/index.ts';
export type {
  ClientId,
  Codec,
  Decision,
  Failure,
  Fit,
  Hello,
  ParcelHead,
  Probe,
  Report,
  RoundRecord,
  Statistic,
  Task,
  TaskCodec,
  Upload,
  VectorHead,
} from './fl/protocol.ts';
export { serverSteps } from './fl/server/server-step.ts';
export type { Probing, Sharing } from './fl/server/supplies.ts';
export { type Client, type ClientOptions, createClient } from './fl/site/client.ts';
export { personalPresets } from './fl/site/personal.ts';
export type { ProbeTools } from './fl/site/probe.ts';
export type { FederationState, PlainState, Profile, Profiles, Sent } from './fl/state.ts';
export { memoryStore, type Store } from './fl/store.ts';
export { checkStrategy } from './fl/strategies/contract.ts';
export { type FilterOptions, filtered } from './fl/strategies/filter.ts';
export { strategies } from './fl/strategies/index.ts';
export type { Combined, Needs, Strategy, Updates, Weights } from './fl/strategy.ts';
export {
  type AskOptions,
  type Blob,
  type ClientStep,
  isFailure,
  type Message,
  type Reply,
  type Request,
  type Transport,
} from './fl/transport.ts';
export { transports } from './fl/transports/index.ts';
export { memoryTransport } from './fl/transports/memory.ts';
export { compressions } from './fl/wire/codec.ts';

// Diffusion models: data, networks, noise, training, sampling, checkpoints.

export {
  type Checkpoint,
  type CheckpointContent,
  readCheckpoint as loadCheckpoint,
  saveCheckpoint,
} from './ddpm/checkpoint/checkpoint.ts';
export { saveDiffusers } from './ddpm/checkpoint/diffusers.ts';
export { matchClasses } from './ddpm/data/classes.ts';
export type { Examination } from './ddpm/data/examine.ts';
export {
  type Dataset,
  type DatasetNotes,
  type DatasetOptions,
  type DatasetSource,
  openDataset,
  openSource,
  type ReadProgress,
} from './ddpm/data/index.ts';
export { type Fall, type Hyper, type Length, type Position, plainHyper } from './ddpm/fit.ts';
export { type FeatureSource, featureSource, pixels8, sourceOf } from './ddpm/metrics/sources.ts';
export { type ClassifierConfig, classifierModel } from './ddpm/model/classifier.ts';
export { type Preset, type PresetName, presets } from './ddpm/model/presets.ts';
export { type UNetConfig, unetConfig, unetModel } from './ddpm/model/unet.ts';
export { type Noise, type NoiseOptions, noise } from './ddpm/noise.ts';
export { type DrawSamplesOptions, drawSamples, toPixels } from './ddpm/sample.ts';
export { makeTable, type Scheduler, type SchedulerName, type SchedulerOptions, type Step, schedulers } from './ddpm/schedulers/index.ts';
export { createSession, type SessionOptions } from './ddpm/session.ts';
export { type Trained, type TrainLocalOptions, trainLocal } from './ddpm/train.ts';

// The engine: a model, vectors and images in native memory.

export { createImages, type Device, type Images, type Precision, type Session } from './bindings/session.ts';
export { createVector, type Vector } from './bindings/vector.ts';

// What all layers use: errors with a code, images in memory, random numbers by key.

export { PhoenixError, type PhoenixErrorCode } from './errors.ts';
export type { ImageSet, ImageSource } from './images.ts';
export { rng, streamKey } from './rng.ts';
