/**
 * The native addons as tests and benchmarks see them: the definitions (`ref`, double precision) and the fast backend once per instruction
 * set that this machine has. PHOENIX_ADDON_DIR names a folder of built addons other than the package's own.
 */
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import bindings from 'bindings';
import type { Addon } from '../../src/bindings/native.ts';
import { setEnvironment } from './environment.ts';

const require = createRequire(import.meta.url);
/** bindings' search, without loading what it finds; its types leave that mode out. */
const findAddon = bindings as unknown as (options: { bindings: string; module_root: string; path: true }) => string;
const root = fileURLToPath(new URL('../..', import.meta.url));

/** Path of a built addon. @throws Error that says how to build it */
export function addonPath(name: 'phoenix-cpu' | 'phoenix-ref'): string {
  const folder = process.env.PHOENIX_ADDON_DIR;
  if (folder === undefined) {
    try {
      return findAddon({ bindings: `${name}.node`, module_root: root, path: true });
    } catch {
      throw new Error(`${name}.node is not built: \`npm test\` builds it, or set PHOENIX_ADDON_DIR to a folder that holds it.`);
    }
  }
  const path = join(folder, `${name}.node`);
  if (!existsSync(path)) throw new Error(`PHOENIX_ADDON_DIR: there is no ${path}.`);
  return path;
}

export const loadReference = (): Addon => require(addonPath('phoenix-ref'));

/** The instruction sets that the fast backend is written for, best first. */
export const instructionSets = ['avx512', 'avx2', 'portable'] as const;
export type InstructionSet = (typeof instructionSets)[number];

/**
 * The fast backend once per instruction set, and the sets that this machine lacks. An addon chooses its set when it is loaded, so each one
 * is a copy of the file, loaded under its own PHOENIX_CPU_ISA.
 */
export function loadFast(): { addons: { isa: InstructionSet; addon: Addon }[]; missing: InstructionSet[] } {
  const path = addonPath('phoenix-cpu');
  const folder = mkdtempSync(join(tmpdir(), 'phoenix-addons-'));
  const addons: { isa: InstructionSet; addon: Addon }[] = [];
  for (const isa of instructionSets) {
    const copy = join(folder, `phoenix-cpu-${isa}.node`);
    copyFileSync(path, copy);
    using _ = setEnvironment({ PHOENIX_CPU_ISA: isa });
    const addon: Addon = require(copy);
    if (addon.info().isa === isa) addons.push({ isa, addon });
  }
  rmSync(folder, { recursive: true }); // what is loaded stays
  return { addons, missing: instructionSets.filter((isa) => !addons.some((found) => found.isa === isa)) };
}
