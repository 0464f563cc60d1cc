/**
 * One process of the federation in site-world.ts: `server`, `coordinator` or a site. It tells its parent each state that it comes to, and
 * kills itself at the one that the parent has named.
 * Arguments: role, folder, port of the server, port of its WebSocket, rounds, and the state at which it kills itself, if there is one.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { cohortOf } from '../../src/commands/coordinator/cohort.ts';
import { bookOf, readFederation } from '../../src/commands/coordinator/folder.ts';
import { exists, makeFolder, readJson, writeWhole } from '../../src/files.ts';
import { runFederation } from '../../src/fl/federation.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import type { FederationState } from '../../src/fl/state.ts';
import type { Transport } from '../../src/fl/transport.ts';
import { connectCoordinator, connectSite, enrol } from '../../src/net/connect.ts';
import { beginEnrolment, readInvitation, siteCredentials } from '../../src/net/credentials.ts';
import { startEngine } from '../../src/net/engine.ts';
import { signerOf, verifierOf } from '../../src/net/jwt.ts';
import { remoteTransport } from '../../src/net/remote.ts';
import { runSite } from '../../src/net/site.ts';
import { openSites } from '../../src/net/sites.ts';
import type { CoordinatorWire, SiteWire } from '../../src/net/wire.ts';
import { openFileStore } from '../../src/run/file-store.ts';
import { jsonRules } from '../../src/run/folder.ts';
import type { FromProcess, ToProcess } from './site-processes.ts';
import { beginState, clientOf, committedOf, decodeState, encodeState, federationOf, newSession, placesOf, SITES } from './site-world.ts';

const [role = '', folder = '', port, webSocketPort, rounds, dieFirstAt] = process.argv.slice(2);
const places = placesOf(folder);
const tell = (message: FromProcess) => void process.send?.(message);
let dieAt = dieFirstAt;
let skip = 0;

/** Comes to a state. */
function at(state: string): void {
  tell({ state });
  if (state === dieAt && skip-- <= 0) process.kill(process.pid, 'SIGKILL');
}
process.on('disconnect', () => process.exit());
if (!process.connected) process.exit();
process.on('message', (message: ToProcess) => {
  if ('dieAt' in message) [dieAt, skip] = [message.dieAt, message.skip];
});

async function serve(): Promise<void> {
  const federation = await readFederation(places.federation);
  const ports = { port: Number(port), webSocketPort: Number(webSocketPort), host: '127.0.0.1' };
  const engine = await startEngine({ federation, folder: places.engine, ...ports });
  process.on('message', (message: ToProcess) => {
    if ('killServer' in message) process.kill(engine.pid()!, 'SIGKILL');
    if ('stop' in message) engine.stop().then(() => process.exit());
  });
  at('ready');
}

async function coordinate(): Promise<void> {
  const book = bookOf(places.federation);
  const { seeds } = await book.read();
  const federation = () => book.read();
  let known = await federation();
  const update: typeof book.update = async (change) => {
    await book.update(change);
    known = await federation();
  };
  const connected = await connectCoordinator({ book: { ...book, update }, servers: [`tls://127.0.0.1:${port}`], patient: true });
  let asking = 'run';
  const wire: CoordinatorWire = {
    ...connected,
    put(blob, options) {
      at('put');
      return connected.put(blob, { ...options, onProgress: () => at('put') });
    },
    async want(site, value) {
      at(`want ${asking}`);
      await connected.want(site, value);
      at(`want ${asking}`);
    },
    get(site, blob, options) {
      at('get');
      return connected.get(site, blob, {
        ...options,
        onProgress(bytes) {
          options?.onProgress?.(bytes);
          at('get');
        },
      });
    },
    async keep(names) {
      at('purge');
      await connected.keep(names);
      at('purge');
    },
  };
  const keyOf = (site: string) => {
    const key = known.sites[site]?.key;
    return key === undefined ? undefined : verifierOf(key);
  };
  const sites = await openSites(wire, { phoenix: '1.2.3', key: signerOf(seeds.coordinator), keyOf });
  const remote = await remoteTransport(sites, { run: 'run', spec: Buffer.from('the spec') });
  await makeFolder(places.coordinator);
  const cohort = cohortOf(
    observed(remote, (kind) => (asking = kind)),
    {
      ...{ path: join(places.coordinator, 'round.json'), least: SITES.length },
      ...{ joining: () => [], isEnrolled: () => true, until: sites.until },
    },
  );
  const session = newSession();
  let state = (await exists(places.state)) ? await decodeState(session, await readFile(places.state)) : await beginState(session);
  const onRound = async (next: FederationState, record: RoundRecord) => {
    for (const { client, stage, reason } of record.failures) tell({ trouble: `round ${next.round}, ${client}, ${stage}: ${reason}` });
    const bytes = await encodeState(next);
    at('commit');
    await writeWhole(places.state, bytes);
    tell({ committed: await committedOf(next, record) });
    at('commit');
  };
  while (state.round < Number(rounds)) {
    at('round.json');
    await cohort.settle(state.round + 1);
    at('round.json');
    state = await runFederation(state, { ...federationOf(session), transport: cohort.transport, rounds: state.round + 1, onRound });
  }
  tell({ done: true });
}

