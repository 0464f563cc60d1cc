/**
 * Who is who in a federation: the coordinator's secrets, invitations, and a site's credentials. Functions from one state to the next; who
 * calls them writes the state to a file (mode 0600) before it has an effect.
 *
 * An invitation may do nothing but ask for a site's rights. The site makes its own key and sends the public half; the coordinator signs the
 * rights of the site for that key. An invitation serves one key.
 */
import { createAccount, createOperator, createUser, fromPublic } from '@nats-io/nkeys';
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';
import { type JsonRules, parseJson } from '../files.ts';
import { clientId } from '../fl/protocol.ts';
import { makeCertificate } from './certificate.ts';
import { accountToken, keyOf, operatorToken, readToken, seconds, seedOf, userToken } from './jwt.ts';
import { INVITATION_LIMITS, invitationRights, SITE_LIMITS, siteRights, tokenOf } from './subjects.ts';

const DAY = 86_400;
/** How long a site's token is valid, in seconds. A connected site gets a new one long before. */
const SITE_VALID = 90 * DAY;

const isKey = (prefix: string) => (text: string) => {
  try {
    return text.startsWith(prefix) && fromPublic(text).getPublicKey() === text;
  } catch {
    return false;
  }
};
const isSeed = (text: string) => {
  try {
    return seedOf(keyOf(text)) === text;
  } catch {
    return false;
  }
};
const userKey = z.string().max(80).refine(isKey('U'), 'it is no public key of a user');
const seed = z.string().max(80).refine(isSeed, 'it is no seed of a key');
const pem = z
  .string()
  .max(16_384)
  .regex(/^-----BEGIN [A-Z ]+-----\n[A-Za-z0-9+/=\n]+-----END [A-Z ]+-----\n?$/);
const token = z
  .string()
  .max(16_384)
  .regex(/^[\w-]+\.[\w-]+\.[\w-]+$/);
