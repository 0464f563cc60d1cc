/**
 * What every Vector does, whatever memory it lies in: each operation of NativeVector against its formula, at lengths around a block of
 * 1024, on ranges, on NaN, and the code of each error. Bytes that leave a vector are the same ones everywhere.
 */
import test, { type ExecutionContext } from 'ava';
import type { Vector } from '../../src/bindings/vector.ts';
import type { PhoenixErrorCode } from '../../src/errors.ts';
import { rng } from '../../src/rng.ts';
import { roundToBf16 } from '../cases.ts';
import { near } from '../support/near.ts';

export type MakeVector = (length: number) => Vector;

const lengths = [1, 1023, 1024, 1025];
/** Of float32 results whose last bit may be rounded otherwise. */
const single = { relative: 1e-6, absolute: 1e-6 };

const drawn = (length: number, ...name: (string | number)[]) => {
  const draw = rng(1, 'vectors', length, ...name);
  return Float32Array.from({ length }, () => draw.normal());
};
const bytesOf = (values: ArrayLike<number>) => new Uint8Array(Float32Array.from(values).buffer);
const read = async (vector: Vector) => new Float32Array((await vector.toBytes(0, vector.length)).slice().buffer);

/** Fails unless the call throws or rejects with that code. */
async function refused(t: ExecutionContext, code: PhoenixErrorCode, call: () => unknown, about?: string) {
  await t.throwsAsync(async () => await call(), { code }, about);
}

type Kit = {
  test: (title: string, body: (t: ExecutionContext) => Promise<void>) => void;
  make: MakeVector;
  of(values: ArrayLike<number>): Promise<Vector>;
};

/** Declares the tests of one kind of vector. `make` gives one of zeros. */
export function vectorContract(name: string, make: MakeVector): void {
  const kit: Kit = {
    make,
    test: (title, body) => test(`${name}: ${title}`, body),
    async of(values) {
      const vector = make(values.length);
      await vector.fromBytes(bytesOf(values), 0);
      return vector;
    },
  };
  memoryOf(kit);
  arithmeticOf(kit);
  serverStepsOf(kit);
  codecsOf(kit);
  largestOf(kit);
  rangesOf(kit);
  rowsOf(kit);
  tensorsOf(kit);
  refusalsOf(kit);
}

function memoryOf({ test, make, of }: Kit) {
  test('zeros at first; bytes go in and out at any place', async (t) => {
    for (const length of lengths) {
      const vector = make(length);
      t.is(vector.length, length);
      t.deepEqual(await read(vector), new Float32Array(length));
      const values = drawn(length, 'bytes');
      await vector.fromBytes(bytesOf(values), 0);
      t.deepEqual(await read(vector), values);
      const [offset, count] = [length >> 1, length - (length >> 1)];
      t.deepEqual(await vector.toBytes(offset, count), bytesOf(values.subarray(offset)));
      await vector.fromBytes(bytesOf(values.subarray(0, count)), offset);
      t.deepEqual(await read(vector), Float32Array.of(...values.subarray(0, offset), ...values.subarray(0, count)));
    }
    t.is((await make(3).toBytes(3, 0)).length, 0);
    const odd = await of([NaN, Infinity, -Infinity, -0, 1e-45]);
    t.deepEqual(await read(odd), Float32Array.of(NaN, Infinity, -Infinity, -0, 1e-45));
  });

  test('bytes are copies, and may lie anywhere in their buffer', async (t) => {
    const block = new Uint8Array(9);
    block.set(bytesOf([1.5, -2]), 1);
    const vector = make(2);
    const written = vector.fromBytes(block.subarray(1), 0);
    block.fill(0);
    await written;
    t.deepEqual(await read(vector), Float32Array.of(1.5, -2));
    (await vector.toBytes(0, 2)).fill(0);
    t.deepEqual(await read(vector), Float32Array.of(1.5, -2));
  });

  test('fill, and copies of a range to the same range', async (t) => {
    for (const length of lengths) {
      const values = drawn(length, 'copy');
      const [a, b] = [make(length), await of(values)];
      await a.fill(0.25);
      t.deepEqual(await read(a), new Float32Array(length).fill(0.25));
      const [offset, count] = [length >> 2, (length + 1) >> 1];
      await a.copy(b, offset, count);
      t.deepEqual(
        await read(a),
        values.map((value, i) => (i >= offset && i < offset + count ? value : 0.25)),
      );
      t.deepEqual(await read(b), values, 'the source stays');
    }
  });
}

