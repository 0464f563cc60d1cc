/**
 * What a server refuses: every right that a site has not, credentials that are not valid, and whatever else stands in the way, with advice.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type NatsConnection, headers as newHeaders } from '@nats-io/nats-core';
import { createUser } from '@nats-io/nkeys';
import test, { type ExecutionContext } from 'ava';
import { connectSite, enrol } from '../../src/net/connect.ts';
import { beginEnrolment, inviteSite, newFederation, publicKey, revokeSite, type SiteCredentials } from '../../src/net/credentials.ts';
import { keyOf, seconds, seedOf, userToken } from '../../src/net/jwt.ts';
import { INVITATION_LIMITS, inboxOf, invitationRights, SITE_LIMITS, siteRights, tokenOf, upOf } from '../../src/net/subjects.ts';
import type { SiteWire } from '../../src/net/wire.ts';
import { ConnectError, type DialOptions, dial, type Step } from '../../src/net/wires/dial.ts';
import { testBlob } from '../contracts/wire.ts';
import { connectProxy, freePorts, natsRig, noServer, type Rig } from '../support/nats.ts';

let rig: Rig;
const real = noServer ? test.skip : test.serial;
if (!noServer) {
  test.before(async () => {
    rig = await natsRig('tls', { uploadBytes: 1_000_000 });
  });
  test.after.always(() => rig?.close());
}

const dialOf = (credentials: SiteCredentials): DialOptions => ({
  servers: [rig.engine().url],
  certificate: credentials.certificate,
  token: credentials.token!,
  seed: credentials.seed,
  inbox: inboxOf(tokenOf(credentials.site)),
});

/** Resolves with what the server says to a publish or subscription that it refuses. */
function violation(connection: NatsConnection): Promise<string> {
  return (async () => {
    for await (const status of connection.status()) if (status.type === 'error') return status.error.message;
    return 'the connection ended';
  })();
}

real('a site may do what it must, and nothing else', async (t) => {
  const coordinator = await rig.coordinator();
  const [a, b] = [await rig.site('a'), await rig.site('b')];
  const blob = testBlob(10, 1);
  await Promise.all([coordinator.want('a', Buffer.from('for a')), coordinator.want('b', Buffer.from('for b')), coordinator.put(blob)]);
  await Promise.all([a.has(Buffer.from('of a')), b.has(Buffer.from('of b')), b.put(blob)]);
  const connection = await dial(dialOf(rig.credentials('a')));
  const [at, bt] = [tokenOf('a'), tokenOf('b')];
  const hash = blob.name.slice(7);
  const direct = (stream: string, subject: string) => `$JS.API.DIRECT.GET.${stream}.${subject}`;
  const refused: Record<string, string> = {
    'to speak as another site': `px.has.${bt}`,
    'a heartbeat of another site': `px.alive.${bt}`,
    'to put for another site': `${upOf('b').prefix}.${hash}.1`,
    'to want': `px.want.${at}`,
    'to overwrite a piece of the coordinator': `px.b.${hash}.0`,
    "to read another site's want": direct('PX_WANT', `px.want.${bt}`),
    "to read another site's has": direct('PX_HAS', `px.has.${bt}`),
    "to read another site's blob": direct(upOf('b').stream, `${upOf('b').prefix}.${hash}.0`),
    "to look into another site's stream": `$JS.API.STREAM.INFO.${upOf('b').stream}`,
    "to empty another site's stream": `$JS.API.STREAM.PURGE.${upOf('b').stream}`,
    'to empty the stream of wants': '$JS.API.STREAM.PURGE.PX_WANT',
    'to delete its stream': `$JS.API.STREAM.DELETE.${upOf('a').stream}`,
    'to make a stream': '$JS.API.STREAM.CREATE.EVIL',
    'to make a consumer': '$JS.API.CONSUMER.CREATE.PX_WANT',
    'to list the streams': '$JS.API.STREAM.NAMES',
    'a token of another site': `px.renew.${bt}`,
    'to enrol': `px.enrol.${publicKey(rig.credentials('b').seed)}`,
    'whatever else': 'anything',
  };
  for (const [what, subject] of Object.entries(refused)) {
    const said = violation(connection);
    connection.publish(subject, '{}');
    t.regex(await said, /Permissions Violation for Publish/, what);
  }
  for (const subject of ['>', `px.want.${bt}`, 'px.want.*', 'px.has.*', 'px.up.>', `${inboxOf(bt)}.>`, '_INBOX.>', '$JS.API.>', '$SYS.>']) {
    const said = violation(connection);
    connection.subscribe(subject, { callback: () => {} });
    t.regex(await said, /Permissions Violation for Subscription/, subject);
  }
  const message = await connection.request(direct('PX_WANT', `px.want.${at}`));
  t.is(message.string(), 'for a', 'its own it reads');
  t.is(Buffer.from((await coordinator.lastHas('b'))!).toString(), 'of b');
  await Promise.all([connection.close(), a.close(), b.close(), coordinator.close()]);
});

