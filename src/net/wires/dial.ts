/**
 * Connecting to a nats-server: TCP or WebSocket, always TLS, through a proxy if the system names one; and what stands in the way, in words
 * that say what to do.
 */
import { isIP } from 'node:net';
import { type ConnectionOptions, checkServerIdentity } from 'node:tls';
import { type Authenticator, jwtAuthenticator, type NatsConnection, wsconnect } from '@nats-io/nats-core';
import { connect, type NodeConnectionOptions } from '@nats-io/transport-node';
import { HttpsProxyAgent } from 'https-proxy-agent';
import { WebSocket } from 'ws';
import { PhoenixError } from '../../errors.ts';
import { readToken, seconds } from '../jwt.ts';
import { MAX_MESSAGE } from '../subjects.ts';

/** Where a connection is stopped, in the order of the way: name, socket, proxy, certificate, what answers, credentials. */
export type Step = 'dns' | 'tcp' | 'proxy' | 'tls' | 'server' | 'login';

/** What stands in the way of a connection: ERR_PHOENIX_REFUSED at the login, which waiting does not mend; else ERR_PHOENIX_NETWORK. */
export class ConnectError extends PhoenixError {
  readonly step: Step;
  constructor(step: Step, message: string, cause?: unknown) {
    super(step === 'login' ? 'ERR_PHOENIX_REFUSED' : 'ERR_PHOENIX_NETWORK', message, { cause });
    this.step = step;
  }
}

export type DialOptions = {
  /** wss://HOST:PORT or tls://HOST:PORT, tried in this order. */
  servers: string[];
  /** The certificate that the server must have, whatever its name. @default one that this machine trusts, for the host's name */
  certificate?: string;
  token: string;
  seed: string;
  /** Prefix of the subjects of answers. */
  inbox: string;
  /** How often the line is tried while nothing comes, in milliseconds: two that fail end the connection. @default 60000 */
  pingEvery?: number;
  /** Longest time to connect, in milliseconds. @default 20000 */
  timeout?: number;
};

const NEW_ONE = 'Ask the coordinator for a new invitation: phoenix invite FEDERATION SITE.';

/** The proxy for a host, from the variables that other programs read too; undefined for none. */
export function proxyFor(host: string, env: NodeJS.ProcessEnv = process.env): string | undefined {
  const proxy = env.HTTPS_PROXY || env.https_proxy || env.ALL_PROXY || env.all_proxy;
  const direct = (env.NO_PROXY || env.no_proxy || '').split(/[\s,]+/).filter(Boolean);
  const isDirect = direct.some((one) => one === '*' || host === one || host.endsWith(one.startsWith('.') ? one : `.${one}`));
  return proxy && !isDirect ? (proxy.includes('://') ? proxy : `http://${proxy}`) : undefined;
}

/** All that an error says: its code, text and causes. */
function textOf(error: unknown): string {
  const parts: string[] = [];
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    const { code, errors } = at as NodeJS.ErrnoException & { errors?: Error[] };
    parts.push(
      at.name,
      code ?? '',
      at.message,
      ...(errors ?? []).map((one) => `${(one as NodeJS.ErrnoException).code ?? ''} ${one.message}`),
    );
  }
  return parts.filter(Boolean).join(' ');
}

type Explanation = [pattern: RegExp, step: Step, what: string];
const EXPLANATIONS: Explanation[] = [
  [/authentication revoked/i, 'login', `These credentials were revoked. ${NEW_ONE}`],
  [/authentication expired/i, 'login', `These credentials have expired. ${NEW_ONE}`],
  [
    /authorization violation|AuthorizationError/i,
    'login',
    `The server refuses these credentials: they were revoked, have expired by its clock, or are of another federation. ${NEW_ONE}`,
  ],
  [
    /authentication timeout/i,
    'tcp',
    'The line is so slow that the login took longer than the server waits. It is tried again; if it never succeeds, have the line checked.',
  ],
  [
    /SELF_SIGNED|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER|CERT_SIGNATURE_FAILURE|self-signed certificate|unable to verify/i,
    'tls',
    'Its certificate is not the one of this federation. Either the address is that of another server, or a device on the way opens TLS connections (a proxy that inspects them): have it let this address through.',
  ],
  [/CERT_NOT_YET_VALID|not yet valid/i, 'tls', 'Its certificate is not valid yet by the clock of this machine: set the clock.'],
  [/CERT_HAS_EXPIRED|certificate has expired/i, 'tls', 'Its certificate has expired, or the clock of this machine is wrong.'],
  [/ALTNAME_INVALID|does not match/i, 'tls', 'Its certificate is for another name. Use the name that it is for.'],
  [/Unexpected server response: 407/, 'proxy', 'The proxy asks for a login: set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT.'],
  [
    /Unexpected server response: (403|405|50\d)/,
    'proxy',
    'A proxy on the way, or a web server there, refuses the connection: have it allow this address.',
  ],
  [
    /ENOTFOUND|EAI_AGAIN|EAI_FAIL/,
    'dns',
    'No machine of this name was found: is the name right, and does this machine reach a name server?',
  ],
  [/ECONNREFUSED|connection refused/i, 'tcp', 'Nothing listens there: is the coordinator running, and is the port right?'],
  [
    /EHOSTUNREACH|ENETUNREACH|ENETDOWN/,
    'tcp',
    'There is no way to that machine: is this machine connected, and does its firewall let it out?',
  ],
  [
    /tls.*not available|does not support 'tls'|WRONG_VERSION_NUMBER|wrong version number|packet length too long/i,
    'server',
    'What listens there does not speak TLS. Name the address of the coordinator, with wss:// for its WebSocket port or tls:// for the other.',
  ],
  [
    /unexpected response|Unexpected server response|Parse Error|socket hang up|socket disconnected|ECONNRESET|EPROTO|EPIPE|1006|undefined error/i,
    'server',
    'What listens there ended the connection, or is no server of a coordinator: is the address right, with wss:// for its WebSocket port and tls:// for the other?',
  ],
  [
    /timeout|ETIMEDOUT/i,
    'tcp',
    'Nothing answered in time: a firewall may swallow what is sent, or something else listens there. Sites need outbound connections to this port only.',
  ],
];

