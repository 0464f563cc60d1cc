/**
 * The U-Net of Ho et al. 2020 ("Denoising Diffusion Probabilistic Models", appendix B) as a configuration: what it means, what is valid,
 * the presets and how each is trained. The network itself is native (native/unet).
 */
import type { NativeUNet } from '../../bindings/native.ts';
import { PhoenixError } from '../../errors.ts';

/** A U-Net's shape. Level 0 has the images' size; each further level halves both sides. */
export type UNetConfig = {
  /** Image sides in pixels, 1..4096. Sides that do not halve evenly are padded to a multiple of 2^(levels-1) and cropped after. */
  height: number;
  width: number;
  /** Channels of the images, in and out, 1..16. */
  inChannels: number;
  /** Channels of each level, 1..8 levels; the first is also the width of the time embedding's input, and even. */
  blockOutChannels: number[];
  /** Residual blocks a level on the way down (one more on the way up), 1..16. */
  layersPerBlock: number;
  /** One entry a level: self-attention after each residual block there. The middle always has it. */
  attention: boolean[];
  /** Channels a head, a divisor of the channels wherever there is attention; null = one head of full width. @default null */
  attentionHeadDim: number | null;
  /** Groups of GroupNorm; divides the channels of every level. @default 32 */
  normGroups: number;
  /** Added to GroupNorm's variance, in (0,1). @default 1e-6 */
  normEps: number;
  /** Probability that a value inside a residual block is dropped in training, in [0,1). @default 0.1 */
  dropout: number;
  /** Classes the model is conditioned on; 0 = none. @default 0 */
  numClasses: number;
  /** The time embedding is [cos | sin] instead of [sin | cos]. @default false */
  flipSinToCos: boolean;
  /** Frequencies are 10000^(-i/(half - freqShift)): 0 or 1. @default 1 */
  freqShift: number;
  /** Padding of the stride-2 convolutions: 0 = one row and column right and bottom only (Ho et al.), 1 = all around. @default 0 */
  downsamplePadding: number;
};

/** What a preset needs to know of the images. `classes`: 0 or absent = no class conditioning. */
export type ImageShape = { height: number; width: number; channels: number; classes?: number };

export type TrainingDefaults = {
  /** Images a step. */
  batch: number;
  /** Adam's learning rate after warm-up. */
  lr: number;
  /** Largest EMA decay: see emaDecayAt. */
  emaDecay: number;
  /** Largest gradient norm. */
  clip: number;
  /** Random horizontal flips. */
  flip: boolean;
  /** Linear warm-up over `share` of the planned steps, at most `most` steps: see warmupSteps. */
  warmup: WarmupRule;
};

export type WarmupRule = { share: number; most: number };

export type Preset = {
  /** One line for help texts. */
  summary: string;
  unet(images: ImageShape): UNetConfig;
  training: TrainingDefaults;
};

type Essential = 'height' | 'width' | 'inChannels' | 'blockOutChannels' | 'layersPerBlock' | 'attention';

/** A checked configuration; what is left out follows Ho et al. @throws PhoenixError ERR_PHOENIX_CONFIG as validateUNet */
export const unetConfig = (options: Pick<UNetConfig, Essential> & Partial<UNetConfig>): UNetConfig => {
  const config: UNetConfig = {
    attentionHeadDim: null,
    normGroups: 32,
    normEps: 1e-6,
    dropout: 0.1,
    numClasses: 0,
    flipSinToCos: false,
    freqShift: 1,
    downsamplePadding: 0,
    ...options,
  };
  validateUNet(config);
  return config;
};

