/**
 * diffusers' side of a checkpoint: its configuration files, and its pipeline layout as a folder, as its own training script leaves it: raw
 * weights in unet/, EMA in unet_ema/.
 */

import { readdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { checkArguments } from '../../arguments.ts';
import type { Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';
import { exists, io, makeFolder, writeWhole, writeWholeFolder } from '../../files.ts';
import type { UNetConfig } from '../model/unet.ts';
import { type NoiseOptions, type NoiseSettings, noise } from '../noise.ts';
import { checkedNames, diffusersVersion, readConfig } from './fields.ts';
import { quote, writeSafetensors } from './safetensors.ts';
import { diffusersScheduler, parseScheduler } from './scheduler-config.ts';
import { diffusersUNet, parseUNet } from './unet-config.ts';
import { type Checkpoint, type CheckpointContent, checkpoint, contentKind, refused, tensorSources } from './weights.ts';

const namesFile = 'class_names.json';
const weightsFile = 'diffusion_pytorch_model.safetensors';

/**
 * Writes diffusers' DDPMPipeline folder: model_index.json, unet/, scheduler/ and, with an EMA, unet_ema/. In Python,
 * `DDPMPipeline.from_pretrained(folder)` takes the raw weights and `UNet2DModel.from_pretrained(folder, subfolder='unet_ema')` the EMA.
 * Names of classes go into class_names.json, which diffusers does not read; metadata is not kept. The folder appears whole or not at all.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a folder that holds something, ERR_PHOENIX_IO, ERR_PHOENIX_CONFIG
 */
export async function saveDiffusers(folder: string, content: CheckpointContent): Promise<void> {
  checkArguments('saveDiffusers', { folder, content }, { folder: 'text', content: contentKind });
  const unet = diffusersUNet(content.unet);
  const scheduler = diffusersScheduler(content.noise);
  const classNames = content.classNames && checkedNames(folder, content.classNames, content.unet.numClasses);
  await writeWholeFolder(folder, async (temporary) => {
    const writeConfig = (value: object, ...path: string[]) => writeWhole(join(temporary, ...path), `${JSON.stringify(value, null, 2)}\n`);
    const sets: [string, Vector][] = [['unet', content.params]];
    if (content.ema !== undefined) sets.push(['unet_ema', content.ema]);
    for (const [name, vector] of sets) {
      await makeFolder(join(temporary, name));
      await writeConfig(unet, name, 'config.json');
      await writeSafetensors(join(temporary, name, weightsFile), tensorSources(vector, content.table, ''), { format: 'pt' });
    }
    await makeFolder(join(temporary, 'scheduler'));
    await writeConfig(scheduler, 'scheduler', 'scheduler_config.json');
    const pipeline = {
      _class_name: 'DDPMPipeline',
      _diffusers_version: diffusersVersion,
      scheduler: ['diffusers', 'DDPMScheduler'],
      unet: ['diffusers', 'UNet2DModel'],
    };
    await writeConfig(pipeline, 'model_index.json');
    if (classNames) await writeConfig(classNames, namesFile);
  });
}

/** Reads a folder of diffusers; see readCheckpoint. */
export async function readDiffusers(folder: string, assumed: NoiseOptions | undefined): Promise<Checkpoint> {
  const pipeline = await exists(join(folder, 'unet', 'config.json'));
  const unetFolder = pipeline ? join(folder, 'unet') : folder;
  if (!pipeline && !(await exists(join(folder, 'config.json')))) {
    throw refused(
      folder,
      "it holds neither config.json nor unet/config.json, so it is not a diffusers model; expected one of diffusers' layouts",
    );
  }
  const around = pipeline ? unetFolder : dirname(resolve(folder));
  await checkPipeline(folder);
  if (!pipeline) await checkPipeline(around);
  const warnings: string[] = [];
  const unet = await readUNet(unetFolder, warnings);
  const emaFolder = join(folder, 'unet_ema');
  const hasEma = pipeline && (await exists(emaFolder));
  if (hasEma) await checkEma(emaFolder, unetFolder, unet);
  const named = (name: string) => name;
  return checkpoint({
    unet,
    noise: await readNoise(folder, around, assumed, warnings),
    classNames: await readNames([folder, around], unet),
    warnings,
    metadata: {},
    params: { file: await findWeights(unetFolder), named },
    ema: hasEma ? { file: await findWeights(emaFolder), named } : undefined,
  });
}

/**
 * A pipeline of diffusers may have more models than the U-Net, such as the autoencoder of a latent one: what the U-Net draws is no image
 * then.
 * @throws PhoenixError ERR_PHOENIX_CHECKPOINT naming them
 */
async function checkPipeline(folder: string): Promise<void> {
  const path = join(folder, 'model_index.json');
  if (!(await exists(path))) return;
  const index = await readConfig(path);
  if (typeof index !== 'object' || index === null || Array.isArray(index)) throw refused(path, 'expected a JSON object');
  const others = Object.entries(index).filter(
    ([name, value]) =>
      !name.startsWith('_') && !['unet', 'scheduler'].includes(name) && Array.isArray(value) && value.some((part) => part !== null),
  );
  if (others.length === 0) return;
  const shown = others.map(([name, value]) => `${quote(name)} (${quote((value as unknown[])[1])})`).join(', ');
  throw refused(path, `the pipeline has ${shown} besides its U-Net and scheduler, and only pipelines of these two are supported`);
}

async function readUNet(folder: string, warnings: string[]): Promise<UNetConfig> {
  const path = join(folder, 'config.json');
  return parseUNet(path, await readConfig(path), warnings);
}

/** @throws PhoenixError ERR_PHOENIX_CHECKPOINT where the averaged weights are of another U-Net */
async function checkEma(emaFolder: string, unetFolder: string, unet: UNetConfig): Promise<void> {
  if (!(await exists(join(emaFolder, 'config.json')))) return;
  const ema = await readUNet(emaFolder, []);
  const differing = (Object.keys(unet) as (keyof UNetConfig)[]).find(
    // Dropout is for training.
    (field) => field !== 'dropout' && !isDeepStrictEqual(unet[field], ema[field]),
  );
  if (differing === undefined) return;
  const found = `${differing} is ${quote(ema[differing])} there and ${quote(unet[differing])} in ${join(unetFolder, 'config.json')}`;
  throw refused(join(emaFolder, 'config.json'), `the averaged weights are of another U-Net: ${found}. Save both again`);
}

const schedulerNames = [join('scheduler', 'scheduler_config.json'), join('scheduler', 'config.json'), 'scheduler_config.json'];

/** The noise schedule: from the folder, or from another one where its file may lie, or as it is said where there is no file. */
async function readNoise(folder: string, other: string, assumed: NoiseOptions | undefined, warnings: string[]): Promise<NoiseSettings> {
  const own = await findScheduler(folder);
  const path = own ?? (await findScheduler(other));
  if (path === undefined) {
    if (assumed === undefined)
      throw refused(
        folder,
        `there is no ${schedulerNames.join(', ')} in it or in ${other}, so its noise schedule and what its network predicts are unknown. Put the file there, or say both (schedule and prediction: --schedule, --prediction)`,
      );
    const { betas: _, alphaBar: __, ...settings } = noise(assumed);
    return settings;
  }
  refuseAssumed(path, assumed);
  if (own === undefined) warnings.push(`The noise schedule of ${folder} is read from ${path}.`);
  return parseScheduler(path, await readConfig(path), warnings);
}

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for a noise schedule that is said although the checkpoint has one */
export function refuseAssumed(path: string, assumed: NoiseOptions | undefined): void {
  if (assumed === undefined) return;
  throw new PhoenixError(
    'ERR_PHOENIX_ARGUMENT',
    `${path} says the noise schedule and what the network predicts: leave schedule and prediction out (--schedule, --prediction).`,
  );
}

async function findScheduler(folder: string): Promise<string | undefined> {
  const found: { path: string; json: unknown }[] = [];
  for (const name of schedulerNames) {
    const path = join(folder, name);
    if (await exists(path)) found.push({ path, json: await readConfig(path) });
  }
  const other = found.find(({ json }) => !isDeepStrictEqual(json, found[0]!.json));
  if (other) throw refused(folder, `${found[0]!.path} and ${other.path} say different things. Remove the one that is not the model's`);
  return found[0]?.path;
}

async function readNames(folders: string[], { numClasses }: UNetConfig): Promise<string[] | undefined> {
  if (numClasses === 0) return undefined;
  for (const folder of folders) {
    const path = join(folder, namesFile);
    if (await exists(path)) return checkedNames(path, await readConfig(path), numClasses);
  }
  return undefined;
}

async function findWeights(folder: string): Promise<string> {
  const path = join(folder, weightsFile);
  if (await exists(path)) return path;
  const pickle = join(folder, 'diffusion_pytorch_model.bin');
  if (await exists(pickle)) return pickle;
  if (await exists(`${path}.index.json`))
    throw refused(folder, 'its weights are cut into several files, which is not supported; save them as one (max_shard_size in diffusers)');
  const variants = (await io(folder, () => readdir(folder), { action: 'read' })).filter((name) =>
    /^diffusion_pytorch_model\..+\.safetensors$/.test(name),
  );
  if (variants.length > 0)
    throw refused(
      folder,
      `it holds no ${weightsFile}, only ${variants.sort().map(quote).join(', ')}: a variant of the weights. Rename the file to ${weightsFile} if these are the weights to use`,
    );
  throw refused(folder, `it holds no ${weightsFile}`);
}
