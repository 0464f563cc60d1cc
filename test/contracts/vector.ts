/**
 * What every Vector does, whatever memory it lies in: each operation of NativeVector against its formula, at lengths around a block of
 * 1024, on ranges, on NaN, and the code of each error. Bytes that leave a vector are the same ones everywhere.
 */
import test from 'ava';
import type { Vector } from '../../src/bindings/vector.ts';
import { near } from '../support/near.ts';
import { codecsOf, largestOf, tensorsOf } from './vector-bytes.ts';
import { bytesOf, drawn, header, type Kit, lengths, type MakeVector, read, refused, single } from './vector-kit.ts';

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
