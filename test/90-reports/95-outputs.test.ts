/** Work is lost or files are destroyed at writing: outputs are looked at before the work, and nothing but plain files is replaced. */
import { execFileSync } from 'node:child_process';
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { fittingGrid, imageGrid } from '../../src/commands/image-grid.ts';
import { parseOptions } from '../../src/commands/options/index.ts';
import { writeSafetensors } from '../../src/ddpm/checkpoint/safetensors.ts';
import { PhoenixError, type PhoenixErrorCode } from '../../src/errors.ts';
import { writeWhole, writeWholeFolder } from '../../src/files.ts';
import { createSession, federate, finetune, sample, saveCheckpoint, train, unetConfig, unetModel, writeReport } from '../../src/index.ts';
import { checkOutput, formats } from '../../src/outputs.ts';
import { openRun } from '../../src/run/folder.ts';
import { startRun } from '../../src/run/start.ts';
import { fakeConfig, fakeRun } from '../support/fake-run.ts';

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-outputs-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function refused(t: ExecutionContext, code: PhoenixErrorCode, message: RegExp, work: () => Promise<unknown> | unknown) {
  const error = await t.throwsAsync<PhoenixError>(async () => work(), { instanceOf: PhoenixError });
  t.is(error?.code, code, error?.message);
  t.regex(error?.message ?? '', message);
}

const tiny = { data: 'synthetic:24', size: 8, seed: 1, samples: { count: 4, steps: 2 }, threads: 1, training: { batch: 8 } } as const;

/** A run of one round, made once. */
let made: Promise<string> | undefined;
function model(): Promise<string> {
  made ??= (async () => {
    const out = join(await mkdtemp(join(tmpdir(), 'phoenix-outputs-model-')), 'run');
    await federate({ ...tiny, clients: 2, rounds: 1, out });
    return out;
  })();
  return made;
}
test.after.always(async () => {
  if (made) await rm(join(await made, '..'), { recursive: true, force: true });
});

test('W1: an output into a missing folder, onto a folder or into a full name is refused before anything is trained or drawn', async (t) => {
  const dir = await temporary(t);
  const source = await model();
  const steps: number[] = [];
  const onStep = ({ step }: { step: number }) => void steps.push(step);
  const missing = join(dir, 'missing', 'x.safetensors');
  const fine = { source, data: 'synthetic:20', threads: 1 };
  await refused(t, 'ERR_PHOENIX_IO', /no folder .*missing/, () => finetune({ ...fine, checkpoint: missing }, { onStep }));
  await mkdir(join(dir, 'folder.safetensors'));
  await refused(t, 'ERR_PHOENIX_IO', /it is a folder/, () =>
    finetune({ ...fine, checkpoint: join(dir, 'folder.safetensors') }, { onStep }),
  );
  t.deepEqual(steps, []);
  let drawn = 0;
  const onProgress = () => void drawn++;
  for (const grid of [join(dir, 'missing', 'x.png'), join(dir, 'folder.safetensors', 'deeper', 'x.png'), '~/x.png'])
    await refused(t, 'ERR_PHOENIX_IO', /no folder/, () => sample({ source, n: 2, steps: 2, threads: 1, grid }, { onProgress }));
  await writeFile(join(dir, 'file'), '');
  await refused(t, 'ERR_PHOENIX_IO', /ENOTDIR/, () => sample({ source, grid: join(dir, 'file', 'x.png') }, { onProgress }));
  t.is(drawn, 0);
});

