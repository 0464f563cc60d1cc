/**
 * Feature networks in ONNX files: a small network written here, run by onnxruntime-node where it is installed, and skipped aloud where it
 * is not.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { featureNetwork } from '../../src/ddpm/metrics/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import type { ImageSet } from '../../src/images.ts';
import { rng } from '../../src/rng.ts';
import { near } from '../support/near.ts';

const RUNTIME = 'onnxruntime-node';
const installed = await import(RUNTIME).then(
  () => true,
  () => false,
);
const withRuntime = installed ? test : test.skip;
if (!installed) console.log(`SKIPPED: ${RUNTIME} is not installed (an optional peer): ONNX feature networks are NOT tested`);

// ---- ONNX is protocol buffers: fields of a number, each a varint or a length and bytes.

const varint = (value: number): number[] => (value < 128 ? [value] : [(value & 127) | 128, ...varint(Math.floor(value / 128))]);
const int = (field: number, value: number) => Buffer.from([...varint(8 * field), ...varint(value)]);
const bytes = (field: number, ...parts: (Uint8Array | string)[]) => {
  const content = Buffer.concat(parts.map((part) => Buffer.from(part)));
  return Buffer.concat([Buffer.from([...varint(8 * field + 2), ...varint(content.length)]), content]);
};
const floats = (values: number[]) => new Uint8Array(Float32Array.from(values).buffer);

const FLOAT = 1;
const value = (field: number, name: string, shape: (number | string)[], type = FLOAT) => {
  const dims = shape.map((length) => bytes(1, typeof length === 'number' ? int(1, length) : bytes(2, length)));
  return bytes(field, bytes(1, name), bytes(2, bytes(1, int(1, type), bytes(2, ...dims))));
};
const node = (op: string, inputs: string[], output: string) =>
  bytes(1, ...inputs.map((input) => bytes(1, input)), bytes(2, output), bytes(4, op));
const tensor = (name: string, shape: number[], ...content: Buffer[]) =>
  bytes(5, ...shape.map((length) => int(1, length)), int(2, FLOAT), bytes(8, name), ...content);
const model = (...graph: Buffer[]) => Buffer.concat([int(1, 8), bytes(7, bytes(2, 'means'), ...graph), bytes(8, bytes(1, ''), int(2, 17))]);

const WEIGHTS = [1, -1, 2, 0, 0.5, 3];
const weights = tensor('w', [3, 2], bytes(9, floats(WEIGHTS)));
const nodes = [node('GlobalAveragePool', ['x'], 'pool3'), node('Flatten', ['pool3'], 'flat'), node('MatMul', ['flat', 'w'], 'logits')];
/** The mean of each channel, and two sums of them. */
const means = (side: number | string, batch: number | string = 'n') =>
  model(...nodes, weights, value(11, 'x', [batch, 3, side, side]), value(12, 'pool3', [batch, 3, 1, 1]), value(12, 'logits', [batch, 2]));

const images = (count: number, side: number, channels: number): ImageSet => {
  const random = rng(0, 'onnx');
  const pixels = Uint8Array.from({ length: count * side * side * channels }, () => random.int(256));
  return { pixels, count, height: side, width: side, channels };
};
const meansOf = ({ pixels, count, channels }: ImageSet) => {
  const size = pixels.length / count;
  return Array.from({ length: 3 * count }, (_, i) => {
    const own = pixels.subarray(Math.floor(i / 3) * size, (Math.floor(i / 3) + 1) * size);
    const channel = own.filter((_, at) => channels === 1 || at % 3 === i % 3);
    return channel.reduce((sum, pixel) => sum + pixel, 0) / channel.length;
  });
};
const bound = 1e-4;

const inFolder = async (body: (write: (name: string, content: Uint8Array) => Promise<string>) => Promise<void>) => {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-onnx-'));
  try {
    await body(async (name, content) => {
      await writeFile(join(folder, name), content);
      return join(folder, name);
    });
  } finally {
    await rm(folder, { recursive: true });
  }
};

