/**
 * `npm run prebuild`: the platform package of the addon that is built on this machine, in npm/<platform>/, ready for `npm pack` or
 * `npm publish`. @napi-rs/cli writes the package and puts the addon in; the C++ itself is built by cmake-js.
 */
import { $, fs, path } from 'zx';
import { buildNative } from './native.mjs';

const { napi, version } = await fs.readJson('package.json');
const built = path.join('build', 'Release', `${napi.binaryName}.node`);
const platform = `${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`;

await buildNative({ targets: [napi.binaryName] });
if (!(await fs.pathExists(built))) throw new Error(`prebuild: ${built} is missing although the build succeeded`);

await fs.emptyDir('npm');
await $({ preferLocal: true, stdio: 'inherit' })`napi create-npm-dirs`;
if (!(await fs.pathExists(path.join('npm', platform)))) {
  throw new Error(`prebuild: this machine is ${platform}, which is not among napi.targets of package.json: ${napi.targets.join(', ')}`);
}
await fs.emptyDir('artifacts');
await fs.copy(built, path.join('artifacts', `${napi.binaryName}.${platform}.node`));
await $({ preferLocal: true, stdio: 'inherit' })`napi artifacts`;
// The CLI leaves a second copy of the addon in the root.
await fs.remove(`${napi.binaryName}.${platform}.node`);

// A package that cannot be loaded is worse than none.
const packaged = path.resolve('npm', platform, `${napi.binaryName}.${platform}.node`);
const { stdout } = await $`${process.execPath} -p ${`JSON.stringify(require(${JSON.stringify(packaged)}).info())`}`;
console.log(`npm/${platform}, version ${version}: ${stdout.trim()}`);
