// npm's `prepare`: compiles src/ into dist/ where there is a checkout. Package managers also run it for an installed package that they take
// for one (a link, `npm rebuild` in a folder of pnpm's). There is no src/ then, and dist/ stays as it is. It is replaced only as a whole,
// when all has compiled.

import { spawnSync } from 'node:child_process';
import { existsSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

function compiler() {
  try {
    return createRequire(import.meta.url).resolve('typescript/bin/tsc');
  } catch {
    return undefined;
  }
}

const tsc = compiler();
if (!existsSync(join(root, 'src')) || !tsc) {
  console.log('phoenix: nothing to compile, dist/ stays as it is');
} else {
  const [fresh, dist, old] = ['dist.new', 'dist', 'dist.old'].map((name) => join(root, name));
  rmSync(fresh, { recursive: true, force: true });
  const { status } = spawnSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.json'), '--outDir', fresh], { stdio: 'inherit' });
  if (status === 0) {
    rmSync(old, { recursive: true, force: true });
    if (existsSync(dist)) renameSync(dist, old);
    renameSync(fresh, dist);
    rmSync(old, { recursive: true, force: true });
  } else {
    rmSync(fresh, { recursive: true, force: true });
    process.exitCode = status ?? 1;
  }
}
