/** The small classifier of one's own images (native/unet/classifier.h) as a model for createSession. */
import { checkArguments } from '../../arguments.ts';
import type { NativeModel } from '../../bindings/native.ts';
import { PhoenixError } from '../../errors.ts';

/** Images that it is for, sides of 4..1024 pixels and 1..16 channels, and 2..65536 classes to tell apart. */
export type ClassifierConfig = { height: number; width: number; channels: number; classes: number };

const LIMITS: Record<keyof ClassifierConfig, [least: number, most: number]> = {
  height: [4, 1024],
  width: [4, 1024],
  channels: [1, 16],
  classes: [2, 65_536],
};

/** @throws PhoenixError ERR_PHOENIX_CONFIG naming the field that is wrong, its value and what is valid */
export function classifierModel(config: ClassifierConfig): NativeModel {
  checkArguments('classifierModel', { config }, { config: 'object' });
  const { height, width, channels, classes } = config;
  for (const [field, [least, most]] of Object.entries(LIMITS)) {
    const value = config[field as keyof ClassifierConfig];
    if (!Number.isInteger(value) || value < least || value > most) {
      throw new PhoenixError('ERR_PHOENIX_CONFIG', `Classifier: ${field} is ${value}; it must be a whole number, ${least} to ${most}.`);
    }
  }
  return { kind: 'classifier', height, width, channels, classes };
}
