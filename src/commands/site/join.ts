/** A site joins a run: its data are read as the spec says, and a client is made that trains on them. */

import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { createImages, type Images, type Session } from '../../bindings/session.ts';
import { matchClasses } from '../../ddpm/data/classes.ts';
import type { DatasetSource } from '../../ddpm/data/index.ts';
import { type FeatureSource, featureSource, pixels8 } from '../../ddpm/metrics/sources.ts';
import { unetModel } from '../../ddpm/model/unet.ts';
import { noise } from '../../ddpm/noise.ts';
import { createSession } from '../../ddpm/session.ts';
import { PhoenixError, type PhoenixErrorCode } from '../../errors.ts';
import { holdOut } from '../../fl/partition/index.ts';
import { type Client, createClient } from '../../fl/site/client.ts';
import { splitParameters } from '../../fl/site/personal.ts';
import type { Store } from '../../fl/store.ts';
import { everyPosition, imageBytes } from '../../images.ts';
import type { Policy } from '../../net/policy.ts';
import { decodeSpec, type Spec } from '../../net/spec.ts';
import { openFileStore } from '../../run/file-store.ts';
import { openData } from '../data.ts';
import type { DataEvents } from '../events.ts';
import { freezeData } from './frozen.ts';
import { type Home, runFolder, type SiteConfig } from './home.ts';
import { keepingModels } from './publish.ts';

/** A site's part in a run. */
export type Part = {
  spec: Spec;
  client: Client;
  /** Keeps what belongs to the run between starts. */
  store: Store;
  /** Least memory that training needs, in bytes: parameters, gradients, moments and images. */
  memory: number;
  /** What computes: 'cpu' or 'cuda'. */
  backend: string;
  close(): Promise<void>;
};

export type JoinOptions = {
  home: Home;
  config: SiteConfig;
  policy: Policy;
  /** Whether images are accepted that differ from those that the site joined the run with. */
  dataChanged: boolean;
  events: DataEvents;
};

/** The spec of a run, if it is this site's. @throws PhoenixError ERR_PHOENIX_MESSAGE */
export function specOf(run: string, bytes: Uint8Array | undefined, { federation }: Home): Spec {
  if (!bytes) throw new PhoenixError('ERR_PHOENIX_MESSAGE', `The run ${run} comes without a spec: do both sides run the same version?`);
  const spec = decodeSpec(bytes);
  if (spec.run === run && spec.federation === federation) return spec;
  throw new PhoenixError(
    'ERR_PHOENIX_MESSAGE',
    `The spec is that of the run ${spec.run} of ${spec.federation}, but ${run} of ${federation} is to be joined.`,
  );
}

/**
 * @throws PhoenixError ERR_PHOENIX_DATA or ERR_PHOENIX_CONFIG for data or features that do not fit the spec, or that have changed; what
 * createSession and the disk throw
 */
export async function joinRun(spec: Spec, options: JoinOptions): Promise<Part> {
  const { home, dataChanged, events } = options;
  const dataset = await openFitting(spec, options);
  const { classNames } = spec.data;
  const classes = classNames && numberedAs(classNames, dataset);
  const features = await featuresOf(spec, options);
  const dir = await runFolder(home, spec.run);
  const store = await openFileStore(join(dir, 'store'));
  if (await freezeData(dir, dataset, store, dataChanged))
    events.onMessage?.({
      level: 'warning',
      text: `The images have changed since the site joined the run ${spec.run}: they were divided anew, and what was kept of the run was dropped.`,
    });
  events.signal?.throwIfAborted();

  const room = spec.shared?.each ?? 0;
  const withRoom = classes && Int32Array.from({ length: dataset.count + room }, (_, i) => classes[i] ?? 0);
  const session = openSession(spec, options);
  let images: Images & Disposable;
  try {
    requireSame(spec, session);
    images = await createImages(dataset, session, room);
  } catch (error) {
    session.dispose();
    throw error;
  }
  const { train, heldOut } = holdOut(everyPosition(dataset.count), spec.seed, home.site);
  try {
    const client = createClient({
      ...{ id: home.site, session, images, train, heldOut, classes: withRoom, classNames, store, seed: spec.seed },
      sharedFrom: dataset.count,
      classCount: spec.unet.numClasses,
      probing: { images: dataset, noise: noise(spec.noise), features },
    });
    requireCapable(spec, client);
    const memory = 5 * 4 * session.parameterCount + (dataset.count + room) * imageBytes(dataset);
    const models = home.path('models', spec.run);
    const kept = (round: number, path: string) =>
      events.onMessage?.({ level: 'info', text: `The model of round ${round} is here: phoenix sample ${path}` });
    const keeping = keepingModels(keepingToSpec(client, spec), { spec, session, store, dir: models, kept });
    return { spec, client: keeping, store, memory, backend: session.info.backend, close: async () => close() };
  } catch (error) {
    close();
    throw error;
  }

  function close(): void {
    images.dispose();
    session.dispose();
  }
}

