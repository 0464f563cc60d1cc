/** A server that loses its store at the worst moment: what was said is there again without another word, and soon. */
import { setImmediate as tick } from 'node:timers/promises';
import test from 'ava';
import { openSites } from '../../src/net/sites.ts';
import { memoryHub } from '../../src/net/wires/memory.ts';
import { testKeys } from '../support/sites.ts';

const bytes = (text: string) => Buffer.from(text);
/** Long enough for everything that memory does, and nothing to a clock of seconds. */
const settle = async () => {
  for (let i = 0; i < 200; i++) await tick();
};

for (const kind of ['want', 'has'] as const)
  test(`a ${kind} is stored, lost, and only then acknowledged: it is said again`, async (t) => {
    let isLost = false;
    const hub = memoryHub({
      after({ verb, kind: said }) {
        if (verb !== 'say' || said !== kind || isLost) return;
        isLost = true;
        // The answer is on its way already when the server begins again.
        queueMicrotask(() => hub.lose());
      },
    });
    const coordinator = hub.coordinator();
    const site = hub.site('a');
    await (kind === 'want' ? coordinator.want('a', bytes('train')) : site.has(bytes('here')));
    await settle();
    t.true(isLost);
    const heard: string[] = [];
    if (kind === 'want') await hub.site('a').watchWant((value) => heard.push(Buffer.from(value).toString()));
    else await hub.coordinator().watchHas((_, value) => heard.push(Buffer.from(value).toString()));
    t.deepEqual(heard, [kind === 'want' ? 'train' : 'here']);
    await coordinator.close();
    await site.close();
  });

test('what an earlier process of the coordinator wanted is said again by the next one, which was never asked to', async (t) => {
  const hub = memoryHub();
  const keys = testKeys();
  const site = hub.site('a');
  await site.has(bytes('{}'));
  const options = { phoenix: '1.2.3', key: keys.coordinator, keyOf: (id: string) => keys.site(id) };
  const first = hub.coordinator();
  await (await openSites(first, options)).want('a', () => ({ is: 'open', run: { name: 'run', requests: [] } }));
  const said = await first.lastWant('a');
  t.truthy(said);
  await first.close();

  const second = hub.coordinator();
  const sites = await openSites(second, options);
  // It has heard of the site, as it does of all.
  await sites.want('a', (before) => before!);
  hub.lose();
  await settle();
  t.deepEqual(await second.lastWant('a'), said);
  await second.close();
  await site.close();
});
