/** What every Vector makes of bytes: its encodings for updates, and the tensors of checkpoints; see vector.ts. */
import { roundToBf16 } from '../cases.ts';
import { near } from '../support/near.ts';
import { bytesOf, drawn, header, type Kit, lengths, read, refused } from './vector-kit.ts';

export function codecsOf({ test, make, of }: Kit) {
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

export function largestOf({ test, make, of }: Kit) {
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

export function tensorsOf({ test, make, of }: Kit) {
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
