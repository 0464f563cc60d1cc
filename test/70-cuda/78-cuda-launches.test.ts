/**
 * What a recorded step starts on a GPU, for the two larger presets at their real sizes in bf16 on both architectures: how many launches of
 * which kernel, checked in, so that a change is seen (a launch takes its time, whatever it does), and each within the limits of grids,
 * shared memory and tensor maps, which small shapes do not come near. The emulator lists them and runs none. Skipped aloud where `npm test`
 * has built no emulator.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { built, path } from '../support/cuda.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const emulator = join(process.env.PHOENIX_SIMT_BUILD ?? join(root, 'build', 'simt'), 'libcuda_sim.so');
const golden = join(root, 'test', 'golden', 'launches.txt');

/** The launches of the first recorded program, a training step, and of the second, a row of the sampler. */
async function launchesOf(capability: string, preset: string, side: number, channels: number, batch: number): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'phoenix-launches-'));
  try {
    const list = join(folder, 'list');
    const env = {
      ...process.env,
      PHOENIX_LIBCUDA: emulator,
      PHOENIX_SIMT_LAUNCHES: list,
      PHOENIX_SIMT_CAPABILITY: capability,
      PHOENIX_SIMT_HEAP_MIB: '65536',
    };
    const program = join(root, 'test', 'support', 'launches.ts');
    await promisify(execFile)(process.execPath, ['--import=tsx', program, path, preset, `${side}`, `${channels}`, `${batch}`], { env });
    const captured = readFileSync(list, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('captured '))
      .map((line) => line.split(' ')[1]!);
    const sampler = captured.lastIndexOf('next_record_kernel');
    return [captured.slice(0, sampler), captured.slice(sampler)]
      .map((names, i) => {
        const counts = new Map<string, number>();
        for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
        const lines = [...counts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, count]) => `${String(count).padStart(5)} ${name}`);
        const step = i === 0 ? 'a training step' : 'a row of the sampler';
        return `${preset}, ${side}x${side}x${channels}, batch ${batch}, compute capability ${capability}: ${step}, ${names.length} launches\n${lines.join('\n')}\n`;
      })
      .join('\n');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

(built && existsSync(emulator) ? test : test.skip)('what a recorded step of two networks starts', async (t) => {
  const found: string[] = [];
  for (const capability of ['9.0', '8.0']) {
    found.push(await launchesOf(capability, 'cifar', 32, 3, 128));
    found.push(await launchesOf(capability, 'small', 28, 1, 32));
  }
  const text = found.join('\n');
  const file = join(root, 'build', 'launches.txt');
  writeFileSync(file, text);
  t.deepEqual(text.split('\n'), readFileSync(golden, 'utf8').split('\n'), `If this is meant: cp ${file} ${golden}`);
});
