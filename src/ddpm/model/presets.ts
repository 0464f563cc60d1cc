/** Models that are known to work, each with how it is trained. */
import type { ImageSize } from '../../images.ts';
import { type Hyper, usualWarmup, type WarmupRule } from '../fit.ts';
import { type UNetConfig, unetConfig } from './unet.ts';

/** What a preset needs to know of the images. `classes`: 0 or absent = no class conditioning. */
export type ImageShape = ImageSize & { classes?: number };

/** How a preset is trained where no option says otherwise. */
export type TrainingDefaults = Pick<Hyper, 'batch' | 'lr' | 'emaDecay' | 'clip' | 'flip'> & {
  /** How long the learning rate warms up: see warmupSteps. */
  warmup: WarmupRule;
};

export type Preset = {
  /** One line for help texts. */
  summary: string;
  unet(images: ImageShape): UNetConfig;
  training: TrainingDefaults;
};

const imageFields = (images: ImageShape) => ({
  height: images.height,
  width: images.width,
  inChannels: images.channels,
  numClasses: images.classes ?? 0,
});

export const presets = {
  tiny: {
    summary: 'base 16, three levels, 1 block, attention at the lowest level: minutes on two cores',
    unet: (images) =>
      unetConfig({
        ...imageFields(images),
        blockOutChannels: [16, 32, 32],
        layersPerBlock: 1,
        attention: [false, false, true],
        normGroups: 8,
        dropout: 0,
      }),
    training: { batch: 32, lr: 2e-3, emaDecay: 0.9999, clip: 1, flip: false, warmup: usualWarmup },
  },
  small: {
    summary: 'base 32, three levels, 2 blocks, attention at the middle level: 28x28 and 32x32 images on a CPU',
    unet: (images) =>
      unetConfig({
        ...imageFields(images),
        blockOutChannels: [32, 64, 64],
        layersPerBlock: 2,
        attention: [false, true, false],
        dropout: 0.1,
      }),
    training: { batch: 32, lr: 5e-4, emaDecay: 0.9999, clip: 1, flip: false, warmup: usualWarmup },
  },
  cifar: {
    summary: "Ho et al.'s CIFAR-10 model, 35.7 million parameters: for a GPU",
    unet: (images) =>
      unetConfig({
        ...imageFields(images),
        blockOutChannels: [128, 256, 256, 256],
        layersPerBlock: 2,
        attention: [false, true, false, false],
        dropout: 0.1,
      }),
    training: { batch: 128, lr: 2e-4, emaDecay: 0.9999, clip: 1, flip: true, warmup: usualWarmup },
  },
} satisfies Record<string, Preset>;

export type PresetName = keyof typeof presets;
