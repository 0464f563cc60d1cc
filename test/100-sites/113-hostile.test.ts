/** What a coordinator and a site do with values that are forged, old, or nonsense, with lost state, and with a policy. */
import test, { type ExecutionContext } from 'ava';
import { type Failure, PROTOCOL } from '../../src/fl/protocol.ts';
import type { Answer, Client } from '../../src/fl/site/client.ts';
import { memoryStore } from '../../src/fl/store.ts';
import type { Message, Reply } from '../../src/fl/transport.ts';
import { blobOf } from '../../src/fl/wire/message.ts';
import { hashName, seal, unseal } from '../../src/net/protocol.ts';
import type { Sent } from '../../src/net/sent-log.ts';
import type { SiteEvent, SiteOptions } from '../../src/net/site-state.ts';
import { MAX_VALUE } from '../../src/net/wire.ts';
import { memoryHub } from '../../src/net/wires/memory.ts';
import { startCoordinator, startSite, type TestKeys, testKey, testKeys } from '../support/sites.ts';

type Answering = (request: Message, signal: AbortSignal) => Promise<Answer>;
const clientOf = (id: string, answer: Answering): Client => ({
  hello: { protocol: PROTOCOL, id, examples: 1, capabilities: [] },
  answer: (request, { signal } = {}) => answer(request, signal!),
});
const done: Answering = async ({ head }) => ({ head, blobs: [] });
const train = () => ({ kind: 'train', head: { number: 1 } });

async function all(outcomes: AsyncIterable<Reply | Failure>): Promise<(Reply | Failure)[]> {
  const list = [];
  for await (const outcome of outcomes) list.push(outcome);
  return list;
}

/** Something that happened, and those that wait for it. */
function gathered<T>() {
  const items: T[] = [];
  const waiting = new Set<() => void>();
  return {
    items,
    push(item: T) {
      items.push(item);
      for (const look of waiting) look();
    },
    until: (check: (item: T) => boolean) =>
      new Promise<T>((resolve) => {
        const look = () => {
          const found = items.find(check);
          if (found !== undefined) resolve(found);
        };
        waiting.add(look);
        look();
      }),
  };
}

/** A coordinator and site a; what the site reports. */
async function pair(t: ExecutionContext, answer: Answering = done, options: Partial<SiteOptions> = {}) {
  const hub = memoryHub();
  const keys = testKeys();
  const events = gathered<SiteEvent>();
  const ignored = gathered<string>();
  const site = startSite(hub.site('a'), keys, clientOf('a', answer), { onEvent: events.push, ...options });
  const coordinator = await startCoordinator(hub.coordinator(), keys, ['a'], { onIgnored: (id, why) => ignored.push(`${id}: ${why}`) });
  t.teardown(async () => {
    await site.stop();
    await coordinator.close();
  });
  return { hub, keys, events, ignored, site, coordinator, transport: coordinator.transport };
}

const has = (change: object = {}) => ({ protocol: PROTOCOL, phoenix: '1.2.3', seen: 1, answers: [], ...change });
const want = (counter: number, change: object = {}) => ({ protocol: PROTOCOL, phoenix: '1.2.3', counter, is: 'open', ...change });

test('a value is that of its kind, its site and its key, and not changed', (t) => {
  const keys = testKeys();
  const value = seal('want', 'a', want(1), keys.coordinator);
  t.deepEqual(unseal('want', 'a', value, keys.coordinator), want(1));
  const refused = { code: 'ERR_PHOENIX_REFUSED' } as const;
  t.throws(() => unseal('has', 'a', value, keys.coordinator), refused);
  t.throws(() => unseal('want', 'b', value, keys.coordinator), refused);
  t.throws(() => unseal('want', 'a', value, keys.site('a')), refused);
  for (const at of [0, 63, 64, value.length - 1]) {
    const changed = value.slice();
    changed[at]! ^= 1;
    t.throws(() => unseal('want', 'a', changed, keys.coordinator), refused, `byte ${at}`);
  }
  for (const length of [0, 64, MAX_VALUE + 1]) t.throws(() => unseal('want', 'a', new Uint8Array(length), keys.coordinator), refused);
  t.throws(() => seal('want', 'a', { text: 'x'.repeat(MAX_VALUE) }, keys.coordinator), { code: 'ERR_PHOENIX_ARGUMENT' });
  t.throws(() => seal('beat', 'a', { text: 'x'.repeat(5000) }, keys.coordinator), { code: 'ERR_PHOENIX_ARGUMENT' });
});