test('W2: a grid that would be too long is wrapped, and one that fits nowhere is refused before the work', async (t) => {
  const sizes = { height: 16, width: 16, channels: 3 };
  t.deepEqual(fittingGrid({ ...sizes, count: 64 }), { columns: 8, scale: 3 });
  t.deepEqual(fittingGrid({ ...sizes, count: 40 }, 10), { columns: 10, scale: 3 });
  // 1400 images of two classes would be 700 rows: whole pairs of columns lie side by side.
  const { columns, scale } = fittingGrid({ ...sizes, count: 1400 }, 2);
  t.deepEqual({ columns, scale }, { columns: 4, scale: 3 });
  t.is(fittingGrid({ height: 32, width: 32, channels: 3, count: 10_000 }, 10).columns % 10, 0);
  const pixels = new Uint8Array(1400 * 16 * 16 * 3);
  const png = await imageGrid({ pixels, count: 1400, height: 16, width: 16, channels: 3 }, { columns, scale });
  t.is(png.readUInt32BE(16), (4 * 17 + 1) * 3);
  t.throws(() => fittingGrid({ height: 1024, width: 1024, channels: 3, count: 4096 }), {
    code: 'ERR_PHOENIX_SHAPE',
    message: /fewer images\.$/,
  });
  t.throws(() => fittingGrid({ ...sizes, channels: 2, count: 4 }), { code: 'ERR_PHOENIX_SHAPE', message: /2 channels/ });

  const dir = await temporary(t);
  let steps = 0;
  const events = { onStep: () => void steps++ };
  const pictures = { pixels: new Uint8Array(2 * 1024 * 1024), count: 2, height: 1024, width: 1024, channels: 1 } as const;
  const data = { ...pictures, name: 'pictures', fingerprint: 'f00d', classNames: [] };
  const big = { ...tiny, data, size: undefined, samples: { count: 4096, steps: 1 } };
  const code = 'ERR_PHOENIX_SHAPE';
  await refused(t, code, /do not fit/, () => federate({ ...big, clients: 2, rounds: 1, out: join(dir, 'a') }, events));
  await refused(t, code, /do not fit/, () => train({ ...big, epochs: 1, out: join(dir, 'b') }, events));
  let drawn = 0;
  const onProgress = () => void drawn++;
  // A model of two channels: no picture can show what it draws.
  const unet = unetConfig({
    ...{ height: 8, width: 8, inChannels: 2, blockOutChannels: [8], layersPerBlock: 1, attention: [false], normGroups: 4, dropout: 0 },
  });
  const session = createSession({ model: unetModel(unet), threads: 1 });
  const source = join(await temporary(t), 'two.safetensors');
  await session.init(1n);
  await saveCheckpoint(source, { params: session.params, table: session.parameters, unet, noise: {} });
  session.dispose();
  await refused(t, code, /2 channels/, () => sample({ source, n: 4, steps: 1, grid: join(dir, 'x.png') }, { onProgress }));
  t.deepEqual([steps, drawn], [0, 0]);
  t.deepEqual(await readdir(dir), []);
});

test('W3: a name whose ending says another format is refused', async (t) => {
  const source = await model();
  const dir = await temporary(t);
  for (const checkpoint of ['model.pt', 'model', '-', 'x.ckpt'])
    await refused(t, 'ERR_PHOENIX_ARGUMENT', /ends in \.safetensors/, () => finetune({ source, data: 'synthetic:20', checkpoint }));
  for (const grid of ['out.jpg', 'out', '-', '/dev/stdout'])
    await refused(t, 'ERR_PHOENIX_ARGUMENT', /option grid must be .*ends in \.png/, () => sample({ source, grid }));
  t.is(parseOptions('sample', { source, grid: 'A.PNG' }).grid, 'A.PNG');
  await refused(t, 'ERR_PHOENIX_ARGUMENT', /ends in \.html/, () => writeReport(source, join(dir, 'page.pdf')));
  for (const name of ['x.pt', 'x.bin', 'x.CKPT'])
    await refused(t, 'ERR_PHOENIX_ARGUMENT', /pickles/, () => writeSafetensors(join(dir, name), []));
  t.deepEqual(await readdir(dir), []);
});

