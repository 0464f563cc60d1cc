/** What a site refuses, and how: data that do not fit, data that have changed, requests that its rules forbid, a second process. */
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { leaveSite } from '../../src/commands/site/leave.ts';
import { siteLog, sitePolicy, siteUnit } from '../../src/commands/site/log.ts';
import { siteStatus } from '../../src/commands/site/status.ts';
import { pixels8 } from '../../src/ddpm/metrics/sources.ts';
import { isFailure } from '../../src/fl/transport.ts';
import type { SiteEvent } from '../../src/net/site-state.ts';
import type { Spec } from '../../src/net/spec.ts';
import { federateTiny, siteRig, tinyFit, tinySpec } from '../support/site-rig.ts';

const isFinish = (round: number) => (event: SiteEvent) => event.type === 'answered' && event.kind === 'finish' && event.round === round;

/** What a site of ten shapes says to a spec that is changed. */
async function problemOf(t: ExecutionContext, change: Partial<Spec>): Promise<{ told: string; messages: string[] }> {
  const rig = await siteRig(t);
  const north = await rig.start({ file: await rig.invite('north'), data: 'synthetic:24' });
  const { sites } = await rig.coordinate(await tinySpec(change), []);
  await sites.until(() => sites.find('north')?.has?.problem !== undefined);
  return { told: sites.find('north')!.has!.problem!, messages: north.messages };
}

test('data or a machine that do not fit the spec: the coordinator learns why, and nothing of the files', async (t) => {
  const spec = await tinySpec();
  const { classNames } = spec.data;
  const renamed = classNames!.map((name) => (name === 'disc' ? 'circle' : name));
  const cases: [Partial<Spec>, RegExp][] = [
    [{ data: { ...spec.data, classNames: renamed } }, /^This site has images of "disc".*rename them/],
    [{ data: { ...spec.data, range: '0,4095' } }, /its images do not fit or cannot be read/],
    [{ parameterCount: spec.parameterCount + 1 }, /has \d+ parameters by its spec, and \d+ here/],
    [{ personal: { patterns: ['conv_out.*'], values: 3 } }, /has 3 personal parameters by its spec/],
    [{ capabilities: ['secagg/1'] }, /needs secagg\/1, which this version/],
    [{ features: { name: 'resnet56', fingerprint: 'a'.repeat(64) } }, /compares images by resnet56 .* give it with features/],
    [{ federation: 'other' }, /of other, but first of lung is to be joined/],
  ];
  for (const [change, expected] of cases) {
    const { told, messages } = await problemOf(t, change);
    t.regex(told, expected);
    t.notRegex(told, /synthetic/);
    if (change.data?.range) t.true(messages.some((text) => /A range is for an image folder, but synthetic:24 holds/.test(text)));
  }
  const pixels = { name: 'pixels8', fingerprint: pixels8.fingerprint };
  const rig = await siteRig(t);
  const north = await rig.start({ file: await rig.invite('north'), data: 'synthetic:24' });
  await rig.coordinate(await tinySpec({ features: pixels, capabilities: ['probe/1'] }), ['north']);
  t.is(north.events.filter(({ type }) => type === 'problem').length, 0);
});

test('a site whose images have changed does not go on, unless it is told to: then it begins anew', async (t) => {
  const rig = await siteRig(t);
  const spec = await tinySpec({ plan: { rounds: 2, compress: 'none', cohort: 2 } });
  const file = await rig.invite('north');
  const first = await rig.start({ file, data: 'synthetic:24' });
  const { transport, sites } = await rig.coordinate(spec, ['north']);
  await federateTiny(transport, spec, 1);
  await first.until(isFinish(1));
  await first.stop();
  const changed = await rig.start({ file: 'north', data: 'synthetic:30' });
  await changed.until(({ type }) => type === 'problem');
  t.true(
    changed.messages.some((text) => /there were 24 and are 30 now.*--data-changed/.test(text)),
    changed.messages.join('\n'),
  );
  t.regex(sites.find('north')?.has?.problem ?? '', /^(?!.*--data).*$/);
  await changed.stop();
  const again = await rig.start({ dataChanged: true });
  await again.until(({ type }) => type === 'joined');
  t.true(again.messages.some((text) => /divided anew/.test(text)));
  await again.stop();
  t.like(JSON.parse(await readFile(join(rig.dirOf('north'), 'runs', 'first', 'data.json'), 'utf8')), {
    images: 30,
    changes: [{ images: 24 }],
  });
  const later = await rig.start({});
  await later.until(({ type }) => type === 'joined');
  t.false(later.messages.some((text) => /divided anew/.test(text)));
});

