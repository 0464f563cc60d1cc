/** What holds for every wire: last values, blobs in pieces, and what was said and put is there again whatever the server lost. */
import { createHash } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import type { PhoenixErrorCode } from '../../src/errors.ts';
import { type ByteBlob, type CoordinatorWire, type Link, MAX_BEAT, MAX_VALUE, type SiteWire } from '../../src/net/wire.ts';

/** Bytes of a piece, as wires cut blobs. */
const PIECE = 128 * 1024;

/** A server and what can be done to it. */
export type WireRig = {
  /** A wire of the coordinator, as a process of its own has one. */
  coordinator(): Promise<CoordinatorWire>;
  site(id: string): Promise<SiteWire>;
  /** Takes the connection of one wire away, and gives it back. */
  cut(wire: CoordinatorWire | SiteWire): Promise<void>;
  mend(wire: CoordinatorWire | SiteWire): Promise<void>;
  /** The server starts again and has lost its whole store. */
  lose(): Promise<void>;
  /** Changes a byte of a piece of a coordinator's blob where it lies. */
  tamper(name: string, piece: number): Promise<void>;
  close(): Promise<void>;
};

const text = (value: Uint8Array | undefined) => (value ? Buffer.from(value).toString() : undefined);
const bytes = (value: string) => Buffer.from(value);

/** Bytes that repeat nowhere, as a blob. `read` is counted. */
export function testBlob(length: number, seed: number): ByteBlob & { content: Uint8Array; reads: number } {
  const content = new Uint8Array(length);
  let x = seed;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    content[i] = x >>> 24;
  }
  const blob = {
    name: `sha256:${createHash('sha256').update(content).digest('hex')}`,
    length,
    content,
    reads: 0,
    async read() {
      blob.reads++;
      return content;
    },
  };
  return blob;
}

/** Values as they come: `until` resolves when one is there. */
function collect() {
  const seen: string[] = [];
  const waiting = new Set<() => void>();
  return {
    seen,
    push(value: string) {
      seen.push(value);
      for (const look of waiting) look();
    },
    until: (value: string) =>
      new Promise<void>((resolve) => {
        const look = () => {
          if (!seen.includes(value)) return;
          waiting.delete(look);
          resolve();
        };
        waiting.add(look);
        look();
      }),
  };
}

const linkOf = (wire: CoordinatorWire | SiteWire) => {
  const links = collect();
  wire.onLink(({ connected }: Link) => links.push(connected ? 'back' : 'lost'));
  return links;
};

type Given = {
  t: ExecutionContext;
  rig: WireRig;
  /** A name of a site that no other test uses. */
  id: string;
  coordinator: CoordinatorWire;
  site: SiteWire;
  /** A further wire, closed at the end. */
  another<W extends CoordinatorWire | SiteWire>(wire: Promise<W>): Promise<W>;
  fails(work: Promise<unknown>, code: PhoenixErrorCode, message?: RegExp): Promise<void>;
};

export function wireContract(name: string, make: () => Promise<WireRig>): void {
  let rig: WireRig;
  let tests = 0;
  test.before(async () => {
    rig = await make();
  });
  test.after.always(async () => rig?.close());

  const holds = (what: string, check: (given: Given) => Promise<void>) =>
    test.serial(`${name}: ${what}`, async (t) => {
      // Identifiers may hold what subjects of a server may not.
      const id = `site ${++tests}.*>é`;
      const open: (CoordinatorWire | SiteWire)[] = [];
      const another: Given['another'] = async (wire) => {
        open.push(await wire);
        return wire;
      };
      const fails: Given['fails'] = async (work, code, message) => {
        await t.throwsAsync(work, { code, ...(message && { message }) });
      };
      try {
        const coordinator = await another(rig.coordinator());
        const site = await another(rig.site(id));
        await check({ t, rig, id, coordinator, site, another, fails });
      } finally {
        await Promise.all(open.map((wire) => wire.close()));
      }
    });

  values(holds);
  blobs(holds);
  troubles(holds);
}

type Holds = (what: string, check: (given: Given) => Promise<void>) => void;

