/** The model of a run reaches its sites: the coordinator's bytes, around own personal layers, and a page that says what it is. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { MAX_CARD } from '../../src/commands/published.ts';
import { sample } from '../../src/commands/sample.ts';
import { openSafetensors } from '../../src/ddpm/checkpoint/safetensors.ts';
import { federationRig } from '../support/federation-rig.ts';
import { noServer } from '../support/nats.ts';

const real = noServer ? test.skip : test.serial;
const SHAPES = { north: 'synthetic:24', south: 'synthetic:31' };
const drawing = { n: 3, steps: 3, seed: 7, device: 'cpu', threads: 1 } as const;

/** The tensors of a checkpoint by name. */
async function tensorsOf(path: string): Promise<Map<string, Buffer>> {
  const bytes = await readFile(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<string, { data_offsets: [number, number] }>;
  const entries = Object.entries(header).filter(([name]) => name !== '__metadata__');
  return new Map(
    entries.map(
      ([
        name,
        {
          data_offsets: [from, to],
        },
      ]) => [name, bytes.subarray(8 + length + from, 8 + length + to)],
    ),
  );
}

real('at the end each site has the bytes of the coordinator, and draws the images of the run from them', async (t) => {
  const rig = await federationRig(t);
  const licence = join(rig.folder, 'licence.txt');
  await writeFile(licence, 'Only for the sites of this test.\n');
  const { done, ready, messages } = rig.start({
    rounds: 2,
    sites: 2,
    licence,
    sharedData: 'synthetic:12',
    strategy: 'diversity',
    diversity: { target: 'shared' },
    classConditional: true,
  });
  await ready;
  const sites = [await rig.site('north', { data: SHAPES.north }), await rig.site('south', { data: SHAPES.south })];
  await rig.allow('north', { histogram: true });
  await rig.allow('south', { histogram: true });
  const { dir, records } = await done;
  t.true(records.every(({ clients }) => clients.length === 2 && clients.every(({ shared }) => shared === 6)));
  t.true(messages.includes('shared set: 12 images of the coordinator, which its operator states to be public; each site receives 6'));
  await Promise.all(sites.map((site) => site.stop()));

  const own = join(rig.federation, 'models', 'run-1');
  t.deepEqual((await readdir(own)).sort(), ['round-2.md', 'round-2.safetensors']);
  for (const name of Object.keys(SHAPES)) {
    const models = join(rig.dirOf(name), 'models', 'run-1');
    t.deepEqual((await readdir(models)).sort(), ['round-2.md', 'round-2.safetensors']);
    for (const file of await readdir(own)) t.true((await readFile(join(models, file))).equals(await readFile(join(own, file))), file);
  }
  // What is drawn is drawn from the EMA of the run.
  const [trained, given] = [await tensorsOf(join(dir, 'checkpoint-2.safetensors')), await tensorsOf(join(own, 'round-2.safetensors'))];
  for (const [name, bytes] of given) t.true(bytes.equals(trained.get(name)!), name);
  t.is([...trained.keys()].filter((name) => !name.startsWith('raw.')).length, given.size);
  const model = join(rig.dirOf('north'), 'models', 'run-1', 'round-2.safetensors');
  const [atSite, ofRun] = [await sample({ source: model, ...drawing }), await sample({ source: dir, ...drawing })];
  t.deepEqual(atSite.pixels, ofRun.pixels);
  const { metadata, close } = await openSafetensors(model);
  await close();
  t.like(metadata, { federation: 'lung', run: 'run-1', round: '2' });

  const page = (await readFile(join(own, 'round-2.md'))).toString();
  t.regex(page, /\| trained on \| \d+ images of 2 sites \|/);
  t.regex(page, /\| rounds \| 2 \|/);
  t.regex(page, /Each site also trained on 6 of 12 images of the operator/);
  t.regex(page, /Only for the sites of this test\./);
  t.false(/north|south/.test(page));
  t.true(sites.every(({ messages }) => messages.some((text) => text.startsWith('The model of round 2 is here: phoenix sample '))));
});

real(
  'with personal layers each site has its own in it; a site that refuses goes without, and one that was away gets it later',
  async (t) => {
    const rig = await federationRig(t);
    const options = { rounds: 2, sites: 3, quorum: 0.6, personal: 'fedper' as const, publishEvery: 1, lostAfter: 12 };
    let away = async () => {};
    const { done, ready, messages } = rig.start(options, {
      // Round 2 is over, and nothing was published since.
      onRound: async ({ round }) => {
        if (round === 2) await away();
      },
    });
    await ready;
    const north = await rig.site('north', { data: SHAPES.north });
    const south = await rig.site('south', { data: SHAPES.south });
    await rig.site('west', { data: 'synthetic:17' });
    await rig.allow('west', { publish: false });
    away = () => south.stop();
    const { dir } = await done;
    const filesOf = async (name: string) => (await readdir(join(rig.dirOf(name), 'models', 'run-1')).catch(() => [])).sort();
    t.deepEqual(await filesOf('north'), ['round-2.md', 'round-2.safetensors']);
    t.deepEqual(await filesOf('south'), ['round-1.md', 'round-1.safetensors']);
    t.deepEqual(await filesOf('west'), []);
    t.deepEqual(await readdir(join(rig.federation, 'models', 'run-1')), ['round-2.md']);
    t.true(messages.some((text) => /^west has not got the model of round 1: .*allow\.publish/.test(text)));
    t.is(north.events.filter((event) => event.type === 'answered' && event.kind === 'publish').length, 2);

    // The coordinator is started again, and the site comes back.
    const again = rig.start({ ...options, lostAfter: 600 });
    await again.ready;
    await rig.site('south', {});
    await again.done;
    t.deepEqual(await filesOf('south'), ['round-2.md', 'round-2.safetensors']);
    t.is(north.events.filter((event) => event.type === 'answered' && event.kind === 'publish').length, 2);

    const trained = await tensorsOf(join(dir, 'checkpoint-2.safetensors'));
    const [one, other] = [
      await tensorsOf(join(rig.dirOf('north'), 'models', 'run-1', 'round-2.safetensors')),
      await tensorsOf(join(rig.dirOf('south'), 'models', 'run-1', 'round-2.safetensors')),
    ];
    for (const [name, bytes] of one) {
      const isPersonal = /^conv_norm_out\.|^conv_out\./.test(name);
      t.is(bytes.equals(other.get(name)!), !isPersonal, name);
      t.is(bytes.equals(trained.get(name)!), !isPersonal, name);
    }
    const model = join(rig.dirOf('south'), 'models', 'run-1', 'round-2.safetensors');
    t.is((await sample({ source: model, ...drawing })).count, 3);
  },
);

real('a licence that is no text is refused before anything begins', async (t) => {
  const rig = await federationRig(t);
  const licence = join(rig.folder, 'licence.bin');
  for (const [bytes, message] of [
    [Buffer.of(0xff, 0xfe), /not text in UTF-8/],
    [Buffer.alloc(MAX_CARD, 0x20), /has 1000000 bytes/],
  ] as const) {
    await writeFile(licence, bytes);
    await t.throwsAsync(rig.start({ rounds: 1, licence }).done, { code: 'ERR_PHOENIX_ARGUMENT', message });
  }
});
