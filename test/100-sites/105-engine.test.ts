/** The server is found, started, started again when it is killed, and stopped; transfers and values outlive that, also in a cluster. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { connectCoordinator, connectSite } from '../../src/net/connect.ts';
import { beginEnrolment, enrolSite, inviteSite, newFederation, publicKey } from '../../src/net/credentials.ts';
import { type Engine, findServer, serverConfig, startEngine } from '../../src/net/engine.ts';
import { testBlob } from '../contracts/wire.ts';
import { freePorts, memoryBook, natsRig, noServer } from '../support/nats.ts';

const real = noServer ? test.skip : test.serial;

/** A program that says that it is a nats-server of a version. */
async function fakeServer(folder: string, version: string): Promise<string> {
  const path = join(folder, 'nats-server');
  await writeFile(path, `#!/bin/sh\necho "nats-server: v${version}"\n`);
  await chmod(path, 0o755);
  return path;
}

test('a server is found by its version; without one, it is said how to install it', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-engine-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const path = await fakeServer(folder, '2.10.27');
  t.deepEqual(await findServer(path), { path, version: [2, 10, 27] });
  await fakeServer(folder, '2.8.4');
  await t.throwsAsync(findServer(path), { code: 'ERR_PHOENIX_CONFIG', message: /is 2\.8\.4/ });
  await t.throwsAsync(findServer(join(folder, 'none')), { code: 'ERR_PHOENIX_CONFIG', message: /none is none\..*nats-server/ });
});

test('the configuration: the store is brought to the disk at once where the server can', (t) => {
  const federation = newFederation({ name: 'a', servers: ['wss://a:1'] });
  t.regex(serverConfig(federation, '/x', [2, 10, 0]), /sync_interval: always/);
  const old = serverConfig(federation, '/x', [2, 9, 10]);
  t.notRegex(old, /sync_interval/);
  for (const secret of Object.values(federation.seeds)) t.false(old.includes(secret));
});

real('killed in mid-transfer, the server is started again, and all arrives', async (t) => {
  const rig = await natsRig();
  t.teardown(() => rig.close());
  const [coordinator, site] = await Promise.all([rig.coordinator(), rig.site('a')]);
  t.is((await stat(join(rig.folder, 'key.pem'))).mode & 0o777, 0o600);
  t.is((await stat(join(rig.folder, 'server.conf'))).mode & 0o777, 0o600);
  const blob = testBlob(12_000_000, 1);
  const first = rig.engine().pid()!;
  let killed = false;
  const kill = (bytes: number) => {
    if (killed || bytes < 3_000_000) return;
    killed = true;
    process.kill(rig.engine().pid()!, 'SIGKILL');
  };
  await Promise.all([site.put(blob, { onProgress: kill }), site.has(Buffer.from('has'))]);
  t.true(killed);
  t.not(rig.engine().pid(), first);
  t.true(rig.troubles.some((line) => /ended \(SIGKILL\)/.test(line)));
  killed = false;
  const got = await coordinator.get('a', blob, { onProgress: kill });
  t.true(killed);
  t.true(Buffer.from(blob.content).equals(got));
  t.is(Buffer.from((await coordinator.lastHas('a'))!).toString(), 'has');
  await Promise.all([site.close(), coordinator.close()]);
});

real('a server that an earlier process left running is ended; a port in use is said', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-engine-'));
  const [port, webSocketPort] = (await freePorts(2)) as [number, number];
  const options = {
    folder,
    port,
    webSocketPort,
    host: '127.0.0.1',
    federation: newFederation({ name: 'a', servers: [`tls://127.0.0.1:${port}`] }),
  };
  await (await startEngine(options)).stop();
  // As a coordinator that was killed leaves it: running, with its number in a file.
  const { path } = await findServer();
  const left = spawn(path, ['-c', join(folder, 'server.conf')], { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(left, 'exit');
  for await (const text of left.stderr.setEncoding('utf8')) if (/Server is ready/.test(text)) break;
  const next = await startEngine(options);
  await ended;
  t.not(next.pid(), left.pid);
  await next.stop();
  const busy = net.createServer();
  await new Promise<void>((resolve) => busy.listen(port, '127.0.0.1', resolve));
  await t.throwsAsync(startEngine(options), { code: 'ERR_PHOENIX_NETWORK', message: /in use by another program/ });
  await new Promise((resolve) => busy.close(resolve));
  await rm(folder, { recursive: true });
});

real('quotas of many sites that add up to more than the disk: each site gets its stream', async (t) => {
  const rig = await natsRig('tls', { uploadBytes: 2 ** 45 });
  t.teardown(rig.close);
  const coordinator = await rig.coordinator();
  for (const id of ['a', 'b']) {
    const site = await rig.site(id);
    const blob = testBlob(1000, 1);
    await site.has(Buffer.from('here'));
    await site.put(blob);
    t.true(Buffer.from(blob.content).equals(await coordinator.get(id, blob)));
    await site.close();
  }
  await coordinator.close();
});

real('a cluster of three servers: one is killed in mid-transfer, and all arrives', async (t) => {
  const ports = await freePorts(9);
  const name = ['one', 'two', 'three'];
  const urls = name.map((_, i) => `tls://127.0.0.1:${ports[i]}`);
  const book = memoryBook(newFederation({ name: 'lung', servers: urls, replicas: 3 }));
  const { federation, invitation } = inviteSite(book.now, 'a');
  const begun = beginEnrolment(invitation);
  const outcome = enrolSite(federation, publicKey(invitation.seed), publicKey(begun.seed));
  if (!('token' in outcome.answer)) return t.fail(outcome.answer.refused);
  book.now = outcome.federation;
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-cluster-'));
  const routes = name.map((_, i) => `nats-route://127.0.0.1:${ports[6 + i]}`);
  const engines: Engine[] = await Promise.all(
    name.map((one, i) =>
      startEngine({
        folder: join(folder, one),
        federation: book.now,
        host: '127.0.0.1',
        port: ports[i],
        webSocketPort: ports[3 + i],
        onTrouble: (line) => t.log(line),
        cluster: { name: 'lung', port: ports[6 + i]!, routes },
      }),
    ),
  );
  t.teardown(async () => {
    await Promise.all(engines.map((engine) => engine.stop()));
    await rm(folder, { recursive: true, force: true });
  });
  const coordinator = await connectCoordinator({ book, servers: urls });
  const site = await connectSite({ credentials: { ...begun, token: outcome.answer.token }, save: async () => {} });
  const blob = testBlob(8_000_000, 2);
  let stopped: Promise<void> | undefined;
  // The one that both are connected to, for good.
  const kill = (bytes: number) => {
    if (bytes > 2_000_000) stopped ??= engines[0]!.stop();
  };
  await Promise.all([site.put(blob, { onProgress: kill }), coordinator.want('a', Buffer.from('wanted')), site.has(Buffer.from('had'))]);
  await stopped;
  t.true(Buffer.from(blob.content).equals(await coordinator.get('a', blob)));
  t.is(Buffer.from((await coordinator.lastHas('a'))!).toString(), 'had');
  await site.watchWant((value) => t.is(Buffer.from(value).toString(), 'wanted'));
  await Promise.all([site.close(), coordinator.close()]);
});
