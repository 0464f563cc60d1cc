/** What stands in the way of a site, step by step from the name of the server to the images. */

import { X509Certificate } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { statfs } from 'node:fs/promises';
import net from 'node:net';
import tls from 'node:tls';
import { chooseBackend } from '../../bindings/session.ts';
import { type Invitation, publicKey, type SiteCredentials } from '../../net/credentials.ts';
import { readToken, seconds } from '../../net/jwt.ts';
import { inboxOf, tokenOf } from '../../net/subjects.ts';
import { ConnectError, dial, explainConnection, proxyFor } from '../../net/wires/dial.ts';
import { formatBytes, formatCount } from '../../report/units.ts';
import { parseOptions, type SiteCheckOptions } from '../options/index.ts';
import { describeSite } from './about.ts';
import { openInvitation } from './enrol.ts';
import { findHome, homeBase, isInvitation, readConfig, readCredentials } from './home.ts';
import { parseServers } from './site.ts';

/** A step of the way, in its order. */
export type CheckStep = 'invitation' | 'dns' | 'proxy' | 'tcp' | 'tls' | 'login' | 'clock' | 'disk' | 'device' | 'data';
export type Check = { step: CheckStep; ok: boolean; text: string };

/** Longest wait for a step, in milliseconds. */
const WITHIN = 20_000;
/** Least free bytes of a disk, and most seconds that clocks may differ by. */
const LEAST_FREE = 1e9;
const MOST_SKEW = 60;

type Way = { servers: string[]; certificate?: string; token?: string; seed: string; inbox: string };

/**
 * Looks at each step of the way from this machine to the coordinator, and at disk, device and data. A step that fails says what to do; the
 * steps behind it that need it are left out. @throws PhoenixError ERR_PHOENIX_ARGUMENT for options
 */
export async function checkSite(options: SiteCheckOptions = {}): Promise<Check[]> {
  const settings = parseOptions('site check', options);
  const checks: Check[] = [];
  const step = async (name: CheckStep, work: () => string | Promise<string>): Promise<boolean> => {
    try {
      checks.push({ step: name, ok: true, text: await work() });
      return true;
    } catch (error) {
      checks.push({ step: name, ok: false, text: error instanceof Error ? error.message : String(error) });
      return false;
    }
  };
  const base = homeBase(settings.home);
  let way: Way | undefined;
  let data = settings.data;
  let folder = base;
  await step('invitation', async () => {
    if (isInvitation(settings.file)) {
      const invitation = await openInvitation(settings.file);
      way = wayOf(invitation, inboxOf(publicKey(invitation.seed)));
      return `for the site ${invitation.site} of ${invitation.federation}, ${validUntil(invitation.token)}`;
    }
    const home = await findHome(base, settings.file);
    folder = home.dir;
    const config = await readConfig(home);
    data ??= config?.data;
    const credentials = await readCredentials(home);
    if (!credentials?.token) throw new Error(`The site ${home.site} has no rights yet: start it with its invitation.`);
    way = { ...wayOf(credentials, inboxOf(tokenOf(credentials.site))), servers: config?.servers ?? credentials.servers };
    return `the site ${home.site} of ${home.federation} is enrolled, ${validUntil(credentials.token)}`;
  });
  if (way && settings.server !== undefined) way = { ...way, servers: parseServers(settings.server) };
  if (way) await checkWay(way, step);
  await step('disk', () => freeSpace(folder));
  await step('device', () => {
    const { backend, why } = chooseBackend('auto');
    return `${backend}: ${why}`;
  });
  await step('data', async () => {
    if (data === undefined) throw new Error('Where are the images? Name them with --data PATH.');
    const { images, height, width, channels, classNames } = await describeSite(data);
    const size = height && width ? `${width}×${height}` : 'of several sizes';
    return `${formatCount(images)} images ${size} ${channels === 1 ? 'gray' : 'RGB'}, ${classNames.length} classes`;
  });
  return checks;
}

const wayOf = ({ servers, certificate, token, seed }: Invitation | SiteCredentials, inbox: string): Way => ({
  ...{ servers, certificate, token, seed, inbox },
});

function validUntil(token: string): string {
  const exp = readToken(token)?.exp;
  return exp === undefined ? 'without an end' : `valid until ${new Date(1000 * exp).toISOString()}`;
}

