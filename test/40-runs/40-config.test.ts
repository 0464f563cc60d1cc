/** Options: one table for the API and the command line. */
import test from 'ava';
import { type Command, changeableOptions, demoOptions, optionTable, parseOptions } from '../../src/commands/options/index.ts';
import { presets } from '../../src/ddpm/model/presets.ts';
import { schedulers } from '../../src/ddpm/schedulers/index.ts';
import { PhoenixError } from '../../src/errors.ts';
import { strategies } from '../../src/fl/strategies/index.ts';

const commands: Command[] = ['federate', 'train', 'finetune', 'sample'];

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
  const settings = parseOptions('federate', { data: 'synthetic', rounds: '7', lr: '1e-3', fraction: 0.5, size: undefined });
  t.is(settings.rounds, 7);
  t.is(settings.lr, 1e-3);
  t.is(settings.fraction, 0.5);
  t.is(settings.size, undefined);
  t.is(settings.preset, 'tiny');
  t.is(settings.keep, 2);
  t.is(settings.optimizer, 'reset');
  t.deepEqual(
    Object.keys(settings),
    optionTable('federate').map((row) => row.key),
  );
});

test('an unknown option is an error that names the valid ones', (t) => {
  const error = refusal('federate', { data: 'synthetic', roundz: 3 });
  t.is(error.code, 'ERR_PHOENIX_ARGUMENT');
  t.regex(error.message, /federate has no option "roundz"/);
  for (const { key } of optionTable('federate')) t.true(error.message.includes(key), key);
  t.regex(refusal('sample', { source: 'x', rounds: 3 }).message, /sample has no option "rounds"/);
});

test('a bad value names the option, the value and what is valid', (t) => {
  const cases: [Command, Record<string, unknown>, RegExp][] = [
    ['federate', { rounds: 0 }, /option rounds must be a whole number in 1\.\.1000000 \(rounds\), not 0/],
    ['federate', { rounds: 'many' }, /option rounds .* not "many"/],
    ['federate', { rounds: '' }, /option rounds .* not ""/],
    ['federate', { rounds: 2.5 }, /option rounds .* not 2\.5/],
    ['federate', { rounds: Number.NaN }, /option rounds .* not NaN/],
    ['federate', { localImages: -1 }, /option localImages \(--local-images\) must be a whole number ≥ 1 \(images\), not -1/],
    ['federate', { fraction: 0 }, /option fraction must be a number above 0, at most 1, not 0/],
    ['federate', { fraction: 1.01 }, /option fraction/],
    ['federate', { dropout: 1 }, /option dropout must be a number in \[0, 1\), not 1/],
    ['federate', { preset: 'huge' }, new RegExp(`option preset must be one of ${Object.keys(presets).join(', ')}, not "huge"`)],
    ['federate', { strategy: 'best' }, new RegExp(`option strategy must be one of ${Object.keys(strategies).join(', ')}.* not "best"`)],
    ['federate', { strategy: { name: 'mine' } }, /option strategy .* not an object/],
    ['federate', { scheduler: 'euler' }, new RegExp(`one of ${Object.keys(schedulers).join(', ')}`)],
    ['federate', { serverStep: 'sgd' }, /one of add, momentum, adam, yogi, not "sgd"/],
    ['federate', { partition: 'cake' }, /option partition .*"cake".*iid.*dirichlet.*shards.*quantity.*site/],
    ['federate', { partition: 'shards:0' }, /option partition .*"shards:0".*shards/],
    ['federate', { device: 'tpu' }, /one of auto, cpu, cuda, not "tpu"/],
    ['federate', { flip: 'yes' }, /option flip must be true or false, not "yes"/],
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
  const towards = { data: 'x', strategy: 'diversity', diversityTarget: 'shared' };
  t.regex(refusal('federate', towards).message, /diversityTarget shared needs real shared images/);
  t.regex(refusal('federate', { ...towards, shareBeta: 0.1, shareSource: 'synthetic' }).message, /needs real shared images/);
  t.notThrows(() => parseOptions('federate', { ...towards, shareBeta: 0.1 }));
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
      t.true(row.help.length > 5, row.key);
      t.regex(row.flag, row.positional ? /^<[a-z]+>$/ : /^--[a-z0-9-]+$/);
      if (!row.required && row.default === undefined) t.truthy(row.defaultText, `${command} ${row.key} has no default in words`);
      if (row.required || row.default === undefined) continue;
      const raw = row.placeholder === undefined ? row.default : String(row.default);
      const needed = {
        federate: { data: 'x', out: 'dir' },
        train: { data: 'x', out: 'dir' },
        finetune: { source: 'x', data: 'x', checkpoint: 'x' },
        experiment: { grid: 'smoke' },
        sample: { source: 'x' },
      };
      const given = { ...needed[command], [row.key]: raw };
      t.notThrows(() => parseOptions(command, given), `${command} ${row.key}`);
    }
  }
});

test('a resume may change how long and how to watch, and nothing that is learnt', (t) => {
  const changeable = changeableOptions('federate');
  for (const key of ['rounds', 'threads', 'keep', 'sampleEvery', 'resume', 'out']) t.true(changeable.includes(key), key);
  for (const key of ['lr', 'batch', 'seed', 'partition', 'clients', 'epochs', 'preset', 'strategy', 'prediction']) {
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
