/** Updates with fewer bytes: what the codecs keep, error feedback, and what is refused. */
import test from 'ava';
import { createImages, createNativeSession } from '../../src/bindings/session.ts';
import { createVector, setBytes, type Vector } from '../../src/bindings/vector.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import type { Codec, RoundRecord, VectorHead } from '../../src/fl/protocol.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { memoryStore, type Store } from '../../src/fl/store.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import { strategies } from '../../src/fl/strategies/index.ts';
import type { Strategy } from '../../src/fl/strategy.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { decodeVector, encodeVector, parseCompression } from '../../src/fl/wire/codec.ts';
import { blobOf, message, readBlob } from '../../src/fl/wire/message.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';
import { testFit } from '../support/plain-fit.ts';

const schedule = noise();
const unet = unetConfig({
  height: 8,
  width: 8,
  inChannels: 1,
  blockOutChannels: [8, 8],
  layersPerBlock: 1,
  attention: [false, false],
  normGroups: 4,
});
const pixelDraw = rng(1, 'pixels');
const images = await createImages({
  pixels: Uint8Array.from({ length: 40 * 64 }, () => pixelDraw.int(256)),
  count: 40,
  height: 8,
  width: 8,
  channels: 1,
});
const bytesOf = (values: ArrayLike<number>) => new Uint8Array(Float32Array.from(values).buffer);
const numbers = async (vector: Vector) => new Float32Array((await vector.toBytes(0, vector.length)).slice().buffer);

async function vectorOf(values: ArrayLike<number>): Promise<Vector> {
  const vector = createVector(values.length);
  await setBytes(bytesOf(values), vector);
  return vector;
}

/** What arrives of the values, and the bytes of the payload. */
async function sent(values: ArrayLike<number>, compress: string): Promise<{ values: Float32Array; payload: Uint8Array }> {
  const delta = await vectorOf(values);
  const { head, blob } = await encodeVector(delta, { compress });
  const into = createVector(values.length);
  await into.fill(7);
  await decodeVector(head, [blob], into);
  return { values: await numbers(into), payload: await readBlob(blob, Infinity) };
}

const normals = (seed: number, count: number, scale = 1) => {
  const draw = rng(seed, 'normals');
  return Float32Array.from({ length: count }, () => scale * draw.normal());
};

test('bf16 rounds to nearest even, two bytes per value', async (t) => {
  const exact = [1, -0.5, 0, 3.0517578125e-5, -65280];
  t.deepEqual([...(await sent(exact, 'bf16')).values], exact);
  // 1 + 2^-8 lies between 1 and 1 + 2^-7, 1 + 3·2^-8 between 1 + 2^-7 and 1 + 2^-6: the even neighbours are 1 and 1 + 2^-6.
  t.deepEqual([...(await sent([1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20], 'bf16')).values], [1, 1 + 2 ** -6, 1 + 2 ** -7]);
  const values = normals(1, 700_001);
  const { values: came, payload } = await sent(values, 'bf16');
  t.is(payload.length, 2 * values.length);
  near(t, came, values, { relative: 2 ** -8 });
  const rounded = createVector(values.length);
  await rounded.roundToBf16(await vectorOf(values));
  t.deepEqual(await numbers(rounded), came, 'and the same without bytes');
});

test('int8 keeps each block of 1024 within half a step of its own scale', async (t) => {
  t.deepEqual([...(await sent([127, 2.5, 3.5, -2.5, -127, 0.4], 'int8')).values], [127, 2, 4, -2, -127, 0]);
  t.deepEqual([...(await sent([0, 0], 'int8')).values], [0, 0]);
  const values = normals(2, 600_123);
  for (let i = 0; i < values.length; i++) values[i]! *= 10 ** (-3 + (Math.floor(i / 1024) % 7));
  const { values: came, payload } = await sent(values, 'int8');
  t.is(payload.length, values.length + 4 * Math.ceil(values.length / 1024));
  for (let block = 0; block < values.length; block += 1024) {
    const top = values.subarray(block, block + 1024).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    const off = values.subarray(block, block + 1024).reduce((a, b, i) => Math.max(a, Math.abs(b - came[block + i]!)), 0);
    if (!(off <= (top / 254) * (1 + 1e-5))) t.fail(`block ${block}: ${off} for ${top}`);
  }
  t.pass();
});

