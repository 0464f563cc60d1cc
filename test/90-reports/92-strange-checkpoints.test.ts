// What stands in the place of a checkpoint and is none is named for what it is, and nothing is waited for.
import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { readCheckpoint } from '../../src/ddpm/checkpoint/checkpoint.ts';
import { saveDiffusers } from '../../src/ddpm/checkpoint/diffusers.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { createSession } from '../../src/ddpm/session.ts';

const unet = unetConfig({
  ...{ height: 8, width: 8, inChannels: 3, blockOutChannels: [16], layersPerBlock: 1, attention: [false], normGroups: 8 },
});
const refused = (message: RegExp) => ({ code: 'ERR_PHOENIX_CHECKPOINT', message });

async function temporary(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-strange-'));
  t.teardown(() => rm(folder, { recursive: true }));
  return folder;
}

async function modelIn(root: string): Promise<{ folder: string; weights: string; config: string; scheduler: string }> {
  using session = createSession({ model: unetModel(unet), device: 'cpu', threads: 1 });
  const folder = join(root, 'model');
  await saveDiffusers(folder, { params: session.params, table: session.parameters, unet, noise: {} });
  const weights = join(folder, 'unet', 'diffusion_pytorch_model.safetensors');
  return { folder, weights, config: join(folder, 'unet', 'config.json'), scheduler: join(folder, 'scheduler', 'scheduler_config.json') };
}

const pointer = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n';

test('N15: files that are no safetensors are named for what they are', async (t) => {
  const root = await temporary(t);
  const { folder, weights } = await modelIn(root);
  const long = ' '.repeat(300);
  const cases: [string | Buffer, RegExp][] = [
    [pointer, /no safetensors file: it is a Git LFS pointer.*git lfs pull/],
    [`<!DOCTYPE html><html>${long}`, /a web page \(HTML\)/],
    [Buffer.from(`PK\x03\x04 model.safetensors ${long}`), /a zip archive/],
    [Buffer.from(`PK\x03\x04${' '.repeat(26)}archive/data.pkl${long}`), /a Python pickle.*safe_serialization/],
    [Buffer.concat([Buffer.of(0x80, 2), Buffer.from(`}q\x00.${long}`)]), /a Python pickle/],
    [Buffer.concat([Buffer.of(0x1f, 0x8b), Buffer.from(long)]), /it is gzipped/],
    [Buffer.concat([Buffer.from('\x89HDF\r\n\x1a\n', 'latin1'), Buffer.from(long)]), /an HDF5 file/],
    ['{"schema": 1, "round": 3}', /it is JSON\. Name the folder that holds it/],
    ['\ufeff{"schema": 1, "round": 3}', /it is JSON/],
  ];
  for (const [content, message] of cases) {
    for (const [path, source] of [
      [join(root, 'own.safetensors'), join(root, 'own.safetensors')],
      [weights, folder],
    ] as const) {
      await writeFile(path, content);
      await t.throwsAsync(readCheckpoint(source), refused(message), String(message));
    }
  }
  await rename(weights, weights.replace('.safetensors', '.fp16.safetensors'));
  await t.throwsAsync(readCheckpoint(folder), refused(/only "diffusion_pytorch_model\.fp16\.safetensors": a variant.*Rename the file/));
});

test('N15: configurations with a mark of byte order are read; pointers, web pages and UTF-16 are named', async (t) => {
  const { folder, config, scheduler } = await modelIn(await temporary(t));
  for (const path of [config, scheduler]) {
    const text = await readFile(path, 'utf8');
    await writeFile(path, `\ufeff${text}`);
    t.is((await readCheckpoint(folder)).noise.prediction, 'eps');
    for (const [content, message] of [
      [pointer, /config\.json cannot be used: it is a Git LFS pointer.*git lfs pull\.$/],
      ['<html>not found</html>', /it is a web page/],
      [Buffer.from(`\ufeff${text}`, 'utf16le'), /it is UTF-16 text\. Save it as UTF-8/],
      ['', /it is empty/],
    ] as const) {
      await writeFile(path, content);
      await t.throwsAsync(readCheckpoint(folder), refused(message), String(message));
    }
    await writeFile(path, text);
  }
});

test('N14: a pipeline with more models than the U-Net is refused by their names', async (t) => {
  const { folder } = await modelIn(await temporary(t));
  const path = join(folder, 'model_index.json');
  const index = JSON.parse(await readFile(path, 'utf8'));
  await writeFile(path, JSON.stringify({ ...index, safety_checker: [null, null] }));
  await t.notThrowsAsync(readCheckpoint(folder));
  await writeFile(path, JSON.stringify({ ...index, _class_name: 'LDMPipeline', vqvae: ['diffusers', 'VQModel'] }));
  for (const source of [folder, join(folder, 'unet')])
    await t.throwsAsync(readCheckpoint(source), refused(/the pipeline has "vqvae" \("VQModel"\) besides its U-Net and scheduler/));
  await writeFile(path, '[]');
  await t.throwsAsync(readCheckpoint(folder), refused(/expected a JSON object/));
});

test('N16: a pipe in place of weights or of a configuration is refused, not waited for', async (t) => {
  const { folder, weights, config } = await modelIn(await temporary(t));
  const own = join(folder, 'own.safetensors');
  execFileSync('mkfifo', [own]);
  await t.throwsAsync(readCheckpoint(own), refused(/not a regular file/));
  for (const path of [weights, config]) {
    await rm(path);
    execFileSync('mkfifo', [path]);
    await t.throwsAsync(readCheckpoint(folder), refused(/not a regular file/));
  }
});