function arithmeticOf({ test, of }: Kit) {
  test('axpy, scale, subtract and interpolate', async (t) => {
    for (const length of lengths) {
      const [x, y] = [drawn(length, 'x'), drawn(length, 'y')];
      const [a, b] = [await of(x), await of(y)];
      await b.axpy(a, -0.3);
      near(
        t,
        await read(b),
        y.map((value, i) => value - 0.3 * x[i]!),
        single,
        `axpy ${length}`,
      );
      await b.scale(1.7);
      near(
        t,
        await read(b),
        y.map((value, i) => 1.7 * (value - 0.3 * x[i]!)),
        single,
        `scale ${length}`,
      );
      const c = await of(y);
      await c.interpolate(a, 0.2);
      near(
        t,
        await read(c),
        y.map((value, i) => 0.8 * value + 0.2 * x[i]!),
        single,
        `interpolate ${length}`,
      );
      await c.interpolate(a, 1);
      near(t, await read(c), x, single, 'all the way');
      await c.subtract(a, await of(y));
      t.deepEqual(
        await read(c),
        x.map((value, i) => value - y[i]!),
        `subtract ${length}`,
      );
      t.deepEqual(await read(a), x, 'operands stay');
    }
  });

  test('an operand may be the vector itself', async (t) => {
    const a = await of([1, -2, 3]);
    await a.axpy(a, 1);
    t.deepEqual(await read(a), Float32Array.of(2, -4, 6));
    t.is(await a.dot(a), 56);
    await a.subtract(a, a);
    t.deepEqual(await read(a), new Float32Array(3));
  });

  test('dot in double precision, and whether all is finite', async (t) => {
    for (const length of lengths) {
      const [x, y] = [drawn(length, 'x'), drawn(length, 'y')];
      const [a, b] = [await of(x), await of(y)];
      const sum = x.reduce((total, value, i) => total + value * y[i]!, 0);
      near(t, await a.dot(b), sum, 1e-9 * length, `dot ${length}`);
      t.true(await a.isFinite());
      for (const place of [0, length - 1])
        for (const value of [NaN, Infinity, -Infinity]) {
          const broken = await of(x.map((own, i) => (i === place ? value : own)));
          t.false(await broken.isFinite(), `${value} at ${place} of ${length}`);
        }
    }
    t.is(await (await of([1e30, 1])).dot(await of([1e-30, 2 ** -20])), Math.fround(1e30) * Math.fround(1e-30) + 2 ** -20);
  });
}

function serverStepsOf({ test, of }: Kit) {
  const options = { lr: 0.3, beta1: 0.9, beta2: 0.99, tau: 0.01 };
  const { lr, beta1, beta2, tau } = options;
  for (const kind of ['momentum', 'adam', 'yogi'] as const)
    test(`server step ${kind}`, async (t) => {
      for (const length of lengths) {
        const [p, d, m] = [drawn(length, 'p'), drawn(length, 'delta'), drawn(length, 'm')];
        const v = drawn(length, 'v').map((value) => value ** 2);
        const [params, delta, first, second] = [await of(p), await of(d), await of(m), await of(v)];
        await params.serverStep(kind, delta, first, kind === 'momentum' ? undefined : second, options);
        const newM = m.map((value, i) => beta1 * value + (kind === 'momentum' ? 1 : 1 - beta1) * d[i]!);
        const adam = (i: number) => beta2 * v[i]! + (1 - beta2) * d[i]! ** 2;
        const yogi = (i: number) => v[i]! - (1 - beta2) * d[i]! ** 2 * Math.sign(v[i]! - d[i]! ** 2);
        const newV = v.map((value, i) => (kind === 'momentum' ? value : kind === 'adam' ? adam(i) : yogi(i)));
        const step = (i: number) => (kind === 'momentum' ? newM[i]! : newM[i]! / (Math.sqrt(newV[i]!) + tau));
        near(t, await read(first), newM, single, `m ${length}`);
        near(t, await read(second), newV, single, `v ${length}`);
        near(
          t,
          await read(params),
          p.map((value, i) => value + lr * step(i)),
          { relative: 1e-5, absolute: 1e-5 },
          `p ${length}`,
        );
        t.deepEqual(await read(delta), d);
      }
    });

  test('server steps that lack moments or have no name are refused', async (t) => {
    const [params, delta, m] = [await of([1]), await of([1]), await of([1])];
    await refused(t, 'ERR_PHOENIX_ARGUMENT', () => params.serverStep('adam', delta, m, undefined, options));
    await refused(t, 'ERR_PHOENIX_ARGUMENT', () => params.serverStep('add' as 'adam', delta, m, m, options));
    t.deepEqual(await read(params), Float32Array.of(1));
  });
}