/** The transport, with the states of the round that it shows. */
function observed(transport: Transport, onKind: (kind: string) => void): Transport {
  return {
    carriesVectors: false,
    lastSeen: (id) => transport.lastSeen!(id),
    traffic: () => transport.traffic(),
    close: () => transport.close(),
    get clients() {
      return transport.clients;
    },
    async *ask(ids, request, options) {
      let kind = '';
      const made = async (id: string) => {
        const one = await request(id);
        if (kind === '' && one.kind === 'upload') at('weigh');
        kind = one.kind;
        onKind(kind);
        return one;
      };
      try {
        for await (const outcome of transport.ask(ids, made, options)) {
          if (kind === 'train') at('reports');
          yield outcome;
        }
      } finally {
        if (kind === 'upload') at('step');
      }
    },
  };
}

async function beSite(id: string): Promise<void> {
  const path = places.credentials(id);
  const save = (value: object) => writeWhole(path, JSON.stringify(value), undefined, { mode: 0o600 });
  const where = places.invitation(id);
  const invitation = readInvitation(where, await readFile(where, 'utf8'));
  let credentials = (await exists(path)) ? await readJson(path, siteCredentials, jsonRules) : beginEnrolment(invitation);
  await save(credentials);
  while (!credentials.token) {
    at('enrol');
    // Server and coordinator may be away just now: as an administrator would, it tries again.
    const outcome = await enrol(invitation, credentials).catch((error: Error & { code?: string }) => error);
    if (!(outcome instanceof Error)) credentials = outcome;
    else if (outcome.code === 'ERR_PHOENIX_REFUSED') throw outcome;
    else await delay(100);
    at('enrol');
    if (credentials.token) await save(credentials);
  }
  const connected = await connectSite({ credentials, save, patient: true });
  const { store, session, trained } = await watchedClient(id);
  const saying: string[] = [];
  const wire: SiteWire = {
    ...connected,
    get(blob, options) {
      at('fetch');
      return connected.get(blob, { ...options, onProgress: () => at('fetch') });
    },
    put(blob, options) {
      at('put');
      return connected.put(blob, { ...options, onProgress: () => at('put') });
    },
    async has(value) {
      const what = saying.shift();
      if (what) at(`say ${what}`);
      await connected.has(value);
      at(what === 'trained' ? 'wait' : 'idle');
    },
  };
  const client = await clientOf(id, store, session);
  at('idle');
  await runSite(wire, {
    ...{ site: id, phoenix: '1.2.3', key: signerOf(credentials.seed), coordinator: verifierOf(credentials.coordinator) },
    join: async () => ({ client }),
    store: trained,
    onEvent(event) {
      if (event.type === 'answered' && event.kind === 'train') saying.push('trained');
      if (event.type === 'answered' && event.kind === 'upload') saying.push('uploaded');
      if (event.type === 'failed' || event.type === 'problem') tell({ trouble: JSON.stringify(event) });
    },
    signal: new AbortController().signal,
  });
}

/** A Store and a Session that tell of training and of the commit after it. */
async function watchedClient(id: string) {
  const trained = await openFileStore(places.store(id));
  const session = newSession();
  let isTraining = false;
  const store: typeof trained = {
    ...trained,
    async set(key, bytes) {
      if (isTraining) {
        isTraining = false;
        tell({ trained: true });
      }
      at('commit');
      await trained.set(key, bytes);
      at('commit');
    },
  };
  const { train } = session;
  session.train = (...given) => {
    isTraining = true;
    at('train');
    return train(...given);
  };
  return { trained, store, session };
}

const work = role === 'server' ? serve() : role === 'coordinator' ? coordinate() : beSite(role);
work.catch((error) => {
  tell({ trouble: `${role} ended: ${error.stack}` });
  setImmediate(() => process.exit(1));
});
