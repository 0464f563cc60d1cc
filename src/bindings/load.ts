/** Loads the native addon, once: a build of this checkout, else the platform package. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PhoenixError } from '../errors.ts';
import { checkIsa, checkSwitches } from './environment.ts';
import type { Addon, AddonInfo } from './native.ts';

const require = createRequire(import.meta.url);

/** The package's folder: src/bindings and dist/bindings lie equally deep in it. */
const packageRoot = fileURLToPath(new URL('../..', import.meta.url));

export type Backend = AddonInfo['backend'];

type Loader = (options: { bindings: string; module_root: string }) => unknown;

/** Where an addon named `phoenix-<backend>` is looked for, in order; each attempt's failure is kept as a reason. */
const load = (backend: Backend): Addon => {
  const reasons: Error[] = [];
  const file = `phoenix-${backend}.node`;
  const attempt = (what: string, find: () => unknown): Addon | undefined => {
    try {
      return find() as Addon;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const why = message.startsWith('Could not locate the bindings file') ? `there is no build/Release/${file}` : message.split('\n')[0];
      reasons.push(new Error(`${what}: ${why}`));
      return undefined;
    }
  };
  const named = process.env.PHOENIX_ADDON_DIR;
  const found =
    (named ? attempt(`PHOENIX_ADDON_DIR (${named})`, () => require(join(named, file))) : undefined) ??
    attempt('build of this package', () => (require('bindings') as Loader)({ bindings: file, module_root: packageRoot })) ??
    (backend === 'cpu' ? attempt('platform package', () => require(`phoenix-${process.platform}-${process.arch}-gnu`)) : undefined);
  if (found) return found;
  throw new PhoenixError(
    'ERR_PHOENIX_LOAD',
    `No native addon phoenix-${backend} could be loaded for ${process.platform}-${process.arch}. Run \`npm rebuild phoenix\` (or \`npm install\` in a checkout); ` +
      `if install scripts are blocked, first \`npm install-scripts approve phoenix\`. Tried:\n${reasons.map((r) => `  - ${r.message}`).join('\n')}`,
    { cause: new AggregateError(reasons) },
  );
};

const loaded = new Map<Backend, Addon>();

/**
 * The addon of a backend: `cpu` (fast), `cuda` (built where a CUDA compiler is; `info().usable` says whether there is a GPU for it) or
 * `ref` (double precision, built for tests).
 * @throws PhoenixError ERR_PHOENIX_LOAD with every place that was tried and why it failed, ERR_PHOENIX_ARGUMENT for a switch of the
 * environment that it does not know
 */
export const addon = (backend: Backend = 'cpu'): Addon => {
  let found = loaded.get(backend);
  if (!found) {
    checkSwitches(process.env);
    found = load(backend);
    found.setErrorClass(PhoenixError);
    if (backend === 'cpu') checkIsa(found.info(), process.env.PHOENIX_CPU_ISA);
    loaded.set(backend, found);
  }
  return found;
};
