/** Real images leave a client only after consent, whatever a method's defaults, and the run says from whom to whom. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { demoOptions, type FederateOptions, parseOptions } from '../../src/commands/options/index.ts';
import { knownArms, parseGrid } from '../../src/experiment/grid.ts';
import { experimentPresets } from '../../src/experiment/presets.ts';
import { answerProbe } from '../../src/fl/site/probe.ts';
import { federate, openDataset, openRun, pixels8 } from '../../src/index.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-consent-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

function phoenix(args: string[]): Promise<{ code: number | null; stderr: string }> {
  const child = spawn(process.execPath, ['--import=tsx', 'src/cli.ts', ...args], { cwd: root, stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stderr })));
}

const little = { data: 'synthetic:60', size: 8, clients: 3, rounds: 1, threads: 1, device: 'cpu', training: { batch: 8 } } as const;
const quiet = { samples: { every: 0 }, probe: { samples: 8, steps: 1 } } as const;

test('N30: options that would send real images are refused without consent, before anything is read or sent', async (t) => {
  const dir = await temporary(t);
  // The data is not there: nothing of it is read before the refusal.
  const data = ['--data', join(dir, 'no-data'), '--clients', '2', '--rounds', '1'];
  const results = await Promise.all([
    phoenix(['federate', ...data, '--method', 'phoenix', '--out', join(dir, 'a')]),
    phoenix(['federate', ...data, '--share-beta', '0.1', '--out', join(dir, 'b')]),
    phoenix(['demo', '--method', 'phoenix', '--out', join(dir, 'c')]),
  ]);
  for (const { code, stderr } of results) {
    t.is(code, 2, stderr);
    t.regex(stderr, /real training images would become public.*consent: sharing\.consent \(--share-real\)/i);
  }
  for (const name of ['a', 'b', 'c']) t.false(existsSync(join(dir, name)), name);
  const refused = { code: 'ERR_PHOENIX_CONFIG', message: /--share-real/ } as const;
  const given: Omit<FederateOptions, 'data'>[] = [{ method: 'phoenix' }, { sharing: { beta: 0.1 } }, { ...demoOptions, method: 'phoenix' }];
  for (const options of given) {
    t.throws(() => parseOptions('federate', { ...options, data: 'x' }), refused);
    t.notThrows(() => parseOptions('federate', { ...options, data: 'x', sharing: { ...options.sharing, consent: true } }));
  }
  // A resume asks again, and consent alone shares nothing.
  await t.throwsAsync(federate({ ...little, method: 'phoenix', out: join(dir, 'd'), resume: true }), refused);
  t.is(parseOptions('federate', { data: 'x', sharing: { consent: true } }).sharing.beta, 0);
  t.notThrows(() => parseOptions('federate', { data: 'x', sharing: { beta: 0.1, source: 'synthetic' } }));
  // No grid has consent unless it says so; those that come with Phoenix do.
  const grid = { name: 'g', data: 'x', rounds: 1, localImages: 8, partitions: ['iid'], score: { samples: 50 } };
  for (const [name, { train, options }] of Object.entries(knownArms)) {
    const whole = { ...grid, arms: [name], runs: [{ arms: [name], partitions: ['iid'], seeds: [0] }] };
    const shares = train !== 'central' && train !== 'local' && (options?.method === 'phoenix' || options?.sharing !== undefined);
    if (shares) t.throws(() => parseGrid(whole, 'g'), { code: 'ERR_PHOENIX_ARGUMENT', message: /consent/ }, name);
    else t.notThrows(() => parseGrid(whole, 'g'), name);
    t.notThrows(() => parseGrid({ ...whole, shareReal: true }, 'g'), name);
  }
  for (const [name, preset] of Object.entries(experimentPresets)) t.true(parseGrid(preset, name).shareReal, name);
});

test('N31: with consent the run, its configuration and its report say how many real images go from whom to whom', async (t) => {
  const dir = await temporary(t);
  const said: string[] = [];
  const onMessage = ({ text }: { text: string }) => void said.push(text);
  const synthetic = await openDataset('synthetic:60', { size: 8 });
  const sites = Int32Array.from({ length: synthetic.count }, (_, i) => (i < 20 ? 0 : 1));
  const data = { ...synthetic, sites, siteNames: ['north', 'south'] };
  const sharing = { beta: 0.2, alpha: 0.5, consent: true };
  const out = join(dir, 'sites');
  await federate({ ...little, ...quiet, data, size: undefined, clients: undefined, partition: 'site', sharing, out }, { onMessage });
  const { config, stored } = await openRun(out);
  const { count, each, from } = config.shared!;
  t.deepEqual([count, each, from!.north! + from!.south!], [10, 5, 10]);
  const message = said.find((text) => text.includes('real training images'))!;
  t.regex(
    message,
    new RegExp(
      `10 real training images.*${from!.north} from north, ${from!.south} from south.*2 clients receives 5.*10 in all: north, south`,
    ),
  );
  t.true(['north/shared', 'south/shared'].every((key) => stored[key] !== undefined));
  t.regex(await readFile(join(out, 'report.html'), 'utf8'), /a shared set of 10 images of the training data, which is public/);
  // Without a shared set no client receives any image.
  const none = join(dir, 'none');
  await federate({ ...little, ...quiet, sharing: { consent: true }, out: none }, { onMessage });
  const plain = await openRun(none);
  t.is(plain.config.shared, undefined);
  t.deepEqual(
    Object.keys(plain.stored).filter((key) => key.endsWith('/shared')),
    [],
  );
});

test('N38: a client with fewer than four images sends no centres of them', async (t) => {
  const images = await openDataset('synthetic:8', { size: 8 });
  const source = {
    ...images,
    read: async (positions: Int32Array) =>
      Uint8Array.from([...positions].flatMap((i) => [...images.pixels.subarray(192 * i, 192 * (i + 1))])),
  };
  const tools = { images: source, noise: undefined, features: pixels8 };
  const ask = (train: Int32Array) => {
    const input = { id: 'a', round: 1, tools, train, heldOut: new Int32Array(0) };
    return answerProbe({ samples: 8, steps: 1, histogram: { of: 'data', noise: 0 } }, input as never);
  };
  for (const count of [1, 2, 3]) t.deepEqual(await ask(Int32Array.from({ length: count }, (_, i) => i)), {}, `${count} images`);
  const { points } = await ask(Int32Array.from({ length: 5 }, (_, i) => i));
  t.is(points?.length, 1);
});
