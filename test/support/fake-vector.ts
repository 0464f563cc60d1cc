/** The part of a Vector that checkpoints use, in TypeScript, so that their tests need no addon. */
import type { Vector } from '../../src/bindings/vector.ts';

export type FakeVector = Vector & { values: Float32Array };

const half = (bits: number): number => {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size =
    exponent === 0
      ? fraction * 2 ** -24
      : exponent === 31
        ? fraction
          ? Number.NaN
          : Number.POSITIVE_INFINITY
        : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
};

const bfloat = (bits: number): number => new Float32Array(Uint32Array.of(bits << 16).buffer)[0] as number;

export const fakeVector = (values: Float32Array): FakeVector => {
  const each = (entries: Float64Array, visit: (inVector: number, inFile: number) => void) => {
    for (let row = 0; row < entries.length; row += 6) {
      const [offset, count, byteOffset, k, c, area] = entries.subarray(row, row + 6) as unknown as [
        number,
        number,
        number,
        number,
        number,
        number,
      ];
      if (k * c * area !== count) throw new Error(`${k}·${c}·${area} is not ${count}`);
      for (let i = 0; i < k; i++)
        for (let j = 0; j < c; j++)
          for (let p = 0; p < area; p++) visit(offset + (i * area + p) * c + j, byteOffset + (i * c + j) * area + p);
    }
  };
  const vector: Pick<Vector, 'length' | 'importTensors' | 'exportTensors' | 'copy' | 'isFinite'> = {
    length: values.length,
    importTensors: async (bytes, dtype, entries) => {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const read = {
        F64: (i: number) => view.getFloat64(8 * i, true),
        F32: (i: number) => view.getFloat32(4 * i, true),
        F16: (i: number) => half(view.getUint16(2 * i, true)),
        BF16: (i: number) => bfloat(view.getUint16(2 * i, true)),
      }[dtype];
      each(entries, (inVector, inFile) => {
        values[inVector] = read(inFile);
      });
    },
    exportTensors: async (byteLength, entries) => {
      const bytes = new Uint8Array(byteLength);
      const view = new DataView(bytes.buffer);
      each(entries, (inVector, inFile) => view.setFloat32(4 * inFile, values[inVector] as number, true));
      return bytes;
    },
    copy: async (from, offset, count) => values.set((from as FakeVector).values.subarray(offset, offset + count), offset),
    isFinite: async () => values.every(Number.isFinite),
  };
  return Object.assign(vector, { values }) as FakeVector;
};