test('what site.json forbids is refused with its line, also while the site runs; the coordinator hears it', async (t) => {
  const rig = await siteRig(t);
  const spec = await tinySpec();
  const north = await rig.start({ file: await rig.invite('north'), data: 'synthetic:24' });
  const { transport } = await rig.coordinate(spec, ['north']);
  const path = join(rig.dirOf('north'), 'site.json');
  const change = async (policy: object) => writeFile(path, JSON.stringify(policy));
  const ask = async (round: number, kind = 'train', head: object = { fit: tinyFit }) => {
    for await (const outcome of transport.ask(['north'], () => ({ kind, head }), { round })) return outcome;
    throw new Error('no outcome');
  };
  const refusals: [object, RegExp, string?, object?][] = [
    [{ allow: { train: false } }, /^allow\.train: false$/],
    [{ smallestCohort: 3 }, /^smallestCohort: 3$/],
    [{ memoryMegabytes: 0.01 }, /^memoryMegabytes: 0\.01$/],
    [{ megabytesSent: 0.001 }, /^megabytesSent: 0\.001$/, 'upload', { weight: 1, manifest: {} }],
    [{}, /^allow\.samples: false$/, 'samples'],
    [{}, /^allow$/, 'images'],
  ];
  for (const [i, [policy, line, kind, head]] of refusals.entries()) {
    await change(policy);
    const outcome = await ask(i + 1, kind, head);
    t.true(isFailure(outcome));
    t.regex((isFailure(outcome) && outcome.refused) || '', line, JSON.stringify(outcome));
  }
  t.is(north.events.filter(({ type }) => type === 'declined').length, refusals.length);
  await writeFile(path, '{ "alow": {} }');
  const broken = await ask(20);
  t.regex((isFailure(broken) && broken.reason) || '', /rules of this site \(site\.json\) cannot be read/);
  t.true(
    north.messages.some((text) => /alow/.test(text)),
    'what is wrong is said at the site',
  );
  const left = (await siteLog({ home: rig.home })).entries.map(({ kind }) => kind);
  t.deepEqual([...new Set(left)], ['hello'], 'nothing left but what it says of itself');
  await change({ rounds: 1 });
  const personal = await ask(21, 'train', { fit: { ...tinyFit, personal: ['conv_out.*'] } });
  t.regex((isFailure(personal) && personal.reason) || '', /differs from the spec of the run/);
  await federateTiny(transport, spec, 1);
  await north.until(isFinish(1));
  const second = await ask(22);
  t.is((isFailure(second) && second.refused) || '', 'rounds: 1');
});

test('one process at a time, by its name, with its own secrets', async (t) => {
  const rig = await siteRig(t);
  const file = await rig.invite('north');
  const options = { home: rig.home };
  await t.throwsAsync(rig.start({}), { code: 'ERR_PHOENIX_ARGUMENT', message: /There is no site in .* begins with its invitation/ });
  await t.throwsAsync(rig.start({ file }), { code: 'ERR_PHOENIX_ARGUMENT', message: /Where are the images/ });
  await t.throwsAsync(rig.start({ file, data: join(rig.folder, 'nothing') }), { code: 'ERR_PHOENIX_DATA' });
  t.is(rig.enrolments.length, 0, 'the invitation was not used for nothing');
  const north = await rig.start({ file, data: 'synthetic:24' });
  await t.throwsAsync(rig.start({}), { code: 'ERR_PHOENIX_RUN', message: /in use by process/ });
  await t.throwsAsync(leaveSite({ ...options, yes: true }), { code: 'ERR_PHOENIX_RUN' });
  await north.stop();
  await (await rig.start({ file })).stop();
  t.is(rig.enrolments.length, 1, 'an invitation serves once, and is not used again');
  await rig.start({ file: await rig.invite('south'), data: 'synthetic:20' });
  await t.throwsAsync(rig.start({}), { message: /Several sites .* lung\/north, lung\/south/ });
  await t.throwsAsync(rig.start({ file: 'lung' }), { message: /name of several/ });
  await t.throwsAsync(rig.start({ file: 'west' }), { message: /no site "west" .* lung\/north, lung\/south/ });
  await (await rig.start({ file: 'lung/north' })).stop();

  const secret = join(rig.dirOf('north'), 'credentials.json');
  await chmod(secret, 0o644);
  await t.throwsAsync(rig.start({ file: 'north' }), { code: 'ERR_PHOENIX_REFUSED', message: /chmod 600/ });
  await chmod(secret, 0o600);

  const { lines } = await sitePolicy('north', rig.home);
  t.true(lines.some(({ path, value }) => path === 'allow.points' && value === 'false'));
  t.regex(await siteUnit('north', rig.home), /ExecStart="[^"]*" "[^"]*cli\.js" "site" "lung\/north" "--home"/);

  t.false((await leaveSite({ ...options, name: 'north' })).left);
  const left = await leaveSite({ ...options, name: 'north', yes: true });
  t.true(left.left);
  t.is((await siteStatus({ ...options, name: 'north' })).registered, false);
  await t.throwsAsync(rig.start({ file: 'north' }), { code: 'ERR_PHOENIX_ARGUMENT', message: /has no rights yet/ });
  await t.throwsAsync(rig.start({ file }), { code: 'ERR_PHOENIX_REFUSED', message: /used already/ });
  const back = await rig.start({ file: await rig.invite('north') });
  t.is(rig.enrolments.length, 4);
  await back.stop();
});