/** The site's images as the spec wants them. @throws PhoenixError ERR_PHOENIX_DATA, ERR_PHOENIX_CONFIG */
async function openFitting({ data, run }: Spec, { config, events }: JoinOptions): Promise<DatasetSource> {
  const { height, width, channels, range } = data;
  const dataset = await openData(config.data, { size: { height, width }, channels, range }, events).catch((error) => {
    // It is the data that do not fit, and what is said names them.
    throw recoded(error, 'ERR_PHOENIX_ARGUMENT', 'ERR_PHOENIX_DATA');
  });
  if (dataset.height === height && dataset.width === width && dataset.channels === channels) return dataset;
  const [own, wanted] = [dataset, data].map((size) => `${size.width}×${size.height} with ${size.channels} channels`);
  throw new PhoenixError('ERR_PHOENIX_CONFIG', `The images of this site are ${own}, but the run ${run} is for ${wanted}.`);
}

/**
 * The classes of the images as the run counts them.
 * @throws PhoenixError ERR_PHOENIX_CONFIG for other classes: it names them, as the site has told them before, and no folder
 */
function numberedAs(classNames: string[], dataset: DatasetSource): Int32Array {
  try {
    return matchClasses({ ...dataset, name: 'This site' }, classNames, 'the run');
  } catch (error) {
    throw recoded(error, 'ERR_PHOENIX_DATA', 'ERR_PHOENIX_CONFIG');
  }
}

/** An error with another code. */
function recoded(error: unknown, from: PhoenixErrorCode, to: PhoenixErrorCode): unknown {
  return error instanceof PhoenixError && error.code === from ? new PhoenixError(to, error.message, { cause: error }) : error;
}

/** What images are compared by. @throws PhoenixError ERR_PHOENIX_CONFIG for features that the run does not mean */
async function featuresOf({ features: wanted }: Spec, { config }: JoinOptions): Promise<FeatureSource> {
  const own = config.features === undefined ? pixels8 : await featureSource(config.features);
  if (!wanted || own.fingerprint === wanted.fingerprint) return own;
  if (pixels8.fingerprint === wanted.fingerprint) return pixels8;
  throw new PhoenixError(
    'ERR_PHOENIX_CONFIG',
    `The run compares images by ${wanted.name} (fingerprint ${wanted.fingerprint.slice(0, 12)}), and this site has ${own.name} (${own.fingerprint.slice(0, 12)}). Get that file from the operator, and give it with features (--features FILE).`,
  );
}

/** A Session within the threads that the site's rules allow. */
function openSession({ unet, noise: schedule }: Spec, { config, policy }: JoinOptions): Session {
  const open = (threads: number | undefined) =>
    createSession({ model: unetModel(unet), noise: noise(schedule), device: config.device, threads });
  const session = open(config.threads);
  if (policy.threads === null || session.threads <= policy.threads) return session;
  session.dispose();
  return open(policy.threads);
}

/** @throws PhoenixError ERR_PHOENIX_CONFIG for a network that has other parameters here than the coordinator counts */
function requireSame({ parameterCount, personal }: Spec, session: Session): void {
  const check = (what: string, wanted: number, own: number) => {
    if (wanted === own) return;
    throw new PhoenixError(
      'ERR_PHOENIX_CONFIG',
      `The network of the run has ${wanted} ${what} by its spec, and ${own} here: do both sides run the same version?`,
    );
  };
  check('parameters', parameterCount, session.parameterCount);
  if (personal) check('personal parameters', personal.values, splitParameters(session.parameters, personal.patterns).personalCount);
}

/** @throws PhoenixError ERR_PHOENIX_CONFIG for a run that needs what this version cannot do */
function requireCapable({ capabilities, run }: Spec, { hello }: Client): void {
  const lacking = capabilities.filter((one) => !hello.capabilities.includes(one));
  if (lacking.length === 0) return;
  throw new PhoenixError('ERR_PHOENIX_CONFIG', `The run ${run} needs ${lacking.join(', ')}, which this version of Phoenix does not have.`);
}

/** The client, which trains only as the spec says: what stays at the site, and what leaves it, was said when the site joined. */
function keepingToSpec(client: Client, { personal, plan }: Spec): Client {
  return {
    ...client,
    async answer(request, options) {
      if (request.kind === 'train') {
        const fit = (request.head as { fit?: { personal?: unknown; compress?: unknown } }).fit;
        const isAsSaid = isDeepStrictEqual(fit?.personal, personal?.patterns) && (fit?.compress ?? 'none') === plan.compress;
        if (!isAsSaid)
          throw new PhoenixError(
            'ERR_PHOENIX_MESSAGE',
            `A training was asked for that differs from the spec of the run, in its personal layers or its compression.`,
          );
      }
      return client.answer(request, options);
    },
  };
}
