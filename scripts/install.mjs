// `npm install`: builds the CPU addon, and the CUDA addon where a CUDA compiler is, unless they are there already, a platform package
// brings the first, or PHOENIX_SKIP_BUILD is set. PHOENIX_CUDA=OFF leaves CUDA out, ON makes it an error if it cannot be built;
// PHOENIX_CUDA_ARCHS: what for.
import { createRequire } from 'node:module';
import { buildNative, findNvcc } from './native.mjs';

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
  const build = (target, time) =>
    buildNative({ targets: [target], onStart: () => console.log(`phoenix: building ${target} (about ${time} on two cores)`) });
  try {
    const nvcc = await findNvcc();
    const built = [await build('phoenix-cpu', 'a minute')];
    if (nvcc) {
      try {
        built.push(await build('phoenix-cuda', 'three minutes'));
      } catch (error) {
        if (process.env.PHOENIX_CUDA === 'ON' || process.env.PHOENIX_CUDA === '1') throw error;
        console.error(
          `phoenix: phoenix-cuda could not be built, so GPUs will not be used (PHOENIX_CUDA=OFF leaves it out).\n${error.message}`,
        );
      }
    } else console.log('phoenix: no CUDA compiler (nvcc), or PHOENIX_CUDA=OFF: GPUs will not be used');
    console.log(
      built.some(Boolean) ? `phoenix: built in ${Math.round((performance.now() - start) / 1000)} s` : 'phoenix: the addons are up to date',
    );
  } catch (error) {
    console.error(`phoenix: the native addon could not be built.\n${error.message}`);
    process.exitCode = 1;
  }
}
