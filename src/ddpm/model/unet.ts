/**
 * The U-Net of Ho et al. 2020 ("Denoising Diffusion Probabilistic Models", appendix B) as a configuration: what it means, and
 * what is valid. The network itself is native (native/unet).
 */

import { z } from 'zod';
import { checkArguments } from '../../arguments.ts';
import type { NativeModel } from '../../bindings/native.ts';
import { PhoenixError } from '../../errors.ts';

/** Limits of `dropout`, also of the option. */
export const dropoutSchema = z.number().min(0).lt(1);

/** A U-Net's shape. Level 0 has the images' size; each further level halves both sides. */
export type UNetConfig = {
  /** Image sides in pixels, 1..4096. Sides that do not halve evenly are padded to a multiple of 2^(levels-1) and cropped after. */
  height: number;
  width: number;
  /** Channels of the images, in and out, 1..16. */
  inChannels: number;
  /** Channels of each level, 1..8 levels; the first is also the width of the time embedding's input, and even. */
  blockOutChannels: number[];
  /** Residual blocks per level on the way down (one more on the way up), 1..16. */
  layersPerBlock: number;
  /** One entry per level: self-attention after each residual block there. The middle always has it. */
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
    if (!valid)
      throw new PhoenixError('ERR_PHOENIX_CONFIG', `U-Net: ${field} is ${JSON.stringify(config[field])}; it must be ${expected}.`);
  };
  const whole = (value: unknown, least: number, most: number) =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most;

  check('height', whole(config.height, 1, 4096), 'a whole number of pixels, 1 to 4096');
  check('width', whole(config.width, 1, 4096), 'a whole number of pixels, 1 to 4096');
  check('inChannels', whole(config.inChannels, 1, 16), 'a whole number, 1 to 16');
  const channels = config.blockOutChannels;
  check('blockOutChannels', Array.isArray(channels) && whole(channels.length, 1, 8), 'a list of 1 to 8 channel counts, one per level');
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
  check('dropout', dropoutSchema.safeParse(config.dropout).success, 'a number from 0 up to, but not including, 1');
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

/** The U-Net as a model for createSession. @throws PhoenixError ERR_PHOENIX_CONFIG as validateUNet */
export function unetModel(config: UNetConfig): NativeModel {
  checkArguments('unetModel', { config }, { config: 'object' });
  validateUNet(config);
  return { kind: 'unet', ...config, outChannels: config.inChannels, attentionHeadDim: config.attentionHeadDim ?? 0 };
}