real('a server that is made to answer to the subject of another site: that is no word of the other', async (t) => {
  const coordinator = await rig.coordinator();
  const [a, b] = [await rig.site('a'), await rig.site('b')];
  const heard: string[] = [];
  await coordinator.watchHas((site, value) => heard.push(`${site}: ${Buffer.from(value)}`));
  await b.has(Buffer.from('true'));
  const connection = await dial(dialOf(rig.credentials('a')));
  const [at, bt] = [tokenOf('a'), tokenOf('b')];
  const headers = newHeaders();
  headers.set('Px-By', 'forger');
  headers.set('Px-Count', '7');
  await connection.request(`px.has.${at}`, 'forged', { headers, timeout: 10_000 });
  // Servers do not ask whether a client may publish to the subject that it wants the answer at.
  connection.publish(`$JS.API.DIRECT.GET.PX_HAS.px.has.${at}`, undefined, { reply: `px.has.${bt}` });
  await connection.flush();
  // The answer is there once the last value of b is another.
  const bare = await rig.bare();
  for (let last = ''; !last.includes('forged'); ) last = (await bare.request(`$JS.API.DIRECT.GET.PX_HAS.px.has.${bt}`)).string();
  t.is(await coordinator.lastHas('b'), undefined);
  t.false(heard.includes('b: forged'));
  await b.has(Buffer.from('true again'));
  t.is(Buffer.from((await coordinator.lastHas('b'))!).toString(), 'true again', 'the site goes on: this is no second process of its own');
  await Promise.all([connection.close(), bare.close(), a.close(), b.close(), coordinator.close()]);
});

real('a site that stores more than its quota is refused for good', async (t) => {
  const coordinator = await rig.coordinator();
  const site = await rig.site('greedy');
  await t.throwsAsync(site.put(testBlob(3_000_000, 2)), { code: 'ERR_PHOENIX_NETWORK', message: /used up/ });
  await site.keep(new Set());
  await site.put(testBlob(500_000, 3));
  await Promise.all([site.close(), coordinator.close()]);
});

const refusesLogin = async (t: ExecutionContext, credentials: SiteCredentials, message: RegExp) => {
  const error = await t.throwsAsync(connectSite({ credentials, save: async () => {}, servers: [rig.engine().url] }), {
    instanceOf: ConnectError,
  });
  t.is((error as ConnectError).step, 'login');
  t.is((error as ConnectError).code, 'ERR_PHOENIX_REFUSED');
  t.regex(error!.message, message);
  t.regex(error!.message, /phoenix invite/);
};

real('credentials that are not valid are refused, and not tried again', async (t) => {
  const good = rig.credentials('c');
  const stranger = seedOf(createUser());
  await refusesLogin(t, { ...good, seed: stranger }, /refuses these credentials/);
  await refusesLogin(t, { ...good, token: rig.credentials('a').token }, /refuses these credentials/);
  const sign = (account: string, expires: number) =>
    userToken(publicKey(good.seed), keyOf(account), { name: 'c', rights: siteRights('c'), expires, ...SITE_LIMITS });
  const other = newFederation({ name: 'other', servers: ['tls://127.0.0.1:1'] });
  await refusesLogin(t, { ...good, token: sign(other.seeds.account, seconds() + 1000) }, /of another federation/);
  await refusesLogin(t, { ...good, token: sign(rig.book.now.seeds.account, seconds() - 10) }, /were valid until/);
});

/** Resolves with the error that a wire ends with. */
const endOf = (wire: { get(blob: { name: string; length: number }): Promise<unknown> }) =>
  wire.get(testBlob(1, 99)).then(
    () => new Error('it goes on'),
    (error: Error) => error,
  );

real('credentials that expire or are revoked while connected end the wire', async (t) => {
  const short = rig.credentials('short');
  const token = userToken(publicKey(short.seed), keyOf(rig.book.now.seeds.account), {
    name: 'short',
    rights: siteRights('short'),
    expires: seconds() + 2,
    ...SITE_LIMITS,
  });
  const wire = await connectSite({ credentials: { ...short, token }, save: async () => {}, servers: [rig.engine().url] });
  t.like(await endOf(wire), { code: 'ERR_PHOENIX_REFUSED' });

  const [revoked, other] = [await rig.site('revoked'), await rig.site('other')];
  const ended = endOf(revoked);
  rig.book.now = revokeSite(rig.book.now, 'revoked');
  await rig.engine().reload(rig.book.now);
  t.like(await ended, { code: 'ERR_PHOENIX_REFUSED' });
  await refusesLogin(t, rig.credentials('revoked'), /revoked/);
  const coordinator = await rig.coordinator();
  await other.has(Buffer.from('still here'));
  await Promise.all([wire.close(), revoked.close(), other.close(), coordinator.close()]);
});

