/**
 * diffusers' side of a checkpoint: its configuration files, and its pipeline layout as a folder, as its own training script leaves it: raw
 * weights in unet/, EMA in unet_ema/.
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { Vector } from '../../bindings/vector.ts';
import { exists, type JsonRules, makeFolder, readJson, writeWhole, writeWholeFolder } from '../../files.ts';
import { type UNetConfig, unetConfig, validateUNet } from '../model/unet.ts';
import { type Noise, type NoiseOptions, noise } from '../noise.ts';
import { quote, writeSafetensors } from './safetensors.ts';
import { type Checkpoint, type CheckpointContent, checkpoint, refused, tensorSources } from './weights.ts';

const diffusersVersion = '0.31.0';
const weightsFile = 'diffusion_pytorch_model.safetensors';

/** How a configuration that is not JSON is refused. */
export const configRules: JsonRules = {
  code: 'ERR_PHOENIX_CHECKPOINT',
  maxBytes: 1_000_000,
  verdict: 'cannot be used',
  advice: 'Save the model again.',
};

/**
 * Writes diffusers' DDPMPipeline folder: model_index.json, unet/, scheduler/ and, with an EMA, unet_ema/. In Python,
 * `DDPMPipeline.from_pretrained(folder)` takes the raw weights and `UNet2DModel.from_pretrained(folder, subfolder='unet_ema')` the EMA.
 * Metadata is not kept. The folder appears whole or not at all.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a folder that holds something, ERR_PHOENIX_IO, ERR_PHOENIX_CONFIG
 */
export async function saveDiffusers(folder: string, content: CheckpointContent): Promise<void> {
  const unet = diffusersUNet(content.unet);
  const scheduler = diffusersScheduler(content.noise);
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
  });
}

/** Reads a folder of diffusers; see readCheckpoint. */
export async function readDiffusers(folder: string): Promise<Checkpoint> {
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
    unet: parseUNet(configPath, await readJson(configPath, z.unknown(), configRules)),
    noise: parseScheduler(schedulerPath, (await exists(schedulerPath)) ? await readJson(schedulerPath, z.unknown(), configRules) : {}),
    metadata: {},
    params: { file: await findWeights(unetFolder), named },
    ema: pipeline && (await exists(emaFolder)) ? { file: await findWeights(emaFolder), named } : undefined,
  });
}

async function findWeights(folder: string): Promise<string> {
  const path = join(folder, weightsFile);
  if (await exists(path)) return path;
  const pickle = join(folder, 'diffusion_pytorch_model.bin');
  if (await exists(pickle)) return pickle;
  if (await exists(`${path}.index.json`))
    throw refused(folder, 'its weights are cut into several files, which is not supported; save them as one (max_shard_size in diffusers)');
  throw refused(folder, `it holds no ${weightsFile}`);
}

/** Every field, because diffusers' defaults are not Ho et al.'s. */
export function diffusersUNet(unet: UNetConfig): object {
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
}

const predictionTypes = { eps: 'epsilon', x0: 'sample', v: 'v_prediction' } as const;

export function diffusersScheduler(options: NoiseOptions): object {
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
}

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

export function parseUNet(where: string, json: unknown): UNetConfig {
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
}

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

export function parseScheduler(where: string, json: unknown): Required<NoiseOptions> {
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
}

function parseFields<Fields extends z.ZodType>(where: string, schema: Fields, json: unknown): z.output<Fields> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0] as z.core.$ZodIssue;
  const [field] = issue.path;
  if (field === undefined) throw refused(where, `expected a JSON object: ${issue.message}`);
  throw refused(
    where,
    `${String(field)} is ${quote((json as Record<PropertyKey, unknown>)[field])}, which is not supported. ${issue.message}`,
  );
}

function asCheckpointError<T>(where: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw refused(where, (error as Error).message.replace(/\.$/, ''), error);
  }
}