function values(holds: Holds): void {
  holds('a want reaches its site, and whoever comes later sees the last one', async ({ t, rig, id, coordinator, site, another }) => {
    const other = await another(rig.site(`${id} other`));
    const wants = collect();
    const others = collect();
    await site.watchWant((value) => wants.push(text(value)!));
    await other.watchWant((value) => others.push(text(value)!));
    await coordinator.want(id, bytes('first'));
    await wants.until('first');
    await coordinator.want(id, bytes('second'));
    await wants.until('second');
    const late = collect();
    const again = await another(rig.site(id));
    await again.watchWant((value) => late.push(text(value)!));
    t.deepEqual(late.seen, ['second']);
    t.is(text(await (await another(rig.coordinator())).lastWant(id)), 'second');
    t.is(await coordinator.lastWant(`${id} of nobody`), undefined);
    await coordinator.want(id, bytes('third'));
    await Promise.all([wants.until('third'), late.until('third')]);
    t.deepEqual(wants.seen, ['first', 'second', 'third']);
    t.deepEqual(others.seen, [], 'another site sees nothing of it');
  });

  holds('a has reaches the coordinator, also one that starts later', async ({ t, rig, id, coordinator, site, another }) => {
    t.is(await coordinator.lastHas(id), undefined);
    t.is(await site.lastHas(), undefined);
    const all = collect();
    await coordinator.watchHas((from, value) => from === id && all.push(text(value)!));
    await site.has(bytes('one'));
    await site.has(bytes('two'));
    await all.until('two');
    t.deepEqual(all.seen, ['one', 'two']);
    t.is(text(await coordinator.lastHas(id)), 'two');
    t.is(text(await site.lastHas()), 'two');
    const next = await another(rig.coordinator());
    const late = collect();
    await next.watchHas((from, value) => from === id && late.push(text(value)!));
    t.deepEqual(late.seen, ['two']);
  });

  holds('a value of the largest size arrives whole; one byte more is refused', async ({ t, id, coordinator, site, fails }) => {
    const large = new Uint8Array(MAX_VALUE).fill(65);
    await coordinator.want(id, large);
    let came: Uint8Array | undefined;
    await site.watchWant((value) => {
      came = value;
    });
    t.true(Buffer.from(large).equals(came!));
    await site.has(large);
    t.is((await coordinator.lastHas(id))!.length, MAX_VALUE);
    await fails(coordinator.want(id, new Uint8Array(MAX_VALUE + 1)), 'ERR_PHOENIX_ARGUMENT');
    await fails(site.has(new Uint8Array(MAX_VALUE + 1)), 'ERR_PHOENIX_ARGUMENT');
    t.throws(() => site.beat(new Uint8Array(MAX_BEAT + 1)), { code: 'ERR_PHOENIX_ARGUMENT' });
  });

  holds('heartbeats reach the coordinator', async ({ t, id, coordinator, site }) => {
    const beats = collect();
    await coordinator.watchBeats((from, beat) => from === id && beats.push(text(beat)!));
    const often = setInterval(() => site.beat(bytes('alive')), 20);
    await beats.until('alive').finally(() => clearInterval(often));
    t.is(beats.seen[0], 'alive');
  });

  holds(
    'of two processes with the credentials of one site, the older is refused',
    async ({ t, rig, id, coordinator, site, another, fails }) => {
      await site.has(bytes('older'));
      const newer = await another(rig.site(id));
      await newer.has(bytes('newer'));
      await fails(site.has(bytes('older again')), 'ERR_PHOENIX_REFUSED', /Another process/);
      await newer.has(bytes('newer again'));
      t.is(text(await coordinator.lastHas(id)), 'newer again');
    },
  );
}

function blobs(holds: Holds): void {
  holds('blobs of every length arrive both ways', async ({ t, id, coordinator, site }) => {
    for (const [index, length] of [0, 1, PIECE, PIECE + 1, 5 * PIECE - 1].entries()) {
      const down = testBlob(length, 2 * index);
      const up = testBlob(length, 2 * index + 1);
      await Promise.all([coordinator.put(down), site.put(up)]);
      t.true(Buffer.from(down.content).equals(await site.get(down)), `${length} bytes down`);
      t.true(Buffer.from(up.content).equals(await coordinator.get(id, up)), `${length} bytes up`);
    }
  });

  holds('get waits for the put; progress and traffic count the bytes', async ({ t, id, coordinator, site }) => {
    const blob = testBlob(3 * PIECE + 5, 11);
    const steps: number[] = [];
    const got = coordinator.get(id, blob, { onProgress: (so) => steps.push(so) });
    const before = coordinator.traffic();
    await site.put(blob);
    t.true(Buffer.from(blob.content).equals(await got));
    t.is(steps.length, 4);
    t.is(steps.at(-1), blob.length);
    t.is(coordinator.traffic().bytesUp - before.bytesUp, blob.length);
    t.deepEqual(site.traffic(), { bytesUp: blob.length, bytesDown: 0 });
  });

  holds('what is there is not sent again, also by a new process', async ({ t, rig, id, site, another }) => {
    const blob = testBlob(4 * PIECE, 12);
    await site.put(blob);
    await site.put(blob);
    t.is(site.traffic().bytesUp, blob.length);
    const next = await another(rig.site(id));
    await next.put(blob);
    t.is(next.traffic().bytesUp, 0);
    t.is(blob.reads, 1, 'nor read again');
  });

  holds(
    'a put that was broken off goes on in a new process where it stopped',
    async ({ t, rig, id, coordinator, site, another, fails }) => {
      const blob = testBlob(40 * PIECE, 13);
      const stop = new AbortController();
      const broken = site.put(blob, {
        signal: stop.signal,
        onProgress: (so) => so >= 10 * PIECE && stop.abort(new Error('enough')),
      });
      await t.throwsAsync(broken, { message: 'enough' });
      const next = await another(rig.site(id));
      await next.put(blob);
      t.true(next.traffic().bytesUp <= 30 * PIECE, `${next.traffic().bytesUp} bytes`);
      t.true(Buffer.from(blob.content).equals(await coordinator.get(id, blob)));
      const gone = new AbortController();
      gone.abort(new Error('before it began'));
      await t.throwsAsync(coordinator.get(id, blob, { signal: gone.signal }), { message: 'before it began' });
      await fails(site.put({ ...blob, name: 'model' }), 'ERR_PHOENIX_ARGUMENT');
      await fails(site.get({ name: 'sha256:../x', length: 3 }), 'ERR_PHOENIX_MESSAGE');
    },
  );

  holds('changed bytes and wrong lengths are refused', async ({ rig, coordinator, site, fails }) => {
    const blob = testBlob(3 * PIECE, 14);
    await coordinator.put(blob);
    await fails(site.get({ ...blob, length: blob.length - 1 }), 'ERR_PHOENIX_MESSAGE', /bytes/);
    await fails(site.get({ ...blob, length: PIECE }), 'ERR_PHOENIX_MESSAGE', /name/);
    await fails(site.get({ ...blob, length: 2 ** 50 }), 'ERR_PHOENIX_MESSAGE');
    await fails(site.get({ ...blob, length: Number.NaN }), 'ERR_PHOENIX_MESSAGE');
    await rig.tamper(blob.name, 1);
    await fails(site.get(blob), 'ERR_PHOENIX_MESSAGE', /changed on its way/);
  });

  holds('keep forgets the other blobs of its side, and no others', async ({ t, rig, id, coordinator, site, another }) => {
    const [gone, kept, others] = [testBlob(PIECE + 1, 15), testBlob(PIECE + 2, 16), testBlob(9, 17)] as const;
    const other = await another(rig.site(`${id} other`));
    await Promise.all([site.put(gone), site.put(kept), other.put(others), coordinator.put(others)]);
    const later = await another(rig.site(id));
    await later.keep(new Set([kept.name]));
    await coordinator.get(id, kept);
    await coordinator.get(`${id} other`, others);
    await site.get(others);
    const before = later.traffic().bytesUp;
    await later.put(gone);
    t.is(later.traffic().bytesUp - before, gone.length, 'it has to be sent again');
  });
}

