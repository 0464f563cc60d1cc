/** The command line as a person and a program meet it: every call here is a process of its own. */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import sharp from 'sharp';
import { createProgress } from '../../src/cli/progress.ts';
import { type Diagnosis, formatDiagnosis } from '../../src/commands/doctor.ts';
import { optionTable } from '../../src/commands/options/index.ts';

const cli = fileURLToPath(new URL('../../src/cli.ts', import.meta.url));
const dir = await mkdtemp(join(tmpdir(), 'phoenix-cli-'));
test.after.always(() => rm(dir, { recursive: true, force: true }));

type Outcome = { code: number | null; stdout: string; stderr: string };

/** Runs `phoenix ARGS`; `onOutput` sees stdout so far and may signal the process. */
function phoenix(args: string[], onOutput?: (stdout: string, kill: (signal: NodeJS.Signals) => void) => void): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import=tsx', cli, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout += text;
      onOutput?.(stdout, (signal) => child.kill(signal));
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

const linesOf = (text: string) => text.split('\n').filter((line) => line !== '');
const jsonLines = (text: string) => linesOf(text).map((line) => JSON.parse(line) as Record<string, unknown>);

/** A federation of seconds: two clients, 16 images each, one step per round. */
const small = [
  '--data',
  'synthetic:40',
  '--clients',
  '2',
  '--local-images',
  '4',
  '--batch',
  '4',
  '--samples',
  '4',
  '--sample-steps',
  '2',
  '--threads',
  '1',
];

test('--version prints the version of the package', async (t) => {
  const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'));
  t.deepEqual(await phoenix(['--version']), { code: 0, stdout: `${version}\n`, stderr: '' });
});

test('--help shows every option of the table with its unit, default and choices', async (t) => {
  for (const command of ['federate', 'train', 'finetune', 'sample'] as const) {
    const { code, stdout } = await phoenix([command, '--help']);
    t.is(code, 0);
    const help = stdout.replace(/\s+/g, ' ');
    for (const row of optionTable(command)) {
      t.true(help.includes(row.positional ? row.flag : `${row.flag} `), `${command} ${row.flag}`);
      t.true(help.includes(row.help.replace(/\s+/g, ' ')), row.help);
      if (row.defaultText) t.true(help.includes(`default ${row.defaultText}`), `${row.flag}: default ${row.defaultText}`);
      if (row.unit && !row.positional) t.true(help.includes(row.unit));
      for (const choice of row.choices ?? []) t.true(help.includes(choice), `${row.flag}: ${choice}`);
    }
    t.true(help.includes('--json'));
  }
  const { stdout } = await phoenix(['demo', '--help']);
  t.true(stdout.replace(/\s+/g, ' ').includes('default shards:2'), "demo's own defaults");
});

test('wrong usage: exit code 2, the valid names on stderr, nothing on stdout, no stack', async (t) => {
  for (const [args, ...messages] of [
    [[], /Commands:/],
    [['federrate'], /unknown command 'federrate'/, /Valid commands: demo, federate, train, coordinator, .*site, .*doctor/],
    [['--frobnicate'], /unknown option '--frobnicate'/, /federate/],
    [['federate', '--lrr', '1'], /unknown option '--lrr'/, /--lr,/],
    [['federate'], /data is missing/],
    [['federate', '--data', 'synthetic', '--preset', 'huge'], /preset must be one of tiny, small, cifar/, /"huge"/],
    [['federate', '--data', 'synthetic', '--rounds', 'many'], /rounds must be a whole number/, /"many"/],
    [['federate', '--data', 'synthetic', '--partition', 'dirichlet:-1'], /partition/],
    [['federate', '--data', 'synthetic', '--epochs', '1', '--local-images', '5'], /epochs and localImages/],
    [['train', '--data'], /--data <path>.*missing/],
    [['train', '--data', 'synthetic', 'surplus'], /too many arguments/],
    [['sample'], /missing required argument 'source'/],
    [['sample', 'x'], /--grid FILE\.png/],
    [['report'], /missing required argument 'dir'/],
  ] as [string[], ...RegExp[]][]) {
    const { code, stdout, stderr } = await phoenix(args);
    t.is(code, 2, args.join(' '));
    t.is(stdout, '');
    for (const message of messages) t.regex(stderr, message);
    t.notRegex(stderr, /\n\s+at /);
  }
});

test('what fails: exit code 1 and a message without a stack; with --json also a line on stdout', async (t) => {
  const { code, stdout, stderr } = await phoenix(['report', join(dir, 'no-such-run')]);
  t.deepEqual({ code, stdout }, { code: 1, stdout: '' });
  t.regex(stderr, /no run folder/);
  t.notRegex(stderr, /\n\s+at /);
  const asJson = await phoenix(['report', join(dir, 'no-such-run'), '--json']);
  t.is(asJson.code, 1);
  t.like(jsonLines(asJson.stdout), [{ event: 'error', code: 'ERR_PHOENIX_RUN' }]);
  const usage = await phoenix(['federate', '--json', '--data', 'synthetic', '--rounds', '0']);
  t.is(usage.code, 2);
  t.like(jsonLines(usage.stdout), [{ event: 'error', code: 'ERR_PHOENIX_ARGUMENT' }]);
  const data = await phoenix(['train', '--data', join(dir, 'no-data'), '--out', join(dir, 'never')]);
  t.is(data.code, 1);
  t.regex(data.stderr, /no-data/);
  await t.throwsAsync(stat(join(dir, 'never')), undefined, 'nothing is written');
});

