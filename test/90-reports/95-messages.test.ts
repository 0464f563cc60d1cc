/** Internal errors, and messages that named the wrong cause, of options, runs, experiments and the environment. */
import { spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import { checkIsa, checkSwitches } from '../../src/bindings/environment.ts';
import { parseOptions } from '../../src/commands/options/index.ts';
import { lossWarning } from '../../src/commands/prepare.ts';
import type { PhoenixError } from '../../src/errors.ts';
import * as phoenixIndex from '../../src/index.ts';
import { experiment, federate, train, writeReport } from '../../src/index.ts';
import * as phoenixMetrics from '../../src/metrics.ts';
import { openRun } from '../../src/run/folder.ts';
import * as phoenixSite from '../../src/site.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-messages-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

function phoenix(args: string[], env: NodeJS.ProcessEnv = {}): Promise<{ code: number | null; said: string }> {
  const child = spawn(process.execPath, ['--import=tsx', 'src/cli.ts', ...args], { cwd: root, env: { ...process.env, ...env } });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (text) => {
      said += text;
    });
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, said })));
}

const tiny = { data: 'synthetic:24', size: 8, samples: { count: 2, steps: 1 }, threads: 1, device: 'cpu', training: { batch: 8 } } as const;

/** Images of two classes in one colour each, the same for training and test, or other ones. */
async function twoColours(dir: string, tests: 'copies' | 'others'): Promise<string> {
  for (const [name, colour] of [
    ['red', 0],
    ['green', 1],
  ] as const) {
    await mkdir(join(dir, 'train', name), { recursive: true });
    for (let i = 0; i < 30; i++) {
      const pixels = Uint8Array.from({ length: 192 }, (_, at) => (at % 3 === colour ? 200 + i : (at * (i + 1) * 37) % 60));
      const png = await sharp(pixels, { raw: { width: 8, height: 8, channels: 3 } })
        .png()
        .toBuffer();
      await writeFile(join(dir, 'train', name, `${i}.png`), png);
    }
    if (tests === 'copies') await cp(join(dir, 'train', name), join(dir, 'test', name), { recursive: true });
  }
  return dir;
}

test('X1: an experiment whose test images all are in the training set ends, and says so', async (t) => {
  const dir = await temporary(t);
  const data = await twoColours(join(dir, 'data'), 'copies');
  const runs = [{ arms: ['fedavg'], partitions: ['iid'], seeds: [0] }];
  const score = { samples: 50, steps: 1, classifierSteps: 20 };
  const grid = { name: 'g', data, size: 8, clients: 2, rounds: 1, localImages: 16, arms: ['fedavg'], partitions: ['iid'], runs, score };
  await writeFile(join(dir, 'g.json'), `\ufeff${JSON.stringify({ ...grid, options: { training: { batch: 8 } } })}`);
  const said: string[] = [];
  const onMessage = ({ level, text }: { level: string; text: string }) => void said.push(`${level}: ${text}`);
  const place = { grid: join(dir, 'g.json'), out: join(dir, 'out'), threads: 1, device: 'cpu' } as const;
  const { done, cells, markdown } = await experiment(place, { onMessage });
  t.is(done, cells);
  t.true(
    said.some((text) => /^warning: .*test images are training images too.*`nearest` cannot be computed/.test(text)),
    said.join('\n'),
  );
  t.regex(await readFile(markdown!, 'utf8'), /test images are training images too/);
  const { final } = JSON.parse(await readFile(join(dir, 'out', 'scores', 'fedavg.iid.s0.json'), 'utf8'));
  t.false(Object.keys(final.metrics).some((name) => name.startsWith('nearest')));
  t.true(Object.values(final.metrics).every((value) => Number.isFinite(value)));
  // The same command finds all done.
  t.is((await experiment(place)).done, cells);
});

test('X2: whatever a public function is called with, its error has a code and names the function', async (t) => {
  const odd: unknown[][] = [[], [null], [undefined, null], [3], ['no-such-file'], [{}], [{}, null], [{}, {}], [[]], [{}, {}, {}, {}]];
  odd.push([3, 3], ['no-such-file', 3], [null, null, null], [{ data: 'no-such-file' }, null], [() => {}], [Symbol('x')], [[null]]);
  const entries = { ...phoenixSite, ...phoenixMetrics, ...phoenixIndex };
  let refusals = 0;
  for (const [name, entry] of Object.entries(entries)) {
    if (typeof entry !== 'function' || entry === phoenixIndex.PhoenixError) continue;
    for (const values of odd) {
      try {
        const made = await (entry as (...values: unknown[]) => unknown)(...values);
        (made as { dispose?(): void } | undefined)?.dispose?.();
      } catch (error) {
        const { code, message } = error as PhoenixError;
        const said = `${name}(${values.map(String).join(', ')}): ${message}`;
        t.true(error instanceof phoenixIndex.PhoenixError, said);
        t.regex(code ?? '', /^ERR_PHOENIX_(?!INTERNAL)/, said);
        refusals++;
      }
    }
  }
  t.true(refusals > 800, `${refusals} refusals`);
  // The sentence says whose argument it is.
  const sentence = (call: () => unknown) => (t.throws(call) as Error).message;
  t.is(
    sentence(() => phoenixIndex.memoryTransport(undefined as never)),
    'memoryTransport: clients must be a list, not undefined.',
  );
  t.is(
    sentence(() => phoenixIndex.noise(null as never)),
    'noise: options must be an object, not null.',
  );
  const { federate: f, train: tr, sample: s, finetune: ft, experiment: e } = phoenixIndex;
  for (const [name, command] of Object.entries({ federate: f, train: tr, sample: s, finetune: ft, experiment: e }))
    for (const options of [undefined, null, 3, []])
      await t.throwsAsync(command(options as never) as Promise<unknown>, {
        code: 'ERR_PHOENIX_ARGUMENT',
        message: new RegExp(`^${name} takes an object of options, not (undefined|null|3|a list)\\.$`),
      });
});

