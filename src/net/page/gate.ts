/** Who may read the page: by the name that it is asked for, and by the token where there is one. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { PhoenixError } from '../../errors.ts';

/** An answer over HTTP; `type`: its Content-Type. */
export type Answer = { status: number; type: string; body: string | Uint8Array; headers?: Record<string, string> };

export const say = (status: number, text: string, headers?: Record<string, string>): Answer => ({
  status,
  type: 'text/plain; charset=utf-8',
  body: `${text}\n`,
  headers,
});

/** A token for a page, of 192 random bits. */
export const newPageToken = (): string => randomBytes(24).toString('base64url');

/** Whether an address is this machine's own and reached by no other. */
const isLoopback = (host: string) => host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));

/**
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for an address that others reach without a token, or a token that can be guessed or not sent
 */
export function checkAccess(host: string, token: string | undefined): void {
  if (token === undefined && !isLoopback(host))
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `A page at ${host} can be read by other machines and needs a token. Give it one, or let it listen at 127.0.0.1.`,
    );
  if (token !== undefined && !/^[\w-]{16,200}$/.test(token))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', 'The token of a page has 16 to 200 letters, digits, - and _: newPageToken makes one.');
}

const hashOf = (text: string) => createHash('sha256').update(text).digest();

/** Whether two texts are equal, in a time that does not tell where they differ. */
function isSame(a: string, b: string): boolean {
  return timingSafeEqual(hashOf(a), hashOf(b));
}

/**
 * Whether the page may be asked for by this Host: an address in numbers, localhost, or a name that was given. Any other name may be one
 * whose owner lets it point here, so that a page of theirs reads this one (DNS rebinding).
 */
export function isOurName(host: string | undefined, names: readonly string[]): boolean {
  const name = /^(\[[0-9a-f:.]+\]|[^:/\s@]+)(:\d{1,5})?$/i.exec(host ?? '')?.[1]?.toLowerCase();
  if (name === undefined) return false;
  return name === 'localhost' || isIP(name.replace(/^\[|\]$/g, '')) > 0 || names.some((one) => one.toLowerCase() === name);
}

/** The token of a page, the name of the cookie that keeps it, and whether the page is reached over TLS. */
export type Gate = { token: string; cookie: string; secure: boolean };

/** Browsers keep one set of cookies for all ports of a machine, so each token has a name of its own. */
export const gateOf = (token: string, secure: boolean): Gate => ({
  token,
  cookie: `phoenix_${hashOf(`cookie ${token}`).toString('hex').slice(0, 8)}`,
  secure,
});

/**
 * Undefined if the request brings the token in its header or cookie. Else the answer to it: a request that has the token in its address is
 * sent to the address without it, and a cookie keeps it.
 */
export function admit({ token, cookie, secure }: Gate, { headers }: IncomingMessage, url: URL): Answer | undefined {
  const shown = url.searchParams.get('token');
  if (shown !== null && isSame(shown, token)) {
    url.searchParams.delete('token');
    const kept = `${cookie}=${token}; Path=/; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`;
    return say(303, 'The token is kept in a cookie.', { Location: url.pathname + url.search, 'Set-Cookie': kept });
  }
  const cookies = headers.cookie?.split(';').map((one) => one.trim()) ?? [];
  const kept = cookies.find((one) => one.startsWith(`${cookie}=`))?.slice(cookie.length + 1);
  const given = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1] ?? kept;
  if (given !== undefined && isSame(given, token)) return undefined;
  const words = 'This page needs its token: open the address that the coordinator has shown, with ?token=…';
  return say(401, words, { 'WWW-Authenticate': 'Bearer' });
}

/**
 * Whether a request that changes something comes from our own page, or from a program that means it. A page of others can make a browser
 * send a POST here, but not with a header of ours: it would have to ask first, and is not answered.
 */
export function isOurOrder({ headers }: IncomingMessage, verb: string): boolean {
  const { origin, host } = headers;
  const site = headers['sec-fetch-site'];
  if (headers['x-phoenix-order'] !== verb || (site !== undefined && site !== 'same-origin')) return false;
  return origin === undefined || (/^https?:\/\//.test(origin) && origin.replace(/^https?:\/\//, '') === host);
}
