/** phoenix demo --sites: coordinator, server and sites as processes of this machine, all of which end with it. */
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { readSentLog } from '../../src/net/sent-log.ts';
import { noServer } from '../support/nats.ts';

const cli = fileURLToPath(new URL('../../src/cli.ts', import.meta.url));
const folder = await mkdtemp(join(tmpdir(), 'phoenix-demo-'));
test.after.always(() => rm(folder, { recursive: true, force: true }));
const withServer = noServer ? test.serial.skip : test.serial;

/** Processes of this machine that name the folder. */
async function processesOf(out: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ps', ['-eo', 'args']);
  return stdout.split('\n').filter((line) => line.includes(out) && !line.includes(' demo '));
}

/** Runs `phoenix demo ARGS --json` in the folder; `onRound` is called with each round. */
function demo(args: string[], onRound?: (kill: (signal: NodeJS.Signals) => void) => void) {
  return new Promise<{ code: number | null; lines: Record<string, unknown>[]; stderr: string }>((resolve, reject) => {
    const child = spawn(process.execPath, ['--import=tsx', cli, 'demo', ...args, '--json'], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr, rounds] = ['', '', 0];
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      const seen = stdout.split('"event":"round"').length - 1;
      if (seen > rounds) onRound?.((signal) => child.kill(signal));
      rounds = seen;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => {
      const lines = stdout.split('\n').filter(Boolean);
      resolve({ code, stderr, lines: lines.map((line) => JSON.parse(line) as Record<string, unknown>) });
    });
  });
}

const short = ['--epochs', '1', '--limit', '120', '--samples', '10', '--sample-steps', '2'];

withServer('the demo with sites: a page, rounds, a picture, what each site has sent; nothing is left running', async (t) => {
  const out = join(folder, 'whole');
  const { code, lines, stderr } = await demo(['--sites', '3', '--rounds', '2', ...short, '--out', out]);
  t.is(code, 0, stderr);
  t.regex(String(lines.find(({ event }) => event === 'ready')?.page), /^http:\/\/127\.0\.0\.1:\d+\/$/);
  const rounds = lines.filter(({ event }) => event === 'round') as { clients: { client: string; weight: number }[] }[];
  t.deepEqual(
    rounds.map(({ clients }) => clients.map(({ client }) => client)),
    [1, 2].map(() => ['site-1', 'site-2', 'site-3']),
  );
  const done = lines.find(({ event }) => event === 'done')!;
  t.true((await stat(String(done.samples))).size > 0);

  const { sites } = lines.find(({ event }) => event === 'sent') as unknown as {
    sites: { site: string; path: string; kinds: { kind: string; messages: number; bytes: number }[] }[];
  };
  for (const { path, kinds } of sites) {
    const { entries, broken } = await readSentLog(path);
    t.is(broken, undefined);
    // What else a site says (its introduction, that it was given the model) is another chapter's.
    const ofRounds = kinds.filter(({ kind }) => ['train', 'upload', 'finish'].includes(kind));
    t.deepEqual(
      ofRounds.map(({ kind, messages }) => [kind, messages]),
      [
        ['train', 2],
        ['upload', 2],
        ['finish', 2],
      ],
    );
    t.is(
      kinds.reduce((sum, { bytes }) => sum + bytes, 0),
      entries.reduce((sum, { bytes }) => sum + bytes, 0),
    );
  }
  // Each site has classes of its own, and no images but those.
  const classes = await Promise.all(sites.map(({ site }) => readdir(join(out, 'images', site))));
  t.is(new Set(classes.flat()).size, 10);
  t.is(classes.flat().length, 10);
  t.deepEqual(await processesOf(out), []);
});

withServer('Ctrl-C ends the demo and every process that it has started', async (t) => {
  const out = join(folder, 'stopped');
  let running: Promise<string[]> = Promise.resolve([]);
  const { code, stderr } = await demo(['--sites', '2', '--rounds', '100000', ...short, '--out', out], (kill) => {
    running = processesOf(out).then((found) => {
      kill('SIGINT');
      return found;
    });
  });
  t.is(code, 130, stderr);
  const started = await running;
  t.is(started.filter((line) => line.includes('demo-site')).length, 2, started.join('\n'));
  t.true(started.some((line) => line.includes('nats-server')));
  t.deepEqual(await processesOf(out), []);
});

test('options of simulated clients are refused with the reason, and a folder that is there', async (t) => {
  const { code, stderr } = await demo(['--sites', '2', '--partition', 'iid']);
  t.is(code, 2);
  t.regex(stderr, /takes no partition, which only simulated clients have/);
  t.is((await demo(['--sites', '1'])).code, 2);
  if (!noServer) t.regex((await demo(['--sites', '2', '--out', folder])).stderr, /is there already: name a new folder/);
});