/** The steps to the first server: those that go the same way as a connection does. */
async function checkWay(way: Way, step: (name: CheckStep, work: () => string | Promise<string>) => Promise<boolean>): Promise<void> {
  const url = way.servers[0]!;
  const { protocol, hostname, port } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, '');
  const number = Number(port) || (protocol === 'tls:' ? 4222 : 443);
  const proxy = protocol === 'wss:' ? proxyFor(host) : undefined;
  const explained = (error: unknown) => explainConnection(error, url);
  const first = proxy ? new URL(proxy) : { hostname: host, port: String(number) };
  const target = { host: first.hostname.replace(/^\[|\]$/g, ''), port: Number(first.port) || 80 };
  const named = await step('dns', async () => {
    const { address } = await lookup(target.host).catch((error) => Promise.reject(explained(error)));
    return `${target.host} is ${address}`;
  });
  if (!named) return;
  const reached = await step('tcp', async () => {
    const socket = await opened(() => net.connect(target), 'connect').catch((error) => Promise.reject(explained(error)));
    socket.destroy();
    return `${target.host} answers on port ${target.port}${proxy ? `, the proxy for ${host}` : ''}`;
  });
  if (!reached) return;
  if (!proxy && protocol === 'tls:') {
    // A nats-server speaks first, in the clear: its certificate comes with the login.
  } else if (!proxy) {
    const secure = await step('tls', async () => {
      const socket = await opened(
        () => tls.connect({ host, port: number, rejectUnauthorized: false, ...(net.isIP(host) === 0 && { servername: host }) }),
        'secureConnect',
      ).catch((error) => Promise.reject(explained(error)));
      const came = socket.getPeerX509Certificate();
      const isTrusted = socket.authorized;
      socket.destroy();
      return compareCertificates(way.certificate, came, isTrusted);
    });
    if (!secure) return;
  }
  let answered = false;
  const began = performance.now();
  await step('login', async () => {
    if (!way.token) throw new Error('There are no rights yet.');
    const connection = await dial({ ...way, servers: [url], token: way.token, timeout: WITHIN }).catch((error) => {
      if (error instanceof ConnectError && error.step !== 'login') throw new Error(`(${error.step}) ${error.message}`);
      throw error;
    });
    answered = true;
    const seconds = (performance.now() - began) / 1000;
    const trip = await connection.rtt();
    const server = connection.info;
    await connection.close();
    return `${url} accepts the site in ${seconds.toFixed(1)} s, nats-server ${server?.version ?? 'unknown'}, ${trip.toFixed(0)} ms there and back${proxy ? `, through the proxy ${new URL(proxy).host}` : ''}`;
  });
  await step('clock', () => clockOf(way.token, answered));
}

/** Waits for a socket. */
function opened<S extends net.Socket>(open: () => S, event: string): Promise<S> {
  return new Promise((resolve, reject) => {
    const socket = open();
    socket.setTimeout(WITHIN, () => socket.destroy(new Error('timeout')));
    socket.once('error', reject);
    socket.once(event, () => resolve(socket));
  });
}

/** Whose certificate came, in words. @throws Error for another than the federation's */
function compareCertificates(wanted: string | undefined, came: X509Certificate | undefined, isTrusted: boolean): string {
  if (!came) throw new Error('The server sent no certificate: what listens there is no server of a coordinator.');
  const whose = `${came.subject.replaceAll('\n', ', ') || 'no name'}, signed by ${came.issuer.replaceAll('\n', ', ') || 'no name'}, ${came.fingerprint256}`;
  const isRight = wanted === undefined ? isTrusted : new X509Certificate(wanted).fingerprint256 === came.fingerprint256;
  if (isRight) return `the certificate is the one expected: ${whose}`;
  throw new Error(
    `The certificate that came is not the one of this federation: ${whose}. Either the address is that of another server, or a device on the way opens TLS connections (a proxy that inspects them): have it let this address through.`,
  );
}

/** A token that was issued later than now, by this machine, shows a clock that is behind. */
function clockOf(token: string | undefined, answered: boolean): string {
  const claims = token ? readToken(token) : undefined;
  const behind = (claims?.iat ?? 0) - seconds();
  const advice = 'set it, best by NTP';
  if (behind > MOST_SKEW)
    throw new Error(`The clock of this machine is at least ${formatCount(behind)} s behind that of the coordinator: ${advice}.`);
  if (claims?.exp !== undefined && claims.exp <= seconds() && answered)
    throw new Error(`The server accepts rights that have expired by the clock of this machine, which is ahead then: ${advice}.`);
  return `it is ${new Date().toISOString()} here, after the rights were issued`;
}

async function freeSpace(folder: string): Promise<string> {
  let at = folder;
  for (;;) {
    const found = await statfs(at).catch(() => undefined);
    const parent = at.replace(/[/\\][^/\\]*$/, '') || '/';
    if (!found && parent !== at) {
      at = parent;
      continue;
    }
    if (!found) throw new Error(`${folder} cannot be looked at.`);
    const free = found.bavail * found.bsize;
    if (free < LEAST_FREE) throw new Error(`Only ${formatBytes(free)} are free at ${at}: make room, at least ${formatBytes(LEAST_FREE)}.`);
    return `${formatBytes(free)} are free at ${at}`;
  }
}
