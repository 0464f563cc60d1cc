/** Keys, tokens, certificate and invitations, without a server. */
import { X509Certificate } from 'node:crypto';
import { createAccount, createUser } from '@nats-io/nkeys';
import test from 'ava';
import { makeCertificate } from '../../src/net/certificate.ts';
import {
  beginEnrolment,
  enrolSite,
  federation,
  inviteSite,
  newFederation,
  publicKey,
  readInvitation,
  renewSite,
  revokeSite,
  serverTokens,
  siteCredentials,
  validity,
} from '../../src/net/credentials.ts';
import { readToken, seconds, userToken } from '../../src/net/jwt.ts';
import { siteOf, tokenOf } from '../../src/net/subjects.ts';

const made = () => newFederation({ name: 'lung', servers: ['wss://fed.example.org:8443', 'tls://10.1.2.3:4222'] });

test('the certificate is one that others can read, and signs itself', (t) => {
  const now = new Date('2026-03-01T12:00:00Z');
  const { certificate } = makeCertificate(['fed.example.org', '10.1.2.3', '::1', 'fe80::1:2'], { now });
  const read = new X509Certificate(certificate);
  t.is(read.subject, 'CN=phoenix');
  t.true(read.verify(read.publicKey));
  t.true(read.ca);
  t.is(new Date(read.validFrom).toISOString(), '2026-02-27T12:00:00.000Z');
  t.is(new Date(read.validTo).toISOString(), '2046-03-01T12:00:00.000Z');
  t.is(read.checkHost('fed.example.org'), 'fed.example.org');
  t.is(read.checkIP('10.1.2.3'), '10.1.2.3');
  t.is(read.checkIP('::1'), '::1');
  t.is(read.checkIP('fe80::1:2'), 'fe80::1:2');
  const late = new X509Certificate(makeCertificate(['a'], { now, years: 40 }).certificate);
  t.is(new Date(late.validTo).toISOString(), '2066-03-01T12:00:00.000Z', 'years from 2050 on are written with four digits');
});

test('a token is read only with the signature of its issuer', (t) => {
  const account = createAccount();
  const user = createUser().getPublicKey();
  const token = userToken(user, account, { name: 'a', rights: { publish: ['x'], subscribe: [] }, expires: 99 });
  t.like(readToken(token), { sub: user, iss: account.getPublicKey(), exp: 99 });
  const [header, body, signature] = token.split('.') as [string, string, string];
  const claims = JSON.parse(Buffer.from(body, 'base64url').toString());
  const forged = Buffer.from(JSON.stringify({ ...claims, exp: 9_999_999_999 })).toString('base64url');
  for (const text of [
    '',
    'a.b',
    `${header}.${forged}.${signature}`,
    `${header}.${body}.`,
    `${token}.x`,
    `${header}.${body}.${signature.slice(4)}`,
  ])
    t.is(readToken(text), undefined, text);
});

test('names of sites in subjects', (t) => {
  for (const site of ['a', 'a.b', 'a b*>', 'é'.repeat(32)]) t.is(siteOf(tokenOf(site)), site);
  t.throws(() => tokenOf('é'.repeat(33)), { code: 'ERR_PHOENIX_ARGUMENT', message: /64 bytes/ });
  t.throws(() => tokenOf(''), { code: 'ERR_PHOENIX_ARGUMENT' });
  for (const token of ['', 'abc', 'xx', 'FF', 'ff']) t.is(siteOf(token), undefined, token);
});

test('the state of a federation survives its file', (t) => {
  const { federation: invited } = inviteSite(made(), 'hospital-a');
  t.deepEqual(federation.parse(JSON.parse(JSON.stringify(invited))), invited);
  const { accounts, systemAccount } = serverTokens(invited);
  t.is(Object.keys(accounts).length, 2);
  t.true(systemAccount in accounts);
  t.is(newFederation({ name: 'a', servers: ['wss://a:1'], trusted: true }).tls, undefined);
  for (const servers of [[], ['http://a'], ['nats://a:4222'], ['wss://user@a:1'], ['wss://a:1/path']])
    t.throws(() => newFederation({ name: 'a', servers }), undefined, servers.join());
});