withRuntime('an open size: images go in as they are, RGB values in planes; gray counts three times', (t) =>
  inFolder(async (write) => {
    const network = await featureNetwork(await write('2-Means_v1.onnx', means('side')));
    t.like(network, { name: 'meansv1', dims: 3, classes: 2 });
    const drawn = images(5, 7, 3);
    const done: number[] = [];
    const { features, logits } = await network.run(drawn, { threads: 1, onProgress: (count) => done.push(count) });
    const expected = meansOf(drawn);
    near(t, features.data, expected, bound);
    const rows = Array.from({ length: 5 }, (_, i) => expected.slice(3 * i, 3 * i + 3));
    near(
      t,
      logits!.data,
      rows.flatMap((row) => [0, 1].map((k) => row.reduce((sum, x, c) => sum + x * WEIGHTS[2 * c + k]!, 0))),
      1e-3,
    );
    t.deepEqual(done, [1, 2, 3, 4, 5]);
    const gray = images(2, 6, 1);
    near(t, (await network.run(gray)).features.data, meansOf(gray), bound);
    // An image's features do not depend on the others.
    const second = { ...drawn, pixels: drawn.pixels.subarray(147, 294), count: 1 };
    t.deepEqual((await network.run(second)).features.data, features.data.slice(3, 6));
  }),
);

withRuntime('a fixed size: smaller images are enlarged to it, larger ones refused', (t) =>
  inFolder(async (write) => {
    const network = await featureNetwork(await write('fixed.onnx', means(8, 1)));
    t.like(network, { name: 'fixed', height: 8, width: 8 });
    const same = images(2, 8, 3);
    near(t, (await network.run(same)).features.data, meansOf(same), bound);
    const flat = { ...images(1, 4, 3), pixels: new Uint8Array(48).fill(77) };
    near(t, (await network.run(flat)).features.data, [77, 77, 77], bound);
    await t.throwsAsync(network.run(images(1, 9, 3)), { instanceOf: PhoenixError, code: 'ERR_PHOENIX_SHAPE' });
    const stop = AbortSignal.abort(new Error('enough'));
    await t.throwsAsync(network.run(same, { signal: stop }), { message: 'enough' });
  }),
);

withRuntime('a file that is no such network, or that reaches for another, is refused', (t) =>
  inFolder(async (write) => {
    const refused = async (content: Uint8Array, message: RegExp) => {
      const path = await write('bad.onnx', content);
      await t.throwsAsync(featureNetwork(path), { instanceOf: PhoenixError, code: 'ERR_PHOENIX_CHECKPOINT', message });
    };
    const input = value(11, 'x', ['n', 3, 8, 8]);
    const output = value(12, 'pool3', ['n', 3, 1, 1]);
    await refused(Buffer.from('no model'), /onnxruntime does not take it/);
    await refused(means('side').subarray(0, 100), /onnxruntime does not take it/);
    await refused(
      model(nodes[0]!, value(11, 'x', ['n', 1, 8, 8]), value(12, 'pool3', ['n', 1, 1, 1])),
      /\(N,3,S,S\).*got x float32 \(n,1,8,8\)/,
    );
    await refused(model(nodes[0]!, value(11, 'x', [4, 3, 8, 8]), value(12, 'pool3', [4, 3, 1, 1])), /got x float32 \(4,3,8,8\)/);
    await refused(model(nodes[0]!, value(11, 'x', ['n', 3, 8, 9]), output), /got x float32 \(n,3,8,9\)/);
    await refused(model(node('GlobalAveragePool', ['x'], 'y'), input, value(12, 'y', ['n', 3, 1, 1])), /output features or pool3, got y/);
    await refused(model(node('Relu', ['x'], 'pool3'), input, value(12, 'pool3', ['n', 3, 8, 8])), /values \(N,D\).*got pool3/);
    // Weights in another file, as large models have them: it could be any file of this machine.
    const elsewhere = bytes(13, bytes(1, 'location'), bytes(2, 'weights.bin'));
    await write('weights.bin', floats(WEIGHTS));
    const reaching = tensor('w', [3, 2], elsewhere, int(14, 1));
    await refused(model(...nodes, reaching, input, output, value(12, 'logits', ['n', 2])), /onnxruntime does not take it/);
    // Infinite features of finite images.
    const huge = tensor('w', [3, 2], bytes(9, floats(Array(6).fill(3e38))));
    const network = await featureNetwork(await write('huge.onnx', model(...nodes, huge, input, output, value(12, 'logits', ['n', 2]))));
    await t.throwsAsync(network.run(images(1, 8, 3)), {
      code: 'ERR_PHOENIX_CHECKPOINT',
      message: /logits of an image are 2 values, not 2 finite/,
    });
    await t.throwsAsync(featureNetwork(join(tmpdir(), 'there-is-none.onnx')), { code: 'ERR_PHOENIX_IO' });
  }),
);

test('without onnxruntime-node an ONNX file is refused with what to install', async (t) => {
  if (installed) return void t.pass('it is installed here');
  await t.throwsAsync(featureNetwork('any.onnx'), { code: 'ERR_PHOENIX_CONFIG', message: /npm install onnxruntime-node@/ });
});
