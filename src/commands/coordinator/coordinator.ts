/** The coordinator of a federation of real sites: a program beside a nats-server that sites reach, which runs rounds over them. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { withCallbacks } from '../../callbacks.ts';
import { plannedSteps } from '../../ddpm/fit.ts';
import { featureSource } from '../../ddpm/metrics/sources.ts';
import { unetModel } from '../../ddpm/model/unet.ts';
import { createSession } from '../../ddpm/session.ts';
import { PhoenixError } from '../../errors.ts';
import { exists, makeFolder, readJson, writeWhole } from '../../files.ts';
import { parsePersonal, splitParameters } from '../../fl/site/personal.ts';
import type { FederationState } from '../../fl/state.ts';
import { connectCoordinator } from '../../net/connect.ts';
import { newFederation, type Federation as Secrets } from '../../net/credentials.ts';
import { type Engine, startEngine } from '../../net/engine.ts';
import { signerOf, verifierOf } from '../../net/jwt.ts';
import { type Page, startPage } from '../../net/page/server.ts';
import { remoteTransport } from '../../net/remote.ts';
import { openSites, type Sites } from '../../net/sites.ts';
import { encodeSpec, type Spec, spec as specSchema } from '../../net/spec.ts';
import type { CoordinatorWire } from '../../net/wire.ts';
import { readLog } from '../../report/log.ts';
import type { Run } from '../../run/commit.ts';
import { isRunFolder, jsonRules, openRun } from '../../run/folder.ts';
import { takeLock } from '../../run/lock.ts';
import type { RunEvents, RunResult } from '../events.ts';
import { explainSplit, type Federation, lengthOfRound, trainFederation } from '../federation.ts';
import { type CoordinatorOptions, parseOptions, type Settings } from '../options/index.ts';
import { packageInfo } from '../package-info.ts';
import { checkGrid, type DataShape, describeRun, prepareModel } from '../prepare.ts';
import { probingOf, serverStepOf, strategyOf } from '../wiring.ts';
import { type Cohort, cohortOf } from './cohort.ts';
import { beginFederation, bookOf, holdFederation, isFederation, places, readFederation } from './folder.ts';
import { followOrders, give, type Ordered } from './orders.ts';
import { settlePace } from './pace.ts';
import { type Present, shapeOf, specOf, specText } from './plan.ts';
import {
  type CoordinatorEvents,
  gatherSites,
  joiningSites,
  type Running,
  reopen,
  stay,
  tellAll,
  untilLater,
  whilePaused,
} from './presence.ts';
import { factsOf, type Publishing, publishModel, readLicence } from './publish.ts';
import { openShared, type SharedData } from './shared-data.ts';
import { keeper } from './view.ts';

const STOPPED = 'The operator has stopped the coordinator. This site waits for its next start, and can be stopped meanwhile.';
/** Longest pause before a round that failed is repeated, in milliseconds. */
const LONGEST_PAUSE = 60_000;

/**
 * Runs a federation in its folder until the run is done: makes it if there is none, starts the server and the page, waits for sites,
 * settles the spec of the run, and runs its rounds. Called again it goes on where it was, whatever was killed. Resolves with undefined if
 * it was told to stop (`phoenix stop`): the round under way is given up then, and sites are told.
 * @throws PhoenixError as `federate`, and ERR_PHOENIX_NETWORK if server or page cannot be started; an abort rejects with `signal.reason`
 */
export function coordinate(options: CoordinatorOptions, events: CoordinatorEvents = {}): Promise<RunResult | undefined> {
  return withCallbacks('coordinate', events, (guarded) => runCoordinator(options, guarded));
}

