/** The U-Nets that are timed: presets at the sizes of Fashion-MNIST and CIFAR-10. */
import { presets, type UNetConfig } from '../src/ddpm/unet.ts';

type Model = { unet: UNetConfig; batches: number[] };

export const models = {
  small28: { unet: presets.small.unet({ height: 28, width: 28, channels: 1 }), batches: [32] },
  small32: { unet: presets.small.unet({ height: 32, width: 32, channels: 3 }), batches: [32] },
  cifar: { unet: presets.cifar.unet({ height: 32, width: 32, channels: 3 }), batches: [8, 16] },
} satisfies Record<string, Model>;

export type ModelName = keyof typeof models;