test('W4: links are followed; what is no plain file, of another kind, or of a run is not replaced', async (t) => {
  const dir = await temporary(t);
  const at = (name: string) => join(dir, name);
  const png = await imageGrid({ pixels: new Uint8Array(3), count: 1, height: 1, width: 1, channels: 3 });

  // Links, also to nothing yet, and in a chain.
  await writeFile(at('kept.png'), png);
  await symlink('kept.png', at('link.png'));
  await symlink('link.png', at('chain.png'));
  await mkdir(at('deep'));
  await symlink('../deep/new.png', at('deep/dangling.png'));
  for (const name of ['chain.png', 'deep/dangling.png']) {
    await checkOutput(at(name), formats.png);
    await writeWhole(at(name), 'new');
    t.true((await lstat(at(name))).isSymbolicLink(), name);
  }
  t.is(await readFile(at('kept.png'), 'utf8'), 'new');
  t.is(await readFile(at('deep/new.png'), 'utf8'), 'new');

  // Whatever is no plain file.
  execFileSync('mkfifo', [at('pipe.png')]);
  const server = createServer().listen(at('socket.png'));
  t.teardown(() => server.close());
  await symlink('/dev/null', at('device.png'));
  await symlink('loop.png', at('loop.png'));
  for (const [name, what] of [
    ['pipe.png', /pipe/],
    ['socket.png', /socket/],
    ['device.png', /device/],
    ['deep', /folder/],
  ] as const)
    for (const work of [
      () => writeWhole(at(name), 'x'),
      () => checkOutput(at(name === 'deep' ? 'deep/../deep' : name), { ...formats.png, endings: ['.png', ''] }),
    ])
      await refused(t, 'ERR_PHOENIX_IO', what, work);
  await refused(t, 'ERR_PHOENIX_IO', /ELOOP/, () => writeWhole(at('loop.png'), 'x'));
  t.true((await stat(at('pipe.png'))).isFIFO());
  t.true((await stat('/dev/null')).isCharacterDevice());

  // A file of another kind, and files of runs.
  await writeFile(at('letter.png'), 'dear all');
  await writeFile(at('empty.png'), '');
  await refused(t, 'ERR_PHOENIX_ARGUMENT', /is no PNG image: it would be lost/, () => checkOutput(at('letter.png'), formats.png));
  await checkOutput(at('empty.png'), formats.png);
  await fakeRun(at('run'), { rounds: 2 });
  for (const name of ['run/samples-2.png', 'run/mine.png', 'run/store/x.png'])
    await refused(t, 'ERR_PHOENIX_ARGUMENT', /whose files belong to the run/, () => checkOutput(at(name), formats.png));
  await symlink('run/samples-2.png', at('into.png'));
  await refused(t, 'ERR_PHOENIX_ARGUMENT', /belong to the run/, () => checkOutput(at('into.png'), formats.png));

  // A name of one's own for what is not done yet: nobody's file is lost, and writers do not meet.
  await writeFile(at('y.png.tmp'), 'mine');
  await mkdir(at('.z.tmp'));
  await writeFile(at('.z.tmp/thesis'), 'mine');
  await writeWhole(at('y.png'), 'new');
  await writeWholeFolder(at('z'), (folder) => writeFile(join(folder, 'x'), 'x'));
  t.is(await readFile(at('y.png.tmp'), 'utf8'), 'mine');
  t.is(await readFile(at('.z.tmp/thesis'), 'utf8'), 'mine');
  await Promise.all(Array.from({ length: 40 }, (_, i) => writeWhole(at('same.png'), `${i % 4}`.repeat(1000))));
  t.regex(await readFile(at('same.png'), 'utf8'), /^(.)\1{999}$/);
  t.deepEqual((await readdir(dir)).filter((name) => name.endsWith('.tmp')).sort(), ['.z.tmp', 'y.png.tmp']);
});

test('N32: a file that is written again keeps who may read it; one that may not be written is refused', async (t) => {
  const dir = await temporary(t);
  const path = join(dir, 'x.html');
  await writeFile(path, '<!doctype html>');
  await chmod(path, 0o600);
  await writeWhole(path, '<!doctype html>new');
  t.is((await stat(path)).mode & 0o777, 0o600);
  await checkOutput(path, formats.html);
  if (process.getuid?.() === 0) return t.log('SKIPPED in part: root may write every file');
  await chmod(path, 0o400);
  await refused(t, 'ERR_PHOENIX_IO', /permission denied/, () => checkOutput(path, formats.html));
  await chmod(dir, 0o500);
  await refused(t, 'ERR_PHOENIX_IO', /permission denied/, () => checkOutput(join(dir, 'y.html'), formats.html));
  await chmod(dir, 0o700);
});

test('N33: the run folder is looked at before the data is read', async (t) => {
  const dir = await temporary(t);
  await writeFile(join(dir, 'file'), 'mine');
  // The data is not there: were it read first, that would be the error.
  const data = join(dir, 'no-data');
  for (const out of [join(dir, 'file'), join(dir, 'file', 'run')])
    for (const work of [() => federate({ data, out }), () => train({ data, out })])
      await refused(t, 'ERR_PHOENIX_RUN', /is a file, and a run needs a folder/, work);
  await mkdir(join(dir, 'full'));
  await writeFile(join(dir, 'full', 'thesis'), '');
  await refused(t, 'ERR_PHOENIX_RUN', /not empty/, () => federate({ data, out: join(dir, 'full') }));
});

