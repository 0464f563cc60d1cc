/** The door to a Session: a checked model and a noise schedule on a device. */
import { checkArguments } from '../arguments.ts';
import type { NativeModel } from '../bindings/native.ts';
import { createNativeSession, type Device, type Precision, type Session } from '../bindings/session.ts';
import { type Noise, noise as noiseOf } from './noise.ts';

export type SessionOptions = {
  /** What is trained or drawn from: unetModel(config), or classifierModel(config). */
  model: NativeModel;
  /** Of a U-Net. @default linear schedule of 1000 steps, eps-prediction */
  noise?: Noise;
  /** @default 'auto' */
  device?: Device;
  /**
   * 'bf16' on a CPU is for sampling, and needs AVX512_BF16: linear layers, attention and convolutions of stride 2 multiply factors rounded
   * to bfloat16. @default 'bf16' on CUDA, else 'fp32'
   */
  precision?: Precision;
  /** CPU threads that this Session may use. @default one for small networks, else the cores or the CPU quota */
  threads?: number;
};

/**
 * A new Session. Its parameters are 0 until `init(key)` or a checkpoint fills them. Free it with `dispose()` or `using`.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for bf16 on a CPU without AVX512_BF16,
 * ERR_PHOENIX_LOAD without a backend, ERR_PHOENIX_MEMORY
 */
export function createSession(options: SessionOptions): Session {
  checkArguments('createSession', { options }, { options: { model: 'object' } });
  const { noise = noiseOf(), ...rest } = options;
  return createNativeSession({ noise, ...rest });
}