test('M1: a message names the cause: numbers that are not exact, a mark of the byte order, what is missing in a run', async (t) => {
  const dir = await temporary(t);
  for (const seed of ['9007199254740992', 2 ** 53])
    t.throws(() => parseOptions('federate', { data: 'x', seed }), { message: /Above 9007199254740991 .* whole numbers are not exact/ });
  t.is(parseOptions('federate', { data: 'x', seed: 2 ** 53 - 1 }).seed, 2 ** 53 - 1);
  const negative = t.throws(() => parseOptions('federate', { data: 'x', seed: -1 }));
  t.false(/exact/.test(negative!.message));

  const out = join(dir, 'run');
  const run = { ...tiny, clients: 2, out, resume: true } as const;
  await federate({ ...run, rounds: 1 });
  // A configuration with the mark is read, one that is missing is named, and a picture stops nothing.
  const config = join(out, 'config.json');
  const text = await readFile(config, 'utf8');
  await writeFile(config, `\ufeff${text}`);
  t.is((await openRun(out)).round, 1);
  await rm(config);
  const missing = { code: 'ERR_PHOENIX_RUN', message: /config\.json is missing, .*Restore it/ } as const;
  await t.throwsAsync(federate({ ...run, rounds: 2 }), missing);
  await t.throwsAsync(writeReport(out), missing);
  await writeFile(config, text);
  await rm(join(out, 'samples-1.png'));
  const said: string[] = [];
  await federate({ ...run, rounds: 2 }, { onMessage: ({ text: words }) => void said.push(words) });
  t.true(
    said.some((words) => /samples-1\.png is missing\. It is only a picture/.test(words)),
    said.join('\n'),
  );
  await writeFile(join(out, 'samples-2.png'), 'not a picture');
  t.is((await federate({ ...run, rounds: 3 })).rounds, 3);
  // The report of a run folder that takes no files goes elsewhere.
  const page = join(dir, 'page.html');
  t.is(await writeReport(out, page), page);
  t.regex(await readFile(page, 'utf8'), /^<!doctype html>/i);
});

test('M1: a training that diverges is warned of', async (t) => {
  const dir = await temporary(t);
  const hyper = { lr: 10, minSnrGamma: 0 };
  t.regex(lossWarning(1.9e5, hyper)!, /loss is 1\.9e\+5.*smaller learning rate than 10/);
  t.is(lossWarning(1.1, hyper), undefined);
  t.is(lossWarning(30, { ...hyper, minSnrGamma: 5 }), undefined);
  t.is(lossWarning(null, hyper), undefined);
  const said: string[] = [];
  const onMessage = ({ level, text }: { level: string; text: string }) => void (level === 'warning' && said.push(text));
  const training = { batch: 8, lr: 10, clip: 0 };
  await train({ ...tiny, training, preset: 'tiny', epochs: 4, out: join(dir, 't') }, { onMessage });
  await federate({ ...tiny, training, clients: 2, rounds: 4, out: join(dir, 'f') }, { onMessage });
  t.true(said.filter((text) => text.includes('the training diverges')).length >= 2, said.join('\n'));
});

test('N39: a switch of the environment that there is not, or that has another value, is refused by name', async (t) => {
  const refused = (environment: Record<string, string>, message: RegExp) =>
    t.throws(() => checkSwitches(environment), { code: 'ERR_PHOENIX_ARGUMENT', message });
  refused({ PHOENIX_CPU_ISA: 'nonsense' }, /PHOENIX_CPU_ISA is "nonsense": it must be one of portable, avx2, avx512/);
  refused({ PHOENIX_CPU_ISAS: 'avx2' }, /no switch PHOENIX_CPU_ISAS/);
  refused({ PHOENIX_CUDA_GRAPHS: 'off' }, /PHOENIX_CUDA_GRAPHS is "off": it must be one of 0, 1/);
  refused({ PHOENIX_MMA_TILE: '96' }, /64, 128/);
  t.notThrows(() => checkSwitches({ PHOENIX_CPU_ISA: '', PHOENIX_CUDA_HALO: '0', PHOENIX_CUDA: 'OFF', PHOENIX_DATA: 'x', CUDA_HOME: 'x' }));
  const info = { isa: 'avx2', isas: ['portable', 'avx2'] } as never;
  t.notThrows(() => checkIsa(info, 'avx2'));
  t.notThrows(() => checkIsa(info, undefined));
  t.throws(() => checkIsa(info, 'avx512'), { message: /asks for avx512, but this processor has portable, avx2/ });
  const { code, said } = await phoenix(['doctor'], { PHOENIX_CPU_ISA: 'nonsense' });
  t.is(code, 1);
  t.regex(said, /Backend +NONE: PHOENIX_CPU_ISA is "nonsense"/);
});