test('topk sends the largest magnitudes, of equal ones the first, and nothing else', async (t) => {
  t.deepEqual([...(await sent([1, -4, 2, 0.5, 3, -0.25], 'topk:0.5')).values], [0, -4, 2, 0, 3, 0]);
  t.deepEqual([...(await sent([2, -2, 2, 2, 2, 2], 'topk:0.5')).values], [2, -2, 2, 0, 0, 0]);
  t.deepEqual([...(await sent([0, 0, 0], 'topk:0.1')).values], [0, 0, 0]);
  t.deepEqual([...(await sent([5], 'topk:0.001')).values], [5]);
  for (const share of [0.001, 0.02, 0.3, 1]) {
    const values = normals(3, 100_003);
    const { values: came, payload } = await sent(values, `topk:${share}`);
    const k = Math.round(share * values.length);
    const least = values.map(Math.abs).sort()[values.length - k]!;
    const expected = values.map((value) => (Math.abs(value) >= least ? value : 0));
    t.is(came.filter((value) => value !== 0).length, k);
    near(t, came, expected, { relative: 2 ** -8 }, `share ${share}`);
    // Two bytes a value, and the places as gaps of a byte or two, or a bit for each parameter.
    t.true(payload.length <= 16 + 2 * k + Math.min(2 * k, Math.ceil(values.length / 8)));
  }
});

test('equal values give equal bytes', async (t) => {
  const values = normals(4, 50_000);
  for (const compress of ['bf16', 'int8', 'topk:0.05']) {
    t.deepEqual((await sent(values, compress)).payload, (await sent(values, compress)).payload, compress);
  }
});

test('payloads that are damaged or hostile are refused', async (t) => {
  const count = 2000;
  const into = createVector(count);
  const arrives = async (codec: Codec, payload: Uint8Array) => {
    const blob = await blobOf(payload);
    await decodeVector({ blob: blob.name, codec, count }, [blob], into);
  };
  const refused = (codec: Codec, name: string, payload: Uint8Array) =>
    t.throwsAsync(arrives(codec, payload), { code: 'ERR_PHOENIX_MESSAGE' }, `${codec}: ${name}`);
  const change = (bytes: Uint8Array, at: number, ...values: number[]) => {
    const copy = Uint8Array.from(bytes);
    copy.set(values, at < 0 ? copy.length + at : at);
    return copy;
  };
  const values = normals(5, count);
  const bf16 = (await sent(values, 'bf16')).payload;
  const int8 = (await sent(values, 'int8')).payload;
  const gaps = (await sent(values, 'topk:0.01')).payload;
  const bitmap = (await sent(values, 'topk:0.5')).payload;
  t.is(gaps[8], 0);
  t.is(bitmap[8], 1);
  for (const [codec, payload] of [
    ['bf16', bf16],
    ['int8', int8],
    ['topk', gaps],
    ['topk', bitmap],
  ] as const) {
    await t.notThrowsAsync(arrives(codec, payload));
    await refused(codec, 'a byte short', payload.subarray(0, -1));
    await refused(codec, 'a byte long', Uint8Array.of(...payload, 0));
    await refused(codec, 'empty', new Uint8Array(0));
  }
  await refused('bf16', 'infinity', change(bf16, 0, 0x80, 0x7f));
  await refused('int8', 'a scale of NaN', change(int8, 0, 0, 0, 0xc0, 0x7f));
  await refused('int8', 'an infinite scale', change(int8, 1028, 0, 0, 0x80, 0x7f));
  await refused('int8', 'a negative scale', change(int8, 0, 0, 0, 0x80, 0xbf));
  await refused('int8', 'a scale that overflows', change(change(int8, 0, 0xff, 0xff, 0x7f, 0x7f), 4, 127));
  await refused('int8', 'the byte -128', change(int8, 4, 128));
  await refused('topk', 'k = 0', change(gaps, 0, 0));
  await refused('topk', 'k above the count', change(gaps, 0, 0xff, 0xff));
  await refused('topk', 'a huge k', change(gaps, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff));
  await refused('topk', 'one value fewer', change(gaps, 0, gaps[0]! - 1));
  await refused('topk', 'an unknown coding', change(gaps, 8, 2));
  await refused('topk', 'a reserved byte', change(gaps, 9, 1));
  await refused('topk', 'NaN', change(gaps, 16, 0xc0, 0x7f));
  await refused('topk', 'an index past the end', change(gaps, -2, 0xff, 0x7f));
  await refused('topk', 'a gap without an end', change(gaps, -1, 0xff));
  await refused('topk', 'one bit more', change(bitmap, -1, bitmap.at(-1)! ^ 1));
  await refused('topk', 'gaps read as a bitmap', change(gaps, 8, 1));

  const draw = rng(6, 'damage');
  for (let i = 0; i < 300; i++) {
    const payload = Uint8Array.from([gaps, bitmap, int8][i % 3]!);
    for (let n = draw.int(4); n >= 0; n--) payload[draw.int(payload.length)] = draw.int(256);
    try {
      await arrives(i % 3 === 2 ? 'int8' : 'topk', payload);
      t.true(await into.isFinite());
    } catch (error) {
      t.is((error as { code?: string }).code, 'ERR_PHOENIX_MESSAGE');
    }
  }
});