function codecsOf({ test, make, of }: Kit) {
  test('bf16: two bytes per value, rounded to nearest, ties to even, NaN stays NaN', async (t) => {
    const values = [1, -2.5, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38, -0, NaN, Infinity];
    const vector = await of(values);
    const halves = [0x3f80, 0xc020, 0x3f80, 0x3f82, 0x7f80, 0x8000, 0x7fc0, 0x7f80];
    t.deepEqual(await vector.encode('bf16', 0, 8), new Uint8Array(Uint16Array.from(halves).buffer));
    t.deepEqual(await vector.encode('bf16', 1, 2), new Uint8Array(Uint16Array.from(halves.slice(1, 3)).buffer));
    const into = make(10);
    await into.decode('bf16', await vector.encode('bf16', 0, 8), 1, 8);
    t.deepEqual(await read(into), Float32Array.of(0, 1, -2.5, 1, 1 + 2 ** -6, Infinity, -0, NaN, Infinity, 0));
    const allOnes = make(1);
    await allOnes.fromBytes(Uint8Array.of(255, 255, 255, 127), 0);
    t.deepEqual([...(await allOnes.encode('bf16', 0, 1))], [0xc0, 0x7f], 'a NaN that would round to -0');
    for (const length of lengths) {
      const source = await of(drawn(length, 'bf16'));
      const [rounded, sent] = [make(length), make(length)];
      await rounded.roundToBf16(source);
      t.deepEqual(await read(rounded), drawn(length, 'bf16').map(roundToBf16), `roundToBf16 ${length}`);
      await sent.decode('bf16', await source.encode('bf16', 0, length), 0, length);
      t.deepEqual(await read(sent), await read(rounded), `encoded ${length}`);
    }
  });

  test('int8: per block of 1024 a scale and signed bytes, ties to even', async (t) => {
    const vector = await of([127, 2.5, -3.5, -127, 0, NaN]);
    t.deepEqual([...(await vector.encode('int8', 0, 5))], [...bytesOf([1]), 127, 2, 256 - 4, 256 - 127, 0]);
    t.deepEqual([...(await vector.encode('int8', 4, 1))], [0, 0, 0, 0, 0], 'zeros have scale 0');
    t.deepEqual([...(await (await of([127, 3.5, -2.5])).encode('int8', 0, 3))].slice(4), [127, 4, 256 - 2]);
    // The scale of the smallest floats is rounded itself: 190/127 to 1, so that 190 does not fit into a byte.
    t.deepEqual([...(await (await of([190 * 2 ** -149, -190 * 2 ** -149])).encode('int8', 0, 2))], [1, 0, 0, 0, 127, 256 - 127]);
    t.deepEqual([...(await vector.encode('int8', 0, 6))].slice(0, 9), [...(await vector.encode('int8', 0, 5))], 'NaN is in no scale');
    for (const length of lengths) {
      const values = drawn(length, 'int8').map((value, i) => (i < 1024 ? value : 1000 * value));
      const [source, into] = [await of(values), make(length + 2)];
      const bytes = await source.encode('int8', 0, length);
      t.is(bytes.length, length + 4 * Math.ceil(length / 1024));
      await into.decode('int8', bytes, 1, length);
      const came = (await read(into)).subarray(1, length + 1);
      for (let from = 0; from < length; from += 1024) {
        const block = values.subarray(from, from + 1024);
        near(
          t,
          came.subarray(from, from + 1024),
          block,
          (Math.max(...block.map(Math.abs)) / 254) * (1 + 1e-5),
          `block at ${from} of ${length}`,
        );
      }
      t.deepEqual([(await read(into))[0], (await read(into))[length + 1]], [0, 0], 'nothing beside the range');
    }
  });

  test('bytes that are no encoding are refused', async (t) => {
    const vector = make(1025);
    const shape = (call: () => unknown, about: string) => refused(t, 'ERR_PHOENIX_SHAPE', call, about);
    await shape(() => vector.decode('bf16', new Uint8Array(2049), 0, 1025), 'a byte too few');
    await shape(() => vector.decode('bf16', new Uint8Array(2051), 0, 1025), 'a byte too many');
    await shape(() => vector.decode('int8', new Uint8Array(1029), 0, 1025), 'a scale too few');
    for (const scale of [NaN, Infinity, -1])
      await shape(() => vector.decode('int8', Buffer.concat([bytesOf([scale]), new Uint8Array(2)]), 0, 2), `scale ${scale}`);
    await shape(() => vector.decode('int8', Buffer.concat([bytesOf([1]), Uint8Array.of(1, 128)]), 0, 2), '-128');
    await refused(t, 'ERR_PHOENIX_ARGUMENT', () => vector.encode('f8' as 'int8', 0, 1));
    await refused(t, 'ERR_PHOENIX_ARGUMENT', () => vector.decode('f8' as 'int8', new Uint8Array(2), 0, 1));
  });
}

