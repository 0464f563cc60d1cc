/** Who takes part in a round: noted before it begins, repeated after a restart, settled anew after a round that failed. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { cohortOf } from '../../src/commands/coordinator/cohort.ts';
import { paceOf, speedOf } from '../../src/commands/coordinator/pace.ts';
import { type Hello, PROTOCOL, type RoundRecord } from '../../src/fl/protocol.ts';
import type { Transport } from '../../src/fl/transport.ts';

const helloOf = (id: string): Hello => ({ protocol: PROTOCOL, id, examples: 10, capabilities: [] });

/** Sites that come and go, and a cohort over them. */
function world(path: string, least = 2, measure?: (clients: Hello[]) => Record<string, number>) {
  const there = { sites: ['a', 'b', 'c'], joining: [] as string[], returning: [] as string[], enrolled: new Set(['a', 'b', 'c', 'd']) };
  const waited: string[][] = [];
  const listeners = new Set<() => void>();
  const transport: Transport = {
    get clients() {
      return there.sites.map(helloOf);
    },
    carriesVectors: false,
    ask: () => {
      throw new Error('nothing is asked here');
    },
    traffic: () => ({ bytesUp: 0, bytesDown: 0 }),
    close: async () => {},
  };
  const begin = () =>
    cohortOf(transport, {
      path,
      least,
      measure,
      joining: (took) => [...there.joining, ...took.filter((id) => there.returning.includes(id))],
      isEnrolled: (id) => there.enrolled.has(id),
      until: (check) =>
        new Promise((resolve) => {
          const look = () => {
            if (!check()) return;
            listeners.delete(look);
            resolve();
          };
          listeners.add(look);
          look();
        }),
      onWaiting: (present) => waited.push(present.map(({ id }) => id)),
    });
  const change = (more: Partial<typeof there>) => {
    Object.assign(there, more);
    for (const listener of [...listeners]) listener();
  };
  return { begin, change, waited };
}

const ids = ({ transport }: { transport: Transport }) => transport.clients.map(({ id }) => id);

test('a round keeps who began it, the next one takes who is there, and a restart repeats the round with the same', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-cohort-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const path = join(dir, 'round.json');
  const { begin, change } = world(path);
  const cohort = begin();
  await cohort.settle(1);
  change({ sites: ['b', 'c', 'd'] });
  await cohort.settle(1);
  t.deepEqual(ids(cohort), ['a', 'b', 'c']);
  await cohort.settle(2);
  t.deepEqual(ids(cohort), ['b', 'c', 'd']);
  t.like(JSON.parse(await readFile(path, 'utf8')), { round: 2 });

  change({ sites: ['a', 'b', 'd'] });
  const again = begin();
  await again.settle(2);
  await again.settle(2);
  t.deepEqual(ids(again), ['b', 'c', 'd'], 'the round that was killed is repeated');
  change({ enrolled: new Set(['a', 'b', 'd']) });
  const later = begin();
  await later.settle(2);
  t.deepEqual(ids(later), ['b', 'd'], 'but for a site that was revoked');
  later.unsettle();
  await later.settle(2);
  t.deepEqual(ids(later), ['a', 'b', 'd'], 'a round that failed is settled anew');
});

test('it waits for enough sites, and for those that are joining; it says so', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-cohort-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const { begin, change, waited } = world(join(dir, 'round.json'));
  change({ sites: ['a'], joining: ['b', 'c'] });
  const cohort = begin();
  let isSettled = false;
  const settling = cohort.settle(1).then(() => {
    isSettled = true;
  });
  while (waited.length === 0) await new Promise(setImmediate);
  t.deepEqual(waited, [['a']]);
  change({ sites: ['a', 'b'], joining: ['c'] });
  await new Promise(setImmediate);
  t.false(isSettled, 'c is still joining');
  change({ joining: [] });
  await settling;
  t.deepEqual(ids(cohort), ['a', 'b']);
});

test('a site of the round before, or of the round that is repeated, is waited for until it is lost', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-cohort-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const { begin, change } = world(join(dir, 'round.json'));
  const first = begin();
  await first.settle(1);
  // The coordinator begins again: c has said nothing yet.
  for (const [round, what] of [
    [1, 'the same round'],
    [2, 'the next one'],
  ] as const) {
    change({ sites: ['a', 'b'], returning: ['c'] });
    const again = begin();
    let isSettled = false;
    const settling = again.settle(round).then(() => {
      isSettled = true;
    });
    for (let i = 0; i < 50; i++) await new Promise(setImmediate);
    t.false(isSettled, `${what} waits for c`);
    change({ sites: ['a', 'b', 'c'], returning: [] });
    await settling;
    t.deepEqual(ids(again), ['a', 'b', 'c'], what);
  }
  change({ sites: ['a', 'b'] });
  const without = begin();
  await without.settle(3);
  t.deepEqual(ids(without), ['a', 'b'], 'c is lost');
});

test('how much a slow site trains is settled once for a round: a restart keeps it, the next round measures again', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-cohort-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const path = join(dir, 'round.json');
  let speed = 16;
  const { begin } = world(path, 2, (clients) => Object.fromEntries(clients.slice(0, 1).map(({ id }) => [id, speed])));
  const cohort = begin();
  await cohort.settle(4);
  speed = 32;
  t.is(cohort.mostImages('a'), 16);
  t.is(cohort.mostImages('b'), undefined);
  const again = begin();
  await again.settle(4);
  t.is(again.mostImages('a'), 16, 'a repeated round keeps it');
  t.deepEqual(JSON.parse(await readFile(path, 'utf8')).mostImages, { a: 16 });
  await again.settle(5);
  t.is(again.mostImages('a'), 32);
});

/** A round in which these sites trained: images and seconds. */
const trained = (round: number, sites: Record<string, [images: number, seconds: number | undefined]>) =>
  ({ round, clients: Object.entries(sites).map(([client, [images, seconds]]) => ({ client, images, seconds })) }) as unknown as RoundRecord;

test('the speed of a site is that of its last three trainings; its work is full batches, at least one, at most the plan', (t) => {
  const history = [
    trained(1, { a: [100, 100], b: [800, 10] }),
    trained(2, { a: [100, 10], b: [800, 10], d: [50, 0] }),
    trained(3, { a: [60, 10], e: [50, undefined] }),
    trained(4, { a: [20, 10], c: [8, 80] }),
  ];
  t.is(speedOf('a', history), 6, '180 images in 30 seconds');
  t.is(speedOf('b', history), 80);
  t.is(speedOf('d', history), undefined, 'no time is no speed');
  t.is(speedOf('e', history), undefined);
  t.is(speedOf('x', history), undefined);
  const clients = ['a', 'b', 'c', 'x'].map((id) => ({ ...helloOf(id), examples: 100 }));
  const pace = { batch: 8, length: { epochs: 1 }, history };
  // 10 s: a makes 60 images, 7 batches of the 13 planned; b more than planned; c 1 image, which is one batch; x is not known.
  t.deepEqual(paceOf(clients, { ...pace, roundSeconds: 10 }), { a: 56, c: 8 });
  t.deepEqual(paceOf(clients, { ...pace, roundSeconds: 1e6 }), {});
  t.deepEqual(paceOf(clients, { ...pace, roundSeconds: 10, length: { localImages: 16 } }), { c: 8 });
});
