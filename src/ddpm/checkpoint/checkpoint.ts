/**
 * Checkpoints: parameters under diffusers' names and layout, with the configuration in the same file.
 *
 * One file (saveCheckpoint): the plain names hold the weights to draw samples with, so that whoever opens the file with other software gets
 * those: the EMA where there is one, and then the raw weights are stored too, as `raw.<name>`. `__metadata__` says which (`weights`: 'ema'
 * or 'raw'), holds diffusers' two configuration files as JSON (`unet_config`, `scheduler_config`), the names of classes as a JSON list
 * (`class_names`), `phoenix`: the version of this layout, `format`: 'pt', and what the caller adds.
 *
 * A folder: see diffusers.ts.
 */

import { stat } from 'node:fs/promises';
import { checkArguments } from '../../arguments.ts';
import { PhoenixError } from '../../errors.ts';
import { io } from '../../files.ts';
import type { NoiseOptions } from '../noise.ts';
import { readDiffusers, refuseAssumed } from './diffusers.ts';
import { checkedNames, parseConfig } from './fields.ts';
import { openSafetensors, quote, writeSafetensors } from './safetensors.ts';
import { diffusersScheduler, parseScheduler } from './scheduler-config.ts';
import { diffusersUNet, parseUNet } from './unet-config.ts';
import { type Checkpoint, type CheckpointContent, checkpoint, contentKind, refused, tensorSources, type Weights } from './weights.ts';

export type { Checkpoint, CheckpointContent } from './weights.ts';

const version = '1';
const rawPrefix = 'raw.';
const takenKeys = ['format', 'phoenix', 'weights', 'unet_config', 'scheduler_config', 'class_names'];

/**
 * Writes one .safetensors file, whole or not at all. Equal content gives equal bytes.
 * @throws PhoenixError ERR_PHOENIX_IO, ERR_PHOENIX_ARGUMENT for a metadata name that is taken, ERR_PHOENIX_CONFIG
 */
export async function saveCheckpoint(path: string, content: CheckpointContent): Promise<void> {
  checkArguments('saveCheckpoint', { path, content }, { path: 'text', content: contentKind });
  const { params, ema, table, metadata = {} } = content;
  const taken = Object.keys(metadata).find((key) => takenKeys.includes(key));
  if (taken !== undefined)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Metadata may not be called ${taken}: that name is the checkpoint's own.`);
  const sources = tensorSources(ema ?? params, table, '');
  if (ema !== undefined) sources.push(...tensorSources(params, table, rawPrefix));
  await writeSafetensors(path, sources, {
    format: 'pt',
    phoenix: version,
    weights: ema === undefined ? 'raw' : 'ema',
    unet_config: JSON.stringify(diffusersUNet(content.unet)),
    scheduler_config: JSON.stringify(diffusersScheduler(content.noise)),
    ...(content.classNames && { class_names: JSON.stringify(checkedNames(path, content.classNames, content.unet.numClasses)) }),
    ...metadata,
  });
}

export type ReadOptions = {
  /** The noise schedule and what the network predicts, of a diffusers folder without a scheduler_config.json. */
  noise?: NoiseOptions;
};

/**
 * Reads the configuration of a checkpoint; its weights follow with `load`. `path` is a file that saveCheckpoint wrote or a diffusers
 * folder: the pipeline layout (unet/, scheduler/, perhaps unet_ema/), config.json and the weights side by side, as on the Hub, or the unet/
 * of a pipeline. Fields that a diffusers configuration leaves out take diffusers' defaults.
 * @throws PhoenixError ERR_PHOENIX_CHECKPOINT for anything damaged, of a kind that the U-Net or the samplers here do not have (the message
 * names field and value), a pickle, or a folder without a scheduler_config.json; ERR_PHOENIX_ARGUMENT for `noise` of a checkpoint that says
 * it itself; ERR_PHOENIX_IO
 */
export async function readCheckpoint(path: string, options: ReadOptions = {}): Promise<Checkpoint> {
  checkArguments('loadCheckpoint', { path, options }, { path: 'text', options: 'object' });
  const status = await io(path, () => stat(path), { action: 'read' });
  if (status.isDirectory()) return readDiffusers(path, options.noise);
  const own = await readOwnFile(path);
  refuseAssumed(path, options.noise);
  return own;
}

async function readOwnFile(path: string): Promise<Checkpoint> {
  const file = await openSafetensors(path);
  await file.close();
  const { phoenix, weights, unet_config: unet, scheduler_config: scheduler, class_names: names } = file.metadata;
  if (unet === undefined || scheduler === undefined) {
    throw refused(
      path,
      'its metadata holds no configuration (unet_config, scheduler_config). For a file of diffusers, give the folder that holds its config.json',
    );
  }
  if (phoenix !== version) throw refused(path, `it has layout ${quote(phoenix)}, and this version reads layout ${version}`);
  if (weights !== 'ema' && weights !== 'raw') throw refused(path, `its metadata says weights: ${quote(weights)}; expected ema or raw`);
  const plain: Weights = { file: path, named: (name) => name };
  const beside: Weights = { file: path, named: (name) => (name.startsWith(rawPrefix) ? undefined : name) };
  const raw: Weights = { file: path, named: (name) => (name.startsWith(rawPrefix) ? name.slice(rawPrefix.length) : undefined) };
  const warnings: string[] = [];
  const [unetName, schedulerName] = [`${path}: unet_config`, `${path}: scheduler_config`];
  const config = parseUNet(unetName, parseConfig(unetName, unet), warnings);
  const namesName = `${path}: class_names`;
  return checkpoint({
    unet: config,
    classNames: names === undefined ? undefined : checkedNames(namesName, parseConfig(namesName, names), config.numClasses),
    noise: parseScheduler(schedulerName, parseConfig(schedulerName, scheduler), warnings),
    warnings,
    metadata: Object.fromEntries(Object.entries(file.metadata).filter(([key]) => !takenKeys.includes(key))),
    params: weights === 'ema' ? raw : plain,
    ema: weights === 'ema' ? beside : undefined,
  });
}
