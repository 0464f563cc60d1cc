/**
 * What each CUDA kernel takes of a multiprocessor, read from what ptxas wrote while phoenix-cuda was built. Run as a program, it writes the
 * table that the tests hold kernels to: native/kernels/cuda/budget.json.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { root } from './native.mjs';

/**
 * @typedef {{ registers: number, spilled: number, shared: number }} Usage registers per thread, bytes spilled, bytes of static shared
 * memory
 */

/** What ptxas said of each file of kernels; nothing where phoenix-cuda was not built. */
function logsOf(folder) {
  try {
    const names = readdirSync(folder).filter((name) => name.endsWith('.fatbin.log'));
    return names.sort().map((name) => readFileSync(join(folder, name), 'utf8'));
  } catch {
    return [];
  }
}

/** What ptxas says of products that it puts one after the other, and of registers that it does not hand over: notes to it, no warnings. */
export const lossesOfKernels = (folder = join(root, 'build')) =>
  logsOf(folder).flatMap((log) => log.split('\n').filter((line) => /\(C75\d\d\)|Potential Performance Loss/.test(line)));

/**
 * Kernel → architecture (sm_80, sm_90a) → usage; empty where phoenix-cuda was not built.
 * @returns {Record<string, Record<string, Usage>>}
 */
export function usageOfKernels(folder = join(root, 'build')) {
  /** @type {Record<string, Record<string, Usage>>} */
  const usage = {};
  const entry =
    /entry function '(\w+)' for '(\w+)'[\s\S]*?(\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers([^\n]*)/g;
  for (const log of logsOf(folder))
    for (const [, kernel, architecture, stores, loads, registers, rest] of log.matchAll(entry)) {
      usage[kernel] ??= {};
      usage[kernel][architecture] = {
        registers: Number(registers),
        spilled: Number(stores) + Number(loads),
        shared: Number(/(\d+) bytes smem/.exec(rest)?.[1] ?? 0),
      };
    }
  return usage;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const usage = usageOfKernels();
  const sorted = Object.fromEntries(Object.entries(usage).sort(([a], [b]) => (a < b ? -1 : 1)));
  writeFileSync(join(root, 'native', 'kernels', 'cuda', 'budget.json'), `${JSON.stringify(sorted, null, 2)}\n`);
  console.log(`native/kernels/cuda/budget.json: ${Object.keys(sorted).length} kernels`);
}