const time = z.int().min(0);
export const serverUrl = z
  .string()
  .max(500)
  .regex(/^(wss|tls):\/\/[^/?#@\s]+\/?$/, 'a server is wss://HOST:PORT or tls://HOST:PORT');
const servers = z.array(serverUrl).min(1).max(32);

const siteEntry = z.strictObject({
  /** The last invitation: its public key, until when it is valid, and whether it was used. */
  invitation: z.strictObject({ key: userKey, expires: time, used: z.boolean() }).optional(),
  /** The site's own key, once it is enrolled. */
  key: userKey.optional(),
});

/** The secrets of a federation's coordinator: what `federation.json` holds. */
export const federation = z.strictObject({
  schema: z.literal(1),
  name: clientId,
  /** When it was made, in seconds since 1970. */
  made: time,
  /** Where sites find the server, the first one first. */
  servers,
  /** Of the server that the coordinator starts; absent for servers with a certificate that machines trust anyway. */
  tls: z.strictObject({ certificate: pem, key: pem }).optional(),
  /** Copies of what lies at a cluster. */
  replicas: z.int().min(1).max(5),
  /** Seeds of the keys that sign, and of the coordinator's own. */
  seeds: z.strictObject({ operator: seed, system: seed, account: seed, coordinator: seed }),
  sites: z.record(clientId, siteEntry),
  /** Keys that count no more, with the time they were revoked at, in seconds since 1970. */
  revoked: z.record(userKey, time),
});
export type Federation = z.infer<typeof federation>;

/** Where a site belongs, and where it finds the server. */
const membership = {
  federation: clientId,
  site: clientId,
  servers,
  certificate: pem.optional(),
  /** Public key of the coordinator, which signs what it wants. */
  coordinator: userKey,
};

/** What admits one site: the content of a .phoenix file. */
export const invitation = z.strictObject({
  phoenix: z.literal(1),
  ...membership,
  token,
  seed,
});
export type Invitation = z.infer<typeof invitation>;

/** What a site keeps of an invitation, with a key of its own. `token` is there once it is enrolled. */
export const siteCredentials = z.strictObject({
  schema: z.literal(1),
  ...membership,
  seed,
  token: token.optional(),
});
export type SiteCredentials = z.infer<typeof siteCredentials>;

const INVITATION_RULES: JsonRules = {
  code: 'ERR_PHOENIX_REFUSED',
  maxBytes: 65_536,
  verdict: 'is no invitation',
  advice: 'Ask the coordinator for a new one: phoenix invite FEDERATION SITE.',
};

/** An invitation from the text of its file. @throws PhoenixError ERR_PHOENIX_REFUSED for anything else, or one that has expired */
export function readInvitation(where: string, text: string): Invitation {
  const read = parseJson(where, text, invitation, INVITATION_RULES);
  const found = readToken(read.token);
  if (!found || found.sub !== publicKey(read.seed))
    throw new PhoenixError('ERR_PHOENIX_REFUSED', `${where} is no invitation: its token is not for its key. ${INVITATION_RULES.advice}`);
  if (found.exp !== undefined && found.exp <= seconds())
    throw new PhoenixError(
      'ERR_PHOENIX_REFUSED',
      `The invitation ${where} was valid until ${new Date(1000 * found.exp).toISOString()}. ${INVITATION_RULES.advice} If that is in the future, the clock of this machine is wrong.`,
    );
  return read;
}

/** The public key of a seed. */
export const publicKey = (of: string): string => keyOf(of).getPublicKey();

export type NewFederation = {
  name: string;
  /** Where sites find the server: wss://HOST:PORT or tls://HOST:PORT. */
  servers: string[];
  /** Whether the server's certificate is signed by an authority that machines trust, not made here. @default false */
  trusted?: boolean;
  /** Copies of what lies at a cluster: 1, or 3 for a cluster of three servers or more. @default 1 */
  replicas?: number;
};

/** Makes all keys of a federation, and the certificate of its server. @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function newFederation({ name, servers: urls, trusted = false, replicas = 1 }: NewFederation): Federation {
  const hosts = urls.map((url) => new URL(url).hostname.replace(/^\[|\]$/g, ''));
  const { certificate, key } = makeCertificate([...new Set([...hosts, 'localhost', '127.0.0.1'])]);
  const made = federation.safeParse({
    schema: 1,
    name,
    made: seconds(),
    servers: urls,
    ...(!trusted && { tls: { certificate, key } }),
    replicas,
    seeds: {
      operator: seedOf(createOperator()),
      system: seedOf(createAccount()),
      account: seedOf(createAccount()),
      coordinator: seedOf(createUser()),
    },
    sites: {},
    revoked: {},
  });
  if (made.success) return made.data;
  throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `No federation can be made of this: ${z.prettifyError(made.error)}.`);
}

/** The tokens that a server needs: its configuration names them. They change when a key is revoked. */
export function serverTokens({ seeds, revoked, name, made }: Federation) {
  const operator = keyOf(seeds.operator);
  const system = publicKey(seeds.system);
  const account = publicKey(seeds.account);
  return {
    operator: operatorToken(operator, system, made),
    systemAccount: system,
    accounts: {
      [system]: accountToken(system, operator, { name: 'system', stores: false }),
      [account]: accountToken(account, operator, { name, stores: true, revoked }),
    },
  };
}

/** The token of the coordinator, which may do everything within its account. */
export function coordinatorToken({ seeds }: Federation): string {
  const rights = { publish: ['>'], subscribe: ['>'] };
  return userToken(publicKey(seeds.coordinator), keyOf(seeds.account), { name: 'coordinator', rights });
}

/** What is known of a site; undefined if there is none of this name. */
const entryOf = ({ sites }: Federation, site: string) => (Object.hasOwn(sites, site) ? sites[site] : undefined);

/** `from` with these keys revoked from now on. */
function without(from: Federation, ...keys: (string | undefined)[]): Federation {
  const now = seconds();
  return { ...from, revoked: { ...from.revoked, ...Object.fromEntries(keys.flatMap((key) => (key ? [[key, now]] : []))) } };
}

/**
 * Makes an invitation for a site; no server is needed. One that the site was given before counts no more. A site that is enrolled stays so
 * until the new invitation is used.
 * @param days that it is valid for. @default 7
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a name that no site can have
 */
export function inviteSite(
  from: Federation,
  site: string,
  { days = 7 }: { days?: number } = {},
): { federation: Federation; invitation: Invitation } {
  if (!clientId.safeParse(site).success)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `${JSON.stringify(site)} cannot be the name of a site: no slash, no dot at the beginning.`,
    );
  if (!(days > 0 && days <= 366)) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `An invitation is valid for up to 366 days, not ${days}.`);
  tokenOf(site);
  const user = createUser();
  const key = user.getPublicKey();
  const expires = seconds() + Math.round(days * DAY);
  const rights = invitationRights(key);
  const signed = userToken(key, keyOf(from.seeds.account), { name: `invitation ${site}`, rights, expires, ...INVITATION_LIMITS });
  const entry = entryOf(from, site);
  return {
    federation: {
      ...without(from, entry?.invitation?.key),
      sites: { ...from.sites, [site]: { ...entry, invitation: { key, expires, used: false } } },
    },
    invitation: {
      phoenix: 1,
      federation: from.name,
      site,
      servers: from.servers,
      ...(from.tls && { certificate: from.tls.certificate }),
      coordinator: publicKey(from.seeds.coordinator),
      token: signed,
      seed: seedOf(user),
    },
  };
}