test('doctor names the backend and says why', async (t) => {
  const { code, stdout } = await phoenix(['doctor', '--json']);
  t.is(code, 0);
  const diagnosis = JSON.parse(stdout) as Diagnosis;
  t.is(diagnosis.backend, 'cpu');
  t.is(diagnosis.addons[0]!.info!.real, 'float32');
  t.true(diagnosis.cpu.cores >= 1);
  t.true(diagnosis.memory.total > 0);
  const text = await phoenix(['doctor']);
  t.true(linesOf(text.stdout).at(-1)!.includes(diagnosis.why));
});

test('a diagnosis without addon, compiler or GPU says what is missing', (t) => {
  const none = { ok: false, reason: 'not on the PATH' } as const;
  const text = formatDiagnosis({
    phoenix: '1.2.3',
    node: 'v20.0.0',
    nodeApi: '9',
    platform: 'linux-x64',
    os: '6.1',
    cpu: { model: 'a processor', cores: 1, instructions: [] },
    memory: { total: 8e9, free: 4e9 },
    tools: { cmake: none, compiler: none, nvcc: none },
    gpu: { ok: true, version: 'a GPU, 580.1, 81920 MiB' },
    addons: [
      { name: 'phoenix-cpu', reason: 'built for another processor' },
      { name: 'phoenix-ref', reason: 'no file' },
    ],
    why: 'no addon can be loaded',
  });
  t.regex(text, /C\+\+ compiler +none: not on the PATH/);
  t.regex(text, /phoenix-cpu +CANNOT BE LOADED: built for another processor/);
  t.regex(text, /phoenix-ref +not built/);
  t.regex(text, /GPU +a GPU, 580\.1/);
  t.regex(text, /Backend +NONE: no addon can be loaded/);
});

test.serial('federate --json: lines for start, rounds and end; then report, sample and a finished resume', async (t) => {
  const out = join(dir, 'run');
  const { code, stdout, stderr } = await phoenix(['federate', ...small, '--rounds', '2', '--out', out, '--json']);
  t.is(code, 0, stderr);
  const events = jsonLines(stdout);
  t.deepEqual(
    events.map((event) => event.event),
    ['start', 'round', 'round', 'done'],
  );
  t.like(events[0], { kind: 'federate', dir: out, round: 0, rounds: 2, backend: 'cpu', threads: 1 });
  t.like(events[2], { round: 2, images: 8, failures: [] });
  t.like(events[3], { dir: out, rounds: 2, report: join(out, 'report.html'), loss: events[2]!.loss });
  t.regex(stderr, /round 1\/2, client 1\/2, loss/);
  t.regex(await readFile(join(out, 'report.html'), 'utf8'), /2 clients on synthetic/);

  await rm(join(out, 'report.html'));
  t.deepEqual(await phoenix(['report', out]), { code: 0, stdout: `${join(out, 'report.html')}\n`, stderr: '' });
  t.true((await stat(join(out, 'report.html'))).size > 5000);

  const grid = join(dir, 'drawn.png');
  const drawn = await phoenix(['sample', out, '--n', '4', '--steps', '2', '--grid', grid, '--json']);
  t.like(JSON.parse(drawn.stdout), { event: 'done', count: 4, weights: 'ema', grid });
  t.is((await sharp(grid).metadata()).format, 'png');

  const again = await phoenix(['federate', ...small, '--rounds', '2', '--out', out]);
  t.is(again.code, 1);
  t.regex(again.stderr, /--resume/);
  const resumed = await phoenix(['federate', ...small, '--rounds', '2', '--out', out, '--resume']);
  t.is(resumed.code, 0, resumed.stderr);
  t.regex(resumed.stdout, /Nothing to do/);
});

test.serial('a personalised federation, a mixture of its clients, and a site that took no part', async (t) => {
  const run = join(dir, 'personal');
  const began = await phoenix(['federate', ...small, '--method', 'phoenix', '--share-real', '--rounds', '1', '--out', run]);
  t.is(began.code, 0, began.stderr);
  t.regex(began.stderr, /personal layers .* stay with each client/);
  t.regex(began.stderr, /real training images, which are public to all clients/);
  const drawing = ['--steps', '2', '--threads', '1', '--json', '--grid', join(dir, 'drawn.png')];
  const mixture = await phoenix(['sample', run, '--n', '4', '--client', '*', ...drawing]);
  t.like(jsonLines(mixture.stdout)[0], {
    clients: [
      { id: 'client-1', count: 2 },
      { id: 'client-2', count: 2 },
    ],
  });
  const site = join(dir, 'site.safetensors');
  const options = ['--data', 'synthetic:20', '--epochs', '1', '--batch', '4', '--threads', '1', '--checkpoint', site];
  const tuned = await phoenix(['finetune', run, ...options]);
  t.is(tuned.code, 0, tuned.stderr);
  t.regex(tuned.stdout, /parameters trained on 18 images, 5 steps\nheld-out loss .* before, .* after\nmodel .*site\.safetensors/);
  t.is((await phoenix(['sample', site, '--n', '1', ...drawing])).code, 0);
});

