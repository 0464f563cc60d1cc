/** The wires hold their contract: here that of one process. */
import test from 'ava';
import { PhoenixError } from '../../src/errors.ts';
import { memoryHub } from '../../src/net/wires/memory.ts';
import { createWindow } from '../../src/net/wires/transfer.ts';
import { testBlob, wireContract } from '../contracts/wire.ts';

wireContract('memory', async () => {
  let tampered: { name: string; piece: number } | undefined;
  const hub = memoryHub({
    change(crossing, bytes) {
      if (crossing.verb !== 'load' || crossing.name !== tampered?.name || crossing.piece !== tampered?.piece) return bytes;
      const changed = bytes.slice();
      changed[0]! ^= 1;
      return changed;
    },
  });
  return {
    coordinator: async () => hub.coordinator(),
    site: async (id) => hub.site(id),
    cut: async (wire) => hub.cut(wire),
    mend: async (wire) => hub.mend(wire),
    lose: async () => hub.lose(),
    async tamper(name, piece) {
      tampered = { name, piece };
    },
    close: async () => {},
  };
});

test('an answer that was lost: the value was stored once, and the next one follows', async (t) => {
  const hub = memoryHub();
  const coordinator = hub.coordinator();
  const site = hub.site('a');
  const seen: string[] = [];
  await coordinator.watchHas((_, value) => seen.push(Buffer.from(value).toString()));
  let lose = true;
  hub.fail({
    after({ verb, by }) {
      if (verb !== 'say' || by !== 'a' || !lose) return;
      lose = false;
      hub.cut(site);
      setImmediate(() => hub.mend(site));
    },
  });
  await site.has(Buffer.from('one'));
  await site.has(Buffer.from('two'));
  t.deepEqual(seen, ['one', 'two']);
  await Promise.all([site.close(), coordinator.close()]);
});

test('a store lost between the first and the last piece: all are there in the end', async (t) => {
  const hub = memoryHub();
  const coordinator = hub.coordinator();
  const site = hub.site('a');
  const blob = testBlob(12 * 128 * 1024, 1);
  let pieces = 0;
  hub.fail({
    after({ verb }) {
      if (verb === 'store' && ++pieces === 6) hub.lose();
    },
  });
  await site.put(blob);
  t.true(Buffer.from(blob.content).equals(await coordinator.get('a', blob)));
  await Promise.all([site.close(), coordinator.close()]);
});

test('a quota ends a put for good; a connection that ended for good ends the wire', async (t) => {
  const hub = memoryHub({ quota: 300_000 });
  const site = hub.site('a');
  await t.throwsAsync(site.put(testBlob(400_000, 1)), { code: 'ERR_PHOENIX_NETWORK', message: /300000/ });
  await site.keep(new Set());
  await site.put(testBlob(300_000, 2));
  const waiting = t.throwsAsync(site.get(testBlob(5, 3)), { code: 'ERR_PHOENIX_REFUSED' });
  hub.expel(site, new PhoenixError('ERR_PHOENIX_REFUSED', 'Revoked.'));
  await waiting;
  await t.throwsAsync(site.has(new Uint8Array(1)), { code: 'ERR_PHOENIX_REFUSED' });
  await site.close();
});

test('the window grows while pieces are quick, and is halved by each that fails', async (t) => {
  let now = 0;
  const window = createWindow(() => now);
  t.is(window.size(), 2);
  const piece = (takes: number) =>
    window.measure(async () => {
      now += takes;
    });
  for (let i = 0; i < 2000; i++) await piece(100);
  t.is(window.size(), 32);
  await t.throwsAsync(
    window.measure(async () => {
      throw new Error('timeout');
    }),
  );
  t.is(window.size(), 16);
  for (let i = 0; i < 2000; i++) await piece(3000);
  t.is(window.size(), 1);
});