async function runCoordinator(options: CoordinatorOptions, outer: CoordinatorEvents): Promise<RunResult | undefined> {
  const stopping = new AbortController();
  const signal = outer.signal ? AbortSignal.any([outer.signal, stopping.signal]) : stopping.signal;
  const events: CoordinatorEvents = { ...outer, signal };
  const settings = parseOptions('coordinator', options);
  const { federation: dir, port, tcpPort, natsServer, pagePort, run, lostAfter } = settings;
  const held = holdFederation(dir, await openFederation(dir, settings));
  const secrets = held.now;
  await makeFolder(places.engine(dir));
  const lock = await takeLock(places.engine(dir), { steal: settings.stealLock });
  const { version } = packageInfo();
  let sites: Sites | undefined;
  const keep = keeper({ federation: secrets, version, run, sites: () => sites, lostAfterSeconds: lostAfter });
  const onTrouble = (line: string) => keep.note('warning', line);
  let engine: Engine | undefined;
  let wire: CoordinatorWire | undefined;
  let page: Page | undefined;
  let unwatch = () => {};
  let orders: Ordered | undefined;
  try {
    engine = await startEngine({
      federation: secrets(),
      folder: places.engine(dir),
      port: tcpPort,
      webSocketPort: port,
      server: natsServer,
      onTrouble,
    });
    unwatch = held.watch(async (now, before) => {
      if (JSON.stringify(now.revoked) !== JSON.stringify(before.revoked)) await engine!.reload(now);
    });
    orders = await followOrders(dir, {
      stop: () => stopping.abort(new PhoenixError('ERR_PHOENIX_DISPOSED', `The coordinator of ${dir} was told to stop.`)),
    });
    wire = await connectCoordinator({
      book: held.book,
      servers: [engine.url],
      reload: (value) => engine!.reload(value),
      onEnrolment: ({ site, refused }) =>
        keep.note(refused ? 'warning' : 'info', refused ? `${site ?? 'an invitation'}: ${refused}` : `${site} has enrolled`),
    });
    wire.onLink((link) => keep.set({ engine: link }));
    sites = await openSites(wire, {
      phoenix: version,
      key: signerOf(secrets().seeds.coordinator),
      keyOf: verifiers((site) => secrets().sites[site]?.key),
      onIgnored: (site, why) => keep.note('warning', `${site}: ${why}`),
    });
    page = await startPage({
      view: keep.view,
      samples: keep.samples,
      port: pagePort,
      order: (verb) => give(verb, { federation: dir }),
    });
    keep.onChange(page.changed);
    sites.listen(page.changed);
    await writeWhole(places.coordinator(dir), `${JSON.stringify({ schema: 1, page: page.url, pid: process.pid, run })}\n`);
    await events.onReady?.({ page: page.url, servers: secrets().servers, version: engine.version });
    return await train({ dir, settings, events, sites, orders, keep, secrets, began: performance.now() });
  } catch (error) {
    if (!stopping.signal.aborted || error !== stopping.signal.reason) throw error;
    keep.set({ state: 'stopped', waiting: undefined });
    if (sites) await tellAll(sites, 'stopped', STOPPED);
    return undefined;
  } finally {
    unwatch();
    orders?.close();
    await page?.close();
    await wire?.close();
    await engine?.stop();
    await lock.release();
  }
}

/** What checks the signatures of sites. It is asked with every heartbeat, so each key is read once. */
function verifiers(keyOf: (site: string) => string | undefined) {
  const known = new Map<string, ReturnType<typeof verifierOf>>();
  return (site: string) => {
    const key = keyOf(site);
    if (key === undefined) return undefined;
    const verifier = known.get(key) ?? verifierOf(key);
    known.set(key, verifier);
    return verifier;
  };
}

/** The federation of a folder, with the addresses that the options say; a new one if there is none. */
async function openFederation(dir: string, { host, port, tcpPort }: Settings<'coordinator'>): Promise<Secrets> {
  const serversOf = (name: string) => [`wss://${name}:${port}`, `tls://${name}:${tcpPort}`];
  if (!(await isFederation(dir))) {
    const name = dir.split(/[/\\]/).filter(Boolean).at(-1) ?? 'federation';
    const made = newFederation({ name, servers: serversOf(host ?? 'localhost') });
    await beginFederation(dir, made);
    return made;
  }
  const found = await readFederation(dir);
  if (host === undefined || serversOf(host).join() === found.servers.join()) return found;
  const moved = { ...found, servers: serversOf(host) };
  await bookOf(dir).update((before) => ({ ...before, servers: moved.servers }));
  return moved;
}

