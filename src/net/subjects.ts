/** What lies where at a nats-server, and who may do what there. */
import { PhoenixError } from '../errors.ts';
import type { Rights } from './jwt.ts';
import { MAX_VALUE } from './wire.ts';

/** Largest message in bytes: a value and its headers. */
export const MAX_MESSAGE = 2_000_000;
/** Longest identifier of a site in bytes, since it becomes a part of the names of subjects and streams. */
const MAX_SITE = 64;

/** A site in a subject: its identifier as hex, since it may hold dots, blanks, * and >. @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function tokenOf(site: string): string {
  const bytes = Buffer.from(site);
  if (bytes.length === 0 || bytes.length > MAX_SITE)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `The name of a site has 1 to ${MAX_SITE} bytes, not ${bytes.length}: ${JSON.stringify(site)}.`,
    );
  return bytes.toString('hex');
}

/** The site of a token; undefined for anything else. */
export function siteOf(token: string): string | undefined {
  if (!/^([0-9a-f]{2})+$/.test(token)) return undefined;
  const site = Buffer.from(token, 'hex').toString();
  return Buffer.from(site).toString('hex') === token ? site : undefined;
}

/** Values: one a subject. */
export const VALUES = { want: { stream: 'PX_WANT', prefix: 'px.want' }, has: { stream: 'PX_HAS', prefix: 'px.has' } } as const;
/** Blobs of the coordinator. */
export const DOWN = { stream: 'PX_DOWN', prefix: 'px.b' };
/** Blobs of a site. */
export const upOf = (site: string) => ({ stream: `PX_UP_${tokenOf(site)}`, prefix: `px.up.${tokenOf(site)}` });
export const ALIVE = 'px.alive';
/** Requests: an invitation's key asks for the rights of its site; a site asks for a new token. */
export const ENROL = 'px.enrol';
export const RENEW = 'px.renew';
/** Where answers to a client go; each may hear its own only. */
export const inboxOf = (token: string) => `_INBOX_${token}`;

const directGet = (stream: string, subject: string) => `$JS.API.DIRECT.GET.${stream}.${subject}`;
export const lastOf = (kind: 'want' | 'has', token: string) => directGet(VALUES[kind].stream, `${VALUES[kind].prefix}.${token}`);
export const pieceOf = ({ stream, prefix }: { stream: string; prefix: string }, hash: string, piece: number) =>
  directGet(stream, `${prefix}.${hash}.${piece}`);

/** What a site may do; nothing else. It gets no right to make consumers: a server delivers to any subject that a consumer names. */
export function siteRights(site: string): Rights {
  const token = tokenOf(site);
  const up = upOf(site);
  return {
    publish: [
      `${VALUES.has.prefix}.${token}`,
      `${up.prefix}.>`,
      `${ALIVE}.${token}`,
      `${RENEW}.${token}`,
      directGet(DOWN.stream, `${DOWN.prefix}.>`),
      lastOf('want', token),
      lastOf('has', token),
      `$JS.API.STREAM.INFO.${up.stream}`,
      `$JS.API.STREAM.PURGE.${up.stream}`,
    ],
    subscribe: [`${VALUES.want.prefix}.${token}`, `${inboxOf(token)}.>`],
  };
}

/** What an invitation may do: ask to be enrolled. */
export const invitationRights = (key: string): Rights => ({ publish: [`${ENROL}.${key}`], subscribe: [`${inboxOf(key)}.>`] });

/** Limits of a site's connections. */
export const SITE_LIMITS = { subscriptions: 20, payload: MAX_MESSAGE };
export const INVITATION_LIMITS = { subscriptions: 5, payload: 4096 };

/** The largest value must fit into a message. */
if (MAX_VALUE > MAX_MESSAGE - 4096) throw new PhoenixError('ERR_PHOENIX_INTERNAL', 'A value does not fit into a message.');
