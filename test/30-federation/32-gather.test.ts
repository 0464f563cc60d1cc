/** How long a round waits, and for whom: a pure function of clock, arrivals and heartbeats, and the loop around it. */
import test from 'ava';
import { checkWaiting, gather, judge, type Wait, type Waiting } from '../../src/fl/server/gather.ts';
import type { Reply } from '../../src/fl/transport.ts';

const wait = (change: Partial<Wait> = {}): Wait => ({
  now: 0,
  started: 0,
  asked: ['a', 'b', 'c', 'd'],
  answered: new Map(),
  failed: new Set(),
  lastSeen: () => undefined,
  ...change,
});
const answered = (times: Record<string, number>) => new Map(Object.entries(times));

test('without options all are waited for, however long', (t) => {
  t.deepEqual(judge(wait({ now: 1e12, answered: answered({ a: 1, b: 2, c: 3 }) }), {}), { lost: new Map(), closed: false });
  t.true(judge(wait({ answered: answered({ a: 1, b: 2, c: 3, d: 4 }) }), {}).closed);
  t.true(judge(wait({ answered: answered({ a: 1, b: 2, c: 3 }), failed: new Set(['d']) }), {}).closed);
});

test('a deadline ends the wait, and a grace does once the quorum has answered', (t) => {
  const waiting: Waiting = { quorum: 0.5, graceSeconds: 10, deadlineSeconds: 60 };
  const at = (now: number, times: Record<string, number>) => judge(wait({ now, answered: answered(times) }), waiting);
  t.like(at(5_000, { a: 1_000 }), { closed: false, wakeAt: 60_000 });
  t.like(at(5_000, { a: 1_000, b: 4_000 }), { closed: false, wakeAt: 14_000 });
  t.like(at(13_999, { b: 4_000, a: 1_000 }), { closed: false });
  const closed = at(14_000, { a: 1_000, b: 4_000 });
  t.true(closed.closed);
  t.deepEqual([...closed.lost.keys()], ['c', 'd']);
  t.regex(closed.lost.get('c')!, /quorum answered, and 10 seconds/);
  t.regex(at(60_000, { a: 1_000 }).lost.get('b')!, /within 60 seconds/);
});

test('a client is lost by silence only where it can vanish, and no sooner than it was asked', (t) => {
  const seen: Record<string, number | undefined> = { a: -50_000, b: 9_000, c: undefined, d: 0 };
  const at = (now: number) => judge(wait({ now, lastSeen: (id) => seen[id], failed: new Set(['d']) }), { lostAfterSeconds: 10 });
  t.deepEqual(at(9_999).lost.size, 0);
  t.is(at(9_999).wakeAt, 10_000);
  t.deepEqual([...at(10_000).lost.keys()], ['a']);
  t.deepEqual([...at(19_000).lost.keys()], ['a', 'b']);
  t.false(at(19_000).closed, 'c is still waited for');
});

test('options out of range are refused', (t) => {
  for (const bad of [{ quorum: 0 }, { quorum: 1.1 }, { graceSeconds: -1 }, { deadlineSeconds: NaN }, { lostAfterSeconds: -1 }])
    t.throws(() => checkWaiting(bad), { code: 'ERR_PHOENIX_ARGUMENT' }, JSON.stringify(bad));
});

/** Replies at these milliseconds, and then none for ever. */
async function* arriving(replies: [string, number][], over: () => void): AsyncGenerator<Reply> {
  try {
    for (const [client, after] of replies) {
      await new Promise((resolve) => setTimeout(resolve, after));
      yield { client, head: { client }, blobs: [] };
    }
  } finally {
    over();
  }
}

test('the loop ends when the wait does, ignores what comes twice or from nobody, and reports who did not answer', async (t) => {
  let over = 0;
  const outcomes = arriving(
    [
      ['b', 1],
      ['nobody', 1],
      ['b', 1],
      ['a', 1],
    ],
    () => over++,
  );
  const { replies, failures } = await gather(['a', 'b', 'c'], outcomes, { round: 4, kind: 'train', waiting: {} });
  t.deepEqual(
    replies.map(({ client }) => client),
    ['a', 'b'],
  );
  t.deepEqual(failures, [{ client: 'c', round: 4, stage: 'train', reason: 'no answer came' }]);
  t.is(over, 1);

  const slow = arriving(
    [
      ['a', 1],
      ['b', 300],
    ],
    () => over++,
  );
  const cut = await gather(['a', 'b'], slow, { round: 4, kind: 'train', waiting: { graceSeconds: 0.02 } });
  t.deepEqual([cut.replies.length, cut.failures[0]!.client], [1, 'b']);
  t.is(over, 2, 'what was outstanding is ended');
});

test('an error of the outcomes, and an abort, end it', async (t) => {
  const failing = (async function* (): AsyncGenerator<Reply> {
    yield { client: 'a', head: {}, blobs: [] };
    throw new Error('the disk is full');
  })();
  await t.throwsAsync(gather(['a', 'b'], failing, { round: 1, kind: 'train', waiting: {} }), { message: 'the disk is full' });
  const reason = new Error('stop');
  const signal = AbortSignal.abort(reason);
  t.is(
    await t.throwsAsync(
      gather(
        ['a'],
        arriving([['a', 1]], () => {}),
        { round: 1, kind: 'train', waiting: {}, signal },
      ),
    ),
    reason,
  );
});
