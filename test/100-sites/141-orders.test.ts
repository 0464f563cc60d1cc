/** What the operator tells a coordinator: pause, resume, finish and stop, by command and from the page. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { beginFederation, places, runIn } from '../../src/commands/coordinator/folder.ts';
import { status } from '../../src/commands/coordinator/members.ts';
import { followOrders, give } from '../../src/commands/coordinator/orders.ts';
import { newFederation } from '../../src/net/credentials.ts';
import { type Commands, checkpointHashes, startCommands } from '../support/commands.ts';
import { noServer } from '../support/nats.ts';

const real = noServer ? test.skip : test;
const data = { north: 'synthetic:20', south: 'synthetic:24' };
const small = [
  ...['--keep', '50', '--size', '8', '--batch', '8', '--local-images', '16', '--threads', '1'],
  ...['--optimizer', 'keep', '--sample-every', '0', '--samples', '1', '--sample-steps', '2'],
];

async function federation(t: ExecutionContext, rounds: string, ...more: string[]): Promise<Commands & { options: string[] }> {
  const options = [...small, '--rounds', rounds, ...more];
  const commands = await startCommands({
    data,
    options,
    onLine: (line) => process.env.TRACE && console.error(JSON.stringify(line).slice(0, 200)),
  });
  t.teardown(commands.close);
  await commands.startAll();
  return { ...commands, options };
}

const readJsonOf = async (path: string) => JSON.parse(await readFile(path, 'utf8'));

/** Resolves once all sites have been told this since so many lines. */
const allTold = ({ lines, until, ids }: Commands, reason: string, from = 0) =>
  until(() => ids.every((id) => lines.slice(from).some((line) => line.name === id && line.type === 'idle' && line.reason === reason)));
const rounds = ({ lines }: Commands) => lines.filter(({ name, event }) => name === 'coordinator' && event === 'round').length;
const count = ({ lines }: Commands, event: string) => lines.filter((line) => line.name === 'coordinator' && line.event === event).length;

real('a run that was paused, stopped while paused, resumed and stopped in a round has the bytes of one that nobody touched', async (t) => {
  t.timeout(300_000, 'a process that neither ends nor goes on');
  const plain = await federation(t, '4');
  await plain.until(plain.isDone);
  await plain.exited('coordinator');
  const expected = await checkpointHashes(plain.runFolder);
  t.is(Object.keys(expected).length, 4);
  await allTold(plain, 'done');
  await plain.close();

  const told = await federation(t, '4');
  const { federation: dir, lines, until } = told;
  await until(() => rounds(told) >= 1);
  t.regex(await give('pause', { federation: dir }), /paused/);
  await t.throwsAsync(give('pause', { federation: dir }), { code: 'ERR_PHOENIX_RUN', message: /paused already/ });
  await allTold(told, 'paused');
  const done = rounds(told);
  t.true(done < 4);
  t.is((await status({ federation: dir })).state, 'paused');

  await give('stop', { federation: dir });
  await allTold(told, 'stopped');
  await until(() => count(told, 'stopped') === 1);
  await told.exited('coordinator');
  await t.throwsAsync(give('stop', { federation: dir }), { code: 'ERR_PHOENIX_RUN', message: /No coordinator/ });

  let from = lines.length;
  told.start('coordinator');
  await allTold(told, 'paused', from);
  t.is(rounds(told), done, 'the pause has survived the restart');
  await give('resume', { federation: dir });
  await t.throwsAsync(give('resume', { federation: dir }), { code: 'ERR_PHOENIX_RUN', message: /is not paused/ });
  from = lines.length;
  await until(() => lines.slice(from).some(({ name, type, kind }) => name === 'north' && type === 'asked' && kind === 'train'));
  await give('stop', { federation: dir });
  await until(() => count(told, 'stopped') === 2 || told.isDone());
  await told.exited('coordinator');
  t.false(told.isDone());
  told.start('coordinator');
  await until(told.isDone);
  t.deepEqual(await checkpointHashes(told.runFolder), expected);
});

real('an open run is told to finish from the page; with stay, server and page are there until stop', async (t) => {
  t.timeout(300_000, 'a process that neither ends nor goes on');
  const told = await federation(t, 'open', '--stay');
  const { federation: dir, lines, until } = told;
  await until(() => rounds(told) >= 2);
  await give('pause', { federation: dir });
  await allTold(told, 'paused');
  const done = rounds(told);
  const { page } = await readJsonOf(places.coordinator(dir));
  const post = (verb: string, headers: Record<string, string> = { 'X-Phoenix-Order': verb }) =>
    fetch(new URL(verb, page), { method: 'POST', headers });
  t.is((await post('finish', {})).status, 403);
  const answer = await post('finish');
  t.is(answer.status, 200);
  t.regex(await answer.text(), /was told to finish/);
  t.is((await post('pause')).status, 409);
  t.is((await post('resume')).status, 200);
  await allTold(told, 'done');
  t.is(rounds(told), done + Math.ceil(done / 4), 'the learning rate falls from the round after the pause on');
  t.is((await status({ federation: dir })).state, 'done');
  t.false(told.isDone(), 'it stays');
  t.is((await post('stop')).status, 200);
  await told.exited('coordinator');
  t.true(lines.some(({ name, event }) => name === 'coordinator' && event === 'done'));
});

test('what cannot be is refused by name', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-orders-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  for (const verb of ['pause', 'resume', 'stop', 'finish'] as const)
    await t.throwsAsync(give(verb, { federation: dir }), { code: 'ERR_PHOENIX_RUN', message: /holds no federation/ });
  await beginFederation(dir, newFederation({ name: 'lung', servers: ['tls://127.0.0.1:1'] }));
  await t.throwsAsync(give('stop', { federation: dir }), { message: /No coordinator of .* runs/ });
  await t.throwsAsync(give('finish', { federation: dir }), { message: /No run of .* has begun/ });
  await t.throwsAsync(runIn(dir), { message: /No run of .* has begun/ });
  t.is(await runIn('runs/photos'), 'runs/photos', 'the folder of a run is its own');
  await give('pause', { federation: dir });
  const orders = await followOrders(dir, { stop: () => t.fail() });
  t.true(orders.isPaused(), 'a federation that does not run is paused when it starts');
  orders.close();
});
