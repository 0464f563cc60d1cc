// Three sites in network namespaces of their own, each behind a bad line to the coordinator: 20 Mbit/s, 50 ms there and back, 1 % of the
// packets lost each way, and cut for 20 seconds after the first round. Prints, for each round, seconds and bytes, and for each site the
// longest silence between heartbeats, as the coordinator's page saw it. The lines are programs (bad-line.c), since many kernels have no
// netem. Linux, root, ip and cc are needed. Data: folders of images, one for each site.
// node --import=tsx scripts/bad-line.mjs FOLDER FOLDER FOLDER [ROUNDS [LOSS_PERCENT]]
// For example: node --import=tsx scripts/bad-line.mjs dermo256/train/series-{1,2,3}
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const { startCommands } = await import('../test/support/commands.ts');

const folders = process.argv.slice(2, 5);
const [rounds = '3', loss = '1'] = process.argv.slice(5);
if (folders.length !== 3) throw new Error('Name a folder of images for each of the three sites.');
const MBIT = 20;
/** One way. */
const DELAY_MS = 25;
const QUEUE_MS = 200;
const CUT_SECONDS = 20;
const ids = ['north', 'south', 'west'];

const run = (command, ...given) => execFileSync(command, given, { stdio: ['ignore', 'pipe', 'inherit'] });
const space = (id) => `phoenix-${id}`;
const addressOf = (i) => ({ host: `10.77.${i}.1`, site: `10.77.${i}.2` });

/** A namespace for a site, and its line to this machine. */
async function openLine(program, id, i) {
  const [here, there] = [`pxh${i}`, `pxs${i}`];
  const { host, site } = addressOf(i);
  run('ip', 'netns', 'add', space(id));
  const line = spawn(program, [here, there, MBIT, DELAY_MS, loss, QUEUE_MS].map(String), { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(line.stdout, 'data');
  run('ip', 'link', 'set', there, 'netns', space(id));
  run('ip', 'addr', 'add', host, 'peer', site, 'dev', here);
  run('ip', 'link', 'set', here, 'up', 'txqueuelen', '2000');
  const inside = (...given) => run('ip', 'netns', 'exec', space(id), ...given);
  inside('ip', 'addr', 'add', site, 'peer', host, 'dev', there);
  inside('ip', 'link', 'set', there, 'up', 'txqueuelen', '2000');
  inside('ip', 'link', 'set', 'lo', 'up');
  return line;
}

const folder = await mkdtemp(join(tmpdir(), 'phoenix-line-'));
const program = join(folder, 'bad-line');
run('cc', '-O2', '-o', program, fileURLToPath(new URL('bad-line.c', import.meta.url)));
const lines = [];
const made = [];
let commands;
let polling;
try {
  for (const [i, id] of ids.entries()) {
    made.push(id);
    lines.push(await openLine(program, id, i));
  }
  const begin = performance.now();
  const seconds = () => Math.round((performance.now() - begin) / 100) / 10;
  const silences = Object.fromEntries(ids.map((id) => [id, { usual: 0, cut: 0 }]));
  let phase = 'usual';
  const done = [];
  commands = await startCommands({
    data: Object.fromEntries(ids.map((id, i) => [id, folders[i]])),
    options: [
      ...['--rounds', rounds, '--size', '64', '--preset', 'small', '--local-images', '64', '--sample-every', '0', '--samples', '1'],
      ...['--compress', 'int8', '--compress-tasks', 'bf16', '--sample-steps', '2', '--threads', '1'],
    ],
    folder,
    host: '127.0.0.1',
    serverOf: async (id, port) => `wss://${addressOf(ids.indexOf(id)).host}:${port}`,
    prefix: (name) => (name === 'coordinator' ? [] : ['ip', 'netns', 'exec', space(name)]),
    onLine(line) {
      if (line.name === 'coordinator' && line.event === 'ready') polling = poll(line.page);
      if (line.name === 'coordinator' && line.event === 'round') {
        const { round, seconds: took, bytesUp, bytesDown, failures } = line;
        done.push({ round, seconds: Math.round(10 * took) / 10, bytesUp, bytesDown, failures: failures.length });
        console.error(`${seconds()} s: round ${round}`);
      }
      if (line.type === 'link') console.error(`${seconds()} s: ${line.name}: ${line.link.connected ? 'connected' : line.link.why}`);
    },
  });
  function poll(page) {
    const beats = {};
    return setInterval(async () => {
      const view = await fetch(new URL('state.json', page))
        .then((response) => response.json())
        .catch(() => ({ sites: [] }));
      for (const { id, heartbeat } of view.sites) {
        if (beats[id] && heartbeat > beats[id]) silences[id][phase] = Math.max(silences[id][phase], heartbeat - beats[id]);
        if (heartbeat) beats[id] = heartbeat;
      }
    }, 250);
  }
  await commands.startAll();
  await commands.until(() => done.length > 0);
  await delay(1000);
  phase = 'cut';
  for (const line of lines) line.kill('SIGUSR1');
  console.error(`${seconds()} s: the lines are cut`);
  await delay(1000 * CUT_SECONDS);
  for (const line of lines) line.kill('SIGUSR2');
  console.error(`${seconds()} s: the lines are back`);
  await Promise.race([delay(30_000), commands.until(commands.isDone)]);
  phase = 'usual';
  await commands.until(commands.isDone);
  await commands.exited('coordinator');
  console.table(done);
  console.table(silences);
  const isComplete = done.length === Number(rounds);
  console.log(
    JSON.stringify({ complete: isComplete, mbit: MBIT, delayMs: DELAY_MS, loss: Number(loss), seconds: seconds(), rounds: done, silences }),
  );
  process.exitCode = isComplete ? 0 : 1;
} finally {
  clearInterval(polling);
  await commands?.close();
  for (const line of lines) line.kill('SIGKILL');
  for (const id of made) run('ip', 'netns', 'del', space(id));
  await rm(folder, { recursive: true, force: true });
}