real('a site enrols over the network, once; its token is renewed while it is connected', async (t) => {
  const coordinator = await rig.coordinator();
  const { federation, invitation } = inviteSite(rig.book.now, 'new');
  rig.book.now = federation;
  const begun = beginEnrolment(invitation);
  const enrolled = await enrol(invitation, begun);
  t.is(enrolled.seed, begun.seed);
  t.deepEqual(Object.keys(await enrol(invitation, begun)), Object.keys(enrolled), 'the same key may ask again');
  await t.throwsAsync(enrol(invitation, beginEnrolment(invitation)), { code: 'ERR_PHOENIX_REFUSED', message: /used already/ });
  const by = publicKey(invitation.seed);
  const past = { name: 'x', rights: invitationRights(by), expires: seconds() - 5, ...INVITATION_LIMITS };
  const expired = { ...invitation, token: userToken(by, keyOf(rig.book.now.seeds.account), past) };
  await t.throwsAsync(enrol(expired, beginEnrolment(expired)), {
    code: 'ERR_PHOENIX_REFUSED',
    message: /valid until/,
  });
  const invited = await dial({
    ...dialOf(enrolled),
    token: invitation.token,
    seed: invitation.seed,
    inbox: inboxOf(publicKey(invitation.seed)),
  });
  const said = violation(invited);
  invited.publish(`px.has.${tokenOf('new')}`, 'x');
  t.regex(await said, /Permissions Violation/, 'an invitation is good for nothing else');
  await invited.close();

  const old = userToken(publicKey(enrolled.seed), keyOf(rig.book.now.seeds.account), {
    name: 'new',
    rights: siteRights('new'),
    expires: seconds() + 9,
    ...SITE_LIMITS,
  });
  let saved: SiteCredentials | undefined;
  let wire: SiteWire | undefined;
  await new Promise<void>((resolve, reject) => {
    const save = async (next: SiteCredentials) => {
      saved = next;
    };
    connectSite({ credentials: { ...enrolled, token: old }, save, servers: [rig.engine().url] }).then((made) => {
      wire = made;
      // Lost once: the new token takes a new connection.
      made.onLink(({ connected }) => connected && saved && resolve());
    }, reject);
  });
  t.not(saved!.token, old);
  await wire!.has(Buffer.from('with the new token'));
  await Promise.all([wire!.close(), coordinator.close()]);
});

real('what stands in the way is named, with what to do', async (t) => {
  const good = dialOf(rig.credentials('a'));
  const [closed] = (await freePorts(1)) as [number];
  const web = createServer((_, response) => response.end('hello'));
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    web.close();
    web.closeAllConnections();
  });
  const webPort = (web.address() as AddressInfo).port;
  const other = newFederation({ name: 'other', servers: ['tls://127.0.0.1:1'] }).tls!.certificate;
  const wss = `wss://127.0.0.1:${rig.webSocketPort}`;
  const rows: [what: string, changed: Partial<DialOptions>, step: Step, message: RegExp][] = [
    ['nothing listens', { servers: [`tls://127.0.0.1:${closed}`] }, 'tcp', /Nothing listens there/],
    ['nothing listens, WebSocket', { servers: [`wss://127.0.0.1:${closed}`] }, 'tcp', /Nothing listens there/],
    ['no such host', { servers: ['tls://no-such-host.invalid:4222'] }, 'dns', /No machine of this name/],
    ['no such host, WebSocket', { servers: ['wss://no-such-host.invalid:443'] }, 'dns', /No machine of this name/],
    ['the certificate of another federation', { certificate: other }, 'tls', /not the one of this federation/],
    ['the same, WebSocket', { certificate: other, servers: [wss] }, 'tls', /not the one of this federation/],
    ['a certificate that nobody trusts', { certificate: undefined }, 'tls', /not the one of this federation/],
    ['a web server', { servers: [`tls://127.0.0.1:${webPort}`], timeout: 1000 }, 'tcp', /something else listens/],
    ['a web server, WebSocket', { servers: [`wss://127.0.0.1:${webPort}`] }, 'server', /does not speak TLS/],
    ['the port of WebSocket as TCP', { servers: [`tls://127.0.0.1:${rig.webSocketPort}`], timeout: 1000 }, 'tcp', /something else listens/],
  ];
  for (const [what, changed, step, message] of rows) {
    const error = await t.throwsAsync(dial({ ...good, ...changed }), { instanceOf: ConnectError }, what);
    t.is((error as ConnectError).step, step, `${what}: ${error!.message}`);
    t.regex(error!.message, message, what);
  }
  for (const [status, message] of [
    [407, /asks for a login/],
    [403, /refuses the connection/],
  ] as const) {
    const proxy = await connectProxy(status);
    process.env.HTTPS_PROXY = proxy.url;
    const error = await t.throwsAsync(dial({ ...good, servers: [wss] }), { instanceOf: ConnectError });
    t.is((error as ConnectError).step, 'proxy', error!.message);
    t.regex(error!.message, message);
    delete process.env.HTTPS_PROXY;
    proxy.close();
  }
  const second = await dial({ ...good, servers: [`tls://127.0.0.1:${closed}`, wss] });
  t.pass('the second server is taken if the first is not there');
  await second.close();
});