test('experiment --json: what it would cost, then what it stopped at; the folder is there to continue', async (t) => {
  const out = join(dir, 'experiment');
  const plan = await phoenix(['experiment', 'smoke', '--out', out, '--plan', '--json']);
  t.is(plan.code, 0, plan.stderr);
  const [first, last] = jsonLines(plan.stdout);
  t.like(first, { event: 'plan', name: 'smoke', done: 0, imagesPerCell: 512 });
  t.deepEqual(last, { event: 'done', dir: out, cells: first!.cells, done: 0 });
  t.regex(plan.stderr, /Experiment smoke in .*images to train on.*sent at most/);
  const stopped = await phoenix(['experiment', 'smoke', '--out', out, '--stop-after', '0']);
  t.is(stopped.code, 0, stopped.stderr);
  t.regex(stopped.stdout, /Time is up: 0 of \d+ cells are done; the same command continues/);
  t.is((await phoenix(['experiment', 'cake'])).code, 1);
});

test.serial('demo prints the path of the report last', async (t) => {
  const out = join(dir, 'demo');
  const { code, stdout, stderr } = await phoenix([
    'demo',
    '--rounds',
    '1',
    '--epochs',
    '1',
    '--data',
    'synthetic:200',
    '--samples',
    '4',
    '--sample-steps',
    '2',
    '--out',
    out,
  ]);
  t.is(code, 0, stderr);
  t.regex(linesOf(stdout).at(-1)!, new RegExp(`^report +${join(out, 'report.html')}$`));
});

test.serial('Ctrl-C stops cleanly with exit code 130, and --resume continues', async (t) => {
  const out = join(dir, 'stopped');
  let rounds = 0;
  const stopped = await phoenix(
    ['federate', ...small, '--rounds', '100000', '--sample-every', '0', '--out', out, '--json'],
    (stdout, kill) => {
      if (rounds === 0 && stdout.includes('"event":"round"')) kill('SIGINT');
      rounds = stdout.split('"event":"round"').length - 1;
    },
  );
  t.is(stopped.code, 130, stopped.stderr);
  t.regex(stopped.stderr, /--resume/);
  t.notRegex(stopped.stderr, /\n\s+at /);
  const done = jsonLines(stopped.stdout).filter((event) => event.event === 'round').length;
  const resumed = await phoenix([
    'federate',
    ...small,
    '--rounds',
    String(done + 1),
    '--sample-every',
    '0',
    '--out',
    out,
    '--json',
    '--resume',
  ]);
  t.is(resumed.code, 0, resumed.stderr);
  t.deepEqual(
    jsonLines(resumed.stdout).map((event) => event.event),
    ['start', 'round', 'done'],
  );
  t.like(jsonLines(resumed.stdout)[1], { round: done + 1 });
});

/** A stream that keeps what is written to it, and a clock that is set by hand. */
function fakeTerminal(isTTY: boolean) {
  const written: string[] = [];
  const stream = {
    isTTY,
    columns: 120,
    write: (text: string) => written.push(text) > 0,
    on() {},
    once() {},
    cursorTo() {},
  } as unknown as NodeJS.WriteStream;
  return { stream, written };
}

test('progress off a terminal: plain lines, at most one in five seconds, with rate, loss and time left', (t) => {
  const { stream, written } = fakeTerminal(false);
  let now = 0;
  const progress = createProgress({ stream, now: () => now });
  for (let second = 0; second <= 12; second++) {
    now = second * 1000;
    progress.update({ done: second * 10, total: 200, label: 'round 1/2', loss: 0.12345, imagesPerSecond: 10.4 });
  }
  progress.note('round 1/2 done');
  progress.stop();
  t.deepEqual(written, [
    '0 %  round 1/2, loss 0.123, 10 images/s\n',
    '25 %  round 1/2, loss 0.123, 10 images/s, 15 s left\n',
    '50 %  round 1/2, loss 0.123, 10 images/s, 10 s left\n',
    'round 1/2 done\n',
  ]);
});

test('progress of a resumed run counts the time left from where it began', (t) => {
  const { stream, written } = fakeTerminal(false);
  let now = 0;
  const progress = createProgress({ stream, now: () => now, everyMs: 1 });
  progress.update({ done: 900, total: 1000, label: 'x' });
  now = 10_000;
  progress.update({ done: 910, total: 1000, label: 'x' });
  t.deepEqual(written, ['90 %  x\n', '91 %  x, 1 min 30 s left\n']);
});
