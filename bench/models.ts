/** The U-Nets that are timed: presets at the sizes of Fashion-MNIST and CIFAR-10. */
import { presets } from '../src/ddpm/model/presets.ts';
import type { UNetConfig } from '../src/ddpm/model/unet.ts';

type Model = {
  unet: UNetConfig;
  /** Images per step on a CPU, and on a GPU: of training, and of denoising. */
  batches: number[];
  gpu: { train: number; denoise: number[] };
};

export const models = {
  small28: {
    unet: presets.small.unet({ height: 28, width: 28, channels: 1 }),
    batches: [32],
    gpu: { train: 32, denoise: [32] },
  },
  small32: {
    unet: presets.small.unet({ height: 32, width: 32, channels: 3 }),
    batches: [32],
    gpu: { train: 32, denoise: [32] },
  },
  cifar: {
    unet: presets.cifar.unet({ height: 32, width: 32, channels: 3 }),
    batches: [8, 16],
    gpu: { train: 128, denoise: [1, 16, 128] },
  },
  // Only where it is asked for: to see that everything runs, on an emulator too.
  tiny8: { unet: presets.tiny.unet({ height: 8, width: 8, channels: 1 }), batches: [2], gpu: { train: 2, denoise: [2] } },
} satisfies Record<string, Model>;

export type ModelName = keyof typeof models;
export const standard: ModelName[] = ['small28', 'small32', 'cifar'];