test('an invitation: read from its file; expired, damaged or forged, it is refused', (t) => {
  const { invitation } = inviteSite(made(), 'hospital-a', { days: 1 });
  const text = JSON.stringify(invitation);
  t.deepEqual(readInvitation('a.phoenix', text), invitation);
  const refused = (changed: object, message: RegExp) =>
    t.throws(() => readInvitation('a.phoenix', JSON.stringify({ ...invitation, ...changed })), { code: 'ERR_PHOENIX_REFUSED', message });
  refused({ phoenix: 2 }, /no invitation/);
  refused({ more: 1 }, /no invitation/);
  refused({ seed: Buffer.from(createUser().getSeed()).toString() }, /not for its key/);
  refused({ servers: ['http://x'] }, /wss:/);
  t.throws(() => readInvitation('a.phoenix', text.slice(0, 200)), { code: 'ERR_PHOENIX_REFUSED', message: /not JSON/ });
  t.throws(() => readInvitation('a.phoenix', ' '.repeat(100_000)), { code: 'ERR_PHOENIX_REFUSED', message: /characters/ });
  const past = { ...inviteSite(made(), 'hospital-a', { days: 1e-9 }).invitation };
  t.throws(() => readInvitation('a.phoenix', JSON.stringify(past)), { code: 'ERR_PHOENIX_REFUSED', message: /valid until/ });
  t.throws(() => inviteSite(made(), 'a/b'), { code: 'ERR_PHOENIX_ARGUMENT' });
  t.throws(() => inviteSite(made(), 'a', { days: 1000 }), { code: 'ERR_PHOENIX_ARGUMENT', message: /366 days/ });
});

test('an invitation serves one key, which gets the same rights again; a new one replaces the old key', (t) => {
  const first = inviteSite(made(), 'hospital-a');
  const by = publicKey(first.invitation.seed);
  const site = beginEnrolment(first.invitation);
  t.notThrows(() => siteCredentials.parse(site));
  t.not(site.seed, first.invitation.seed, 'the site makes a key of its own');
  t.false(JSON.stringify(first.federation).includes(site.seed));
  const key = publicKey(site.seed);
  const enrolled = enrolSite(first.federation, by, key);
  if (!('token' in enrolled.answer)) return t.fail(enrolled.answer.refused);
  t.is(readToken(enrolled.answer.token)!.sub, key);
  t.false(enrolled.reload);
  t.like(enrolled.federation.sites['hospital-a'], { key });
  t.true('token' in enrolSite(enrolled.federation, by, key).answer, 'an answer that was lost is given again');
  const thief = enrolSite(enrolled.federation, by, createUser().getPublicKey());
  t.like(thief.answer, { refused: 'This invitation was used already, with another key. If that was not you, tell the operator at once.' });
  t.is(thief.federation, enrolled.federation);

  const again = inviteSite(enrolled.federation, 'hospital-a');
  t.like(again.federation.sites['hospital-a'], { key }, 'until the new one is used');
  t.true('refused' in enrolSite(again.federation, by, key).answer, 'the old invitation counts no more');
  const next = createUser().getPublicKey();
  const moved = enrolSite(again.federation, publicKey(again.invitation.seed), next);
  t.true(moved.reload);
  t.true(key in moved.federation.revoked);
  t.like(moved.federation.sites['hospital-a'], { key: next });

  const gone = revokeSite(moved.federation, 'hospital-a');
  t.true(next in gone.revoked);
  t.deepEqual(gone.sites, {});
  t.true('refused' in renewSite(gone, 'hospital-a'));
  t.throws(() => revokeSite(gone, 'toString'), { code: 'ERR_PHOENIX_ARGUMENT', message: /no site/ });
});

test('when a token is to be renewed', (t) => {
  const { federation: from, invitation } = inviteSite(made(), 'a');
  const begun = beginEnrolment(invitation);
  const account = createAccount();
  const withToken = (expires: number) => ({
    ...begun,
    token: userToken(publicKey(begun.seed), account, { name: 'a', rights: { publish: [], subscribe: [] }, expires }),
  });
  t.true(validity(withToken(seconds() - 1)).renewAt < Date.now());
  const { answer } = enrolSite(from, publicKey(invitation.seed), publicKey(begun.seed));
  const fresh = validity({ ...begun, ...answer });
  t.true(fresh.renewAt > Date.now() + 20 * 86_400_000);
  t.true(fresh.until > Date.now() + 80 * 86_400_000);
});