const header = (k: number, coding: number) => [k, 0, 0, 0, 0, 0, 0, 0, coding, 0, 0, 0, 0, 0, 0, 0];

function largestOf({ test, make, of }: Kit) {
  test('the largest values: of equal ones the first, with gaps or a bitmap, whichever is shorter', async (t) => {
    const few = await of([1, -4, 2, 0.5, 3, -4, 0, 0, 0]);
    t.deepEqual([...(await few.encodeLargest(2))], [...header(2, 0), 0x80, 0xc0, 0x80, 0xc0, 1, 3]);
    t.deepEqual([...(await few.encodeLargest(1))], [...header(1, 0), 0x80, 0xc0, 1]);
    const dense = await of([1, 2, 1, 1, 1, 1, 1, 1]);
    t.deepEqual([...(await dense.encodeLargest(3))], [...header(3, 1), 0x80, 0x3f, 0, 0x40, 0x80, 0x3f, 0b111]);
    const far = make(1025);
    await far.fromBytes(bytesOf([5]), 1024);
    t.deepEqual([...(await far.encodeLargest(1))], [...header(1, 0), 0xa0, 0x40, 0x80, 0x08], 'a gap of 1024 takes two bytes');
    for (const length of lengths)
      for (const k of [1, Math.ceil(length / 50), Math.ceil(length / 2), length]) {
        const values = drawn(length, 'largest');
        const into = make(length);
        await into.fill(9);
        await into.decodeLargest(await (await of(values)).encodeLargest(k));
        const least = values.map(Math.abs).sort()[length - k]!;
        t.deepEqual(
          await read(into),
          values.map((value) => (Math.abs(value) >= least ? roundToBf16(value) : 0)),
          `${k} of ${length}`,
        );
      }
  });

  test('largest values that do not decode are refused', async (t) => {
    const vector = make(9);
    const bad: [string, number[]][] = [
      ['no header', [1, 0, 0]],
      ['no values', header(0, 0)],
      ['more values than the vector has', [...header(10, 1), ...new Array(20).fill(0), 255, 3]],
      ['values cut off', [...header(2, 0), 0, 0]],
      ['another coding', [...header(1, 2), 0, 0, 1]],
      ['a byte that is not zero', [...header(1, 0).with(12, 1), 0, 0, 1]],
      ['an index behind the last', [...header(1, 0), 0, 0, 9]],
      ['a gap cut off', [...header(1, 0), 0, 0, 128]],
      ['bytes behind the last gap', [...header(1, 0), 0, 0, 1, 1]],
      ['a gap of nine bytes', [...header(1, 0), 0, 0, ...new Array(8).fill(128), 1]],
      ['a bitmap too short', [...header(1, 1), 0, 0, 1]],
      ['a bit too many', [...header(1, 1), 0, 0, 3, 0]],
      ['a bit too few', [...header(2, 1), 0, 0, 0, 0, 1, 0]],
      ['a bit behind the last value', [...header(1, 1), 0, 0, 0, 2]],
    ];
    for (const [about, bytes] of bad) await refused(t, 'ERR_PHOENIX_SHAPE', () => vector.decodeLargest(Uint8Array.from(bytes)), about);
    for (const k of [0, 10, NaN]) await refused(t, 'ERR_PHOENIX_ARGUMENT', () => vector.encodeLargest(k), `k ${k}`);
  });
}

