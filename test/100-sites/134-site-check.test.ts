/** phoenix site check: each step by its name, the first that fails with what to do. */
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { checkSite } from '../../src/commands/site/check.ts';
import { inviteSite, newFederation } from '../../src/net/credentials.ts';
import { freePorts, natsRig, noServer } from '../support/nats.ts';
import { siteRig } from '../support/site-rig.ts';

const withServer = noServer ? test.skip : test.serial;

test('without a server the step is named, and those behind it are left out', async (t) => {
  const rig = await siteRig(t);
  const file = await rig.invite('north');
  const [port] = await freePorts(1);
  const options = { file, home: rig.home, data: 'synthetic:12' };
  const steps = async (server: string) => {
    const checks = await checkSite({ ...options, server });
    return { names: checks.map(({ step }) => step), failed: checks.filter(({ ok, step }) => !ok && step !== 'disk') };
  };
  const tcp = await steps(`tls://127.0.0.1:${port}`);
  t.deepEqual(tcp.names, ['invitation', 'dns', 'tcp', 'disk', 'device', 'data']);
  t.deepEqual(
    tcp.failed.map(({ step }) => step),
    ['tcp'],
  );
  t.regex(tcp.failed[0]!.text, /Nothing listens there: is the coordinator running/);
  const dns = await steps('wss://no-such-host.invalid:443');
  t.deepEqual(
    dns.failed.map(({ step }) => step),
    ['dns'],
  );
  t.regex(dns.failed[0]!.text, /name server/);
  const web = createServer();
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve));
  t.teardown(() => web.close());
  const tls = await steps(`wss://127.0.0.1:${(web.address() as AddressInfo).port}`);
  t.deepEqual(
    tls.failed.map(({ step }) => step),
    ['tls'],
  );
  await t.throwsAsync(checkSite({ ...options, server: 'http://x' }), { code: 'ERR_PHOENIX_ARGUMENT' });
  const [nothing] = await checkSite({ home: rig.home, file: join(rig.folder, 'none.phoenix') });
  t.like(nothing, { step: 'invitation', ok: false });
});

withServer('with a server every step is right, or names whose certificate came', async (t) => {
  const rig = await natsRig('wss');
  t.teardown(rig.close);
  const made = inviteSite(rig.book.now, 'north');
  const file = join(rig.folder, 'north.phoenix');
  await writeFile(file, JSON.stringify(made.invitation));
  const options = { file, home: join(rig.folder, 'home'), data: 'synthetic:12' };
  const checks = await checkSite(options);
  t.deepEqual(
    checks.map(({ step, ok }) => `${step} ${step === 'disk' || ok}`),
    ['invitation', 'dns', 'tcp', 'tls', 'login', 'clock', 'disk', 'device', 'data'].map((step) => `${step} true`),
  );
  const other = inviteSite(newFederation({ name: 'lung', servers: made.invitation.servers }), 'north');
  await writeFile(file, JSON.stringify(other.invitation));
  const failed = (await checkSite(options)).filter(({ ok }) => !ok);
  t.is(failed[0]?.step, 'tls');
  t.regex(failed[0]!.text, /not the one of this federation: CN=phoenix, signed by CN=phoenix/);
});
