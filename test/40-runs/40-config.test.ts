/** Options: a table per command, for the API and the command line. */
import { readFile } from 'node:fs/promises';
import test from 'ava';
import {
  type Command,
  changeableOptions,
  demoOptions,
  mergeOptions,
  OptionError,
  optionTable,
  parseOptions,
} from '../../src/commands/options/index.ts';
import { presets } from '../../src/ddpm/model/presets.ts';
import { schedulers } from '../../src/ddpm/schedulers/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { strategies } from '../../src/fl/strategies/index.ts';

const siteCommands: Command[] = ['site', 'site check', 'site log', 'site status', 'site leave'];
const commands: Command[] = ['federate', 'train', 'finetune', 'finish', 'sample', 'experiment', 'report', 'inspect', ...siteCommands];

const refusal = (command: Command, raw: Record<string, unknown>): PhoenixError => {
  try {
    parseOptions(command, raw);
  } catch (error) {
    if (error instanceof PhoenixError) return error;
    throw error;
  }
  throw new Error(`${command} took ${JSON.stringify(raw)}`);
};

test('defaults are filled in, and numbers may come as text', (t) => {
  const settings = parseOptions('federate', {
    data: 'synthetic',
    rounds: '7',
    training: { lr: '1e-3', batch: undefined },
    fraction: 0.5,
    size: undefined,
  });
  t.is(settings.rounds, 7);
  t.is(settings.training.lr, 1e-3);
  t.is(settings.training.batch, undefined);
  t.is(settings.fraction, 0.5);
  t.is(settings.size, undefined);
  t.is(settings.preset, 'tiny');
  t.is(settings.keep, 2);
  t.is(settings.optimizer, 'reset');
  t.deepEqual(
    Object.entries(settings).flatMap(([key, value]) =>
      typeof value === 'object' ? Object.keys(value).map((inner) => `${key}.${inner}`) : key,
    ),
    optionTable('federate').map(({ name }) => name),
  );
});

test('an unknown option is an error that names the valid ones', (t) => {
  const error = refusal('federate', { data: 'synthetic', roundz: 3 });
  t.is(error.code, 'ERR_PHOENIX_ARGUMENT');
  t.regex(error.message, /federate has no option "roundz"/);
  for (const { name } of optionTable('federate')) t.true(error.message.includes(name), name);
  t.regex(refusal('sample', { source: 'x', rounds: 3 }).message, /sample has no option "rounds"/);
});

test('a bad value names the option, the value and what is valid', (t) => {
  const cases: [Command, Record<string, unknown>, RegExp][] = [
    ['federate', { rounds: 0 }, /option rounds must be a whole number in 1\.\.1000000, or open \(rounds\), not 0/],
    ['federate', { rounds: 'many' }, /option rounds .* not "many"/],
    ['federate', { rounds: '' }, /option rounds .* not ""/],
    ['federate', { rounds: 2.5 }, /option rounds .* not 2\.5/],
    ['federate', { rounds: Number.NaN }, /option rounds .* not NaN/],
    ['federate', { localImages: -1 }, /option localImages \(--local-images\) must be a whole number ≥ 1 \(images\), not -1/],
    ['federate', { fraction: 0 }, /option fraction must be a number above 0, at most 1, not 0/],
    ['federate', { fraction: 1.01 }, /option fraction/],
    ['federate', { sharing: { beta: 2 } }, /option sharing\.beta \(--share-beta\) must be a number in 0\.\.1, not 2/],
    ['federate', { training: { lr: 11 } }, /option training\.lr \(--lr\) must be a number in 0\.\.10, not 11/],
    ['federate', { dropout: 1 }, /option dropout must be a number in \[0, 1\), not 1/],
    ['federate', { preset: 'huge' }, new RegExp(`option preset must be one of ${Object.keys(presets).join(', ')}, not "huge"`)],
    ['federate', { strategy: 'best' }, new RegExp(`option strategy must be one of ${Object.keys(strategies).join(', ')}.* not "best"`)],
    ['federate', { strategy: { name: 'mine' } }, /option strategy .* not an object/],
    ['federate', { samples: { scheduler: 'euler' } }, new RegExp(`one of ${Object.keys(schedulers).join(', ')}`)],
    ['federate', { serverStep: { kind: 'sgd' } }, /one of add, momentum, lookahead, adam, yogi, not "sgd"/],
    ['federate', { partition: 'cake' }, /option partition .*"cake".*iid.*dirichlet.*shards.*quantity.*site/],
    ['federate', { partition: 'shards:0' }, /option partition .*"shards:0".*shards/],
    ['federate', { device: 'tpu' }, /one of auto, cpu, cuda, not "tpu"/],
    ['federate', { training: { flip: 'yes' } }, /option training\.flip \(--flip\) must be true or false, not "yes"/],
    ['federate', { out: '' }, /option out/],
    ['federate', { data: 7 }, /option data must be the path of a dataset.* not 7/],
    ['train', { epochs: 0 }, /option epochs/],
    ['sample', { n: 0 }, /option n must be/],
    ['sample', { eta: 2 }, /option eta must be a number in 0\.\.1, not 2/],
  ];
  for (const [command, raw, expected] of cases) {
    const error = refusal(command, { [command === 'sample' ? 'source' : 'data']: 'x', ...raw });
    t.is(error.code, 'ERR_PHOENIX_ARGUMENT');
    t.regex(error.message, expected);
  }
});

