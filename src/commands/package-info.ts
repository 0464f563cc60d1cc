import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder and version of this package: src/ and dist/ lie equally deep in it. */
export function packageInfo(): { root: string; version: string } {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  return { root, version: JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version };
}