function rangesOf({ test, make, of }: Kit) {
  test('gather packs ranges, scatter puts them back', async (t) => {
    const values = drawn(1025, 'ranges');
    const whole = await of(values);
    const ranges = Float64Array.of(1000, 25, 0, 1, 7, 0, 10, 4);
    const packed = make(30);
    await packed.gather(whole, ranges);
    const expected = Float32Array.of(...values.subarray(1000), values[0]!, ...values.subarray(10, 14));
    t.deepEqual(await read(packed), expected);
    const into = make(1025);
    await into.fill(7);
    await into.scatter(packed, ranges);
    const inside = (i: number) => i >= 1000 || i === 0 || (i >= 10 && i < 14);
    t.deepEqual(
      await read(into),
      values.map((value, i) => (inside(i) ? value : 7)),
    );
  });

  test('ranges that do not fit are refused', async (t) => {
    const [whole, packed] = [make(10), make(4)];
    for (const ranges of [
      [0, 3],
      [0, 5],
      [8, 4],
      [-1, 4],
      [0.5, 4],
      [0, 4, 1],
      [0, 2, NaN, 2],
    ]) {
      await refused(t, 'ERR_PHOENIX_SHAPE', () => packed.gather(whole, Float64Array.from(ranges)), `gather ${ranges}`);
      await refused(t, 'ERR_PHOENIX_SHAPE', () => whole.scatter(packed, Float64Array.from(ranges)), `scatter ${ranges}`);
    }
    for (const [offset, count] of [
      [9, 2],
      [11, 0],
    ] as const) {
      await refused(t, 'ERR_PHOENIX_SHAPE', () => whole.toBytes(offset, count), `toBytes ${offset} ${count}`);
      await refused(t, 'ERR_PHOENIX_SHAPE', () => whole.encode('bf16', offset, count), `encode ${offset} ${count}`);
      await refused(
        t,
        'ERR_PHOENIX_SHAPE',
        () => whole.decode('bf16', new Uint8Array(2 * count), offset, count),
        `decode ${offset} ${count}`,
      );
      await refused(t, 'ERR_PHOENIX_SHAPE', () => whole.copy(make(10), offset, count), `copy ${offset} ${count}`);
      await refused(t, 'ERR_PHOENIX_SHAPE', () => whole.fromBytes(new Uint8Array(4 * count), offset), `fromBytes ${offset} ${count}`);
    }
    await refused(t, 'ERR_PHOENIX_SHAPE', () => whole.fromBytes(new Uint8Array(6), 0), 'half a value');
  });
}

function rowsOf({ test, make, of }: Kit) {
  test('trimmed means of columns and distances between rows', async (t) => {
    const rows = [0, 1, 2, 3, 4].map((row) => drawn(1025, 'row', row));
    const block = await of(rows.flatMap((row) => [...row]));
    for (const trim of [0, 1, 2]) {
      const mean = make(1027);
      await mean.trimmedMean(block, { rows: 5, columns: 1025, trim, offset: 1 });
      const kept = (j: number) =>
        rows
          .map((row) => row[j]!)
          .sort((a, b) => a - b)
          .slice(trim, 5 - trim);
      const expected = rows[0]!.map((_, j) => kept(j).reduce((a, b) => a + b) / (5 - 2 * trim));
      near(t, await read(mean), [0, ...expected, 0], single, `trim ${trim}`);
    }
    const distances = rows.flatMap((a) => rows.map((b) => a.reduce((sum, x, j) => sum + (x - b[j]!) ** 2, 0)));
    near(t, await block.rowDistances(5, 1025), distances, { relative: 1e-12 });
    t.deepEqual(await (await of([3])).rowDistances(1, 1), Float64Array.of(0));
  });

  test('rows that do not fit are refused', async (t) => {
    const [rows, into] = [make(10), make(5)];
    const shape = (call: () => unknown, about: string) => refused(t, 'ERR_PHOENIX_SHAPE', call, about);
    await shape(() => into.trimmedMean(rows, { rows: 3, columns: 5, trim: 0, offset: 0 }), 'more values than there are');
    await shape(() => into.trimmedMean(rows, { rows: 2, columns: 5, trim: 0, offset: 1 }), 'no room for the mean');
    await shape(() => into.trimmedMean(rows, { rows: 2, columns: 5, trim: 1, offset: 0 }), 'all rows trimmed');
    await shape(() => rows.rowDistances(3, 5), 'more values than there are');
    await refused(t, 'ERR_PHOENIX_ARGUMENT', () => rows.trimmedMean(rows, { rows: 2, columns: 5, trim: 0, offset: 0 }));
  });
}

