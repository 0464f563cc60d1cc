import test from 'ava';
import type { Fit, Report } from '../../src/fl/types.ts';
import { decodeMessage, decodeReport, encodeMessage, type MessageHeader } from '../../src/fl/wire/message.ts';
import { decodeTask, decodeUpdate, encodeTask, encodeUpdate } from '../../src/fl/wire/vector.ts';
import { rng } from '../../src/rng.ts';
import { fakeVector } from '../support/fake-vector.ts';
import { testFit } from '../support/plain-fit.ts';

const fit: Fit = { ...testFit({ epochs: 1 }, { batch: 32, warmupSteps: 10, flip: true }), globalStep: 3 };

const report: Report = {
  client: 'a',
  round: 2,
  examples: 10,
  images: 64,
  steps: 2,
  loss: 0.5,
  evalLoss: 0.6,
  evalLossLocal: 0.4,
  evalImages: 3,
  deltaNorm: 1,
  seconds: 0.1,
};

const update: MessageHeader<'update'> = { kind: 'update', version: 1, client: 'a', round: 2, codec: 'float32', count: 2 };

/** A message put together by hand, so that its header may be anything. */
function raw(header: string | Uint8Array, payload: number[] = [], claimed?: number): Uint8Array {
  const json = Buffer.from(header as string);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(claimed ?? json.length);
  return Buffer.concat([length, json, Uint8Array.from(payload)]);
}

const refused = { code: 'ERR_PHOENIX_MESSAGE' };

test('header and payload come back, from any offset in a buffer', async (t) => {
  const payload = Uint8Array.from({ length: 8 }, (_, i) => 255 - i);
  const message = encodeMessage(update, payload);
  const shifted = new Uint8Array(message.length + 3).subarray(3);
  shifted.set(message);
  for (const bytes of [message, shifted]) {
    const decoded = decodeMessage(bytes, { kind: 'update', payloadBytes: 8 });
    t.deepEqual(decoded.header, update);
    t.deepEqual(Uint8Array.from(decoded.payload), payload);
  }
  t.is((message.length - 8) % 8, 0, 'the payload is aligned');
});

test('vectors longer than a piece arrive whole', async (t) => {
  const [delta, into] = [fakeVector(1_300_001), fakeVector(1_300_001)];
  for (let i = 0; i < delta.length; i++) delta.values[i] = i;
  await decodeUpdate(await encodeUpdate({ client: 'a', round: 1, delta }), { client: 'a', round: 1, into });
  t.true(Buffer.from(into.values.buffer).equals(Buffer.from(delta.values.buffer)));
});

test('the layout is u32 header length, JSON padded with spaces, payload', async (t) => {
  const message = encodeMessage({ kind: 'report', version: 1, report });
  const length = new DataView(message.buffer, message.byteOffset).getUint32(0, true);
  t.is(length, message.length - 4);
  const text = new TextDecoder().decode(message.subarray(4));
  t.deepEqual(JSON.parse(text), { kind: 'report', version: 1, report });
  t.regex(text, /\} *$/);
});

test('lengths that do not fit are refused before anything is parsed', (t) => {
  const header = JSON.stringify(update);
  const limits = { kind: 'update', payloadBytes: 8 } as const;
  const cases: Record<string, Uint8Array> = {
    'no bytes': new Uint8Array(0),
    'three bytes': new Uint8Array(3),
    'a header of 4 GB': raw('{', [], 0xffffffff),
    'a header above 1 MiB': raw(' '.repeat(2 ** 20 + 1)),
    'a header cut short': raw(header, [], header.length + 1),
    'a payload above the limit': raw(header, Array(9).fill(0)),
  };
  for (const [name, bytes] of Object.entries(cases)) t.throws(() => decodeMessage(bytes, limits), refused, name);
});

test('headers that are no JSON, or not of the schema, are refused', (t) => {
  const limits = { kind: 'update', payloadBytes: 8 } as const;
  const cases: Record<string, string | Uint8Array> = {
    empty: '',
    'cut JSON': '{"kind":"update"',
    'bad UTF-8': Uint8Array.of(0x22, 0xff, 0x22),
    'deep nesting': '['.repeat(2 ** 20),
    null: 'null',
    list: '[]',
    'another kind': JSON.stringify({ kind: 'report', version: 1, report }),
    'another version': JSON.stringify({ ...update, version: 2 }),
    'another codec': JSON.stringify({ ...update, codec: 'zip' }),
    'an inherited codec': JSON.stringify({ ...update, codec: 'constructor' }),
    'negative count': JSON.stringify({ ...update, count: -1 }),
    'fractional count': JSON.stringify({ ...update, count: 1.5 }),
    'huge count': JSON.stringify({ ...update, count: 2 ** 60 }),
    'text for a number': JSON.stringify({ ...update, round: '2' }),
    'a path for a client': JSON.stringify({ ...update, client: '../../etc' }),
    'one field more': JSON.stringify({ ...update, extra: 1 }),
    'one field less': JSON.stringify({ ...update, round: undefined }),
  };
  for (const [name, header] of Object.entries(cases)) t.throws(() => decodeMessage(raw(header), limits), refused, name);
});

