/** Federated training of a diffusion model over clients that each hold a part of a dataset, as a run that can be resumed. */

import { createImages, type Images } from '../bindings/session.ts';
import { withCallbacks } from '../callbacks.ts';
import { type Length, plannedSteps } from '../ddpm/fit.ts';
import { featureSource } from '../ddpm/metrics/sources.ts';
import { unetModel } from '../ddpm/model/unet.ts';
import { createSession } from '../ddpm/session.ts';
import { freshFolder } from '../files.ts';
import { createClient } from '../fl/site/client.ts';
import { parsePersonal, splitParameters } from '../fl/site/personal.ts';
import type { FederationState } from '../fl/state.ts';
import { memoryTransport } from '../fl/transports/memory.ts';
import { streamKey } from '../rng.ts';
import type { Run } from '../run/commit.ts';
import { checkRunFolder } from '../run/start.ts';
import { requireApart } from './data.ts';
import { type Deal, dealImages, explainShared, type Share } from './deal.ts';
import type { RunEvents, RunResult } from './events.ts';
import { explainSplit, type Federation, lengthOfRound, type Reached, trainFederation } from './federation.ts';
import { type FederateOptions, idleOptions, parseOptions, type Settings } from './options/index.ts';
import { checkGrid, describeRun, type Prepared, prepare } from './prepare.ts';
import { probingOf, serverStepOf, sharingOf, strategyOf } from './wiring.ts';

/** Where runs go unless told otherwise, with a number behind. */
const FOLDER = 'runs/federate';

/** A federation whose clients are in this process. */
type Simulation = Federation & { settings: Settings<'federate'>; prepared: Prepared; deal: Deal; images: Images };

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
  const { onMessage, signal } = events;
  const settings = parseOptions('federate', options);
  const { resume, device, threads } = settings;
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
  const length = lengthOfRound(settings);
  const stepsPerRound = meanSteps(deal, prepared.hyper.batch, length);
  signal?.throwIfAborted();

  using session = createSession({ model: unetModel(unet), noise, device, threads });
  const personal = parsePersonal(settings.personal);
  const split = personal && splitParameters(session.parameters, personal);
  using images = await createImages(prepared.dataset, session, deal.shared.each);
  const features = typeof settings.features === 'string' ? await featureSource(settings.features) : settings.features;
  const made = { settings, prepared, deal, clientCount: deal.shares.length, length, stepsPerRound };
  const world: Simulation = { ...made, strategy, serverStep, session, images, features, personal, split };
  const reach = async (run: Run, { bins }: FederationState): Promise<Reached> => ({
    transport: memoryTransport(clientsOf(world, run), { carriesVectors: session.info.backend === 'cuda' }),
    sharing: await sharingOf(settings, prepared, session, deal.shared),
    probing:
      strategy.needs &&
      (await probingOf(settings, features, { dataset: prepared.dataset, reference: bins ? undefined : deal.shared.images, signal })),
  });
  const dir = settings.out ?? (await freshFolder(FOLDER));
  return await trainFederation(world, { dir, config: configOf(world), reach, announce: (run) => announce(world, run, events) }, events);
}

/** Steps of the mean client in a round. */
function meanSteps({ shares, shared }: Deal, batch: number, length: Length): number {
  const stepsOf = (share: Share) => plannedSteps(share.train.length + shared.each, batch, length);
  return shares.reduce((sum, share) => sum + stepsOf(share), 0) / shares.length;
}

/** config.json of the run. */
function configOf({ settings, prepared, deal, length, strategy, serverStep, session, features, personal, split }: Simulation) {
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
function announce({ settings, deal, session, split }: Simulation, run: Run, { onMessage }: RunEvents): void {
  for (const text of run.warnings) onMessage?.({ level: 'warning', text });
  if (split) onMessage?.({ level: 'info', text: explainSplit(split, session.parameterCount) });
  if (deal.shared.count > 0) onMessage?.({ level: 'info', text: explainShared(settings, deal) });
  if (run.round > 0) onMessage?.({ level: 'info', text: `Continuing ${run.dir} after round ${run.round}.` });
}

/** The clients, all in this process. They share one Session and one copy of the images. */
function clientsOf({ settings, prepared, deal, session, images, features }: Simulation, run: Run) {
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