function tensorsOf({ test, make, of }: Kit) {
  test('tensors of every float type come in, permuted from (K,C,R·S) to (K,R·S,C), and go out again', async (t) => {
    const vector = make(14);
    const file = Float32Array.from({ length: 12 }, (_, i) => i + 1);
    const entry = Float64Array.of(1, 12, 4, 1, 3, 4);
    await vector.importTensors(Buffer.concat([new Uint8Array(4), bytesOf(file)]), 'F32', entry);
    t.deepEqual([...(await read(vector))], [0, 1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12, 0]);
    t.deepEqual(await vector.exportTensors(56, entry), bytesOf([0, ...file, 0]));
    const plain = Float64Array.of(0, 4, 0, 1, 4, 1);
    const came = async (dtype: 'F64' | 'F16' | 'BF16', bytes: ArrayBufferLike) => {
      const into = make(4);
      await into.importTensors(new Uint8Array(bytes), dtype, plain);
      return read(into);
    };
    t.deepEqual(await came('F64', Float64Array.of(1.5, -2, NaN, 1e-3).buffer), Float32Array.of(1.5, -2, NaN, 1e-3));
    t.deepEqual(await came('BF16', Uint16Array.of(0x3fc0, 0xc000, 0x8000, 0x7f80).buffer), Float32Array.of(1.5, -2, -0, Infinity));
    t.deepEqual(await came('F16', Uint16Array.of(0x3e00, 0xc000, 0x0001, 0x7c00).buffer), Float32Array.of(1.5, -2, 2 ** -24, Infinity));
    t.deepEqual(await came('F16', Uint16Array.of(0x7e00, 0x8000, 0x03ff, 0x7bff).buffer), Float32Array.of(NaN, -0, 1023 * 2 ** -24, 65504));
  });

  test('several tensors at once, each at its own place', async (t) => {
    const vector = await of(drawn(1025, 'tensors'));
    const entries = Float64Array.of(1000, 25, 0, 5, 5, 1, 0, 4, 100, 2, 2, 1);
    const bytes = await vector.exportTensors(116, entries);
    const into = make(1025);
    await into.importTensors(bytes, 'F32', entries);
    t.deepEqual(
      await read(into),
      drawn(1025, 'tensors').map((value, i) => (i >= 1000 || i < 4 ? value : 0)),
    );
  });

  test('tensors that do not fit are refused', async (t) => {
    const vector = make(4);
    const bytes = new Uint8Array(16);
    const importing = (entries: number[]) => vector.importTensors(bytes, 'F32', Float64Array.from(entries));
    await refused(t, 'ERR_PHOENIX_SHAPE', () => importing([0, 4, 4, 1, 4, 1]), 'bytes end before');
    await refused(t, 'ERR_PHOENIX_SHAPE', () => importing([1, 4, 0, 1, 4, 1]), 'the vector ends before');
    await refused(t, 'ERR_PHOENIX_SHAPE', () => importing([0, 4, 0, 1, 3, 1]), 'count is not K·C·R·S');
    await refused(t, 'ERR_PHOENIX_ARGUMENT', () => importing([0, 4, 0, 1, 4]), 'five numbers');
    await refused(t, 'ERR_PHOENIX_ARGUMENT', () => vector.importTensors(bytes, 'I8' as 'F16', Float64Array.of(0, 4, 0, 1, 4, 1)));
    await refused(t, 'ERR_PHOENIX_SHAPE', () => vector.exportTensors(15, Float64Array.of(0, 3, 0, 1, 3, 1)), 'no whole values');
    await refused(t, 'ERR_PHOENIX_SHAPE', () => vector.exportTensors(12, Float64Array.of(0, 4, 0, 1, 4, 1)), 'no room');
  });
}

