/** The rules of a site are edited on a copy, and replaced whole or not at all. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { editPolicy } from '../../src/commands/site/log.ts';
import { siteRig } from '../support/site-rig.ts';

test('rules are edited on a copy: taken whole, refused with the reason, left where nothing was changed', async (t) => {
  const rig = await siteRig(t);
  const site = await rig.start({ file: await rig.invite('north'), data: 'synthetic:12' });
  await site.stop();
  const path = join(rig.dirOf('north'), 'site.json');
  const before = await readFile(path, 'utf8');
  const change = (text: string) => editPolicy('north', rig.home, (copy) => writeFile(copy, text));
  const copies = async () => (await readdir(rig.dirOf('north'))).filter((name) => name === 'site.edited.json');

  t.deepEqual(await editPolicy(undefined, rig.home, async (copy) => void t.is(await readFile(copy, 'utf8'), before)), {
    path,
    changed: false,
  });
  t.deepEqual(await copies(), []);

  for (const [text, message] of [
    [before.replace('"rounds": null', '"rounds": 0'), /site\.edited\.json.*rounds/],
    [before.replace('"rounds"', '"round"'), /round/],
    ['{', /site\.edited\.json/],
  ] as const) {
    t.not(text, before);
    await t.throwsAsync(change(text), { code: 'ERR_PHOENIX_CONFIG', message });
    t.is(await readFile(path, 'utf8'), before);
    t.deepEqual(await copies(), ['site.edited.json'], 'what was typed stays');
  }

  const meanwhile = editPolicy('north', rig.home, async (copy) => {
    await writeFile(copy, before.replace('"rounds": null', '"rounds": 7'));
    await writeFile(path, before.replace('"rounds": null', '"rounds": 3'));
  });
  await t.throwsAsync(meanwhile, { code: 'ERR_PHOENIX_CONFIG', message: /changed meanwhile/ });
  t.is(JSON.parse(await readFile(path, 'utf8')).rounds, 3);

  const crashed = editPolicy('north', rig.home, () => Promise.reject(new Error('the editor is gone')));
  await t.throwsAsync(crashed, { message: 'the editor is gone' });
  t.deepEqual(await change(before.replace('"rounds": null', '"rounds": 9')), { path, changed: true });
  t.is(JSON.parse(await readFile(path, 'utf8')).rounds, 9);
  t.deepEqual(await copies(), []);
});