test('random damage is an error of its own kind or leaves a valid message, never a crash', async (t) => {
  const draw = rng(1, 'damage');
  const message = encodeMessage(update, new Uint8Array(8));
  let errors = 0;
  for (let i = 0; i < 2000; i++) {
    const damaged = Uint8Array.from(message).subarray(0, draw.int(4) === 0 ? draw.int(message.length) : message.length);
    for (let n = draw.int(4); n >= 0 && damaged.length > 0; n--) damaged[draw.int(damaged.length)] = draw.int(256);
    try {
      decodeMessage(damaged, { kind: 'update', payloadBytes: 8 });
    } catch (error) {
      errors++;
      t.is((error as { code?: string }).code, 'ERR_PHOENIX_MESSAGE');
    }
  }
  t.true(errors > 1000);
});

test('what the other side would refuse is not sent', async (t) => {
  const bad: [string, MessageHeader][] = [
    ['NaN', { kind: 'report', version: 1, report: { ...report, loss: NaN } }],
    ['infinity', { kind: 'report', version: 1, report: { ...report, deltaNorm: Infinity } }],
    [
      'both lengths',
      { kind: 'task', version: 1, round: 1, codec: 'float32', count: 1, fit: { ...fit, length: { epochs: 1, localImages: 5 } } },
    ],
    ['no length', { kind: 'task', version: 1, round: 1, codec: 'float32', count: 1, fit: { ...fit, length: {} as Fit['length'] } }],
    ['beta 1', { kind: 'task', version: 1, round: 1, codec: 'float32', count: 1, fit: { ...fit, hyper: { ...fit.hyper, beta1: 1 } } }],
  ];
  for (const [name, header] of bad) t.throws(() => encodeMessage(header), { code: 'ERR_PHOENIX_ARGUMENT' }, name);
});

test('a report must be that of the client and round asked for', async (t) => {
  const bytes = encodeMessage({ kind: 'report', version: 1, report });
  t.deepEqual(decodeReport(bytes, { client: 'a', round: 2 }), report);
  t.throws(() => decodeReport(bytes, { client: 'b', round: 2 }), refused);
  t.throws(() => decodeReport(bytes, { client: 'a', round: 3 }), refused);
});

test('a task carries its parameters exactly', async (t) => {
  const [params, into] = [fakeVector(3), fakeVector(3)];
  params.values.set([1.1, -0, 3e-40]);
  const bytes = await encodeTask({ round: 4, fit, params });
  t.deepEqual(await decodeTask(bytes, into), { round: 4, fit });
  t.deepEqual(await into.toBytes(0, 3), await params.toBytes(0, 3));
  await t.throwsAsync(decodeTask(bytes, fakeVector(2)), refused);
  await t.throwsAsync(decodeTask(bytes, fakeVector(4)), { ...refused, message: /4 parameters.*one of 3/ });
});

test('an update must be of the client, round and size asked for, finite, and leaves the vector alone otherwise', async (t) => {
  const [delta, into] = [fakeVector(2), fakeVector(2)];
  delta.values.set([0.25, -8]);
  const bytes = await encodeUpdate({ client: 'a', round: 2, delta });
  await decodeUpdate(bytes, { client: 'a', round: 2, into });
  t.deepEqual([...into.values], [0.25, -8]);

  const untouched = fakeVector(2);
  await t.throwsAsync(decodeUpdate(bytes, { client: 'b', round: 2, into: untouched }), refused);
  await t.throwsAsync(decodeUpdate(bytes, { client: 'a', round: 1, into: untouched }), refused);
  await t.throwsAsync(decodeUpdate(bytes.subarray(0, -1), { client: 'a', round: 2, into: untouched }), refused);
  await t.throwsAsync(decodeUpdate(raw(JSON.stringify(update), Array(4).fill(0)), { client: 'a', round: 2, into: untouched }), refused);
  await t.throwsAsync(decodeUpdate(bytes, { client: 'a', round: 2, into: fakeVector(3) }), refused);
  t.deepEqual([...untouched.values], [0, 0]);

  delta.values[1] = Infinity;
  const infinite = await encodeUpdate({ client: 'a', round: 2, delta });
  await t.throwsAsync(decodeUpdate(infinite, { client: 'a', round: 2, into }), { ...refused, message: /NaN or infinite/ });
});
