/**
 * The whole U-Net against another framework: golden output, loss and gradient norms of a tiny UNet2DModel, and the 328 names and shapes
 * of the CIFAR-10 model.
 */
import { readFile } from 'node:fs/promises';
import test from 'ava';
import { addon } from '../../src/bindings/load.ts';
import { sessionOn } from '../../src/bindings/session.ts';
import { presets } from '../../src/ddpm/model/presets.ts';
import { unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { checkGolden } from '../support/golden-unet.ts';

test('the tiny U-Net equals the golden vectors: definitions in double', (t) => checkGolden(t, addon('ref')));
test('the tiny U-Net equals the golden vectors: fast backend', (t) => checkGolden(t, addon('cpu')));

test('the CIFAR-10 model has the 328 names and shapes of the public checkpoint', async (t) => {
  using session = sessionOn(addon('cpu'), {
    model: unetModel(presets.cifar.unet({ height: 32, width: 32, channels: 3 })),
    noise: noise(),
    threads: 1,
  });
  const lines = session.parameters.map((p) => `${p.name} [${p.shape.join(',')}]`).sort();
  const expected = (await readFile(new URL('../golden/ddpm-cifar10-32-keys.txt', import.meta.url), 'utf8')).trim().split('\n');
  t.is(expected.length, 328);
  t.deepEqual(lines, expected);
  t.is(session.parameterCount, 35_746_307);
});
