// A model to sites over TLS, and an update of the same size from one of them: seconds of the put and the gets, and the memory that they
// add at a site and at the coordinator. Each site is a process of its own. With BENCH, the path of another program that prints the same
// figures, that is run as well, and both are compared.
// node --import=tsx scripts/transfer-sites.mjs [MEGABYTES [SITES [BENCH]]]    default 143 MB and 10 sites
import { execFileSync, fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Megabytes of memory now, and the most so far. */
const now = () => process.memoryUsage().rss / 1e6;
const most = () => (process.resourceUsage().maxRSS * 1024) / 1e6;
const round = (value) => Math.round(100 * value) / 100;

/** A site: connects, says that it is ready, and gets or puts when it is told. */
async function beSite({ credentials, server }) {
  const { connectSite } = await import('../src/net/connect.ts');
  const { blobOf } = await import('../src/fl/wire/message.ts');
  const wire = await connectSite({ credentials, save: async () => {}, servers: [server] });
  const begin = now();
  process.on('message', async ({ get, put }) => {
    if (get) {
      const bytes = await wire.get(get);
      const isRight = `sha256:${createHash('sha256').update(bytes).digest('hex')}` === get.name;
      process.send({ isRight, added: most() - begin });
    } else {
      const blob = await blobOf(new Uint8Array(put).fill(7));
      await wire.put(blob);
      process.send({ name: blob.name, length: blob.length });
    }
  });
  process.send({ ready: true });
}

const answerOf = (kid) =>
  new Promise((done, fail) => {
    kid.once('message', done);
    kid.once('exit', (code, signal) => fail(new Error(`a site ended (${signal ?? code})`)));
  });

async function measure(bytes, sites) {
  const { randomFillSync } = await import('node:crypto');
  const { blobOf } = await import('../src/fl/wire/message.ts');
  const { natsRig } = await import('../test/support/nats.ts');
  const rig = await natsRig('tls');
  const kids = [];
  let wire;
  try {
    const ids = Array.from({ length: sites }, (_, i) => `site-${i}`);
    const credentials = ids.map((id) => rig.credentials(id));
    wire = await rig.coordinator();
    for (const one of credentials) {
      const kid = fork(fileURLToPath(import.meta.url), ['site'], { execArgv: ['--import=tsx'] });
      kids.push(kid);
      kid.send({ credentials: one, server: `tls://127.0.0.1:${rig.port}` });
    }
    await Promise.all(kids.map(answerOf));
    const content = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += 2 ** 20) randomFillSync(content, at, Math.min(2 ** 20, bytes - at));
    const blob = await blobOf(content);
    const before = now();
    let begin = performance.now();
    const lap = () => {
      const took = (performance.now() - begin) / 1000;
      begin = performance.now();
      return round(took);
    };
    await wire.put(blob);
    const put = lap();
    const wanted = { get: { name: blob.name, length: blob.length } };
    const answers = kids.map(answerOf);
    begin = performance.now();
    for (const kid of kids) kid.send(wanted);
    const got = await Promise.all(answers);
    const get = lap();
    const coordinatorAdded = round(most() - before);
    const update = answerOf(kids[0]);
    kids[0].send({ put: bytes });
    const up = await update;
    const sitePut = lap();
    await wire.get(ids[0], up);
    const coordinatorGet = lap();
    const isRight = got.every((one) => one.isRight);
    const siteAdded = round(Math.max(...got.map(({ added }) => added)));
    return { isRight, put, get, sitePut, coordinatorGet, siteAdded, coordinatorAdded };
  } finally {
    for (const kid of kids) {
      kid.removeAllListeners('exit');
      kid.kill('SIGKILL');
    }
    await wire?.close();
    await rig.close();
  }
}

/** The same with the prototype, whose line of results is read. */
function prototype(program, bytes, sites) {
  const given = [program, String(bytes), String(sites), 'on', 'own'];
  const text = execFileSync(process.execPath, given, { cwd: dirname(program), encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
  const [, put, get] = /\bput ([\d.]+) s.*get x\d+ ([\d.]+) s/.exec(text) ?? [];
  if (!get) throw new Error(`The prototype printed no times: ${text}`);
  return { put: Number(put), get: Number(get) };
}

if (process.argv[2] === 'site') {
  process.once('disconnect', () => process.exit());
  process.once('message', (given) => {
    beSite(given).catch((error) => {
      console.error(error);
      process.exit(1);
    });
  });
} else {
  const [megabytes = 143, sites = 10] = process.argv.slice(2, 4).map(Number);
  const bench = process.argv[4] && resolve(process.argv[4]);
  const ours = await measure(megabytes * 1e6, sites);
  const theirs = bench && prototype(bench, megabytes * 1e6, sites);
  const ratio = theirs && { put: round(ours.put / theirs.put), get: round(ours.get / theirs.get) };
  console.log(JSON.stringify({ megabytes, sites, ...ours, prototype: theirs, ratio }));
  process.exit(ours.isRight ? 0 : 1);
}