test('N34: a rename whose answer was lost counts, and a file system without fsync is no failure', async (t) => {
  const dir = await temporary(t);
  const path = join(dir, 'x');
  // As a file server that has renamed and is asked again: the draft is gone, and its content is in place.
  const { draft } = await import('../../src/files.ts');
  const publish = await draft(path, 'new');
  const [name] = await readdir(dir);
  execFileSync('mv', [join(dir, name!), path]);
  await publish();
  t.is(await readFile(path, 'utf8'), 'new');
  // The draft is lost indeed.
  const second = await draft(path, 'newer');
  const draftName = (await readdir(dir)).find((entry) => entry !== 'x')!;
  await rm(join(dir, draftName));
  await t.throwsAsync(second, { code: 'ENOENT' });
  t.is(await readFile(path, 'utf8'), 'new');
});

test('W5: a log that was only reformatted is restored, and one that was changed is refused', async (t) => {
  const base = await temporary(t);
  const whole = join(base, 'whole');
  await fakeRun(whole, { rounds: 3 });
  const committed = await readFile(join(whole, 'log.jsonl'), 'utf8');
  const warnings: string[] = [];
  const resume = async (dir: string) => {
    const run = await startRun(dir, fakeConfig, { resume: true, keep: 2, initial: null, mayChange: ['options.rounds', 'options.threads'] });
    warnings.push(...run.warnings);
    await run.close();
  };
  const lines = committed.split('\n');
  const harmless = [
    committed.replaceAll('\n', '\r\n'),
    `\ufeff${committed}`,
    committed.replace('"round":2', ' "round": 2 '),
    `${lines[0]}\n\n${lines.slice(1).join('\n')}\n\n`,
    committed.trimEnd(),
    `${committed.replaceAll('\n', '\r\n')}{"kind":"round","round":4,"lo`,
  ];
  for (const [i, text] of harmless.entries()) {
    const path = join(whole, 'log.jsonl');
    await writeFile(path, text);
    await resume(whole);
    t.is(await readFile(path, 'utf8'), committed, `case ${i}`);
    t.regex(warnings.at(-1) ?? '', /log\.jsonl had other line ends or blanks/);
  }
  t.is(warnings.length, harmless.length);

  const loss = /"loss":-?0\.(\d)/.exec(committed)!;
  const other = loss[0].replace(/\d$/, String((Number(loss[1]) + 1) % 10));
  for (const text of [committed.replace(loss[0], other), committed.replace(`${lines[1]}\n`, ''), committed.slice(0, -20), '']) {
    await writeFile(join(whole, 'log.jsonl'), text);
    await refused(t, 'ERR_PHOENIX_RUN', /log\.jsonl is damaged.*Restore it/, () => resume(whole));
    t.is(await readFile(join(whole, 'log.jsonl'), 'utf8'), text);
  }
  // A run of an earlier version, without a hash: the cut must at least be behind a line.
  await writeFile(join(whole, 'log.jsonl'), committed);
  const path = join(whole, 'state.json');
  const { logSha256: _, ...old } = JSON.parse(await readFile(path, 'utf8'));
  await writeFile(path, JSON.stringify(old));
  await resume(whole);
  await writeFile(join(whole, 'log.jsonl'), committed.replaceAll('\n', '\r\n'));
  await refused(t, 'ERR_PHOENIX_RUN', /log\.jsonl is damaged/, () => resume(whole));
});

test('N35: a report reads a log that was reformatted, and says of one that was changed that it was', async (t) => {
  const base = await temporary(t);
  const dir = join(base, 'run');
  await federate({ ...tiny, clients: 2, rounds: 1, out: dir });
  const path = join(dir, 'log.jsonl');
  const committed = await readFile(path, 'utf8');
  const remark = /The log is not the one that was committed/;
  const pageOf = async (text: string) => {
    await writeFile(path, text);
    return readFile(await writeReport(dir, join(base, 'page.html')), 'utf8');
  };
  t.notRegex(await pageOf(committed), remark);
  t.notRegex(await pageOf(`\ufeff${committed.replaceAll('\n', '\r\n\r\n')}`), remark);
  const changed = committed.replace(/"bytesUp":\d/, (found) => `${found.slice(0, -1)}${found.endsWith('9') ? 8 : 9}`);
  t.not(changed, committed);
  t.regex(await pageOf(changed), remark);
  t.is((await openRun(dir)).log.bytes, Buffer.byteLength(committed));
});
