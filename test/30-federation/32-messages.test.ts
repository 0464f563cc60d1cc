/** Messages and their heads: what comes back as it was, what is refused, and what a reader does with fields that it does not know. */
import test from 'ava';
import type { z } from 'zod';
import {
  checkHead,
  type Fit,
  missingCapability,
  PROTOCOL,
  parcel,
  readInstruction,
  readReply,
  report,
  roundRecord,
  task,
  upload,
} from '../../src/fl/protocol.ts';
import { plainState } from '../../src/fl/state.ts';
import { decodeVector, encodeVector } from '../../src/fl/wire/codec.ts';
import { blobOf, decodeHead, encodeHead, message, packMessage, readBlob, unpackMessage } from '../../src/fl/wire/message.ts';
import { rng } from '../../src/rng.ts';
import { fakeVector } from '../support/fake-vector.ts';
import { testFit } from '../support/plain-fit.ts';

const fit: Fit = { ...testFit({ epochs: 1 }, { batch: 32, warmupSteps: 10, flip: true }), globalStep: 3 };
const model = { blob: `sha256:${'0'.repeat(64)}`, codec: 'float32' as const, count: 2 };
const reported = {
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
const refused = { code: 'ERR_PHOENIX_MESSAGE' };

const packed = async () => {
  const blobs = [await blobOf(Uint8Array.from({ length: 11 }, (_, i) => 255 - i)), await blobOf(new Uint8Array(0))];
  return packMessage(message('upload', 2, { some: 'head' }, blobs, ['some']));
};

test('a message comes back with its blobs, from any offset in a buffer', async (t) => {
  const bytes = await packed();
  const shifted = new Uint8Array(bytes.length + 3).subarray(3);
  shifted.set(bytes);
  for (const from of [bytes, shifted]) {
    const { blobs, ...rest } = unpackMessage(from);
    t.deepEqual(rest, { protocol: PROTOCOL, kind: 'upload', round: 2, optional: ['some'], head: { some: 'head' } });
    t.deepEqual(
      Uint8Array.from(await readBlob(blobs[0], 11)),
      Uint8Array.from({ length: 11 }, (_, i) => 255 - i),
    );
    t.is((await readBlob(blobs[1], 0)).length, 0);
    await t.throwsAsync(readBlob(blobs[0], 10), refused);
  }
  t.is(bytes.length % 8, 0);
});

test('a blob is named by the hash of its bytes, however long', async (t) => {
  t.is((await blobOf(new TextEncoder().encode('abc'))).name, 'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
  const long = new Uint8Array((4 << 20) + 1).fill(1);
  const { createHash } = await import('node:crypto');
  t.is((await blobOf(long)).name, `sha256:${createHash('sha256').update(long).digest('hex')}`);
});

test('lengths that do not fit are refused before anything is parsed', async (t) => {
  const bytes = await packed();
  const claiming = (length: number) => {
    const copy = Buffer.from(bytes);
    copy.writeUInt32LE(length, 0);
    return copy;
  };
  const cases: Record<string, Uint8Array> = {
    'no bytes': new Uint8Array(0),
    'three bytes': new Uint8Array(3),
    'a head of 4 GB': claiming(0xffffffff),
    'a head above 1 MiB': claiming(2 ** 20 + 9),
    'a head cut short': bytes.subarray(0, 20),
    'a blob cut short': bytes.subarray(0, -8),
    'a byte more': Uint8Array.of(...bytes, 0),
  };
  for (const [name, damaged] of Object.entries(cases)) t.throws(() => unpackMessage(damaged), refused, name);
  t.throws(() => encodeHead(message('train', 1, { text: 'x'.repeat(2 ** 20) })), { code: 'ERR_PHOENIX_ARGUMENT' });
});

test('heads that are no JSON, or not of the schema, are refused', (t) => {
  const head = { protocol: 1, kind: 'train', round: 1, optional: [], head: {}, blobs: [] };
  t.deepEqual(decodeHead(Buffer.from(JSON.stringify(head))), head);
  const cases: Record<string, string | Uint8Array> = {
    empty: '',
    'cut JSON': '{"kind":"update"',
    'bad UTF-8': Uint8Array.of(0x22, 0xff, 0x22),
    'deep nesting': '['.repeat(2 ** 20),
    null: 'null',
    list: '[]',
    'no kind': JSON.stringify({ ...head, kind: undefined }),
    'a kind of 65 characters': JSON.stringify({ ...head, kind: 'x'.repeat(65) }),
    'text for a number': JSON.stringify({ ...head, round: '2' }),
    'a fractional round': JSON.stringify({ ...head, round: 1.5 }),
    'a head that is no object': JSON.stringify({ ...head, head: [1] }),
    'seventeen blobs': JSON.stringify({ ...head, blobs: Array(17).fill({ name: 'local:1', length: 0 }) }),
    'a blob that is a path': JSON.stringify({ ...head, blobs: [{ name: '../../etc', length: 0 }] }),
    'a negative length': JSON.stringify({ ...head, blobs: [{ name: 'local:1', length: -1 }] }),
    'a huge length': JSON.stringify({ ...head, blobs: [{ name: 'local:1', length: 2 ** 60 }] }),
  };
  for (const [name, bytes] of Object.entries(cases)) t.throws(() => decodeHead(Buffer.from(bytes as string)), refused, name);
});

test('random damage is an error of its own kind or leaves a valid message, never a crash', async (t) => {
  const draw = rng(1, 'damage');
  const bytes = await packed();
  let errors = 0;
  for (let i = 0; i < 2000; i++) {
    const damaged = Uint8Array.from(bytes).subarray(0, draw.int(4) === 0 ? draw.int(bytes.length) : bytes.length);
    for (let n = draw.int(4); n >= 0 && damaged.length > 0; n--) damaged[draw.int(damaged.length)] = draw.int(256);
    try {
      unpackMessage(damaged);
    } catch (error) {
      errors++;
      t.is((error as { code?: string }).code, 'ERR_PHOENIX_MESSAGE');
    }
  }
  t.true(errors > 1000);
});

test('what the other side would refuse is not sent', (t) => {
  const bad: [string, z.ZodType, object][] = [
    ['NaN', report, { ...reported, loss: NaN }],
    ['infinity', report, { ...reported, deltaNorm: Infinity }],
    ['two lengths', task, { fit: { ...fit, length: { epochs: 1, localImages: 5 } }, model }],
    ['no length', task, { fit: { ...fit, length: {} }, model }],
    ['beta 1', task, { fit: { ...fit, hyper: { ...fit.hyper, beta1: 1 } }, model }],
    ['a weight of 0', upload, { weight: 0, manifest: {} }],
  ];
  for (const [name, schema, head] of bad) t.throws(() => checkHead(schema, 'message', head), { code: 'ERR_PHOENIX_ARGUMENT' }, name);
  t.notThrows(() => checkHead(task, 'task', { fit, model }));
});

test('what instructs is refused with the name of a field that is not known, and both versions, unless the sender says that it may be left out', (t) => {
  const read = (head: object, optional: string[] = []) => readInstruction(task, { kind: 'train', head, protocol: 7, optional });
  const known = { fit, model };
  t.deepEqual(read(known), known);
  const message = /train has the field fit\.hyper\.sharpness, which this client does not know: the sender speaks protocol 7, this client 1/;
  const nested = { ...known, fit: { ...fit, hyper: { ...fit.hyper, sharpness: 3 } } };
  t.throws(() => read(nested), { ...refused, message });
  t.throws(() => read(nested, ['fit.hyper']), { ...refused, message });
  t.deepEqual(read(nested, ['fit.hyper.sharpness']), known);
  t.deepEqual(read({ ...nested, more: 1 }, ['fit.hyper.sharpness', 'more']), known);
  t.throws(() => read({ ...nested, more: 1 }, ['more']), { ...refused, message });
  t.throws(() => read({ fit: { ...fit, hyper: { ...fit.hyper, lr: 'much' } }, model }, ['fit.hyper.lr']), {
    ...refused,
    message: /fit\.hyper\.lr/,
  });
  t.throws(
    () =>
      readInstruction(parcel, {
        kind: 'parcel',
        head: { what: 'shared', version: 1, count: 1, imageBytes: 1, classes: false, more: 1 },
        protocol: 2,
        optional: [],
      }),
    { ...refused, message: /field more/ },
  );
});

test('what informs is read without the fields that are not known', (t) => {
  t.deepEqual(readReply(report, { kind: 'train', client: 'a', head: { ...reported, mood: 'good' } }), reported);
  const { loss: _, evalLoss: __, evalLossLocal: ___, deltaNorm: ____, seconds: _____, ...least } = reported;
  t.deepEqual(readReply(report, { kind: 'train', client: 'a', head: least }), least, 'losses, norm and seconds may be missing');
  t.throws(() => readReply(report, { kind: 'train', client: 'a', head: { ...reported, images: 0 } }), {
    ...refused,
    message: /client a to train.*images/,
  });
  const line = {
    ...{ round: 1, loss: null, evalLoss: null, evalLossLocal: null, images: 1, bytesUp: 0, bytesDown: 0, seconds: 1 },
    ...{ clients: [], failures: [], notes: [] },
  };
  t.deepEqual(roundRecord.parse({ ...line, later: true }), line);
  const state = { globalStep: 1, images: 1, strategy: null, profiles: {}, work: 1 };
  t.deepEqual(plainState.parse({ ...state, later: true }), state);
});

test('a client is asked only for what it has announced', (t) => {
  const dp = { kind: 'train', head: { fit: { ...fit, privacy: { epsilon: 3 } }, model } };
  const lacks = (capabilities: string[], request: { kind: string; head: object }) => missingCapability({ capabilities }, request);
  t.is(lacks([], { kind: 'train', head: { fit, model } }), undefined);
  t.is(lacks([], dp), 'dp/1');
  t.is(lacks(['dp/2', 'probe/1'], dp), 'dp/1');
  t.is(lacks(['dp/1'], dp), undefined);
  t.is(lacks([], { kind: 'train', head: { fit: { ...fit, probe: { samples: 1, steps: 1 } }, model } }), 'probe/1');
  t.is(lacks([], { kind: 'keys', head: {} }), 'secagg/1');
});

test('a vector arrives exactly, and one of another size is refused', async (t) => {
  const [params, into] = [fakeVector(3), fakeVector(3)];
  params.values.set([1.1, -0, 3e-40]);
  const { head, blob } = await encodeVector(params);
  await decodeVector(head, [blob], into);
  t.deepEqual(await into.toBytes(0, 3), await params.toBytes(0, 3));
  await t.throwsAsync(decodeVector(head, [blob], fakeVector(2)), refused);
  await t.throwsAsync(decodeVector(head, [blob], fakeVector(4)), { ...refused, message: /4 parameters.*one of 3/ });
  await t.throwsAsync(decodeVector(head, [], into), { ...refused, message: /did not come/ });
});

test('vectors longer than a piece arrive whole', async (t) => {
  const [delta, into] = [fakeVector(1_300_001), fakeVector(1_300_001)];
  for (let i = 0; i < delta.length; i++) delta.values[i] = i;
  const { head, blob } = await encodeVector(delta);
  await decodeVector(head, [blob], into);
  t.true(Buffer.from(into.values.buffer).equals(Buffer.from(delta.values.buffer)));
});