/** @throws PhoenixError ERR_PHOENIX_CONFIG naming the first field that is wrong, its value and what is valid. */
export const validateUNet = (config: UNetConfig): void => {
  const check = (field: keyof UNetConfig, valid: boolean, expected: string) => {
    if (!valid) throw new PhoenixError('ERR_PHOENIX_CONFIG', `U-Net: ${field} is ${JSON.stringify(config[field])}; it must be ${expected}`);
  };
  const whole = (value: unknown, least: number, most: number) =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most;

  check('height', whole(config.height, 1, 4096), 'a whole number of pixels, 1 to 4096');
  check('width', whole(config.width, 1, 4096), 'a whole number of pixels, 1 to 4096');
  check('inChannels', whole(config.inChannels, 1, 16), 'a whole number, 1 to 16');
  const channels = config.blockOutChannels;
  check('blockOutChannels', Array.isArray(channels) && whole(channels.length, 1, 8), 'a list of 1 to 8 channel counts, one a level');
  check(
    'blockOutChannels',
    channels.every((c) => whole(c, 1, 8192)),
    'whole numbers, 1 to 8192',
  );
  check('layersPerBlock', whole(config.layersPerBlock, 1, 16), 'a whole number, 1 to 16');
  check(
    'attention',
    Array.isArray(config.attention) && config.attention.length === channels.length && config.attention.every((a) => typeof a === 'boolean'),
    `true or false for each of the ${channels.length} levels`,
  );
  // GroupNorm on the way up also sees two levels' channels side by side; a divisor of both divides their sum.
  check(
    'normGroups',
    whole(config.normGroups, 1, 8192) && channels.every((c) => c % config.normGroups === 0),
    `a whole number that divides the channels of every level (${channels.join(', ')})`,
  );
  const attended = channels.filter((_, level) => config.attention[level] || level === channels.length - 1);
  check(
    'attentionHeadDim',
    config.attentionHeadDim === null ||
      (whole(config.attentionHeadDim, 1, 8192) && attended.every((c) => c % (config.attentionHeadDim as number) === 0)),
    `null (one head) or a divisor of the channels where attention is (${attended.join(', ')})`,
  );
  check('normEps', config.normEps > 0 && config.normEps < 1, 'a number above 0 and below 1');
  check('dropout', config.dropout >= 0 && config.dropout < 1, 'a number from 0 up to, but not including, 1');
  check('numClasses', whole(config.numClasses, 0, 100_000), 'a whole number, 0 (no conditioning) to 100000');
  check('flipSinToCos', typeof config.flipSinToCos === 'boolean', 'true or false');
  check('freqShift', config.freqShift === 0 || config.freqShift === 1, '0 or 1');
  const base = channels[0] as number;
  check(
    'blockOutChannels',
    base % 2 === 0 && base / 2 > config.freqShift,
    `even and at least ${2 * (config.freqShift + 1)} at level 0, for the time embedding's sines and cosines`,
  );
  check('downsamplePadding', config.downsamplePadding === 0 || config.downsamplePadding === 1, '0 or 1');
};

/** The configuration as the addon takes it. @throws PhoenixError ERR_PHOENIX_CONFIG as validateUNet */
export const toNative = (config: UNetConfig): NativeUNet => {
  validateUNet(config);
  return {
    height: config.height,
    width: config.width,
    inChannels: config.inChannels,
    outChannels: config.inChannels,
    blockOutChannels: [...config.blockOutChannels],
    layersPerBlock: config.layersPerBlock,
    attention: [...config.attention],
    attentionHeadDim: config.attentionHeadDim ?? 0,
    groups: config.normGroups,
    normEps: config.normEps,
    dropout: config.dropout,
    classes: config.numClasses,
    flipSinToCos: config.flipSinToCos,
    freqShift: config.freqShift,
    downsamplePadding: config.downsamplePadding,
  };
};

const imageFields = (images: ImageShape) => ({
  height: images.height,
  width: images.width,
  inChannels: images.channels,
  numClasses: images.classes ?? 0,
});

const warmup: WarmupRule = { share: 0.05, most: 5000 };

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
    training: { batch: 32, lr: 2e-3, emaDecay: 0.9999, clip: 1, flip: false, warmup },
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
    training: { batch: 32, lr: 5e-4, emaDecay: 0.9999, clip: 1, flip: false, warmup },
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
    training: { batch: 128, lr: 2e-4, emaDecay: 0.9999, clip: 1, flip: true, warmup },
  },
} satisfies Record<string, Preset>;

export type PresetName = keyof typeof presets;

/** Steps of linear warm-up for a training of `plannedSteps`: min(most, share · planned), so that a short run is not all warm-up. */
export const warmupSteps = (plannedSteps: number, rule: WarmupRule = warmup): number =>
  Math.min(rule.most, Math.floor(rule.share * plannedSteps));

/**
 * EMA decay of step n (counted from 0): min(max, (1+n)/(10+n)), so that a short run does not sample its initial noise. The ramp is that
 * of TensorFlow's ExponentialMovingAverage with num_updates.
 */
export const emaDecayAt = (n: number, max = 0.9999): number => Math.min(max, (1 + n) / (10 + n));

/** The decay of `steps` steps from step n on: the product of emaDecayAt(n) … emaDecayAt(n+steps-1). 1 for no steps. */
export const emaDecayOver = (n: number, steps: number, max = 0.9999): number => {
  let decay = 1;
  for (let step = 0; step < steps; step++) decay *= emaDecayAt(n + step, max);
  return decay;
};