/** An error of connecting as what to do about it. */
export function explainConnection(error: unknown, url: string, token?: string): ConnectError {
  if (error instanceof ConnectError) return error;
  const text = textOf(error);
  const [, step, what] = EXPLANATIONS.find(([pattern]) => pattern.test(text)) ?? [/./, 'server' as Step, 'The connection failed.'];
  const expires = token ? readToken(token)?.exp : undefined;
  if (step === 'login' && expires !== undefined && expires <= seconds())
    return new ConnectError(
      step,
      `${url}: these credentials were valid until ${new Date(1000 * expires).toISOString()}. ${NEW_ONE}`,
      error,
    );
  return new ConnectError(step, `${url}: ${what} (${(error as Error)?.message || text})`, error);
}

const PINNED = { checkServerIdentity: () => undefined };

async function dialOne(url: string, { certificate, token, seed, inbox, pingEvery = 60_000, timeout = 20_000 }: DialOptions) {
  const { protocol, hostname, host, port } = new URL(url);
  const authenticator: Authenticator = jwtAuthenticator(token, Buffer.from(seed));
  const common = { authenticator, inboxPrefix: inbox, reconnect: false, pingInterval: pingEvery, maxPingOut: 2, timeout, noEcho: true };
  const bare = hostname.replace(/^\[|\]$/g, '');
  if (protocol === 'tls:') {
    // The client gives TLS a connection, not a host, so that the name in the certificate would be compared with localhost.
    const named: ConnectionOptions = {
      ...(isIP(bare) === 0 && { servername: bare }),
      checkServerIdentity: (_, found) => checkServerIdentity(bare, found),
    };
    const tls: ConnectionOptions = certificate ? { ca: certificate, ...PINNED } : named;
    return connect({ ...common, servers: `${hostname}:${port || 4222}`, tls: tls as NodeConnectionOptions['tls'] });
  }
  const proxy = proxyFor(bare);
  // What goes wrong in a WebSocket is known to the socket only.
  let failure: Error | undefined;
  const open = async () => {
    const socket = new WebSocket(`wss://${host}`, {
      ...(certificate && { ca: certificate, ...PINNED }),
      ...(proxy && { agent: new HttpsProxyAgent(proxy) }),
      perMessageDeflate: false,
      handshakeTimeout: timeout,
      maxPayload: 16 * MAX_MESSAGE,
    });
    socket.on('error', (error) => {
      failure ??= error;
    });
    return { socket: socket as unknown as globalThis.WebSocket, encrypted: true };
  };
  try {
    return await wsconnect({ ...common, servers: `wss://${hostname}:${port || 443}`, wsFactory: open });
  } catch (error) {
    throw failure ?? error;
  }
}

/**
 * Connects to the first of the servers that answers.
 * @throws ConnectError of the first one; a refused login at once
 */
export async function dial(options: DialOptions): Promise<NatsConnection> {
  let first: ConnectError | undefined;
  for (const url of options.servers) {
    try {
      return await dialOne(url, options);
    } catch (error) {
      const explained = explainConnection(error, url, options.token);
      if (explained.step === 'login') throw explained;
      first ??= explained;
    }
  }
  throw first ?? new PhoenixError('ERR_PHOENIX_ARGUMENT', 'No server was named.');
}