test('a has that its site has not signed is ignored; nonsense that it has signed is its failure', async (t) => {
  const hub = memoryHub();
  const keys = testKeys();
  const ignored = gathered<string>();
  const wire = hub.site('a');
  const hello = { protocol: PROTOCOL, id: 'a', examples: 1, capabilities: [] };
  const say = (value: object, key = keys.site('a'), id = 'a') => wire.has(seal('has', id, value, key));
  await say(has({ run: 'run', hello, seen: 0 }));
  const coordinator = await startCoordinator(hub.coordinator(), keys, ['a'], { onIgnored: (id, why) => ignored.push(`${id}: ${why}`) });
  const { sites, transport } = coordinator;
  const asked = all(transport.ask(['a'], train, { round: 1 }));
  while (!sites.find('a')?.want?.run?.requests.length) await new Promise(setImmediate);
  const { head } = sites.find('a')!.want!.run!.requests[0]!;
  const answers = [{ is: 'failed', request: hashName(head), attempt: 0, reason: 'forged' }];

  await say(has({ run: 'run', hello, seen: 2, answers }), testKey());
  await ignored.until((why) => /not signed/.test(why));
  await say(has({ run: 'run', hello, seen: 2, answers }), keys.site('b'), 'b');
  await say(has({ run: 'another', hello, seen: 2, answers }));
  await sites.until(() => sites.find('a')?.has?.run === 'another');
  await say(has({ run: 'run', hello, seen: 1, answers }));
  await ignored.until((why) => /newer before/.test(why));

  const bad = {
    'the id of another': { run: 'run', hello: { ...hello, id: 'b' } },
    'no list': { answers: 'none' },
    'no number': { seen: Number.NaN },
    'a long name': { run: 'x'.repeat(200) },
  };
  for (const [what, change] of Object.entries(bad)) {
    await say(has({ run: 'run', hello, seen: 2, ...change }));
    await sites.until(() => sites.find('a')?.unreadable !== undefined);
    t.deepEqual(transport.clients, [], what);
    await say(has({ run: 'run', hello, seen: 2 }));
    await sites.until(() => sites.find('a')?.unreadable === undefined);
  }
  t.like((await asked)[0], { client: 'a', round: 1, stage: 'train' }, 'it failed at the first of these');
  await coordinator.close();
  await wire.close();
});

