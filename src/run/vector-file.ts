/** Vectors to and from a file of little-endian float32, one after the other, in pieces. */
import { open } from 'node:fs/promises';
import { PIECE, type Vector } from '../bindings/vector.ts';
import { PhoenixError } from '../errors.ts';
import { writeFresh } from '../files.ts';

function* pieces(vectors: Vector[]): Generator<{ vector: Vector; offset: number; count: number }> {
  for (const vector of vectors) {
    for (let offset = 0; offset < vector.length; offset += PIECE) yield { vector, offset, count: Math.min(PIECE, vector.length - offset) };
  }
}

/** Writes the vectors; file system errors as they come. */
export async function writeVectors(path: string, vectors: Vector[]): Promise<void> {
  async function* bytes() {
    for (const { vector, offset, count } of pieces(vectors)) yield await vector.toBytes(offset, count);
  }
  await writeFresh(path, bytes());
}

/** Fills the vectors from a file that writeVectors made. @throws PhoenixError ERR_PHOENIX_RUN if its length is another */
export async function readVectors(path: string, vectors: Vector[]): Promise<void> {
  const handle = await open(path);
  try {
    const { size } = await handle.stat();
    const expected = 4 * vectors.reduce((sum, vector) => sum + vector.length, 0);
    if (size !== expected)
      throw new PhoenixError('ERR_PHOENIX_RUN', `${path} has ${size} bytes, but this model needs ${expected}: it belongs to another run.`);
    for (const { vector, offset, count } of pieces(vectors)) {
      const { buffer, bytesRead } = await handle.read(new Uint8Array(4 * count), 0, 4 * count);
      if (bytesRead !== 4 * count) throw new PhoenixError('ERR_PHOENIX_RUN', `${path} became shorter while it was being read.`);
      await vector.fromBytes(buffer, offset);
    }
  } finally {
    await handle.close();
  }
}
