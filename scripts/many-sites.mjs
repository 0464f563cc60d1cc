// Rounds of many sites with real connections over TLS and stubbed training: how long a round takes, and whether that grows in proportion.
// Sites live in a few processes, many in each; each has its own keys, connections and heartbeats. Prints a row for each number of sites,
// and how far the middle ones are from a straight line through the first and the last. ulimit -n must allow 6 files for each site.
// node --import=tsx scripts/many-sites.mjs [N[,N…] [ROUNDS [VALUES]]]    default 250,500,1000 sites, 3 rounds, 10,000 values of a model
import { fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const { range } = await import('../test/support/fake-federation.ts');
const { fakeImages, fakeSession } = await import('../test/support/fake-session.ts');
const { fakeVector } = await import('../test/support/fake-vector.ts');
const { testFit } = await import('../test/support/plain-fit.ts');
const { signerOf, verifierOf } = await import('../src/net/jwt.ts');
const SEED = 3;
const PHOENIX = '1.2.3';

/** A process of many sites: it is sent their credentials. */
async function beSites({ credentials, values }) {
  const { connectSite } = await import('../src/net/connect.ts');
  const { runSite } = await import('../src/net/site.ts');
  const { createClient } = await import('../src/fl/site/client.ts');
  const { memoryStore } = await import('../src/fl/store.ts');
  const images = fakeImages(1000);
  const serve = async (given) => {
    const store = memoryStore();
    const own = { images, train: range(0, 8), heldOut: range(30, 2), store, seed: SEED, secret: 5n, createVector: fakeVector };
    const client = createClient({ id: given.site, session: fakeSession({ length: values }), ...own });
    const wire = await connectSite({ credentials: given, save: async () => {}, patient: true });
    await runSite(wire, {
      ...{ site: given.site, phoenix: PHOENIX, key: signerOf(given.seed), coordinator: verifierOf(given.coordinator), store },
      join: async () => ({ client }),
      signal: new AbortController().signal,
    });
  };
  await Promise.all(credentials.map(serve));
}

/** @returns seconds of each round, of the beginning, and what the server and this process hold in memory */
async function measure(sites, rounds, values, processes) {
  const { readFile } = await import('node:fs/promises');
  const { setMaxListeners } = await import('node:events');
  const { connectCoordinator } = await import('../src/net/connect.ts');
  const credential = await import('../src/net/credentials.ts');
  const { startEngine } = await import('../src/net/engine.ts');
  const { openSites } = await import('../src/net/sites.ts');
  const { remoteTransport } = await import('../src/net/remote.ts');
  const { initialState, runFederation } = await import('../src/fl/federation.ts');
  const { fedavg } = await import('../src/fl/strategies/fedavg.ts');
  const { freePorts, memoryBook } = await import('../test/support/nats.ts');
  const [port, webSocketPort] = await freePorts(2);
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-many-'));
  let federation = credential.newFederation({ name: 'many', servers: [`wss://127.0.0.1:${webSocketPort}`] });
  const credentials = [];
  for (let i = 0; i < sites; i++) {
    const invited = credential.inviteSite(federation, `site-${String(i).padStart(5, '0')}`);
    const begun = credential.beginEnrolment(invited.invitation);
    const enrolled = credential.enrolSite(
      invited.federation,
      credential.publicKey(invited.invitation.seed),
      credential.publicKey(begun.seed),
    );
    federation = enrolled.federation;
    credentials.push({ ...begun, token: enrolled.answer.token });
  }
  const book = memoryBook(federation);
  const engine = await startEngine({ folder, federation, port, webSocketPort, host: '127.0.0.1' });
  const kids = [];
  let wire;
  let transport;
  try {
    wire = await connectCoordinator({ book, servers: [engine.url], reload: (changed) => engine.reload(changed) });
    const verifiers = new Map(credentials.map(({ site, seed }) => [site, verifierOf(credential.publicKey(seed))]));
    const open = await openSites(wire, {
      phoenix: PHOENIX,
      key: signerOf(federation.seeds.coordinator),
      keyOf: (site) => verifiers.get(site),
    });
    transport = await remoteTransport(open, { run: 'run', spec: Buffer.from('the spec') });
    let begin = performance.now();
    const lap = () => {
      const took = (performance.now() - begin) / 1000;
      begin = performance.now();
      return Math.round(100 * took) / 100;
    };
    const share = Math.ceil(sites / processes);
    let broken;
    const failed = new Promise((_, reject) => {
      broken = reject;
    });
    failed.catch(() => {});
    for (let i = 0; i < sites; i += share) {
      const kid = fork(fileURLToPath(import.meta.url), ['sites'], { execArgv: ['--import=tsx'] });
      kid.send({ credentials: credentials.slice(i, i + share), values });
      kid.once('exit', (code, signal) => broken(new Error(`a process of sites ended (${signal ?? code})`)));
      kids.push(kid);
    }
    await Promise.race([failed, open.until(() => transport.clients.length === sites)]);
    const joined = lap();
    const session = fakeSession({ length: values });
    const strategy = fedavg();
    const plain = { strategy, seed: SEED, createVector: fakeVector };
    const seconds = [];
    let failures = 0;
    const onRound = (_, record) => {
      seconds.push(lap());
      failures += record.failures.length;
    };
    const stopping = new AbortController();
    setMaxListeners(0, stopping.signal);
    const fit = testFit({ epochs: 1 });
    const state = await initialState({ session, ...plain });
    await Promise.race([failed, runFederation(state, { ...plain, fit, parameters: session.parameters, transport, rounds, onRound })]);
    const status = await readFile(`/proc/${engine.pid()}/status`, 'utf8').catch(() => '');
    const serverMegabytes = Math.round(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024);
    const coordinatorMegabytes = Math.round(process.resourceUsage().maxRSS / 1024);
    const median = [...seconds].sort((a, b) => a - b)[Math.floor((seconds.length - 1) / 2)];
    return { sites, joined, seconds, median, failures, serverMegabytes, coordinatorMegabytes };
  } finally {
    for (const kid of kids) {
      kid.removeAllListeners('exit');
      kid.kill('SIGKILL');
    }
    await transport?.close();
    await wire?.close();
    await engine.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

/** How far the rows in the middle are from a straight line through the first and the last, as a share. */
function bend(rows) {
  const [first, last] = [rows[0], rows.at(-1)];
  const slope = (last.median - first.median) / (last.sites - first.sites);
  return rows.slice(1, -1).map(({ sites, median }) => {
    const straight = first.median + slope * (sites - first.sites);
    return { sites, off: Math.round(1000 * (median / straight - 1)) / 1000 };
  });
}

if (process.argv[2] === 'sites') {
  process.once('disconnect', () => process.exit());
  process.once('message', (given) => {
    beSites(given).catch((error) => {
      console.error(error);
      process.exit(1);
    });
  });
} else {
  const numbers = (process.argv[2] ?? '250,500,1000').split(',').map(Number);
  const [rounds = 3, values = 10_000] = process.argv.slice(3).map(Number);
  const rows = [];
  for (const sites of numbers) {
    rows.push(await measure(sites, rounds, values, Math.min(8, Math.ceil(sites / 25))));
    console.error(JSON.stringify(rows.at(-1)));
  }
  console.table(rows.map(({ seconds, ...row }) => ({ ...row, seconds: seconds.join(' ') })));
  console.log(JSON.stringify({ rounds, values, rows, bend: numbers.length > 2 ? bend(rows) : [] }));
  process.exit(rows.every(({ failures }) => failures === 0) ? 0 : 1);
}
