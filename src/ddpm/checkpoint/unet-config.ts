/** The U-Net's configuration in diffusers' fields: config.json. */
import { z } from 'zod';
import { type UNetConfig, unetConfig, validateUNet } from '../model/unet.ts';
import { asCheckpointError, count, diffusersVersion, parseFields, warnOfUnknown } from './fields.ts';
import { quote } from './safetensors.ts';
import { refused } from './weights.ts';

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

/** What a field may hold here; what is left out takes diffusers' default. */
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

/** Fields that change nothing here: of time embeddings that are learned, and of the EMA that made the weights. */
const idleFields = [
  'num_train_timesteps',
  'decay',
  'min_decay',
  'optimization_step',
  'update_after_step',
  'use_ema_warmup',
  'inv_gamma',
  'power',
];

/** diffusers' fields as a configuration. Fields that are not known here are named in `warnings`. */
export function parseUNet(where: string, json: unknown, warnings: string[]): UNetConfig {
  const fields = parseFields(where, unetFields, json);
  warnOfUnknown(where, json, [...Object.keys(unetFields.shape), ...idleFields], warnings);
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
