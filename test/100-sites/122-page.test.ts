/** The coordinator's page without a browser: who may read it, what it says in each form, and what it never says. */
import { get, type IncomingMessage, type RequestOptions, request } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { isDeepStrictEqual } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { PhoenixError } from '../../src/errors.ts';
import { fragmentsOf } from '../../src/net/page/fragments.ts';
import { metricsText } from '../../src/net/page/metrics.ts';
import { newPageToken, type PageOptions, startPage } from '../../src/net/page/server.ts';
import { MAX_READERS } from '../../src/net/page/stream.ts';
import { statusTable } from '../../src/net/page/table.ts';
import { cleanText, type FederationView, federationView } from '../../src/net/page/view.ts';
import { busyView, manySites, NOW } from '../support/federation-view.ts';

async function start(t: ExecutionContext, options: Partial<PageOptions> = {}) {
  const page = await startPage({ view: busyView, port: 0, ...options });
  t.teardown(() => page.close());
  const open = (path: string, more: RequestOptions = {}) =>
    new Promise<IncomingMessage>((resolve, reject) => {
      request({ host: '127.0.0.1', port: page.port, path, ...more }, resolve)
        .on('error', reject)
        .end();
    });
  const read = async (path: string, headers: Record<string, string> = {}, more: RequestOptions = {}) => {
    const response = await open(path, { headers, ...more });
    return { status: response.statusCode, headers: response.headers, body: await text(response) };
  };
  return { page, open, read };
}

/** The messages of a stream as they come. */
async function* events(response: IncomingMessage): AsyncGenerator<{ parts: [string, string][]; rows?: string[] }> {
  let rest = '';
  for await (const chunk of response.setEncoding('utf8')) {
    const blocks = (rest + chunk).split('\n\n');
    rest = blocks.pop()!;
    for (const block of blocks) if (block.startsWith('data: ')) yield JSON.parse(block.slice(6));
  }
}

test('every path answers with its type and the headers that keep others out', async (t) => {
  const { read } = await start(t, { samples: () => Uint8Array.of(0x89, 0x50) });
  for (const [path, type] of [
    ['/', 'text/html; charset=utf-8'],
    ['/page.js', 'text/javascript; charset=utf-8'],
    ['/state.json', 'application/json'],
    ['/metrics', 'text/plain; version=0.0.4; charset=utf-8'],
    ['/samples.png?round=3', 'image/png'],
    ['/healthz', 'text/plain; charset=utf-8'],
  ] as const) {
    const { status, headers } = await read(path);
    t.is(status, 200, path);
    t.is(headers['content-type'], type);
    const policy = String(headers['content-security-policy']);
    t.regex(policy, /^default-src 'none'; script-src 'self';/);
    t.notRegex(policy, /unsafe|\*|http/);
    t.like(headers, {
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'referrer-policy': 'no-referrer',
      'cache-control': 'no-store',
    });
    t.is(headers['access-control-allow-origin'], undefined);
  }
  t.is((await read('/', {}, { method: 'HEAD' })).body, '');
  t.is((await read('/', {}, { method: 'POST' })).status, 405);
  for (const path of ['/x', '/constructor', '/__proto__', '/../etc/passwd', '//evil.example/', '/state.json/']) {
    t.is((await read(path)).status, 404, path);
  }
});

