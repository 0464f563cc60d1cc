/**
 * The coordinator's page over HTTP: for this machine by default, for others with a token. What comes in changes nothing but by one of the
 * four verbs (pause, resume, finish, stop), and only where the coordinator takes them.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { isIP } from 'node:net';
import { PhoenixError } from '../../errors.ts';
import { CONTENT_POLICY, pageDocument, SCRIPT } from './document.ts';
import { type Answer, admit, checkAccess, gateOf, isOurName, isOurOrder, say } from './gate.ts';
import { metricsText } from './metrics.ts';
import { createStream, type Stream } from './stream.ts';
import { cleanText, type FederationView, federationView, type Verb, verbs } from './view.ts';

export { newPageToken } from './gate.ts';

export type PageOptions = {
  /** What is to be shown now. Asked for at each request, and after `changed`. */
  view(): FederationView;
  /** The newest sample grid as a PNG file. @default none */
  samples?(): Uint8Array | undefined;
  /** Does what a verb says, and returns what was done, in a sentence; rejects where it cannot be. @default the page only reads */
  order?(verb: Verb): Promise<string>;
  /** Address to listen on. @default '127.0.0.1' */
  host?: string;
  /** 0 chooses a free one. @default 7777 */
  port?: number;
  /** Asked of everybody who reads. Needed where the address is not this machine's own; at least 16 characters, see newPageToken. */
  token?: string;
  /** Names by which the page is reached, besides localhost and addresses in numbers: others are refused. @default none */
  names?: string[];
  /** Key and certificate, as PEM, for https. @default http */
  tls?: { key: string; cert: string };
};

export type Page = {
  /** Where the page is, without the token. */
  url: string;
  port: number;
  /** To be called when the view has changed: readers see it within a quarter of a second. */
  changed(): void;
  close(): Promise<void>;
};

const HEADERS = {
  'Content-Security-Policy': CONTENT_POLICY,
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cache-Control': 'no-store',
};

function send(response: ServerResponse, { status, type, body, headers }: Answer): void {
  response.writeHead(status, { ...HEADERS, 'Content-Type': type, 'Content-Length': Buffer.byteLength(body), ...headers });
  response.end(response.req.method === 'HEAD' ? undefined : body);
}

const page = (type: string, body: string | Uint8Array): Answer => ({ status: 200, type, body });

/** What is answered at each path but /healthz and the stream, to readers who may. */
const ROUTES: Record<string, (view: () => FederationView, samples: PageOptions['samples']) => Answer> = {
  '/': (view) => page('text/html; charset=utf-8', pageDocument(view())),
  '/page.js': () => page('text/javascript; charset=utf-8', SCRIPT),
  '/state.json': (view) => page('application/json', JSON.stringify(view())),
  '/metrics': (view) => page('text/plain; version=0.0.4; charset=utf-8', metricsText(view())),
  '/samples.png': (_, samples) => {
    const png = samples?.();
    return png ? page('image/png', png) : say(404, 'There are no samples yet.');
  },
};

function health({ engine }: FederationView): Answer {
  return engine.connected ? say(200, 'ok') : say(503, 'The server between coordinator and sites cannot be reached.');
}

/** What answers requests: the streams it keeps open are the Stream's. */
function createListener({ samples, order, names = [], token, tls }: PageOptions, view: () => FederationView, stream: Stream) {
  const gate = token === undefined ? undefined : gateOf(token, tls !== undefined);

  /** Does what a verb says. What cannot be is status 409, with the reason. */
  async function obey(request: IncomingMessage, path: string): Promise<Answer> {
    const verb = path.slice(1);
    if (!order || !Object.hasOwn(verbs, verb)) return say(405, 'There only reading is possible.', { Allow: 'GET, HEAD' });
    if (!isOurOrder(request, verb)) return say(403, `This is taken from the page alone, or with the header X-Phoenix-Order: ${verb}.`);
    try {
      return say(200, await order(verb as Verb));
    } catch (error) {
      if (error instanceof PhoenixError) return say(409, cleanText(error.message));
      throw error;
    }
  }

  /** The answer to a request; undefined if the stream has taken it. */
  function answerTo(request: IncomingMessage, response: ServerResponse): Answer | Promise<Answer> | undefined {
    if (!isOurName(request.headers.host, names))
      return say(421, 'This page is not reached by that name. Its names are an option of the coordinator.');
    if (!['GET', 'HEAD', 'POST'].includes(request.method ?? '')) return say(405, 'This page only reads.', { Allow: 'GET, HEAD' });
    const url = new URL(`http://page/${(request.url ?? '').replace(/^\/+/, '')}`);
    const isOrder = request.method === 'POST';
    if (url.pathname === '/healthz' && !isOrder) return health(view());
    const refused = gate && admit(gate, request, url);
    if (refused) return refused;
    if (isOrder) return obey(request, url.pathname);
    if (url.pathname === '/events') {
      if (request.method === 'HEAD') return page('text/event-stream; charset=utf-8', '');
      return stream.open(response, HEADERS) ? undefined : say(503, 'Too many pages are open. Close some.');
    }
    return Object.hasOwn(ROUTES, url.pathname) ? ROUTES[url.pathname]!(view, samples) : say(404, 'There is no such page.');
  }

  return async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    request.resume();
    let answer: Answer | undefined;
    try {
      answer = await answerTo(request, response);
    } catch {
      answer = say(500, 'The page could not be made. The coordinator goes on.');
    }
    if (answer) send(response, answer);
  };
}

/**
 * Starts the page. Paths: / (the page), /events (its stream), /state.json (the view), /metrics (for Prometheus), /samples.png, and
 * /healthz, which needs no token and says `ok`, or 503 while the server between coordinator and sites cannot be reached. A POST to /pause,
 * /resume, /finish or /stop, with the verb in the header X-Phoenix-Order, does that: 200 and what was done, 409 and why it cannot be, 403
 * if it comes from the page of another.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for an address of others without a token, ERR_PHOENIX_NETWORK if it cannot listen there
 */
export async function startPage(options: PageOptions): Promise<Page> {
  const { host = '127.0.0.1', port = 7777, token, names = [], tls } = options;
  checkAccess(host, token);
  const view = () => federationView.parse({ ...options.view(), ...(!options.order && { verbs: undefined }) });
  const stream = createStream(view);
  const listener = createListener(options, view, stream);
  const server = tls ? createSecureServer(tls, listener) : createServer(listener);
  server.maxConnections = 256;
  await new Promise<void>((resolve, reject) => {
    server.on('error', (cause) => {
      const words = `The page cannot listen at ${host}, port ${port}: ${cause.message}. Stop what listens there, or give another port.`;
      reject(new PhoenixError('ERR_PHOENIX_NETWORK', words, { cause }));
    });
    server.listen(port, host, resolve);
  }).catch((error) => {
    stream.close();
    throw error;
  });
  const bound = (server.address() as { port: number }).port;
  const shown = host === '0.0.0.0' || host === '::' ? (names[0] ?? 'localhost') : host;
  return {
    url: `${tls ? 'https' : 'http'}://${isIP(shown) === 6 ? `[${shown}]` : shown}:${bound}/`,
    port: bound,
    changed: stream.changed,
    close: () =>
      new Promise((resolve) => {
        stream.close();
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