test('what has no default must be given', (t) => {
  t.regex(refusal('federate', {}).message, /option data is missing/);
  t.regex(refusal('sample', {}).message, /source is missing/);
});

test('options that contradict each other are refused', (t) => {
  const both = refusal('federate', { data: 'x', epochs: 1, localImages: 10 });
  t.is(both.code, 'ERR_PHOENIX_CONFIG');
  t.regex(both.message, /epochs and localImages/);
  t.regex(refusal('train', { data: 'x', resume: true }).message, /resume needs out/);
  const towards = { data: 'x', strategy: 'diversity', diversity: { target: 'shared' } };
  t.regex(refusal('federate', towards).message, /diversity\.target shared \(--diversity-target\) needs real shared images/);
  t.regex(refusal('federate', { ...towards, sharing: { beta: 0.1, source: 'synthetic' } }).message, /needs real shared images/);
  t.notThrows(() => parseOptions('federate', { ...towards, sharing: { beta: 0.1, consent: true } }));
});

test('an option that has moved into a group is refused with its place', (t) => {
  const refused = (raw: object, message: RegExp) => t.regex(refusal('federate', { data: 'x', ...raw }).message, message);
  refused({ shareBeta: 0.1 }, /no option "shareBeta"\. It is sharing\.beta \(--share-beta on the command line\)/);
  refused({ lr: 0.1 }, /It is training\.lr \(--lr/);
  refused({ sampleEvery: 2 }, /It is samples\.every \(--sample-every/);
  refused(
    { filter: 'quarantine' },
    /option filter must be an object with kind, by, .*not "quarantine"\. The value of --filter is filter\.kind/,
  );
  refused({ sharing: { gamma: 1 } }, /no option "sharing\.gamma"\. Valid options: sharing\.beta, sharing\.alpha/);
  refused({ sharing: [0.1] }, /option sharing must be an object/);
  refused({ constructor: 1 }, /no option "constructor"/);
  t.true(refusal('federate', {}) instanceof OptionError, 'all of these are wrong usage');
});

test('options are laid over others group by group; what is undefined leaves what was there', (t) => {
  const base = { rounds: 3, training: { lr: 0.1, batch: 4 } };
  t.deepEqual(mergeOptions('federate', base, { rounds: undefined, training: { lr: undefined, mu: 1 }, sharing: { beta: 0.1 } }), {
    rounds: 3,
    training: { lr: 0.1, batch: 4, mu: 1 },
    sharing: { beta: 0.1 },
  });
  t.deepEqual(base, { rounds: 3, training: { lr: 0.1, batch: 4 } });
  const strategy = { name: 'mine', init: () => null, weigh: () => ({ weights: [], state: null }) };
  t.is(mergeOptions('federate', { strategy: 'krum' }, { strategy }).strategy, strategy);
});

test('every option of a federation says where it lives once sites are programs of their own', (t) => {
  const rows = optionTable('federate');
  t.deepEqual(
    rows.filter(({ where }) => where === undefined).map(({ name }) => name),
    [],
  );
  const at = (place: string) => rows.flatMap(({ name, where }) => (where === place ? name : []));
  t.deepEqual(at('simulation'), ['clients', 'partition']);
  t.deepEqual(at('site'), ['data', 'limit', 'sharing.consent']);
  t.deepEqual(at('both'), ['features', 'device', 'threads']);
});

test('the flags of the command line are those of test/golden/flags.txt', async (t) => {
  const golden = await readFile(new URL('../golden/flags.txt', import.meta.url), 'utf8');
  const flags = commands.map((command) => {
    const named = optionTable(command).flatMap(({ flag, placeholder, positional, negatable }) => [
      placeholder === undefined || positional ? flag : `${flag} <${placeholder}>`,
      ...(negatable ? [flag.replace('--', '--no-')] : []),
    ]);
    return `${command}: ${named.sort().join(' ')}\n`;
  });
  t.is(flags.join(''), golden);
});

test('0 threads are all cores', (t) => {
  t.is(parseOptions('train', { data: 'x', threads: '0' }).threads, undefined);
  t.is(parseOptions('train', { data: 'x', threads: 2 }).threads, 2);
});

test('a strategy of one own is taken as an object', (t) => {
  const mine = { name: 'mine', init: () => null, weigh: () => ({ weights: [], state: null }) };
  t.is(parseOptions('federate', { data: 'x', strategy: mine }).strategy, mine);
});

test('every option has a help text, a flag of its own, and a default that is valid itself', (t) => {
  for (const command of commands) {
    const rows = optionTable(command);
    t.is(new Set(rows.map((row) => row.flag)).size, rows.length);
    for (const row of rows) {
      t.true(row.help.length > 5, row.name);
      t.regex(row.flag, row.positional ? /^(<[a-z]+>|\[[a-z]+\])$/ : /^--[a-z0-9-]+$/);
      if (!row.required && row.default === undefined) t.truthy(row.defaultText, `${command} ${row.name} has no default in words`);
      if (row.required || row.default === undefined) continue;
      const raw = row.placeholder === undefined ? row.default : String(row.default);
      const needed: Partial<Record<Command, object>> = {
        federate: { data: 'x', out: 'dir' },
        train: { data: 'x', out: 'dir' },
        finetune: { source: 'x', data: 'x', checkpoint: 'x.safetensors' },
        experiment: { grid: 'smoke' },
        sample: { source: 'x' },
        report: { dir: 'x' },
        inspect: { data: 'x' },
      };
      const [key, inner] = row.path as [string, string?];
      const given = { ...needed[command], [key]: inner === undefined ? raw : { [inner]: raw } };
      t.notThrows(() => parseOptions(command, given), `${command} ${row.name}`);
    }
  }
});

test('a resume may change how long and how to watch, and nothing that is learnt', (t) => {
  const changeable = changeableOptions('federate');
  for (const key of ['rounds', 'threads', 'keep', 'samples.every', 'resume', 'out']) t.true(changeable.includes(key), key);
  for (const key of ['training.lr', 'training.batch', 'seed', 'partition', 'clients', 'epochs', 'preset', 'strategy', 'prediction']) {
    t.false(changeable.includes(key), key);
  }
  t.true(changeableOptions('train').includes('epochs'));
});

test('the demo is a valid federation of ten clients with two classes each', (t) => {
  const settings = parseOptions('federate', demoOptions);
  t.is(settings.clients, 10);
  t.is(settings.partition, 'shards:2');
  t.is(settings.data, 'synthetic');
});
