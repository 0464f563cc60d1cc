/** What a coordinator knows of its federation: its own changes at once, those of other processes soon, and none is taken back. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { beginFederation, bookOf, holdFederation } from '../../src/commands/coordinator/folder.ts';
import { inviteSite, newFederation } from '../../src/net/credentials.ts';

test('a look at federation.json takes back no change that is made meanwhile; that of another process is seen', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-held-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const first = newFederation({ name: 'lung', servers: ['tls://127.0.0.1:1'] });
  await beginFederation(dir, first);
  const held = holdFederation(dir, first);
  let looks = 0;
  let sawOther: () => void;
  const other = new Promise<void>((resolve) => {
    sawOther = resolve;
  });
  t.teardown(
    held.watch(async (now) => {
      looks++;
      if (now.sites.other) sawOther();
    }),
  );
  // One change after the other, so that each look falls into one.
  for (let i = 0; looks < 3; i++) {
    let made = first;
    await held.book.update((before) => {
      made = inviteSite(before, `site-${i % 50}`).federation;
      return made;
    });
    await new Promise(setImmediate);
    t.deepEqual(held.now(), made, `after change ${i} and ${looks} looks`);
  }
  await bookOf(dir).update((before) => inviteSite(before, 'other').federation);
  await other;
  t.true('other' in held.now().sites);
});