/** Settles the spec, which never changes then, and trains. */
async function train(running: Running): Promise<RunResult> {
  const { dir, settings, events, sites, keep, secrets } = running;
  const runDir = places.run(dir, settings.run);
  const licence = await readLicence(settings.licence);
  const path = places.spec(dir, settings.run);
  const known = (await exists(path)) ? await readJson(path, specSchema, jsonRules) : undefined;
  const present = known ? [] : await gatherSites(running);

  const strategy = strategyOf(settings);
  const serverStep = serverStepOf(settings);
  const features = typeof settings.features === 'string' ? await featureSource(settings.features) : settings.features;
  const shape = known ? known.data : shapeOf(settings, present);
  const prepared = prepareModel(settings, shape);
  if (settings.personal === 'none') checkGrid(settings, prepared);
  using session = createSession({
    model: unetModel(prepared.unet),
    noise: prepared.noise,
    device: settings.device,
    threads: settings.threads,
  });
  const personal = parsePersonal(settings.personal);
  const split = personal && splitParameters(session.parameters, personal);
  const { parameterCount } = session;
  const cohort = Math.max(1, Math.ceil(settings.quorum * settings.fraction * (settings.sites ?? (present.length || 1))));
  const shared = await openShared(settings, shape, events);
  const federation = secrets().name;
  const made = { shared: shared?.facts, federation, settings, shape, prepared, parameterCount, strategy, features, personal, split };
  const spec = specOf({ ...made, cohort: known?.plan.cohort ?? cohort });
  if (!known) await confirm(running, spec, present, path);
  else requireSameSpec(settings.run, known, spec, path);

  const reachSites = () => remoteTransport(sites, { run: settings.run, spec: encodeSpec(spec), lostAfterSeconds: settings.lostAfter });
  const kept = cohortOf(await reachSites(), {
    path: places.round(dir, settings.run),
    least: spec.plan.cohort,
    joining: (took) => joiningSites(running, took),
    isEnrolled: (id) => sites.find(id) !== undefined,
    until: (check, signal) => untilLater(sites, check, signal),
    measure: (clients) => settlePace(clients, prepared.hyper.batch, running),
    onWaiting: (there, least) => {
      const text = `waiting for sites: ${there.length} of at least ${least} take part in the run`;
      events.onMessage?.({ level: 'info', text });
      keep.note('info', text);
    },
  });
  if (split) events.onMessage?.({ level: 'info', text: explainSplit(split, parameterCount) });
  const ready = { prepared, strategy, serverStep, session, features, personal, split };
  const publishing = publishingOf(running, spec, ready, licence);
  const result = await trainSites(running, kept, { ...ready, runDir, shape, publishing, shared });
  // The transport of the rounds is closed: who has no model yet gets it over another one.
  const transport = await reachSites();
  await publishModel(transport, publishing, true).finally(() => transport.close());
  keep.set({ state: 'done', waiting: undefined });
  const ended = `The run ${settings.run} is done after ${result.rounds} rounds.`;
  await tellAll(sites, 'done', `${ended} This site waits for another run, and can be stopped if none is to come.`);
  await stay(running);
  return result;
}

type Trained = Omit<Federation, 'settings' | 'clientCount' | 'length' | 'stepsPerRound'>;
type Ready = Trained & { runDir: string; shape: DataShape; publishing: Publishing; shared?: SharedData };

/** What the model of the run is given to sites with. */
function publishingOf({ dir, settings, events, sites, keep }: Running, spec: Spec, trained: Trained, licence: string | undefined) {
  const { run, lostAfter: lostAfterSeconds } = settings;
  const onMessage: Publishing['onMessage'] = (level, text) => {
    keep.note(level, text);
    events.onMessage?.({ level, text });
  };
  const siteVersions = () => sites.all().flatMap(({ has }) => has?.phoenix ?? []);
  const { session, split } = trained;
  const at = { runDir: places.run(dir, run), marker: places.published(dir, run), models: places.models(dir) };
  const facts = factsOf(settings, trained, licence);
  return { ...at, session, spec, split, facts, siteVersions, lostAfterSeconds, onMessage, signal: events.signal };
}

/** Trains over the sites that take part, from where the run stands. */
async function trainSites(running: Running, kept: Cohort, { runDir, shape, publishing, shared, ...ready }: Ready): Promise<RunResult> {
  const { settings, events, sites, keep, secrets } = running;
  const { prepared, strategy, serverStep, session, features, personal, split } = ready;
  if (await isRunFolder(runDir)) {
    const { round: done } = await openRun(runDir);
    keep.add(...(await readLog(join(runDir, 'log.jsonl'))).rounds.filter(({ round }) => round <= done));
  }
  await reopen(sites);
  // The first round's clients are needed for the plan: how many steps a mean site makes.
  await kept.settle((keep.view().history.at(-1)?.round ?? 0) + 1, events.signal);
  const { clients } = kept.transport;
  const length = lengthOfRound(settings);
  const stepsPerRound =
    clients.reduce((sum, { examples }) => sum + plannedSteps(examples, prepared.hyper.batch, length), 0) / clients.length;
  const world: Federation = { ...ready, settings: { ...settings, resume: true }, clientCount: clients.length, length, stepsPerRound };
  const { height, width, channels, classNames = [] } = shape;
  const { name } = secrets();
  const dataset = { name, fingerprint: 'sites', count: 0, height, width, channels, classNames };
  const described = { ...settings, data: name, strategy: strategy.name, features: features.name };
  const config = describeRun('federate', described, { ...prepared, dataset }, session, {
    length: { ...length, optimizer: settings.optimizer },
    serverStep,
    personal: split && { patterns: personal, parameters: split.names, values: split.personalCount },
    clients: [],
  });
  const { quorum, lostAfter: lostAfterSeconds, grace: graceSeconds, deadline: deadlineSeconds } = settings;
  const from = shared && { ...shared.reference, signal: events.signal };
  const reach = async (_: Run, { bins }: FederationState) => ({
    transport: kept.transport,
    sharing: shared?.sharing,
    probing: strategy.needs && (await probingOf(settings, features, bins ? undefined : from)),
    waiting: { quorum, lostAfterSeconds, graceSeconds, deadlineSeconds },
    ...(settings.roundSeconds !== undefined && { mostImages: (client: { id: string }) => kept.mostImages(client.id), normalise: true }),
    ready: () => whilePaused(running),
    ...rounds(running, kept, publishing),
  });
  return await trainFederation(world, { dir: runDir, config, mayChange: MAY_CHANGE, reach }, watching(running));
}

