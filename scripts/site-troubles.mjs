// A federation of commands meets troubles, one in each run, and has to end with the bytes of a run without: a full disk (a tmpfs each) at
// the coordinator, a site and the server's store; a network that is cut for 20 seconds; clocks that jump. Prints what each process said of
// its trouble. Full disks need the right to mount (root, Linux).
// node --import=tsx scripts/site-troubles.mjs [TROUBLE …]    one or more of: coordinator-disk site-disk server-disk cut clock
import { execFileSync } from 'node:child_process';
import { mkdirSync, statfsSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const { checkpointHashes, startCommands } = await import('../test/support/commands.ts');
const { relay } = await import('../test/support/nats.ts');

const ALL = ['coordinator-disk', 'site-disk', 'server-disk', 'cut', 'clock'];
/** How long a trouble lasts at most, in seconds. */
const TROUBLE_SECONDS = 20;
/** After which a run that does not end is given up, in seconds. */
const GIVE_UP_SECONDS = 300;
const chosen = process.argv.length > 2 ? process.argv.slice(2) : ALL;
const unknown = chosen.filter((name) => !ALL.includes(name));
if (unknown.length > 0) throw new Error(`There is no trouble ${unknown.join(', ')}: choose from ${ALL.join(', ')}.`);

const data = { north: 'synthetic:20', south: 'synthetic:24', west: 'synthetic:28' };
const options = [
  ...['--rounds', '4', '--keep', '4', '--size', '8', '--batch', '8', '--local-images', '16', '--threads', '1'],
  ...['--personal', 'head', '--optimizer', 'keep', '--compress', 'int8', '--sample-every', '0', '--samples', '1', '--sample-steps', '2'],
];
const clock = fileURLToPath(new URL('../test/support/jumping-clock.mjs', import.meta.url));

/** A small disk at a folder. */
function mountDisk(folder) {
  mkdirSync(folder, { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', folder]);
  const ballast = join(folder, 'ballast');
  return {
    fill() {
      for (const size of [1 << 20, 1 << 12]) {
        for (let n = 0; statfsSync(folder).bavail * 4096 >= size; n++) writeFileSync(`${ballast}-${size}-${n}`, Buffer.alloc(size));
      }
    },
    free: () => execFileSync('sh', ['-c', 'rm -f "$0"-*', ballast]),
    unmount: () => execFileSync('umount', ['-l', folder]),
  };
}

/** One run with a trouble once its first round is done. */
async function runWith(trouble) {
  const begin = performance.now();
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-troubles-'));
  const federation = join(folder, 'lung');
  const disks = [];
  const disk = (at) => {
    const made = mountDisk(at);
    disks.push(made);
    return made;
  };
  const full =
    trouble === 'coordinator-disk'
      ? disk(federation)
      : trouble === 'site-disk'
        ? disk(join(folder, 'homes', 'south'))
        : trouble === 'server-disk'
          ? disk(join(federation, 'engine'))
          : undefined;
  // The server's store is on a disk of its own: a full one of the coordinator is not the server's.
  if (trouble === 'coordinator-disk') disk(join(federation, 'engine'));
  const lines = [];
  const said = [];
  let line;
  process.env.CLOCK_JUMP_HOURS = '72';
  const commands = await startCommands({
    ...{ data, options, folder, node: () => (trouble === 'clock' ? ['--import', clock] : []) },
    ...(trouble === 'cut' && {
      async serverOf(site, port) {
        if (site !== 'south') return `wss://127.0.0.1:${port}`;
        line = await relay(port);
        return `wss://127.0.0.1:${line.port}`;
      },
    }),
    onLine: (one) => lines.push(one),
  });
  const giveUp = setTimeout(() => {
    for (const name of ['coordinator', ...commands.ids]) console.error(name, commands.words(name).join('\n'));
    for (const name of ['coordinator', ...commands.ids]) commands.signal(name, 'SIGKILL');
  }, 1000 * GIVE_UP_SECONDS);
  try {
    await commands.startAll();
    await commands.until(() => lines.some(({ name, event }) => name === 'coordinator' && event === 'round'));
    const from = lines.length;
    const before = new Map(['coordinator', ...commands.ids].map((name) => [name, commands.words(name).length]));
    if (full) {
      const names = ['coordinator', ...commands.ids];
      const ended = names.map((name) => ({ name, has: commands.mayEnd(name) }));
      full.fill();
      for (let waited = 0; waited < TROUBLE_SECONDS && !ended.some(({ has }) => has()); waited += 0.2) await delay(200);
      // What ends because another has ended does so now.
      await delay(2000);
      full.free();
      for (const { name, has } of ended) {
        if (!has()) continue;
        said.push(`${name} ended: ${commands.words(name).slice(-3).join(' / ')}`);
        commands.start(name);
      }
    } else if (trouble === 'cut') {
      line.cut();
      await delay(1000 * TROUBLE_SECONDS);
      line.mend();
    } else if (trouble === 'clock') {
      commands.signal('south', 'SIGUSR2');
      commands.signal('coordinator', 'SIGUSR2');
    }
    await commands.until(commands.isDone);
    await commands.exited('coordinator');
    for (const one of lines.slice(from)) {
      const text = one.reason ?? one.text ?? one.link?.why;
      if (['failed', 'problem', 'ignored', 'link', 'refused'].includes(one.type) && text) said.push(`${one.name}: ${one.type}: ${text}`);
    }
    for (const [name, at] of before)
      said.push(
        ...commands
          .words(name)
          .slice(at)
          .map((text) => `${name}: ${text}`),
      );
    const repeated = commands.words('coordinator').filter((text) => /is repeated/.test(text)).length;
    return { checkpoints: await checkpointHashes(commands.runFolder), repeated, seconds: (performance.now() - begin) / 1000, said };
  } finally {
    clearTimeout(giveUp);
    await commands.close();
    line?.close();
    for (const one of disks.reverse()) one.unmount();
    await rm(folder, { recursive: true, force: true });
  }
}

const plain = await runWith('none');
const rows = [];
for (const trouble of chosen) {
  const { checkpoints, said, repeated, seconds } = await runWith(trouble).catch((error) => ({ said: [error.message], checkpoints: {} }));
  const equal = JSON.stringify(checkpoints) === JSON.stringify(plain.checkpoints);
  rows.push({ trouble, equal, repeated, seconds: seconds && Math.round(seconds) });
  console.log(`${trouble}: ${equal ? 'the same bytes' : 'OTHER BYTES'}`);
  for (const text of [...new Set(said)]) console.log(`  ${text.slice(0, 400)}`);
}
console.table(rows);
console.log(JSON.stringify(rows));
process.exit(rows.every(({ equal }) => equal) ? 0 : 1);