/** Names of a vector's members: a native one has them on its prototype. */
const membersOf = (vector: Vector): string[] =>
  Object.keys(vector).length > 0 ? Object.keys(vector) : Object.getOwnPropertyNames(Object.getPrototypeOf(vector));

function refusalsOf({ test, make, of }: Kit) {
  test('vectors of other lengths, and what is no vector, are refused; nothing changes', async (t) => {
    const [a, other, like] = [await of([1, 2, 3]), make(4), make(3)];
    const options = { lr: 1, beta1: 0, beta2: 0, tau: 1 };
    const calls: Record<string, (x: Vector) => unknown> = {
      axpy: (x) => a.axpy(x, 1),
      subtract: (x) => a.subtract(x, like),
      'subtract from': (x) => a.subtract(like, x),
      roundToBf16: (x) => a.roundToBf16(x),
      interpolate: (x) => a.interpolate(x, 0.5),
      copy: (x) => a.copy(x, 0, 3),
      dot: (x) => a.dot(x),
      'server step by': (x) => a.serverStep('adam', x, like, like, options),
      'first moments': (x) => a.serverStep('adam', like, x, like, options),
      'second moments': (x) => a.serverStep('adam', like, like, x, options),
    };
    for (const [about, call] of Object.entries(calls)) {
      await refused(t, 'ERR_PHOENIX_SHAPE', () => call(other), about);
      await refused(t, 'ERR_PHOENIX_ARGUMENT', () => call({} as Vector), `${about}, no vector`);
    }
    for (const factor of [-0.1, 1.1, NaN]) await refused(t, 'ERR_PHOENIX_ARGUMENT', () => a.interpolate(like, factor), `factor ${factor}`);
    t.deepEqual(await read(a), Float32Array.of(1, 2, 3));
  });

  test('use after dispose is refused, of the vector itself and as an operand; dispose twice is not', async (t) => {
    const [gone, other] = [make(3), make(3)];
    gone.dispose();
    t.notThrows(() => gone.dispose());
    const one = Float64Array.of(0, 3);
    const tensor = Float64Array.of(0, 3, 0, 1, 3, 1);
    const options = { lr: 1, beta1: 0, beta2: 0, tau: 1 };
    const calls: Record<string, () => unknown> = {
      length: () => gone.length,
      axpy: () => gone.axpy(other, 1),
      'axpy by': () => other.axpy(gone, 1),
      scale: () => gone.scale(1),
      fill: () => gone.fill(1),
      roundToBf16: () => gone.roundToBf16(other),
      subtract: () => gone.subtract(other, other),
      interpolate: () => gone.interpolate(other, 0.5),
      copy: () => gone.copy(other, 0, 3),
      dot: () => gone.dot(other),
      isFinite: () => gone.isFinite(),
      serverStep: () => gone.serverStep('momentum', other, other, undefined, options),
      toBytes: () => gone.toBytes(0, 3),
      fromBytes: () => gone.fromBytes(new Uint8Array(12), 0),
      importTensors: () => gone.importTensors(new Uint8Array(12), 'F32', tensor),
      exportTensors: () => gone.exportTensors(12, tensor),
      encode: () => gone.encode('bf16', 0, 3),
      decode: () => gone.decode('bf16', new Uint8Array(6), 0, 3),
      encodeLargest: () => gone.encodeLargest(1),
      decodeLargest: () => gone.decodeLargest(Uint8Array.from([...header(1, 0), 0, 0, 0])),
      gather: () => gone.gather(other, one),
      'gather from': () => other.gather(gone, one),
      scatter: () => gone.scatter(other, one),
      trimmedMean: () => gone.trimmedMean(other, { rows: 1, columns: 3, trim: 0, offset: 0 }),
      rowDistances: () => gone.rowDistances(1, 3),
    };
    for (const [about, call] of Object.entries(calls)) await refused(t, 'ERR_PHOENIX_DISPOSED', call, about);
    const unknown = membersOf(other).filter((member) => !(member in calls) && !['constructor', 'dispose', 'values'].includes(member));
    t.deepEqual(unknown, [], 'every operation has its place in this contract');
  });
}
