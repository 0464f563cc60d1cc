/** Loads the native addon, once: a build of this checkout, else the platform package. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PhoenixError } from '../errors.ts';
import { checkIsa, checkSwitches } from './environment.ts';
import './dispose.ts';
import type { Addon, AddonInfo } from './native.ts';
import { defaultThreads } from './threads.ts';

/**
 * The package's folder: src/bindings and dist/bindings lie equally deep in it. Undefined in a bundle of CommonJS, which has no import.meta.
 */
const packageRoot = import.meta.url ? fileURLToPath(new URL('../..', import.meta.url)) : undefined;

export type Backend = AddonInfo['backend'];

type Finder = (options: { bindings: string; module_root: string; path: true }) => string;

/** Whether this file still lies in its package; a bundler takes it out, and the addon is then nowhere to be found. */
function inPackage(root: string | undefined): root is string {
  try {
    return root !== undefined && JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).napi?.binaryName === 'phoenix-cpu';
  } catch {
    return false;
  }
}

/** How a package manager builds the addon of an installed package, by the folder that it was installed into. */
export function howToBuild(root: string, pnp = process.versions.pnp !== undefined): string {
  const path = root.replaceAll('\\', '/');
  if (path.includes('/node_modules/.pnpm/'))
    return 'Run `pnpm approve-builds` and choose phoenix, or add it to onlyBuiltDependencies; then run `pnpm rebuild phoenix`.';
  if (pnp || path.includes('/.yarn/'))
    return 'Allow install scripts (`enableScripts: true` in .yarnrc.yml), then run `yarn rebuild phoenix`.';
  if (!path.includes('/node_modules/')) return 'Run `npm install` in the checkout.';
  return 'Run `npm rebuild phoenix`; if install scripts are blocked, first `npm install-scripts approve phoenix`.';
}

/** Where an addon named `phoenix-<backend>` is looked for, in order; each attempt's failure is kept as a reason. */
function load(backend: Backend): { addon: Addon; file: string } {
  if (!inPackage(packageRoot))
    throw new PhoenixError(
      'ERR_PHOENIX_LOAD',
      'Phoenix loads a native addon from its own package, so it cannot be a part of a bundle. Mark phoenix as external ' +
        '(esbuild: --external:phoenix; webpack: externals; Rollup: external; Vite: ssr.external) and install it where the bundle runs.',
    );
  const require = createRequire(import.meta.url);
  const reasons: Error[] = [];
  const name = `phoenix-${backend}.node`;
  const attempt = (what: string, find: () => string): { addon: Addon; file: string } | undefined => {
    try {
      const file = find();
      return { addon: require(file) as Addon, file };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const why = message.startsWith('Could not locate the bindings file') ? `there is no build/Release/${name}` : message.split('\n')[0];
      reasons.push(new Error(`${what}: ${why}`));
      return undefined;
    }
  };
  const named = process.env.PHOENIX_ADDON_DIR;
  const found =
    (named ? attempt(`PHOENIX_ADDON_DIR (${named})`, () => resolve(named, name)) : undefined) ??
    attempt('build of this package', () => (require('bindings') as Finder)({ bindings: name, module_root: packageRoot, path: true })) ??
    (backend === 'cpu' ? attempt('platform package', () => require.resolve(`phoenix-${process.platform}-${process.arch}-gnu`)) : undefined);
  if (found) return found;
  throw new PhoenixError(
    'ERR_PHOENIX_LOAD',
    `No native addon phoenix-${backend} could be loaded for ${process.platform}-${process.arch}. ${howToBuild(packageRoot)} ` +
      `Tried:\n${reasons.map((r) => `  - ${r.message}`).join('\n')}`,
    { cause: new AggregateError(reasons) },
  );
}

const loaded = new Map<Backend, { addon: Addon; file: string }>();

/**
 * The addon of a backend: `cpu` (fast), `cuda` (built where a CUDA compiler is; `info().usable` says whether there is a GPU for it) or
 * `ref` (double precision, built for tests).
 * @throws PhoenixError ERR_PHOENIX_LOAD with every place that was tried and why it failed, ERR_PHOENIX_ARGUMENT for a switch of the
 * environment that it does not know
 */
export const addon = (backend: Backend = 'cpu'): Addon => loadOnce(backend).addon;

/** The file that an addon was loaded from. @throws as `addon` */
export const addonFile = (backend: Backend): string => loadOnce(backend).file;

function loadOnce(backend: Backend) {
  let found = loaded.get(backend);
  if (!found) {
    checkSwitches(process.env);
    found = load(backend);
    found.addon.setErrorClass(PhoenixError);
    found.addon.setVectorThreads(defaultThreads());
    if (backend === 'cpu') checkIsa(found.addon.info(), process.env.PHOENIX_CPU_ISA);
    loaded.set(backend, found);
  }
  return found;
}
