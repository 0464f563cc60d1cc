/** The models that a Session trains, each under the contract of all. */
import test from 'ava';
import { addon } from '../../src/bindings/load.ts';
import { sessionOn } from '../../src/bindings/session.ts';
import { classifierModel } from '../../src/ddpm/model/classifier.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { type ModelCase, modelContract } from '../contracts/model.ts';

const small = { height: 4, width: 6, channels: 2 };
const models: Record<string, ModelCase> = {
  'a U-Net with classes': {
    model: unetModel(
      unetConfig({
        height: small.height,
        width: small.width,
        inChannels: small.channels,
        blockOutChannels: [8, 8],
        layersPerBlock: 1,
        attention: [false, true],
        normGroups: 4,
        numClasses: 3,
        dropout: 0,
      }),
    ),
    size: small,
    classes: 3,
    target: 4 * 6 * 2,
  },
  'a classifier, of sides that do not halve evenly': {
    model: classifierModel({ height: 6, width: 9, channels: 3, classes: 3 }),
    size: { height: 6, width: 9, channels: 3 },
    classes: 3,
    target: 0,
  },
  'a classifier whose first convolution halves': {
    model: classifierModel({ height: 40, width: 40, channels: 1, classes: 2 }),
    size: { height: 40, width: 40, channels: 1 },
    classes: 2,
    target: 0,
  },
};
for (const [name, model] of Object.entries(models)) modelContract(name, model);

test('a classifier is not drawn from, a U-Net has no features, and no other kind is known', async (t) => {
  using classifier = sessionOn(addon('cpu'), { model: classifierModel({ height: 8, width: 8, channels: 1, classes: 2 }) });
  const weights = classifier.params;
  const drawing = { count: 1, batch: 1, table: new Float64Array(7), clip: true, key: 1n, firstImage: 0, weights };
  await t.throwsAsync(async () => classifier.sample(drawing), { code: 'ERR_PHOENIX_ARGUMENT', message: /nothing can be drawn/ });
  using unet = sessionOn(addon('cpu'), { model: models['a U-Net with classes']!.model, noise: noise() });
  using images = Object.assign(unet.createImages(2, small.height, small.width, small.channels), { [Symbol.dispose]() {} });
  const given = { indices: Int32Array.of(0), batch: 1, weights: unet.params };
  await t.throwsAsync(unet.describe(images, given), { code: 'ERR_PHOENIX_SHAPE', message: /features/ });
  t.throws(() => sessionOn(addon('cpu'), { model: { kind: 'oracle' } }), { code: 'ERR_PHOENIX_ARGUMENT', message: /oracle/ });
  for (const change of [{ height: 3 }, { width: 1025 }, { channels: 17 }, { classes: 1 }])
    t.throws(() => classifierModel({ height: 8, width: 8, channels: 1, classes: 2, ...change }), { code: 'ERR_PHOENIX_CONFIG' });
});
