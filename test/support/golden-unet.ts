/** The golden tiny U-Net: a model filled by a formula, and what another framework says of it. */
import { readFile } from 'node:fs/promises';
import type { ExecutionContext } from 'ava';
import type { Addon } from '../../src/bindings/native.ts';
import { type Session, sessionOn } from '../../src/bindings/session.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { near } from './near.ts';

type Golden = { loss: number; output: number[]; timesteps: number[]; grad_l2: Record<string, number>; n_params: number };
const golden: Golden = JSON.parse(await readFile(new URL('../golden/unet-tiny.json', import.meta.url), 'utf8'));

const fnv1a = (text: string): number => {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
};

/** The parameters that the golden model was filled with: a formula of name and position. */
const formulaWeights = (name: string, shape: number[]): Float32Array => {
  const count = shape.reduce((a, b) => a * b, 1);
  const fanIn = count / (shape[0] as number);
  const phase = (2 * Math.PI * (fnv1a(name) % 1000)) / 1000;
  return Float32Array.from({ length: count }, (_, i) => {
    const v = Math.sin(0.37 * i + phase);
    if (name.endsWith('.bias')) return 0.05 * v;
    return shape.length === 1 ? 1 + 0.1 * v : v / Math.sqrt(fanIn);
  });
};

/** Six numbers for Vector.importTensors: a tensor alone in its bytes. */
const entry = (offset: number, count: number, shape: number[]): Float64Array =>
  Float64Array.of(
    offset,
    count,
    0,
    shape[0] as number,
    shape.length === 4 ? (shape[1] as number) : count / (shape[0] as number),
    shape.length === 4 ? (shape[2] as number) * (shape[3] as number) : 1,
  );

const fillByFormula = async (session: Session): Promise<void> => {
  for (const p of session.parameters)
    await session.params.importTensors(new Uint8Array(formulaWeights(p.name, p.shape).buffer), 'F32', entry(p.offset, p.count, p.shape));
};

const tiny = unetConfig({
  height: 8,
  width: 8,
  inChannels: 3,
  blockOutChannels: [32, 64],
  layersPerBlock: 1,
  attention: [false, true],
  normGroups: 8,
  dropout: 0,
});

/** (B,C,H,W) → (B,H,W,C) */
const toNHWC = (x: ArrayLike<number>, b: number, c: number, h: number, w: number): Float64Array => {
  const out = new Float64Array(x.length);
  for (let n = 0; n < b; n++)
    for (let k = 0; k < c; k++)
      for (let i = 0; i < h; i++)
        for (let j = 0; j < w; j++) out[((n * h + i) * w + j) * c + k] = x[((n * c + k) * h + i) * w + j] as number;
  return out;
};

const input = Float32Array.from({ length: 2 * 3 * 8 * 8 }, (_, i) => Math.sin(((0.013 * i * i) % (2 * Math.PI)) + 0.7 * i));
const mirrored = input.map((_, i) => input[i - (i % 8) + 7 - (i % 8)] as number);

const norm = (x: ArrayLike<number>): number => Math.sqrt(Array.from(x).reduce((sum, v) => sum + v * v, 0));

/** Output, loss and gradient norms of the golden model on an addon. */
export const checkGolden = async (t: ExecutionContext, native: Addon): Promise<void> => {
  using session = sessionOn(native, { model: unetModel(tiny), noise: noise(), threads: 2, precision: 'fp32' });
  t.is(session.parameters.length, 144);
  t.is(session.parameterCount, golden.n_params);
  await fillByFormula(session);
  const x = toNHWC(input, 2, 3, 8, 8);
  const result = await session.gradient(x, Float64Array.from(golden.timesteps), toNHWC(mirrored, 2, 3, 8, 8), session.params);

  const expected = toNHWC(golden.output, 2, 3, 8, 8);
  near(t, result.output, expected, { norm: 1e-5 }, 'output');
  near(t, result.loss, golden.loss, 1e-6, 'loss');

  const bytes = await result.gradient.toBytes(0, session.parameterCount);
  const gradient = new Float32Array(bytes.buffer, bytes.byteOffset, session.parameterCount);
  const whole = norm(gradient);
  for (const p of session.parameters) {
    const got = norm(gradient.subarray(p.offset, p.offset + p.count));
    const wanted = golden.grad_l2[p.name] as number;
    near(t, got, wanted, 1e-4 * wanted + 1e-6 * whole, `norm of the gradient of ${p.name}`);
  }
  const forward = await session.forward(x, Float64Array.from(golden.timesteps), session.params);
  t.deepEqual(forward, result.output, 'forward alone gives what forward with backward gives');
};
