/** The switches of the environment that the addons read. They know no other values than these, and would pass over a misspelt one. */
import { PhoenixError } from '../errors.ts';
import type { AddonInfo } from './native.ts';

const onOff = ['0', '1'];
/** Values by variable; undefined for those that hold a text of any kind. */
const switches: Record<string, readonly string[] | undefined> = {
  PHOENIX_CPU_ISA: ['portable', 'avx2', 'avx512'],
  PHOENIX_CUDA: undefined,
  PHOENIX_CUDA_ARCHS: undefined,
  PHOENIX_CUDA_GRAPHS: onOff,
  PHOENIX_CUDA_OVERLAP: onOff,
  PHOENIX_CUDA_BESIDE: onOff,
  PHOENIX_CUDA_HALO: onOff,
  PHOENIX_MMA_TILE: ['64', '128'],
};

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for a switch that there is not, or a value that it does not have */
export function checkSwitches(environment: NodeJS.ProcessEnv): void {
  for (const [name, value] of Object.entries(environment)) {
    if (!/^PHOENIX_(CPU|CUDA|MMA)(_|$)/.test(name) || !value) continue;
    if (!Object.hasOwn(switches, name))
      throw new PhoenixError(
        'ERR_PHOENIX_ARGUMENT',
        `There is no switch ${name}: known are ${Object.keys(switches).join(', ')}. Unset it.`,
      );
    const valid = switches[name];
    if (valid && !valid.includes(value))
      throw new PhoenixError(
        'ERR_PHOENIX_ARGUMENT',
        `${name} is ${JSON.stringify(value)}: it must be one of ${valid.join(', ')}, or unset.`,
      );
  }
}

/** Whether the addon for CPUs took the instruction set that was asked for. @throws PhoenixError ERR_PHOENIX_ARGUMENT */
export function checkIsa({ isa, isas }: AddonInfo, wanted: string | undefined): void {
  if (!wanted || isa === wanted) return;
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `PHOENIX_CPU_ISA asks for ${wanted}, but this processor has ${isas.join(', ')}. Name one of these, or unset it.`,
  );
}
