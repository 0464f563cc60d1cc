// `npm install`: builds the CPU addon, unless it is there already, a platform package brings it, or PHOENIX_SKIP_BUILD is set.
import { createRequire } from 'node:module';
import { buildNative } from './native.mjs';

const require = createRequire(import.meta.url);

const prebuilt = () => {
  try {
    require(`phoenix-${process.platform}-${process.arch}-gnu`);
    return true;
  } catch {
    return false;
  }
};

if (process.env.PHOENIX_SKIP_BUILD === '1') {
  console.log('phoenix: PHOENIX_SKIP_BUILD=1, nothing built');
} else if (prebuilt()) {
  console.log('phoenix: the platform package brings the addon, nothing to build');
} else {
  const start = performance.now();
  try {
    const built = await buildNative({ onStart: (target) => console.log(`phoenix: building ${target} (about a minute on two cores)`) });
    console.log(built ? `phoenix: built in ${Math.round((performance.now() - start) / 1000)} s` : 'phoenix: the addon is up to date');
  } catch (error) {
    console.error(`phoenix: the native addon could not be built.\n${error.stderr || error.stdout || error.message}`);
    process.exitCode = 1;
  }
}
