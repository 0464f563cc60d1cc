/** A model written to a file and read back, in each layout, trains on as if nothing had happened: ten equal losses. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { createImages, type Session } from '../../src/bindings/session.ts';
import { type CheckpointContent, readCheckpoint, saveCheckpoint } from '../../src/ddpm/checkpoint/checkpoint.ts';
import { saveDiffusers } from '../../src/ddpm/checkpoint/diffusers.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { createSession } from '../../src/ddpm/session.ts';
import { testHyper } from '../support/plain-fit.ts';

const unet = unetConfig({
  height: 8,
  width: 8,
  inChannels: 3,
  blockOutChannels: [16, 32],
  layersPerBlock: 1,
  attention: [false, true],
  normGroups: 8,
  numClasses: 3,
});
const schedule = { kind: 'cosine', prediction: 'v' } as const;
const COUNT = 24;
const classes = Int32Array.from({ length: COUNT }, (_, i) => i % 3);
const pixels = Uint8Array.from({ length: COUNT * 8 * 8 * 3 }, (_, i) => (i * 71) % 256);

const open = () => createSession({ model: unetModel(unet), noise: noise(schedule), threads: 2 });

const train = async (session: Session, steps: number, firstStep: number) => {
  using images = await createImages({ pixels, count: COUNT, height: 8, width: 8, channels: 3 });
  return session.train(images, {
    indices: Int32Array.from({ length: steps * 4 }, (_, i) => (i * 5) % COUNT),
    classes,
    steps,
    hyper: testHyper({ flip: true, lr: 2e-3, warmupSteps: 4, emaDecay: 0.999 }),
    key: 5n,
    firstStep,
    globalStep: firstStep,
    adamStep: firstStep,
  });
};

const moments = async (from: Session, to: Session) => {
  for (const [a, b] of [
    [from.adamM, to.adamM],
    [from.adamV, to.adamV],
  ] as const)
    await b.fromBytes(await a.toBytes(0, a.length), 0);
};

const layouts: Record<string, (folder: string, content: CheckpointContent) => Promise<string>> = {
  'one safetensors file': async (folder, content) => {
    await saveCheckpoint(join(folder, 'model.safetensors'), content);
    return join(folder, 'model.safetensors');
  },
  'a diffusers folder': async (folder, content) => {
    await saveDiffusers(join(folder, 'pipeline'), content);
    return join(folder, 'pipeline');
  },
};

for (const [name, save] of Object.entries(layouts)) {
  test(`${name}: ten equal losses after a reload, equal parameters and EMA`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'phoenix-reload-'));
    t.teardown(() => rm(folder, { recursive: true }));
    using one = open();
    await one.init(9n);
    await train(one, 6, 0);
    const { params, ema, parameters: table } = one;
    const path = await save(folder, { params, ema, table, unet, noise: schedule });

    const checkpoint = await readCheckpoint(path);
    t.deepEqual(checkpoint.unet, unet);
    t.like(checkpoint.noise, schedule);
    using other = open();
    await checkpoint.load(other.params, other.ema, other.parameters);
    await moments(one, other);
    const bytes = async (session: Session, which: 'params' | 'ema') => Buffer.from(await session[which].toBytes(0, session.parameterCount));
    for (const which of ['params', 'ema'] as const) t.true((await bytes(one, which)).equals(await bytes(other, which)), which);
    const [went, goes] = [await train(one, 10, 6), await train(other, 10, 6)];
    t.is(went.losses.length, 10);
    t.deepEqual(goes.losses, went.losses);
    for (const which of ['params', 'ema'] as const) t.true((await bytes(one, which)).equals(await bytes(other, which)), `${which} after`);
  });
}
