/**
 * 'phoenix/site': what a service at a site imports. A site holds images and answers a coordinator: `createClient` makes what answers, and a
 * Transport brings requests to it.
 */

// The whole site: what `phoenix site` does, with events in place of text and an AbortSignal.

export type { DataEvents, MessageEvent } from './commands/events.ts';
export type { SiteOptions } from './commands/options/index.ts';
export { createSite, type RunningSite, type SiteEvents } from './commands/site/site.ts';
export type { SiteEvent } from './net/site-state.ts';
export type { Link } from './net/wire.ts';

// The client: it trains on its own images, and keeps what belongs to it in a Store.

export type {
  ClientId,
  Codec,
  Failure,
  Fit,
  Hello,
  ParcelHead,
  Probe,
  Report,
  Statistic,
  Task,
  TaskCodec,
  Upload,
  VectorHead,
} from './fl/protocol.ts';
export { type Client, type ClientOptions, createClient } from './fl/site/client.ts';
export { personalPresets } from './fl/site/personal.ts';
export type { ProbeTools } from './fl/site/probe.ts';
export { memoryStore, type Store } from './fl/store.ts';
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

// What a client works with: its images, the engine, and the features that images are compared by.

export { createImages, type Device, type Images, type Session } from './bindings/session.ts';
export { matchClasses } from './ddpm/data/classes.ts';
export {
  type Dataset,
  type DatasetNotes,
  type DatasetOptions,
  type DatasetSource,
  openDataset,
  openSource,
  type ReadProgress,
} from './ddpm/data/index.ts';
export { type FeatureSource, featureSource, pixels8 } from './ddpm/metrics/sources.ts';
export { type UNetConfig, unetConfig, unetModel } from './ddpm/model/unet.ts';
export { type Noise, type NoiseOptions, noise } from './ddpm/noise.ts';
export { createSession, type SessionOptions } from './ddpm/session.ts';
export { PhoenixError, type PhoenixErrorCode } from './errors.ts';
export type { ImageSet, ImageSource } from './images.ts';