/** Options that say how the coordinator works, not what is learnt. */
const MAY_CHANGE = [
  ...['federation', 'sites', 'yes', 'host', 'port', 'tcpPort', 'natsServer', 'stay', 'pagePort'],
  ...['quorum', 'grace', 'deadline', 'lostAfter', 'sharedData', 'publishEvery', 'licence', 'roundSeconds'],
].map((name) => `options.${name}`);

/** Shows the spec, and writes it once it is confirmed. */
async function confirm({ settings, events }: Running, spec: Spec, present: Present[], path: string): Promise<void> {
  const text = specText(spec, present);
  for (const line of text) events.onMessage?.({ level: 'info', text: line });
  if (!settings.yes && events.onConfirm && !(await events.onConfirm(text, spec)))
    throw new PhoenixError('ERR_PHOENIX_CONFIG', 'The run was not begun: its spec was not confirmed.');
  await makeFolder(join(path, '..'));
  await writeWhole(path, `${JSON.stringify(spec, null, 1)}\n`);
}

/** What a run was begun with never changes. @throws PhoenixError ERR_PHOENIX_CONFIG */
function requireSameSpec(run: string, known: Spec, spec: Spec, path: string): void {
  const settled = (value: Spec) => JSON.stringify(specSchema.parse(value));
  if (settled(known) === settled(spec)) return;
  throw new PhoenixError(
    'ERR_PHOENIX_CONFIG',
    `The run ${run} was begun with other options: its spec (${path}) never changes. Give it those options, or begin another run (--run NAME).`,
  );
}

/** What is done around each round: who takes part, and what happens if too few do. */
function rounds(running: Running, cohort: Cohort, publishing: Publishing) {
  const { keep, events, settings } = running;
  const { publishEvery } = settings;
  let pause = 1000;
  return {
    async beforeRound(round: number) {
      await whilePaused(running);
      await cohort.settle(round, events.signal);
      if (publishEvery > 0 && (round - 1) % publishEvery === 0) await publishModel(cohort.transport, publishing, false);
      keep.set({ state: 'running', round, waiting: { what: 'the reports', sites: cohort.transport.clients.map(({ id }) => id) } });
    },
    /** A round that too few came through is repeated, later each time. */
    async again(error: unknown, round: number) {
      if (!(error instanceof PhoenixError) || error.code !== 'ERR_PHOENIX_ROUND') return false;
      const text = `${error.message} Round ${round} is repeated in ${Math.round(pause / 1000)} seconds.`;
      keep.note('warning', text);
      events.onMessage?.({ level: 'warning', text });
      await delay(pause, undefined, { signal: events.signal }).catch(() => events.signal?.throwIfAborted());
      pause = Math.min(2 * pause, LONGEST_PAUSE);
      cohort.unsettle();
      return true;
    },
  };
}

/** The events of the run, which the page shows as well. */
function watching({ dir, settings, keep, events }: Running): RunEvents {
  return {
    ...events,
    onStart(event) {
      keep.set({ rounds: event.rounds, round: event.round });
      return events.onStart?.(event);
    },
    onMessage(event) {
      keep.note(event.level, event.text);
      events.onMessage?.(event);
    },
    async onRound(record) {
      const grid = join(places.run(dir, settings.run), `samples-${record.round}.png`);
      if (await exists(grid)) keep.draw(record.round, await readFile(grid));
      keep.add(record);
      for (const { client, stage, reason } of record.failures) keep.note('warning', `${client} failed (${stage}): ${reason}`);
      return events.onRound?.(record);
    },
  };
}
