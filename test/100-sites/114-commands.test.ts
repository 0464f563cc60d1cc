/** The commands that people type, as processes: one kill of each role, and the run ends with the bytes of one that nobody disturbs. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { roundRecord } from '../../src/fl/protocol.ts';
import { rng } from '../../src/rng.ts';
import { type Commands, checkpointHashes, startCommands } from '../support/commands.ts';
import { noServer } from '../support/nats.ts';

const real = noServer ? test.skip : test;
const ROUNDS = 4;
const data = { north: 'synthetic:20', south: 'synthetic:24', west: 'synthetic:28' };
const options = [
  ...['--rounds', String(ROUNDS), '--keep', String(ROUNDS), '--size', '8', '--batch', '8', '--local-images', '16', '--threads', '1'],
  ...['--personal', 'head', '--optimizer', 'keep', '--compress', 'int8', '--sample-every', '0', '--samples', '1', '--sample-steps', '2'],
];

async function federation(t: ExecutionContext): Promise<Commands> {
  const commands = await startCommands({
    data,
    options,
    onLine: (line) => process.env.TRACE && console.error(JSON.stringify(line).slice(0, 150)),
  });
  t.teardown(commands.close);
  await commands.startAll();
  return commands;
}

/** What a run came to: hashes of its checkpoints, and of each round its clients with weights and losses. */
async function outcomeOf({ runFolder, until, isDone, exited }: Commands) {
  await until(isDone);
  await exited('coordinator');
  const log = (await readFile(join(runFolder, 'log.jsonl'), 'utf8')).trim().split('\n').slice(1);
  const rounds = log.map((line) => {
    const { clients, failures } = roundRecord.parse(JSON.parse(line));
    return { clients: clients.map(({ client, weight, loss }) => ({ client, weight, loss })), failures };
  });
  return { checkpoints: await checkpointHashes(runFolder), rounds };
}

real('coordinator, site and server are killed, each once at a drawn moment: the bytes of a run that nobody disturbs', async (t) => {
  t.timeout(300_000, 'a process that neither ends nor goes on');
  const plain = await federation(t);
  const expected = await outcomeOf(plain);
  t.is(Object.keys(expected.checkpoints).length, ROUNDS);
  await plain.close();

  const seed = Number(process.env.PHOENIX_SEED ?? 1);
  const draw = rng(seed, 'kills');
  const killed = await federation(t);
  const { lines, until, ids } = killed;
  const takesPart = (id: string, from = 0) => lines.slice(from).some(({ name, type }) => name === id && type === 'joined');
  await until(() => ids.every((id) => takesPart(id)));
  const roles = ['coordinator', ids[draw.int(3)]!, 'server'];
  for (const i of draw.permutation(3)) {
    const name = roles[i]!;
    const from = lines.length + 1 + draw.int(16);
    await until(() => lines.length >= from);
    t.false(killed.isDone(), 'the run goes on');
    t.log(`${name} is killed after ${lines.length} lines, the last one ${lines.at(-1)!.name} ${lines.at(-1)!.type} ${lines.at(-1)!.kind}`);
    const pid = killed.serverPid();
    const at = lines.length;
    await killed.kill(name);
    if (name !== 'server') killed.start(name);
    if (name === 'coordinator') await until(() => lines.slice(at).some((line) => line.name === name && line.event === 'start'));
    else if (name !== 'server') await until(() => takesPart(name, at));
    else await until(() => killed.serverPid() !== pid && lines.slice(at).some(({ type, link }) => type === 'link' && isUp(link)));
  }
  t.deepEqual(await outcomeOf(killed), expected);
});

const isUp = (link: unknown) => (link as { connected?: boolean }).connected === true;