/** Takes all rights of a site away, also those of its invitation. @throws PhoenixError ERR_PHOENIX_ARGUMENT if there is no such site */
export function revokeSite(from: Federation, site: string): Federation {
  const entry = entryOf(from, site);
  if (!entry) {
    const known = Object.keys(from.sites).join(', ') || 'none';
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The federation ${from.name} has no site ${JSON.stringify(site)}; its sites: ${known}.`);
  }
  const { [site]: _, ...sites } = from.sites;
  return { ...without(from, entry.key, entry.invitation?.key), sites };
}

/** A site's token for the key it has. */
function signSite(from: Federation, site: string, key: string): string {
  const expires = seconds() + SITE_VALID;
  return userToken(key, keyOf(from.seeds.account), { name: site, rights: siteRights(site), expires, ...SITE_LIMITS });
}

/** What the coordinator answers to an invitation or a site: a token, or why not. */
export const answer = z.union([z.object({ token }), z.object({ refused: z.string().max(1000) })]);
export type Answer = z.infer<typeof answer>;
/** What an invitation asks for: the rights of its site for this key. */
export const enrolRequest = z.object({ key: userKey });

/**
 * The coordinator's answer to an invitation. `federation` differs from the one given if it must be written first; `reload`: if the server
 * must learn that a key was revoked.
 * @param by the invitation's public key
 */
export function enrolSite(from: Federation, by: string, key: string): { answer: Answer; federation: Federation; reload: boolean } {
  const refuse = (refused: string) => ({ answer: { refused }, federation: from, reload: false });
  const [site, entry] = Object.entries(from.sites).find(([, one]) => one.invitation?.key === by) ?? [];
  if (!site || !entry) return refuse('This invitation counts no more: it was replaced or revoked. Ask for a new one.');
  if (entry.invitation!.used && entry.key === key) return { answer: { token: signSite(from, site, key) }, federation: from, reload: false };
  if (key in from.revoked) return refuse('This key was revoked.');
  if (entry.invitation!.used)
    return refuse('This invitation was used already, with another key. If that was not you, tell the operator at once.');
  const enrolled = { key, invitation: { ...entry.invitation!, used: true } };
  return {
    answer: { token: signSite(from, site, key) },
    federation: { ...without(from, entry.key), sites: { ...from.sites, [site]: enrolled } },
    reload: entry.key !== undefined,
  };
}

/** The coordinator's answer to a site that asks for a new token. */
export function renewSite(from: Federation, site: string): Answer {
  const key = entryOf(from, site)?.key;
  return key ? { token: signSite(from, site, key) } : { refused: `This federation has no site ${JSON.stringify(site)}.` };
}

/** A site's credentials from an invitation: with a new key of its own, not enrolled yet. To be written before it asks for its rights. */
export function beginEnrolment({ phoenix: _, token: _token, seed: _seed, ...rest }: Invitation): SiteCredentials {
  return { schema: 1, ...rest, seed: seedOf(createUser()) };
}

/** From when on a site's token should be renewed, a third of its life, and until when it is valid, in milliseconds since 1970. */
export function validity(credentials: SiteCredentials): { renewAt: number; until: number } {
  const { iat = 0, exp = 0 } = (credentials.token ? readToken(credentials.token) : undefined) ?? {};
  return { renewAt: 1000 * (iat + (exp - iat) / 3), until: 1000 * exp };
}