test('another protocol is a failure that names both versions and what to type', async (t) => {
  const patient: Answering = (_, signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  const { coordinator, transport, site, hub, keys } = await pair(t, patient);
  const asked = all(transport.ask(['a'], train, { round: 1 }));
  await coordinator.sites.until(() => coordinator.sites.find('a')!.has!.seen > 1);
  await site.stop();
  const newer = hub.site('a');
  await newer.has(seal('has', 'a', { protocol: PROTOCOL + 1, phoenix: '9.0.0', seen: 2, other: 'fields' }, keys.site('a')));
  const [failure] = (await asked) as [Failure];
  t.regex(
    failure.reason,
    /protocol 2 \(Phoenix 9\.0\.0\).*protocol 1 \(Phoenix 1\.2\.3\).*at the coordinator.*npm install phoenix@9\.0\.0/,
  );
  t.deepEqual(transport.clients, []);
  await newer.close();
});

/** A site that is alone with whoever speaks as its coordinator. */
function alone(t: ExecutionContext, keys: TestKeys, options: Partial<SiteOptions> = {}) {
  const hub = memoryHub();
  const events = gathered<SiteEvent>();
  const wire = hub.coordinator();
  const site = startSite(hub.site('a'), keys, clientOf('a', done), { onEvent: events.push, ...options });
  t.teardown(async () => {
    await site.stop();
    await wire.close();
  });
  const say = (value: object, key = keys.coordinator) => wire.want('a', seal('want', 'a', value, key));
  return { hub, wire, site, events, say };
}
const run = (name: string) => ({ run: { name, requests: [] } });

test('a site obeys no want that is forged or older, and refuses what it does not know', async (t) => {
  const keys = testKeys();
  const store = memoryStore();
  const { events, say, wire, site } = alone(t, keys, { store });
  await say(want(5, run('one')), testKey());
  await events.until(({ type }) => type === 'ignored');
  await say(want(5, run('one')));
  await events.until((event) => event.type === 'joined' && event.run === 'one');
  await say(want(4, run('old')));
  await events.until((event) => event.type === 'ignored' && /old/.test(event.why));
  await say(want(6, { ...run('one'), danger: true }));
  await events.until((event) => event.type === 'problem' && /danger/.test(event.text));
  await say(want(7, { ...run('one'), danger: true, optional: ['danger'], is: 'idle', text: 'distilling, about 40 min' }));
  await events.until((event) => event.type === 'idle' && event.text === 'distilling, about 40 min');
  await say({ ...want(8), protocol: PROTOCOL + 1 });
  await events.until((event) => event.type === 'problem' && /npm install phoenix@1\.2\.3/.test(event.text));
  t.false(events.items.some((event) => event.type === 'joined' && event.run === 'old'));

  // A new process, to which the server shows the old want: its Store knows better, although the server has lost what the site said.
  await site.stop();
  const second = alone(t, keys, { store });
  await second.say(want(4, run('old')));
  await second.events.until((event) => event.type === 'ignored' && /old/.test(event.why));
  await wire.close();
});

test('work that is no longer wanted is stopped, and its late answer is not waited for', async (t) => {
  const begun = gathered<number>();
  let stopped = 0;
  const { transport, events } = await pair(t, async ({ round, head }, signal) => {
    begun.push(round);
    if (round > 1) return { head, blobs: [] };
    return new Promise((_, reject) => {
      signal.addEventListener('abort', () => {
        stopped++;
        reject(signal.reason);
      });
    });
  });
  const iterator = transport.ask(['a'], train, { round: 1 })[Symbol.asyncIterator]();
  const first = iterator.next();
  first.catch(() => {});
  await begun.until((round) => round === 1);
  await iterator.return!();
  await events.until(({ type }) => type === 'dropped');
  t.is(stopped, 1);
  t.deepEqual(await all(transport.ask(['a'], train, { round: 2 })), [{ client: 'a', head: { number: 1 }, blobs: [] }]);
});

test('a request that failed is asked anew, and its old failure is no answer to that', async (t) => {
  let tries = 0;
  const { transport } = await pair(t, async ({ head }) => {
    if (++tries === 1) throw new Error('the disk is full');
    return { head, blobs: [] };
  });
  const ask = () => all(transport.ask(['a'], train, { round: 1 }));
  t.deepEqual(await ask(), [{ client: 'a', round: 1, stage: 'train', reason: 'the disk is full' }]);
  t.deepEqual(await ask(), [{ client: 'a', head: { number: 1 }, blobs: [] }]);
  t.deepEqual(await ask(), [{ client: 'a', head: { number: 1 }, blobs: [] }]);
  t.is(tries, 2, 'what was answered is not done again');
});

test('a policy is asked before anything is read; its refusal names the line and is no failure of the site', async (t) => {
  let answered = 0;
  const asked: string[] = [];
  const sent: Sent[] = [];
  const { transport } = await pair(
    t,
    async () => {
      answered++;
      return { head: { fine: true }, blobs: [await blobOf(new Uint8Array(10))] };
    },
    {
      allow: ({ kind }) => {
        asked.push(kind);
        if (kind === 'upload') return { allowed: true, line: 'allow.upload: true' };
        return { allowed: false, line: 'allow.points: false', words: 'This site sends no points.' };
      },
      onSent: async (line) => void sent.push(line),
    },
  );
  const points = () => ({ kind: 'points', head: {} });
  t.deepEqual(await all(transport.ask(['a'], points, { round: 1 })), [
    { client: 'a', round: 1, stage: 'points', reason: 'This site sends no points.', refused: 'allow.points: false' },
  ]);
  t.deepEqual([answered, sent], [0, []]);
  const [reply] = (await all(transport.ask(['a'], () => ({ kind: 'upload', head: {} }), { round: 1 }))) as [Reply];
  t.deepEqual(asked, ['points', 'upload']);
  t.like(sent[0], { run: 'run', round: 1, kind: 'upload', line: 'allow.upload: true' });
  t.true(sent[0]!.bytes > 10 && /^[0-9a-f]{64}$/.test(sent[0]!.sha256));
  t.is(reply.blobs[0]!.length, 10);
});

test('a site that lost its Store in mid-round says so; the others go on', async (t) => {
  const lost = clientOf('a', async ({ kind, head }) => {
    if (kind === 'upload') throw new Error('Client a was asked for its update of round 1, but has none.');
    return { head, blobs: [] };
  });
  const [hub, keys] = [memoryHub(), testKeys()];
  const sites = [startSite(hub.site('a'), keys, clientOf('a', done)), startSite(hub.site('b'), keys, clientOf('b', done))];
  const coordinator = await startCoordinator(hub.coordinator(), keys, ['a', 'b']);
  const ask = (kind: string) => all(coordinator.transport.ask(['a', 'b'], () => ({ kind, head: {} }), { round: 1 }));
  t.is((await ask('train')).length, 2);
  await sites[0]!.stop();
  const again = startSite(hub.site('a'), keys, lost);
  const outcomes = (await ask('upload')).sort((x, y) => (x.client < y.client ? -1 : 1));
  t.like(outcomes[0], { client: 'a', round: 1, stage: 'upload', reason: 'Client a was asked for its update of round 1, but has none.' });
  t.deepEqual(outcomes[1], { client: 'b', head: {}, blobs: [] });
  await Promise.all([again, sites[1]!].map(({ stop }) => stop()));
  await coordinator.close();
});

test('values that the server changes on their way count for nothing, and those that come twice count once', async (t) => {
  const [hub, keys] = [memoryHub(), testKeys()];
  const events = gathered<SiteEvent>();
  const ignored = gathered<string>();
  let answered = 0;
  const client = clientOf('a', async ({ head }) => {
    answered++;
    return { head, blobs: [] };
  });
  const site = startSite(hub.site('a'), keys, client, { onEvent: events.push });
  const coordinator = await startCoordinator(hub.coordinator(), keys, ['a'], { onIgnored: (_, why) => ignored.push(why) });
  const flip = (bytes: Uint8Array) => bytes.map((byte, i) => (i === 100 ? byte ^ 1 : byte));
  hub.fail({ change: ({ verb, kind }, bytes) => (verb === 'say' && kind === 'want' ? flip(bytes) : bytes) });
  const asked = all(coordinator.transport.ask(['a'], train, { round: 1 }));
  await events.until((event) => event.type === 'ignored' && /not signed/.test(event.why));
  t.is(answered, 0);
  hub.fail({});
  // The next want holds all that is open.
  const other = await all(coordinator.transport.ask(['a'], () => ({ kind: 'other', head: {} }), { round: 1 }));
  t.deepEqual(other, [{ client: 'a', head: {}, blobs: [] }]);
  t.deepEqual(await asked, [{ client: 'a', head: { number: 1 }, blobs: [] }]);
  hub.lose();
  t.deepEqual(await all(coordinator.transport.ask(['a'], train, { round: 1 })), [{ client: 'a', head: { number: 1 }, blobs: [] }]);
  t.is(answered, 2);
  await site.stop();
  await coordinator.close();
});

test('without a line in the log of what leaves, nothing leaves', async (t) => {
  const { site, transport } = await pair(t, done, { onSent: () => Promise.reject(new Error('the disk of the log is full')) });
  const asked = all(transport.ask(['a'], train, { round: 1 }));
  asked.catch(() => {});
  await t.throwsAsync(site.ended, { message: 'the disk of the log is full' });
  await transport.close();
  await t.throwsAsync(asked, { code: 'ERR_PHOENIX_DISPOSED' });
});

test('two processes of one site: the earlier one ends and says why', async (t) => {
  const { hub, keys, site, transport } = await pair(t);
  const second = startSite(hub.site('a'), keys, clientOf('a', done));
  const ask = (round: number) => all(transport.ask(['a'], train, { round }));
  await ask(1);
  const ended = await Promise.race([site.ended, second.ended].map((one) => one.catch((error) => error as { code: string })));
  t.is((ended as { code: string }).code, 'ERR_PHOENIX_REFUSED');
  await second.stop();
});
