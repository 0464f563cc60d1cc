/**
 * Checkpoints: parameters under diffusers' names and layout, with the configuration beside them.
 *
 * One file (saveCheckpoint): the plain names hold the weights to draw samples with, so that whoever opens the file with other software gets
 * those: the EMA where there is one, and then the raw weights stand beside it as `raw.<name>`. `__metadata__` says which (`weights`: 'ema'
 * or 'raw'), holds diffusers' two configuration files as JSON (`unet_config`, `scheduler_config`), `phoenix`: the version of this
 * layout, `format`: 'pt', and what the caller adds.
 *
 * A folder (saveDiffusers): diffusers' pipeline layout, as its own training script leaves it: raw weights in unet/, EMA in unet_ema/.
 */
import { mkdir, open, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import type { ParameterEntry } from '../../bindings/native.ts';
import type { Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';
import { type UNetConfig, unetConfig, validateUNet } from '../model/unet.ts';
import { type Noise, type NoiseOptions, noise } from '../noise.ts';
import {
  type Dtype,
  ioError,
  openSafetensors,
  quote,
  type SafetensorsFile,
  type StoredTensor,
  showShape,
  type TensorSource,
  writeSafetensors,
} from './safetensors.ts';

/** What a checkpoint is made of. `table` is the Session's, and params and ema are vectors laid out by it. */
export type CheckpointContent = {
  params: Vector;
  ema?: Vector;
  table: ParameterEntry[];
  unet: UNetConfig;
  noise: NoiseOptions;
  /** Further strings to keep with it; the names format, phoenix, weights, unet_config and scheduler_config are taken. */
  metadata?: Record<string, string>;
};

export type Checkpoint = {
  unet: UNetConfig;
  noise: Required<NoiseOptions>;
  /** What the writer added; empty for a diffusers folder. */
  metadata: Record<string, string>;
  /** Whether raw and EMA weights are both there. */
  hasEma: boolean;
  /**
   * Reads the weights into vectors laid out by `table`; `ema` becomes a copy of the raw weights where the checkpoint has no EMA. Names,
   * shapes and types of all tensors are checked before anything in the vectors changes; whether all values are finite is seen last.
   * @throws PhoenixError ERR_PHOENIX_CHECKPOINT when the tensors are not exactly those of `table` (the message lists the first few), or
   * hold NaN or infinities; ERR_PHOENIX_SHAPE when a vector is shorter than the table; ERR_PHOENIX_IO
   */
  load(params: Vector, ema: Vector | undefined, table: ParameterEntry[]): Promise<void>;
};

/** Where one set of weights is: `named` turns a tensor's name in the file into the parameter's, or undefined for another set's. */
type Weights = { file: string; named: (stored: string) => string | undefined };

const version = '1';
const diffusersVersion = '0.31.0';
const rawPrefix = 'raw.';
const takenKeys = ['format', 'phoenix', 'weights', 'unet_config', 'scheduler_config'];
const weightsFile = 'diffusion_pytorch_model.safetensors';
const mostConfigBytes = 1_000_000;

/**
 * Writes one .safetensors file, whole or not at all. Equal content gives equal bytes.
 * @throws PhoenixError ERR_PHOENIX_IO, ERR_PHOENIX_ARGUMENT for a metadata name that is taken, ERR_PHOENIX_CONFIG
 */
export const saveCheckpoint = async (path: string, content: CheckpointContent): Promise<void> => {
  const { params, ema, table, metadata = {} } = content;
  const taken = Object.keys(metadata).find((key) => takenKeys.includes(key));
  if (taken !== undefined)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `metadata may not be called ${taken}: that name is the checkpoint's own`);
  const sources = tensorSources(ema ?? params, table, '');
  if (ema !== undefined) sources.push(...tensorSources(params, table, rawPrefix));
  await writeSafetensors(path, sources, {
    format: 'pt',
    phoenix: version,
    weights: ema === undefined ? 'raw' : 'ema',
    unet_config: JSON.stringify(diffusersUNet(content.unet)),
    scheduler_config: JSON.stringify(diffusersScheduler(content.noise)),
    ...metadata,
  });
};

/**
 * Writes diffusers' DDPMPipeline folder: model_index.json, unet/, scheduler/ and, with an EMA, unet_ema/. In Python,
 * `DDPMPipeline.from_pretrained(folder)` takes the raw weights and `UNet2DModel.from_pretrained(folder, subfolder='unet_ema')` the EMA.
 * Metadata is not kept. The folder appears whole or not at all.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a folder that holds something, ERR_PHOENIX_IO, ERR_PHOENIX_CONFIG
 */
export const saveDiffusers = async (folder: string, content: CheckpointContent): Promise<void> => {
  const unet = diffusersUNet(content.unet);
  const scheduler = diffusersScheduler(content.noise);
  const existing = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw ioError(folder, 'write', error);
  });
  if (existing !== undefined && existing.length > 0)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${folder} exists and is not empty; name a new folder`);

  const target = resolve(folder);
  const temporary = join(dirname(target), `.${basename(target)}.tmp`);
  try {
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    const sets: [string, Vector][] = [['unet', content.params]];
    if (content.ema !== undefined) sets.push(['unet_ema', content.ema]);
    for (const [name, vector] of sets) {
      await mkdir(join(temporary, name));
      await writeJson(join(temporary, name, 'config.json'), unet);
      await writeSafetensors(join(temporary, name, weightsFile), tensorSources(vector, content.table, ''), { format: 'pt' });
    }
    await mkdir(join(temporary, 'scheduler'));
    await writeJson(join(temporary, 'scheduler', 'scheduler_config.json'), scheduler);
    await writeJson(join(temporary, 'model_index.json'), {
      _class_name: 'DDPMPipeline',
      _diffusers_version: diffusersVersion,
      scheduler: ['diffusers', 'DDPMScheduler'],
      unet: ['diffusers', 'UNet2DModel'],
    });
    if (existing !== undefined) await rmdir(target);
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw error instanceof PhoenixError ? error : ioError(folder, 'write', error);
  }
};

const tensorSources = (vector: Vector, table: ParameterEntry[], prefix: string): TensorSource[] =>
  table.map((entry) => ({
    name: prefix + entry.name,
    dtype: 'F32',
    shape: entry.shape,
    bytes: () => vector.exportTensors(entry.count * 4, copyEntry(entry)),
  }));

/** The six numbers of one tensor at the start of a buffer: see NativeVector.importTensors. */
const copyEntry = ({ offset, count, shape }: ParameterEntry): Float64Array => {
  const [k, c, r, s] = shape as [number, number, number, number];
  return shape.length === 4 ? Float64Array.of(offset, count, 0, k, c, r * s) : Float64Array.of(offset, count, 0, count, 1, 1);
};

const writeJson = async (path: string, value: object): Promise<void> => {
  const file = await open(path, 'w');
  try {
    await file.writeFile(`${JSON.stringify(value, null, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
};

/**
 * Reads the configuration of a checkpoint; its weights follow with `load`. `path` is a file that saveCheckpoint wrote or a diffusers folder:
 * the pipeline layout (unet/, scheduler/, perhaps unet_ema/) or config.json and the weights side by side, as on the Hub. Without a
 * scheduler_config.json the schedule is Ho et al.'s. Fields that a diffusers configuration leaves out take diffusers' defaults.
 * @throws PhoenixError ERR_PHOENIX_CHECKPOINT for anything damaged, of a kind that the U-Net here does not have (the message names field
 * and value), or a pickle; ERR_PHOENIX_IO
 */
export const readCheckpoint = async (path: string): Promise<Checkpoint> => {
  const status = await stat(path).catch((error: unknown) => {
    throw ioError(path, 'open', error);
  });
  return status.isDirectory() ? readFolder(path) : readOwnFile(path);
};

const readOwnFile = async (path: string): Promise<Checkpoint> => {
  const file = await openSafetensors(path);
  await file.close();
  const { phoenix, weights, unet_config: unet, scheduler_config: scheduler } = file.metadata;
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
  return checkpoint({
    unet: parseUNet(`${path}: unet_config`, parseJson(`${path}: unet_config`, unet)),
    noise: parseScheduler(`${path}: scheduler_config`, parseJson(`${path}: scheduler_config`, scheduler)),
    metadata: Object.fromEntries(Object.entries(file.metadata).filter(([key]) => !takenKeys.includes(key))),
    params: weights === 'ema' ? raw : plain,
    ema: weights === 'ema' ? beside : undefined,
  });
};

const readFolder = async (folder: string): Promise<Checkpoint> => {
  const pipeline = await exists(join(folder, 'unet', 'config.json'));
  const unetFolder = pipeline ? join(folder, 'unet') : folder;
  if (!pipeline && !(await exists(join(folder, 'config.json')))) {
    throw refused(
      folder,
      "it holds neither config.json nor unet/config.json, so it is not a diffusers model; expected one of diffusers' layouts",
    );
  }
  const configPath = join(unetFolder, 'config.json');
  const schedulerPath = join(folder, pipeline ? 'scheduler' : '', 'scheduler_config.json');
  const emaFolder = join(folder, 'unet_ema');
  const named = (name: string) => name;
  return checkpoint({
    unet: parseUNet(configPath, await readJson(configPath)),
    noise: parseScheduler(schedulerPath, (await exists(schedulerPath)) ? await readJson(schedulerPath) : {}),
    metadata: {},
    params: { file: await findWeights(unetFolder), named },
    ema: pipeline && (await exists(emaFolder)) ? { file: await findWeights(emaFolder), named } : undefined,
  });
};

const findWeights = async (folder: string): Promise<string> => {
  const path = join(folder, weightsFile);
  if (await exists(path)) return path;
  const pickle = join(folder, 'diffusion_pytorch_model.bin');
  if (await exists(pickle)) return pickle;
  if (await exists(`${path}.index.json`))
    throw refused(folder, 'its weights are cut into several files, which is not supported; save them as one (max_shard_size in diffusers)');
  throw refused(folder, `it holds no ${weightsFile}`);
};

type Parts = Pick<Checkpoint, 'unet' | 'noise' | 'metadata'> & { params: Weights; ema: Weights | undefined };

/** Opens the weights once, so that a pickle or a damaged file is refused before a model is built for it. */
const checkpoint = async ({ unet, noise, metadata, params, ema }: Parts): Promise<Checkpoint> => {
  for (const { file } of ema === undefined ? [params] : [params, ema]) await (await openSafetensors(file)).close();
  return {
    unet,
    noise,
    metadata,
    hasEma: ema !== undefined,
    load: async (paramsVector, emaVector, table) => {
      const length = table.reduce((most, entry) => Math.max(most, entry.offset + entry.count), 0);
      for (const vector of [paramsVector, emaVector]) {
        if (vector !== undefined && vector.length < length)
          throw new PhoenixError('ERR_PHOENIX_SHAPE', `the table names ${length} parameters, but the vector has ${vector.length}`);
      }
      const files: SafetensorsFile[] = [];
      try {
        const plans: { file: SafetensorsFile; matches: Match[]; vector: Vector; path: string }[] = [];
        for (const [weights, vector] of [[params, paramsVector] as const, [ema, emaVector] as const]) {
          if (weights === undefined) continue;
          const file = await openSafetensors(weights.file);
          files.push(file);
          const matches = matchTensors(weights, file.tensors, table);
          if (vector !== undefined) plans.push({ file, matches, vector, path: weights.file });
        }
        for (const { file, matches, vector, path } of plans) {
          for (const { tensor, dtype, entry } of matches) {
            await vector.importTensors(await file.readRange(tensor.begin, tensor.end), dtype, copyEntry(entry));
          }
          if (!(await vector.isFinite())) throw refused(path, 'its weights hold NaN or infinite values');
        }
        if (ema === undefined && emaVector !== undefined) await emaVector.copy(paramsVector, 0, length);
      } finally {
        for (const file of files) await file.close();
      }
    },
  };
};

type FloatDtype = Extract<Dtype, 'F64' | 'F32' | 'F16' | 'BF16'>;
type Match = { entry: ParameterEntry; tensor: StoredTensor; dtype: FloatDtype };

const isFloat = (dtype: Dtype): dtype is FloatDtype => ['F64', 'F32', 'F16', 'BF16'].includes(dtype);

/** Each parameter's tensor. @throws PhoenixError ERR_PHOENIX_CHECKPOINT unless the file's tensors are exactly those of the table */
const matchTensors = ({ file, named }: Weights, tensors: Map<string, StoredTensor>, table: ParameterEntry[]): Match[] => {
  const stored = new Map<string, StoredTensor>();
  for (const [name, tensor] of tensors) {
    const parameter = named(name);
    if (parameter !== undefined) stored.set(parameter, tensor);
  }
  const matches: Match[] = [];
  const problems: string[] = [];
  for (const entry of table) {
    const name = stored.has(entry.name) ? entry.name : legacyName(entry.name);
    const tensor = stored.get(name);
    stored.delete(name);
    if (tensor === undefined) problems.push(`${entry.name} ${showShape(entry.shape)} is missing`);
    else if (!fits(tensor.shape, entry))
      problems.push(`${entry.name} is ${showShape(tensor.shape)} in the file and ${showShape(entry.shape)} in the model`);
    else if (!isFloat(tensor.dtype)) problems.push(`${entry.name} is of type ${tensor.dtype}, not a floating-point type`);
    else matches.push({ entry, tensor, dtype: tensor.dtype });
  }
  for (const [name, tensor] of stored) problems.push(`${quote(name)} ${showShape(tensor.shape)} is not in the model`);
  if (problems.length > 0) {
    const more = problems.length > 5 ? `; and ${problems.length - 5} more` : '';
    throw refused(file, `it is of another configuration: ${problems.slice(0, 5).join('; ')}${more}`);
  }
  return matches;
};

/** Attention's older names in diffusers: query, key, value and proj_attn. */
const legacyName = (name: string): string =>
  name.replace(
    /(\.attentions\.\d+\.)(to_q|to_k|to_v|to_out\.0)\./,
    (_, path: string, layer: keyof typeof legacyLayers) => `${path}${legacyLayers[layer]}.`,
  );

const legacyLayers = { to_q: 'query', to_k: 'key', to_v: 'value', 'to_out.0': 'proj_attn' };

/** Equal shapes, or attention's [c,c] stored as a 1x1 convolution [c,c,1,1]. */
const fits = (shape: number[], { name, shape: wanted }: ParameterEntry): boolean => {
  const same = (a: number[], b: number[]) => a.length === b.length && a.every((side, i) => side === b[i]);
  return same(shape, wanted) || (name.includes('.attentions.') && wanted.length === 2 && same(shape, [...wanted, 1, 1]));
};

/** Every field, because diffusers' defaults are not Ho et al.'s. */
const diffusersUNet = (unet: UNetConfig): object => {
  validateUNet(unet);
  return {
    _class_name: 'UNet2DModel',
    _diffusers_version: diffusersVersion,
    act_fn: 'silu',
    add_attention: true,
    attention_head_dim: unet.attentionHeadDim,
    attn_norm_num_groups: null,
    block_out_channels: unet.blockOutChannels,
    center_input_sample: false,
    class_embed_type: null,
    down_block_types: unet.attention.map((attention) => (attention ? 'AttnDownBlock2D' : 'DownBlock2D')),
    downsample_padding: unet.downsamplePadding,
    downsample_type: 'conv',
    dropout: unet.dropout,
    flip_sin_to_cos: unet.flipSinToCos,
    freq_shift: unet.freqShift,
    in_channels: unet.inChannels,
    layers_per_block: unet.layersPerBlock,
    mid_block_scale_factor: 1,
    norm_eps: unet.normEps,
    norm_num_groups: unet.normGroups,
    num_class_embeds: unet.numClasses === 0 ? null : unet.numClasses,
    num_train_timesteps: null,
    out_channels: unet.inChannels,
    resnet_time_scale_shift: 'default',
    sample_size: unet.height === unet.width ? unet.height : [unet.height, unet.width],
    time_embedding_type: 'positional',
    up_block_types: unet.attention.map((attention) => (attention ? 'AttnUpBlock2D' : 'UpBlock2D')).reverse(),
    upsample_type: 'conv',
  };
};

const predictionTypes = { eps: 'epsilon', x0: 'sample', v: 'v_prediction' } as const;

const diffusersScheduler = (options: NoiseOptions): object => {
  const { kind, steps, betaStart, betaEnd, prediction } = noise(options);
  return {
    _class_name: 'DDPMScheduler',
    _diffusers_version: diffusersVersion,
    beta_end: betaEnd,
    beta_schedule: kind === 'linear' ? 'linear' : 'squaredcos_cap_v2',
    beta_start: betaStart,
    clip_sample: true,
    clip_sample_range: 1,
    dynamic_thresholding_ratio: 0.995,
    num_train_timesteps: steps,
    prediction_type: predictionTypes[prediction],
    rescale_betas_zero_snr: false,
    sample_max_value: 1,
    steps_offset: 0,
    thresholding: false,
    timestep_spacing: 'leading',
    trained_betas: null,
    variance_type: 'fixed_large',
  };
};

const count = z.int().min(1).max(1_000_000);

/** What a field may hold here; what is left out takes diffusers' default. Fields that change nothing for this U-Net are not listed. */
const unetFields = z.object({
  _class_name: z.literal('UNet2DModel').default('UNet2DModel'),
  sample_size: z.union([count, z.tuple([count, count])], 'expected the side of the images, or [height, width]: add it to the file'),
  in_channels: count.default(3),
  out_channels: count.default(3),
  center_input_sample: z.literal(false).default(false),
  time_embedding_type: z.literal('positional').default('positional'),
  time_embedding_dim: count.nullable().default(null),
  freq_shift: z.int().default(0),
  flip_sin_to_cos: z.boolean().default(true),
  down_block_types: z
    .array(z.enum(['DownBlock2D', 'AttnDownBlock2D']))
    .default(['DownBlock2D', 'AttnDownBlock2D', 'AttnDownBlock2D', 'AttnDownBlock2D']),
  mid_block_type: z.literal('UNetMidBlock2D').default('UNetMidBlock2D'),
  up_block_types: z.array(z.enum(['UpBlock2D', 'AttnUpBlock2D'])).default(['AttnUpBlock2D', 'AttnUpBlock2D', 'AttnUpBlock2D', 'UpBlock2D']),
  block_out_channels: z.array(count).default([224, 448, 672, 896]),
  layers_per_block: count.default(2),
  mid_block_scale_factor: z.literal(1).default(1),
  downsample_padding: z.int().default(1),
  downsample_type: z.literal('conv').default('conv'),
  upsample_type: z.literal('conv').default('conv'),
  dropout: z.number().default(0),
  act_fn: z.enum(['silu', 'swish']).default('silu'),
  attention_legacy_order: z.literal(false).default(false),
  attention_head_dim: count.nullable().default(8),
  norm_num_groups: count.default(32),
  attn_norm_num_groups: count.nullable().default(null),
  norm_eps: z.number().default(1e-5),
  resnet_time_scale_shift: z.literal('default').default('default'),
  add_attention: z.literal(true).default(true),
  class_embed_type: z.null().default(null),
  num_class_embeds: count.nullable().default(null),
});

const parseUNet = (where: string, json: unknown): UNetConfig => {
  const fields = parseFields(where, unetFields, json);
  const attention = fields.down_block_types.map((type) => type === 'AttnDownBlock2D');
  const attentionUp = fields.up_block_types.map((type) => type === 'AttnUpBlock2D').reverse();
  const refuse = (field: keyof typeof fields, expected: string) => refused(where, `${field} is ${quote(fields[field])}; ${expected}`);
  if (attentionUp.join() !== attention.join())
    throw refuse('up_block_types', `expected attention on the levels of down_block_types (${fields.down_block_types.join(', ')})`);
  if (fields.out_channels !== fields.in_channels)
    throw refuse('out_channels', `expected ${fields.in_channels}, as in_channels: a learned variance is not supported`);
  if (![null, fields.norm_num_groups].includes(fields.attn_norm_num_groups))
    throw refuse('attn_norm_num_groups', `expected null or norm_num_groups (${fields.norm_num_groups})`);
  const embedding = 4 * (fields.block_out_channels[0] ?? 0);
  if (![null, embedding].includes(fields.time_embedding_dim)) throw refuse('time_embedding_dim', `expected null or ${embedding}`);
  const [height, width] = typeof fields.sample_size === 'number' ? [fields.sample_size, fields.sample_size] : fields.sample_size;
  return asCheckpointError(where, () =>
    unetConfig({
      height,
      width,
      inChannels: fields.in_channels,
      blockOutChannels: fields.block_out_channels,
      layersPerBlock: fields.layers_per_block,
      attention,
      attentionHeadDim: fields.attention_head_dim,
      normGroups: fields.norm_num_groups,
      normEps: fields.norm_eps,
      dropout: fields.dropout,
      numClasses: fields.num_class_embeds ?? 0,
      flipSinToCos: fields.flip_sin_to_cos,
      freqShift: fields.freq_shift,
      downsamplePadding: fields.downsample_padding,
    }),
  );
};

/** Schedulers whose noise is given by betas; how they step does not matter here. */
const schedulerClasses = [
  'DDPMScheduler',
  'DDIMScheduler',
  'PNDMScheduler',
  'DEISMultistepScheduler',
  'DPMSolverMultistepScheduler',
  'DPMSolverSinglestepScheduler',
  'UniPCMultistepScheduler',
];

const schedulerFields = z.object({
  _class_name: z.enum(schedulerClasses).default('DDPMScheduler'),
  num_train_timesteps: count.default(1000),
  beta_start: z.number().default(1e-4),
  beta_end: z.number().default(0.02),
  beta_schedule: z.enum(['linear', 'squaredcos_cap_v2']).default('linear'),
  trained_betas: z.null().default(null),
  prediction_type: z.enum(['epsilon', 'sample', 'v_prediction']).default('epsilon'),
  rescale_betas_zero_snr: z.literal(false).default(false),
});

const parseScheduler = (where: string, json: unknown): Required<NoiseOptions> => {
  const fields = parseFields(where, schedulerFields, json);
  const predictions = { epsilon: 'eps', sample: 'x0', v_prediction: 'v' } as const;
  const options: Required<NoiseOptions> = {
    kind: fields.beta_schedule === 'linear' ? 'linear' : 'cosine',
    steps: fields.num_train_timesteps,
    betaStart: fields.beta_start,
    betaEnd: fields.beta_end,
    prediction: predictions[fields.prediction_type],
  };
  asCheckpointError(where, (): Noise => noise(options));
  return options;
};

const parseFields = <Fields extends z.ZodType>(where: string, schema: Fields, json: unknown): z.output<Fields> => {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0] as z.core.$ZodIssue;
  const [field] = issue.path;
  if (field === undefined) throw refused(where, `expected a JSON object: ${issue.message}`);
  throw refused(
    where,
    `${String(field)} is ${quote((json as Record<PropertyKey, unknown>)[field])}, which is not supported. ${issue.message}`,
  );
};

const asCheckpointError = <T>(where: string, make: () => T): T => {
  try {
    return make();
  } catch (error) {
    throw refused(where, (error as Error).message, error);
  }
};

const readJson = async (path: string): Promise<unknown> => {
  try {
    const { size } = await stat(path);
    if (size > mostConfigBytes) throw refused(path, `it has ${size} bytes; a configuration has at most ${mostConfigBytes}`);
    return parseJson(path, await readFile(path, 'utf8'));
  } catch (error) {
    throw error instanceof PhoenixError ? error : ioError(path, 'read', error);
  }
};

const parseJson = (where: string, text: string): unknown => {
  if (text.length > mostConfigBytes)
    throw refused(where, `it has ${text.length} characters; a configuration has at most ${mostConfigBytes}`);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw refused(where, 'it is not JSON', error);
  }
};

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

const refused = (where: string, what: string, cause?: unknown) =>
  new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${where} cannot be used: ${what}`, { cause });