test('compressions are parsed strictly', (t) => {
  t.deepEqual(parseCompression('topk:0.05'), { codec: 'topk', share: 0.05 });
  t.deepEqual(parseCompression('none'), { codec: 'float32', share: 1 });
  for (const bad of ['', 'zip', 'topk', 'topk:', 'topk:0', 'topk:1.1', 'topk:-1', 'topk:x', 'topk:0.1:2', 'int8:2', 'constructor'])
    t.throws(() => parseCompression(bad), { code: 'ERR_PHOENIX_ARGUMENT', message: /none, bf16, int8, topk:SHARE/ }, bad);
});

const fit = testFit({ epochs: 1 });

type World = { strategy?: Strategy; store?: Store; carriesVectors?: boolean; taskCodec?: 'bf16'; personal?: string[] };

async function world(compress: string, { strategy = fedavg(), store = memoryStore(), carriesVectors, taskCodec, personal }: World = {}) {
  const session = createNativeSession({ model: unetModel(unet), noise: schedule, threads: 1 });
  const clients = [0, 1].map((i) =>
    createClient({
      id: `c${i}`,
      session,
      images,
      train: Int32Array.from({ length: 12 }, (_, n) => 20 * i + n),
      heldOut: new Int32Array(0),
      store,
      seed: 3,
    }),
  );
  const transport = memoryTransport(clients, { carriesVectors });
  const state = await initialState({ session, seed: 3, strategy });
  const records: RoundRecord[] = [];
  const run = (rounds: number, from = state) =>
    runFederation(from, {
      transport,
      strategy,
      fit: { ...fit, compress, personal },
      taskCodec,
      parameters: session.parameters,
      createVector,
      rounds,
      seed: 3,
      onRound: (_, record) => void records.push(record),
    });
  return { session, clients, transport, state, store, records, run };
}

const norm = (a: ArrayLike<number>) => Math.hypot(...Array.from(a));

test('error feedback: the sum of what arrives follows the sum of the deltas', async (t) => {
  const w = await world('topk:0.05');
  const [client] = w.clients;
  const arrived = new Float64Array(w.state.params.length);
  const wanted = new Float64Array(w.state.params.length);
  const into = createVector(w.state.params.length);
  let lost = 0;
  for (let round = 1; round <= 12; round++) {
    const { head: model, blob } = await encodeVector(w.state.params);
    const task = { fit: { ...fit, compress: 'topk:0.05', globalStep: 0 }, model };
    const report = (await client!.answer(message('train', round, task, [blob]))).head as { deltaNorm: number };
    const [before, after] = [await numbers(w.state.params), await numbers(w.session.params)];
    const upload = message('upload', round, { weight: 1, manifest: {} });
    const { head, blobs } = await client!.answer(upload);
    t.deepEqual((await client!.answer(upload)).head, head, 'asked twice, the same');
    await decodeVector(head as VectorHead, blobs, into);
    near(t, norm(await numbers(into)), report.deltaNorm, { relative: 1e-6 }, 'the norm reported is that of what arrives');
    await client!.answer(message('finish', round, {}));
    const came = await numbers(into);
    const residual = new Float32Array((await w.store.get(`c0/residual-${round}`))!.slice().buffer);
    for (let i = 0; i < came.length; i++) {
      arrived[i]! += came[i]!;
      wanted[i]! += after[i]! - before[i]!;
    }
    lost += norm(came.map((value, i) => after[i]! - before[i]! - value));
    near(
      t,
      arrived.map((value, i) => value + residual[i]!),
      wanted,
      { norm: 1e-4 },
      'what is missing is the residual',
    );
  }
  const missing = norm(wanted.map((value, i) => value - arrived[i]!));
  t.true(missing < 0.7 * norm(wanted), 'most of the sum has arrived, of twelve times 5 %');
  t.true(missing < lost / 2, 'and far more than without feedback');
  t.deepEqual((await w.store.keys()).sort(), ['c0/kept', 'c0/residual-12'], 'what former rounds left out is gone');
});

