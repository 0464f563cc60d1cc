/**
 * The fast bf16 kernels of the CUDA backend against the definitions, at shapes that reach every path through them: whole and ragged tiles
 * of either size, one step and many, sums cut into ranges, every kind of convolution, channel slices. 71-cuda-ops has the shapes that they
 * leave to the generic kernels.
 */
import test from 'ava';
import type { Addon } from '../../src/bindings/native.ts';
import { sessionOn } from '../../src/bindings/session.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { rng } from '../../src/rng.ts';
import { cases } from '../cases.ts';
import { loadReference } from '../support/addons.ts';
import { checkPair, cuda, usable } from '../support/cuda.ts';
import { setEnvironment } from '../support/environment.ts';
import { near } from '../support/near.ts';

const withDevice = usable ? test.serial : test.serial.skip;

for (const row of cases) {
  for (const { title, draw, ampere = false, variants = [0, 1] } of row.tiles ?? []) {
    for (const tile of ampere ? [64, 128] : [undefined]) {
      withDevice(`${row.op}: ${title}${tile ? `, tiles of ${tile}` : ''}`, (t) => {
        using _ = setEnvironment(tile ? { PHOENIX_MMA_TILE: String(tile) } : {});
        for (const i of variants) {
          const r = rng(3, 'cuda', title, i);
          t.deepEqual(checkPair(row, draw(r), r, i, row.bf16!, 1e-4, 8), []);
        }
      });
    }
  }
}

withDevice('a network in bf16, its output and gradient', async (t) => {
  const model = unetModel(
    unetConfig({
      height: 8,
      width: 8,
      inChannels: 3,
      dropout: 0,
      blockOutChannels: [8, 16],
      layersPerBlock: 1,
      attention: [false, true],
      normGroups: 4,
    }),
  );
  const r = rng(4, 'cuda', 'network');
  const normals = (count: number) => Float64Array.from({ length: count }, () => r.normal());
  const [x, target, times] = [normals(192), normals(192), Float64Array.of(400)];
  let weights: Float32Array | undefined;
  const run = async (native: Addon) => {
    using session = sessionOn(native, { model, noise: noise(), threads: 1 });
    weights ??= Float32Array.from(normals(session.parameterCount), (v) => 0.1 * v);
    await session.params.fromBytes(new Uint8Array(weights.buffer), 0);
    const { output, gradient } = await session.gradient(x, times, target, session.params);
    return { output, gradient: new Float32Array((await gradient.toBytes(0, weights.length)).slice().buffer) };
  };
  const [exact, fast] = [await run(loadReference()), await run(cuda!)];
  near(t, fast.output, exact.output, { norm: 1e-2 }, 'output');
  near(t, fast.gradient, exact.gradient, { norm: 1e-2 }, 'gradient');
});