test('nothing of the page comes from elsewhere, and no script or style is in its elements', async (t) => {
  const { read } = await start(t);
  const { body } = await read('/');
  t.notRegex(body, /https?:\/\//);
  t.notRegex(body, /<script(?! src="\/page\.js")|\son[a-z]+=|\sstyle=|javascript:/i);
  t.is(body.match(/<script/g)?.length, 1);
});

test('there are no samples until there are some', async (t) => {
  const { read } = await start(t);
  t.is((await read('/samples.png')).status, 404);
});

test('a name that was not given is refused: the owner of a name may let it point here', async (t) => {
  const { read, page } = await start(t, { names: ['fed.example.org'] });
  const port = page.port;
  for (const host of [
    'localhost',
    `localhost:${port}`,
    '127.0.0.1',
    `[::1]:${port}`,
    '192.168.1.20:80',
    'fed.example.org',
    `FED.example.org:${port}`,
  ])
    t.is((await read('/state.json', { host })).status, 200, host);
  for (const host of [
    'evil.example',
    'localhost.evil.example',
    'fed.example.org.evil.example',
    '127.0.0.1.nip.io',
    'a@localhost',
    'localhost:80:80',
    'x y',
  ])
    for (const path of ['/', '/state.json', '/events', '/metrics', '/healthz'])
      t.is((await read(path, { host })).status, 421, `${host} ${path}`);
  // HTTP 1.0 needs no Host.
  const socket = connect(port, '127.0.0.1', () => socket.write('GET / HTTP/1.0\r\n\r\n'));
  t.regex(await text(socket), /^HTTP\/1\.[01] 421/);
});

test('a token is asked for at every path but /healthz, in a header, or once in the address and then as a cookie', async (t) => {
  const token = newPageToken();
  const { read } = await start(t, { token });
  t.is((await read('/healthz')).body, 'ok\n');
  for (const path of ['/', '/page.js', '/events', '/state.json', '/metrics', '/samples.png', '/x']) {
    for (const headers of [
      {},
      { authorization: 'Bearer ' },
      { authorization: `Bearer ${token}x` },
      { authorization: `Bearer ${token.slice(1)}` },
      { authorization: `Basic ${token}` },
      { cookie: `phoenix=${token}` },
    ]) {
      const { status, body } = await read(path, headers as Record<string, string>);
      t.is(status, 401, `${path} ${JSON.stringify(headers)}`);
      t.notRegex(body, /lung|hospital/);
    }
  }
  t.is((await read('/?token=wrong')).status, 401);
  t.is((await read('/state.json', { authorization: `Bearer ${token}` })).status, 200);
  t.is((await read('/metrics', { authorization: `bearer ${token}` })).status, 200);
  const first = await read(`/state.json?token=${token}&x=1`);
  t.is(first.status, 303);
  t.is(first.headers.location, '/state.json?x=1');
  const [cookie] = first.headers['set-cookie']!;
  t.regex(cookie!, /; Path=\/; HttpOnly; SameSite=Lax$/);
  const kept = cookie!.split(';')[0]!;
  t.is((await read('/state.json', { cookie: `other=1; ${kept}; last=2` })).status, 200);
  t.is((await read('/state.json', { cookie: `${kept}x` })).status, 401);
  t.is((await read(`//evil.example/?token=${token}`)).headers.location, '/evil.example/', 'it leads to no other host');
  for (const path of ['/', '/state.json', '/metrics', '/page.js'])
    t.false((await read(path, { cookie: kept })).body.includes(token), `${path} does not hold the token`);
});

test('an address of others needs a token, and one that cannot be guessed', async (t) => {
  for (const host of ['0.0.0.0', '::', '192.168.1.20', 'fed.example.org', '127.evil.example']) {
    const error = await t.throwsAsync(startPage({ view: busyView, host, port: 0 }));
    t.like(error, { code: 'ERR_PHOENIX_ARGUMENT' });
    t.regex(error!.message, /needs a token/);
  }
  for (const token of ['', 'short', 'has a blank in it!', 'x'.repeat(201)])
    t.like(await t.throwsAsync(startPage({ view: busyView, port: 0, token })), { code: 'ERR_PHOENIX_ARGUMENT' });
  t.not(newPageToken(), newPageToken());
  const { page, read } = await start(t, { host: '0.0.0.0', token: newPageToken(), names: ['fed.example.org'] });
  t.is(page.url, `http://fed.example.org:${page.port}/`);
  t.is((await read('/')).status, 401);
});

test('a port that is taken is said, with what to do', async (t) => {
  const { page } = await start(t);
  const error = await t.throwsAsync(startPage({ view: busyView, port: page.port }));
  t.like(error, { code: 'ERR_PHOENIX_NETWORK' });
  t.regex(error!.message, /EADDRINUSE.*another port/);
});

test('health: without the server between coordinator and sites it is 503', async (t) => {
  let connected = true;
  const { read } = await start(t, { view: () => busyView({ engine: { connected, why: 'nats://user:pass@host' } }) });
  t.is((await read('/healthz')).status, 200);
  connected = false;
  const sick = await read('/healthz');
  t.is(sick.status, 503);
  t.notRegex(sick.body, /nats/, 'what needs no token says nothing of why');
  t.regex((await read('/')).body, /cannot be reached: nats:\/\/host\./);
});

test('a view that cannot be made is status 500, and the page goes on', async (t) => {
  let broken = true;
  const { read } = await start(t, {
    view() {
      if (broken) throw new Error('secret detail');
      return busyView();
    },
  });
  for (const path of ['/', '/events', '/state.json', '/metrics', '/healthz']) {
    const { status, body } = await read(path);
    t.is(status, 500, path);
    t.notRegex(body, /secret/);
  }
  broken = false;
  t.is((await read('/')).status, 200);
});

test('the stream says all at first, then what has changed, and nothing when nothing has', async (t) => {
  let view = busyView();
  const { page, open } = await start(t, { view: () => view });
  const response = await open('/events');
  t.is(response.headers['content-type'], 'text/event-stream; charset=utf-8');
  const stream = events(response);
  const first = (await stream.next()).value!;
  t.deepEqual(new Map(first.parts), fragmentsOf(view).parts);
  t.deepEqual(first.rows, fragmentsOf(view).rows);
  // Time alone changes no fragment: the page's script counts.
  t.true(isDeepStrictEqual(fragmentsOf(busyView({ time: NOW + 3000 })), fragmentsOf(view)));
  view = busyView({ round: 13 });
  page.changed();
  const second = (await stream.next()).value!;
  t.deepEqual(second.parts.map(([id]: [string, string]) => id).sort(), ['headline', 'tiles']);
  t.is(second.rows, undefined);
  view = busyView({ sites: [...view.sites.slice(1), view.sites[0]!] });
  page.changed();
  const third = (await stream.next()).value!;
  t.deepEqual(third.rows, fragmentsOf(view).rows);
  response.destroy();
});

test('readers are let in up to a number, and again when one has gone', async (t) => {
  const { open } = await start(t);
  const responses = await Promise.all(Array.from({ length: MAX_READERS }, () => open('/events')));
  t.true(responses.every(({ statusCode }) => statusCode === 200));
  const refused = await open('/events');
  t.is(refused.statusCode, 503);
  refused.resume();
  responses[0]!.destroy();
  let status = 503;
  while (status === 503) {
    const next = await open('/events');
    status = next.statusCode!;
    next.destroy();
  }
  t.is(status, 200);
  for (const response of responses) response.destroy();
});

test('closing ends the streams', async (t) => {
  const page = await startPage({ view: busyView, port: 0 });
  const response = await new Promise<IncomingMessage>((resolve) => get(`${page.url}events`, resolve));
  await page.close();
  for await (const _ of response.on('error', () => undefined)) void _;
  t.pass();
});

const HOSTILE = `<img src=x onerror="alert(1)">'&\u202Etxt\u0007\u001b[31m"}\nphoenix_fake 1\n`;

/** A view in which every text that a site can set is hostile. */
function hostileView(): FederationView {
  const view = busyView();
  const id = '<b>"x"&\'';
  return {
    ...view,
    sites: [
      {
        ...view.sites[2]!,
        ...{ id, version: HOSTILE, device: HOSTILE, trouble: { kind: 'failure', text: HOSTILE, advice: HOSTILE } },
      },
    ],
    ...{ federation: HOSTILE, run: HOSTILE, version: HOSTILE, serverWork: HOSTILE },
    engine: { connected: false, why: HOSTILE },
    weights: [{ round: 1, sites: [{ id, weight: 1 }] }],
    decisions: [{ ...view.decisions[0]!, client: id, reason: HOSTILE }],
    events: [{ time: NOW, level: 'error', text: HOSTILE }],
  };
}

test('text of sites is text in every form: no markup, no control of a terminal, no line of its own', async (t) => {
  const { read } = await start(t, { view: hostileView });
  const { body } = await read('/');
  t.notRegex(body, /<img src=x|<b>"x"|onerror="/);
  t.regex(body, /&#60;img src=x onerror=&#34;/);
  for (const part of fragmentsOf(federationView.parse(hostileView())).parts.values()) t.notRegex(part, /<img src=x|<b>&#34;x|\p{Cf}/u);
  const table = statusTable(hostileView());
  t.notRegex(table.replaceAll('\n', ''), /[\p{Cc}\p{Cf}]/u);
  t.false(table.split('\n').some((line) => line.startsWith('phoenix_fake')));
  const metrics = (await read('/metrics')).body;
  t.false(metrics.split('\n').some((line) => line.startsWith('phoenix_fake')));
  t.regex(metrics, /site="<b>\\"x\\"&'"/);
  t.notRegex((await read('/state.json')).body, /\\u001b|\p{Cf}/u);
});

test('no secret is in any output, whatever text it got into; fields that the view does not name are left out', async (t) => {
  const secrets = {
    seed: `SU${'A7'.repeat(28)}`,
    token: 'eyJhbGciOiJlZDI1NTE5.eyJzdWIiOiJVQSJ9.c2lnbmF0dXJl',
    password: 'hunter2secret',
    key: '-----BEGIN PRIVATE KEY-----\nMIIabcdef\n-----END PRIVATE KEY-----',
    query: 'Zm9vYmFyYmF6cXV4',
  };
  const words = `login with ${secrets.seed} ${secrets.token} wss://me:${secrets.password}@host:1 ${secrets.key} http://h/?token=${secrets.query}`;
  const view = () => {
    const base = busyView();
    const [first, ...others] = base.sites;
    const site = {
      ...first!,
      seed: secrets.seed,
      version: words,
      device: words,
      trouble: { kind: 'failure' as const, text: words, advice: words },
    };
    const all = { ...base, seed: secrets.seed, engine: { connected: false, why: words }, serverWork: words, run: words };
    return { ...all, sites: [site, ...others], events: [{ time: NOW, level: 'info' as const, text: words }] };
  };
  const { read, open } = await start(t, { view });
  const stream = await open('/events');
  const streamed = JSON.stringify((await events(stream).next()).value);
  stream.destroy();
  const outputs = [streamed, statusTable(view())];
  for (const path of ['/', '/state.json', '/metrics', '/healthz']) outputs.push((await read(path)).body);
  for (const secret of [...Object.values(secrets), 'MIIabcdef'])
    for (const output of outputs) t.false(output.includes(secret), `${secret} is in ${output.slice(0, 60)}`);
  t.is(cleanText('nothing secret: SUNDAY, eyJ, a://b'), 'nothing secret: SUNDAY, eyJ, a://b');
  t.is([...cleanText('ä'.repeat(600))].length, 500);
  const token = `eyJ${'x'.repeat(900)}.y.z`;
  t.is(
    cleanText(`${`${token} `.repeat(2)}${'-'.repeat(150)} ${secrets.seed}`),
    `(token) (token) ${'-'.repeat(150)}`,
    'one that is cut is not shown in part',
  );
});

/** Reads the text format of Prometheus, as its documentation describes it; throws for what does not fit. */
function parseMetrics(body: string): Map<string, { labels: Record<string, string>; value: number }[]> {
  const found = new Map<string, { labels: Record<string, string>; value: number }[]>();
  const typed = new Set<string>();
  if (!body.endsWith('\n')) throw new Error('the last line does not end');
  for (const line of body.slice(0, -1).split('\n')) {
    const comment = /^# (HELP|TYPE) ([a-z_:][\w:]*) (.+)$/.exec(line);
    if (comment) {
      if (comment[1] === 'TYPE' && !['gauge', 'counter'].includes(comment[3]!)) throw new Error(line);
      if (comment[1] === 'TYPE') typed.add(comment[2]!);
      continue;
    }
    const sample = /^([a-z_:][\w:]*)(?:\{((?:[a-z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (-?[\d.]+(?:e[+-]?\d+)?|NaN)$/.exec(line);
    if (!sample || !typed.has(sample[1]!)) throw new Error(`no sample: ${line}`);
    const labels = Object.fromEntries(
      [...(sample[2] ?? '').matchAll(/([a-z_]\w*)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value!.replace(/\\(.)/g, '$1')]),
    );
    found.set(sample[1]!, [...(found.get(sample[1]!) ?? []), { labels, value: Number(sample[3]) }]);
  }
  return found;
}

test('metrics are in the format of Prometheus, each series once', (t) => {
  for (const view of [busyView(), manySites(200), federationView.parse(hostileView()), busyView({ sites: [], history: [] })]) {
    const metrics = parseMetrics(metricsText(view));
    for (const [name, samples] of metrics) {
      t.regex(name, /^phoenix_/);
      t.is(new Set(samples.map(({ labels }) => JSON.stringify(labels))).size, samples.length, name);
    }
    t.is(metrics.get('phoenix_round')?.[0]?.value, 12);
    t.is(metrics.get('phoenix_site_up_bytes_total')?.length ?? 0, view.sites.length);
  }
  const metrics = parseMetrics(metricsText(busyView()));
  const of = (name: string, site: string) => metrics.get(name)?.find(({ labels }) => labels.site === site)?.value;
  t.is(of('phoenix_site_heartbeat_age_seconds', 'hospital-a'), 2);
  t.is(of('phoenix_site_heartbeat_age_seconds', 'practice-e'), undefined);
  t.is(of('phoenix_site_round_trip_seconds', 'hospital-b'), 0.048);
  t.is(of('phoenix_site_weight', 'clinic-süd'), 0);
  t.is(metrics.get('phoenix_sites')?.find(({ labels }) => labels.state === 'lost')?.value, 1);
  t.is(metrics.get('phoenix_loss')?.[0]?.value, busyView().history.at(-1)!.loss!);
});

test('the table for a terminal', (t) => {
  t.is(
    statusTable(busyView()),
    [
      'lung, run first. Round 12 of 50: waiting for the reports of hospital-a and hospital-b, 4 min 10 s at most.',
      '5 sites: 1 training, 1 uploading, 1 refused, 1 lost, 1 not enrolled yet. 17.6 MB up, 33.9 MB down.',
      '',
      'site         state             progress  images/s  loss   weight  heartbeat        ping   up       down     images  version  device          valid',
      'hospital-a   training          71 %      148       0.123  25 %    2 s ago          21 ms  4.71 MB  9.88 MB  1,834   0.2.0    CPU, 8 threads  200 days',
      'hospital-b   uploading         62 %                       41 %    2 s ago          48 ms  4.71 MB  9.88 MB  1,834   0.2.0    CPU, 8 threads  200 days',
      'clinic-süd   refused                                      0 %     2 s ago          21 ms  4.71 MB  9.88 MB  1,834   0.2.0    NVIDIA L4       12 days',
      'institute-d  lost                                         9 %     10 min 40 s ago  21 ms  4.71 MB  9.88 MB  1,834   0.2.0    CPU, 8 threads  200 days',
      'practice-e   not enrolled yet                                                             0 bytes  0 bytes',
      '',
      'clinic-süd: This site refuses train: it does not allow a histogram (site.json, allow.histogram: false). Ask its administrator, or run without --strategy diversity.',
      'institute-d: silent for ten minutes. Its machine or its line is down: call its administrator.',
      'clinic-süd: its credentials expire in 12 days.',
    ].join('\n'),
  );
  t.regex(statusTable(busyView({ sites: [] })), /No site has been invited yet\./);
  t.regex(statusTable(manySites(5)), /hospital-a and hospital-b/);
  t.regex(
    statusTable(busyView({ serverWork: 'distilling, 40 %, about 12 min left' })),
    /Round 12 of 50: distilling, 40 %, about 12 min left/,
  );
  t.regex(statusTable(busyView({ engine: { connected: false } })), /^No connection to the server\.$/m);
});

test('an empty federation and one of 200 sites are pages too', async (t) => {
  let view = busyView({
    ...{ sites: [], history: [], weights: [], decisions: [], events: [] },
    samples: undefined,
    waiting: undefined,
    round: 0,
  });
  const { read } = await start(t, { view: () => view });
  t.regex((await read('/')).body, /No site has been invited yet/);
  view = manySites(200);
  const { body } = await read('/');
  t.is(body.match(/<tr id="s-/g)?.length, 200);
  t.true(body.length < 1_000_000);
  t.is(statusTable(view).match(/^site-\d{3} /gm)?.length, 200);
});

test('what /state.json says is read back as the same view', async (t) => {
  const { read } = await start(t);
  const state = (await read('/state.json')).body;
  t.is(JSON.stringify(federationView.parse(JSON.parse(state))), JSON.stringify(busyView()));
  t.is(state, JSON.stringify(busyView()));
});

test('what changes something is taken from the page itself, and is not there unless the coordinator takes it', async (t) => {
  const asked: string[] = [];
  const order = async (verb: string) => {
    asked.push(verb);
    if (verb === 'resume') throw new PhoenixError('ERR_PHOENIX_RUN', 'lung is not paused.');
    return `done: ${verb}`;
  };
  const view = () => busyView({ verbs: ['pause', 'stop'] });
  const { page, read } = await start(t, { view, order });
  const post = (path: string, headers: Record<string, string>) => read(path, headers, { method: 'POST' });
  const ours = { 'X-Phoenix-Order': 'pause', Origin: `http://127.0.0.1:${page.port}`, Host: `127.0.0.1:${page.port}` };
  for (const [headers, why] of [
    [{}, 'a form of another page has no header of ours'],
    [{ ...ours, 'X-Phoenix-Order': 'stop' }, 'the header names another verb'],
    [{ ...ours, Origin: 'http://evil.example' }, 'it comes from elsewhere'],
    [{ ...ours, Origin: 'null' }, 'it does not say from where'],
    [{ ...ours, 'Sec-Fetch-Site': 'cross-site' }, 'the browser says so'],
  ] as const)
    t.is((await post('/pause', headers as Record<string, string>)).status, 403, why);
  t.is((await post('/pause', { ...ours, Host: 'evil.example' })).status, 421);
  t.is((await read('/pause', ours)).status, 404, 'reading changes nothing');
  t.deepEqual(asked, []);
  t.like(await post('/pause', ours), { status: 200, body: 'done: pause\n' });
  t.like(await post('/resume', { ...ours, 'X-Phoenix-Order': 'resume' }), { status: 409, body: 'lung is not paused.\n' });
  t.is((await post('/state.json', ours)).status, 405);
  t.deepEqual(asked, ['pause', 'resume']);
  t.regex((await read('/')).body, /<button type="button" data-order="pause">Pause</);

  const token = newPageToken();
  const guarded = await start(t, { view, order, token });
  const secret = { 'X-Phoenix-Order': 'stop' };
  t.is((await guarded.read('/stop', secret, { method: 'POST' })).status, 401);
  t.is((await guarded.read('/stop', { ...secret, Authorization: `Bearer ${token}` }, { method: 'POST' })).status, 200);

  const reading = await start(t, { view });
  t.is((await reading.read('/pause', { 'X-Phoenix-Order': 'pause' }, { method: 'POST' })).status, 405);
  t.notRegex((await reading.read('/')).body, /data-order="/);
});
