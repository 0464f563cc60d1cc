/** phoenix site as a function: sites with homes on the disk, real Sessions, and wires of memory. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { createImages } from '../../src/bindings/session.ts';
import { keeper } from '../../src/commands/coordinator/view.ts';
import { siteStatus } from '../../src/commands/site/status.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { unetModel } from '../../src/ddpm/model/unet.ts';
import { createSession } from '../../src/ddpm/session.ts';
import { holdOut } from '../../src/fl/partition/index.ts';
import { createClient } from '../../src/fl/site/client.ts';
import { memoryStore } from '../../src/fl/store.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { everyPosition } from '../../src/images.ts';
import type { Federation } from '../../src/net/credentials.ts';
import { readSentLog } from '../../src/net/sent-log.ts';
import type { SiteEvent } from '../../src/net/site-state.ts';
import type { Spec } from '../../src/net/spec.ts';
import { federateTiny, ROUNDS, siteRig, tinySpec } from '../support/site-rig.ts';

const DATA: Record<string, string> = { north: 'synthetic:24', south: 'synthetic:31' };
const names = Object.keys(DATA);

/** The same federation in one process, put together by hand. */
async function simulated(spec: Spec): Promise<Buffer> {
  using session = createSession({ model: unetModel(spec.unet), device: 'cpu', threads: 1 });
  const clients = [];
  for (const id of names) {
    const dataset = await openDataset(DATA[id]!, { size: 8, channels: 1 });
    const images = await createImages(dataset, session);
    const split = holdOut(everyPosition(dataset.count), spec.seed, id);
    clients.push(
      createClient({ id, session, images, ...split, classes: dataset.labels, classCount: 10, store: memoryStore(), seed: spec.seed }),
    );
  }
  return (await federateTiny(memoryTransport(clients), spec)).bytes;
}

const isEnd = (event: SiteEvent) => event.type === 'step' && event.step.step === event.step.steps;
const trainings = (events: SiteEvent[]) => events.filter(isEnd).length;

test('two sites train: the bytes of a simulation, each file where it belongs, and sent.jsonl says what left', async (t) => {
  const rig = await siteRig(t);
  const spec = await tinySpec();
  const [north, south] = [
    await rig.start({ file: await rig.invite('north'), data: DATA.north }),
    await rig.start({ file: await rig.invite('south'), data: DATA.south, threads: 1 }),
  ];
  const { transport, sites } = await rig.coordinate(spec, names);
  const { bytes, records } = await federateTiny(transport, spec);
  await Promise.all(
    [north, south].map((site) => site.until((event) => event.type === 'answered' && event.kind === 'finish' && event.round === ROUNDS)),
  );
  t.true(bytes.equals(await simulated(spec)));
  t.is(trainings(north.events), ROUNDS);
  t.is(records.flatMap(({ failures }) => failures).length, 0);

  // Its heartbeats say how much it has received and sent.
  const counted = () => sites.find('north')?.beat?.traffic ?? { bytesUp: 0, bytesDown: 0 };
  const most = 4 * spec.parameterCount * ROUNDS;
  await sites.until(() => counted().bytesDown > most && counted().bytesUp > most);
  t.true(counted().bytesDown < 1.2 * most);
  const view = keeper({
    ...{ version: '1.2.3', run: 'first', sites: () => sites, lostAfterSeconds: 600 },
    federation: () => ({ name: 'lung', sites: { north: {} } }) as unknown as Federation,
  }).view();
  t.like(view.sites[0], counted());

  const dir = rig.dirOf('north');
  for (const secret of ['credentials.json', 'sent.jsonl']) t.is((await stat(join(dir, secret))).mode & 0o777, 0o600, secret);
  t.deepEqual((await readdir(dir)).sort(), [
    'config.json',
    'credentials.json',
    'lock',
    'runs',
    'sent.jsonl',
    'site.json',
    'status.json',
    'store',
  ]);
  t.like(JSON.parse(await readFile(join(dir, 'config.json'), 'utf8')), { data: 'synthetic:24', device: 'cpu' });
  t.like(JSON.parse(await readFile(join(dir, 'site.json'), 'utf8')), { smallestCohort: 2, allow: { train: true, points: false } });
  t.true((await siteStatus({ name: 'north', home: rig.home })).healthy);

  const log = await readSentLog(join(dir, 'sent.jsonl'));
  t.is(log.broken, undefined);
  const kinds = log.entries.map(({ kind, round }) => `${kind} ${round}`);
  t.deepEqual(kinds, ['hello 0', 'hello 0', ...[1, 2, 3].flatMap((round) => [`train ${round}`, `upload ${round}`, `finish ${round}`])]);
  const answered = north.events.flatMap((event) => (event.type === 'answered' ? [`${event.kind} ${event.round}`] : []));
  t.deepEqual(kinds.slice(2), answered);
  t.deepEqual(
    log.entries.slice(0, 2).map(({ run }) => run),
    ['', 'first'],
  );
  for (const { kind, bytes: sent, line } of log.entries) {
    if (kind === 'upload') t.true(sent > 4 * spec.parameterCount && sent < 4 * spec.parameterCount + 2000, String(sent));
    t.is(line, kind === 'hello' ? 'none: said when the site connects or joins' : `allow.${kind}: true`);
  }
  const told = north.messages.join('\n');
  t.regex(told, /What leaves this site in the 3 rounds of the run first/);
  t.regex(told, /sent 3 times: update: .* parameters, none/);

  await Promise.all([north.stop(), south.stop()]);
  const health = await siteStatus({ name: 'lung/north', home: rig.home });
  t.false(health.healthy);
  t.is(health.why, 'it is not running');
});

for (const [what, stopAt] of [
  ['in its training', (event: SiteEvent) => event.type === 'step' && event.step.round === 2],
  ['after its training', (event: SiteEvent) => event.type === 'asked' && event.kind === 'upload' && event.round === 2],
  ['while it is told of the end', (event: SiteEvent) => event.type === 'asked' && event.kind === 'finish' && event.round === 2],
] as const)
  test(`a site that is stopped ${what} goes on from its home with its name alone: the same bytes, nothing trained twice`, async (t) => {
    const rig = await siteRig(t);
    const spec = await tinySpec({ personal: undefined });
    let stop: () => void;
    const stopped = new Promise<void>((resolve) => {
      stop = resolve;
    });
    const ending = new AbortController();
    await rig.start({ file: await rig.invite('north'), data: DATA.north });
    const first = await rig.start(
      { file: await rig.invite('south'), data: DATA.south },
      (event) => {
        if (!stopAt(event) || ending.signal.aborted) return;
        ending.abort(new Error('stopped'));
        stop();
      },
      { signal: ending.signal },
    );
    const { transport } = await rig.coordinate(spec, names);
    const federation = federateTiny(transport, spec);
    await stopped;
    await first.ended;
    const second = await rig.start({ file: 'south' });
    const { bytes } = await federation;
    t.true(bytes.equals(await simulated(spec)));
    const completed = trainings(first.events) + trainings(second.events);
    // Its last step may be the one at which it is stopped.
    if (what === 'in its training') t.true(completed === ROUNDS || completed === ROUNDS + 1, String(completed));
    else t.is(completed, ROUNDS);
    t.is(rig.enrolments.length, 2);
    t.is((await readSentLog(join(rig.dirOf('south'), 'sent.jsonl'))).broken, undefined);
  });