function troubles(holds: Holds): void {
  holds('a connection lost in mid-transfer: it goes on, and only the newest value is said', async ({ t, rig, id, coordinator, site }) => {
    const link = linkOf(site);
    const wants = collect();
    const all = collect();
    await site.watchWant((value) => wants.push(text(value)!));
    await coordinator.watchHas((from, value) => from === id && all.push(text(value)!));
    const blob = testBlob(30 * PIECE, 21);
    let under: () => void = () => {};
    const begun = new Promise<void>((resolve) => {
      under = resolve;
    });
    const put = site.put(blob, { onProgress: under });
    await begun;
    await rig.cut(site);
    await link.until('lost');
    const said = [site.has(bytes('a')), site.has(bytes('b')), site.has(bytes('c'))];
    await coordinator.want(id, bytes('while you were away'));
    await rig.mend(site);
    await Promise.all([...said, put, wants.until('while you were away'), link.until('back')]);
    t.true(Buffer.from(blob.content).equals(await coordinator.get(id, blob)));
    await all.until('c');
    t.is(text(await coordinator.lastHas(id)), 'c');
    t.deepEqual(all.seen.slice(-1), ['c']);
  });

  holds('the server loses everything: what was said and put is there again', async ({ t, rig, id, coordinator, site, another }) => {
    const [down, up] = [testBlob(3 * PIECE, 22), testBlob(2 * PIECE + 1, 23)] as const;
    const all = collect();
    await coordinator.watchHas((from, value) => from === id && all.push(text(value)!));
    await Promise.all([coordinator.put(down), site.put(up), coordinator.want(id, bytes('wanted')), site.has(bytes('had'))]);
    await all.until('had');
    await rig.lose();
    const fresh = await another(rig.site(`${id} fresh`));
    t.true(Buffer.from(down.content).equals(await fresh.get(down)));
    const next = await another(rig.coordinator());
    t.true(Buffer.from(up.content).equals(await next.get(id, up)));
    const later = collect();
    await next.watchHas((from, value) => from === id && later.push(text(value)!));
    await later.until('had');
    const wants = collect();
    await site.watchWant((value) => wants.push(text(value)!));
    await wants.until('wanted');
    await site.has(bytes('had more'));
    await Promise.all([all.until('had more'), later.until('had more')]);
    t.deepEqual(all.seen, ['had', 'had more'], 'what was heard before is not heard again');
  });

  holds('a wire that is closed ends what is under way; the values stay', async ({ t, rig, id, coordinator, site, another, fails }) => {
    await site.has(bytes('to stay'));
    const never = fails(site.get(testBlob(10, 24)), 'ERR_PHOENIX_DISPOSED');
    await site.close();
    await never;
    await fails(site.has(bytes('x')), 'ERR_PHOENIX_DISPOSED');
    await site.close();
    t.is(text(await coordinator.lastHas(id)), 'to stay');
    const again = await another(rig.site(id));
    t.is(text(await again.lastHas()), 'to stay');
  });
}