test('bytes up are those of the encoded updates', async (t) => {
  const up: Record<string, number> = {};
  for (const compress of ['none', 'bf16', 'int8', 'topk:0.05']) {
    const w = await world(compress);
    const end = await w.run(1);
    t.true(await end.params.isFinite());
    up[compress] = w.records[0]!.bytesUp / (2 * end.params.length);
  }
  t.true(up.none! > 4 && up.none! < 4.3);
  t.true(up.bf16! > 2 && up.bf16! < 2.3);
  t.true(up.int8! > 1 && up.int8! < 1.3);
  t.true(up['topk:0.05']! > 0.1 && up['topk:0.05']! < 0.45);
});

test('a compressed federation learns what one without compression learns', async (t) => {
  const plain = await numbers((await (await world('none')).run(4)).params);
  const start = await numbers((await world('none')).state.params);
  for (const compress of ['bf16', 'int8']) {
    const came = await numbers((await (await world(compress)).run(4)).params);
    t.true(norm(came.map((value, i) => value - plain[i]!)) < 0.05 * norm(plain.map((value, i) => value - start[i]!)), compress);
  }
});

test('handed over as vectors, updates and tasks of any codec arrive as they do in bytes', async (t) => {
  const ways: [string, World][] = [
    ['none', {}],
    ['bf16', { taskCodec: 'bf16' }],
    ['none', { personal: ['conv_in.*', '*norm*'] }],
    ['bf16', { strategy: strategies.median() }],
    ['int8', {}],
    ['topk:0.05', {}],
  ];
  for (const [compress, way] of ways) {
    const run = async (carriesVectors: boolean) => {
      const w = await world(compress, { ...way, carriesVectors });
      const { params, ema } = await w.run(2);
      const kept = (await w.store.keys()).sort();
      const contents = await Promise.all(kept.map(async (key) => Buffer.from((await w.store.get(key))!).toString('base64')));
      const norms = w.records.map(({ clients }) => clients.map(({ deltaNorm }) => deltaNorm));
      return { params: await numbers(params), ema: await numbers(ema), kept, contents, norms };
    };
    t.deepEqual(await run(true), await run(false), `${compress} ${Object.keys(way)}`);
  }
});

test('residuals outlive a restart: rounds in pieces end with the same bytes', async (t) => {
  for (const compress of ['int8', 'topk:0.1']) {
    const whole = await world(compress);
    const end = await whole.run(3);
    const first = await world(compress);
    const middle = await first.run(2);
    const second = await world(compress, { store: first.store });
    await setBytes(await middle.params.toBytes(0, middle.params.length), second.state.params);
    await setBytes(await middle.ema.toBytes(0, middle.ema.length), second.state.ema);
    const resumed = await second.run(3, { ...middle, params: second.state.params, ema: second.state.ema });
    t.deepEqual(await numbers(resumed.params), await numbers(end.params));
    const left = (await first.store.keys()).filter((key) => !key.endsWith('/kept')).sort();
    t.deepEqual(left, ['c0/residual-3', 'c1/residual-3'], 'and nothing else is left behind');
  }
});

test('a client of weight 0 uploads nothing, and its residual stays as it was', async (t) => {
  let heard = false;
  const onlyFirst: Strategy = {
    name: 'only-first',
    init: () => null,
    weigh: (reports, state) => {
      const first = heard ? 'c1' : 'c0';
      heard = true;
      return { weights: reports.map(({ client }) => ({ client, weight: Number(client === first) })), state };
    },
  };
  const w = await world('int8', { strategy: onlyFirst });
  const one = await w.run(1);
  t.deepEqual((await w.store.keys()).sort(), ['c0/kept', 'c0/residual-1']);
  await w.run(2, one);
  t.deepEqual((await w.store.keys()).sort(), ['c0/kept', 'c0/residual-1', 'c1/kept', 'c1/residual-2']);
  t.true(
    w.records.every((record) => record.bytesUp < 1.3 * w.state.params.length),
    'one update per round',
  );
});

test('a residual of another model is refused', async (t) => {
  const w = await world('int8');
  const one = await w.run(1);
  await w.store.set('c0/residual-1', new Uint8Array(8));
  await t.throwsAsync(w.run(2, one), { code: 'ERR_PHOENIX_RUN', message: /c0\/residual-1 .*should have/ });
});
