/**
 * Names and shapes (OIHW) of a U-Net's parameters as diffusers' UNet2DModel has them: the tests' own derivation, apart from native/unet.
 */
import type { UNetConfig } from '../../src/ddpm/model/unet.ts';

export type NamedShape = { name: string; shape: number[] };

export const parameterTable = (config: UNetConfig): NamedShape[] => {
  const { blockOutChannels: channels, layersPerBlock, attention, inChannels, numClasses } = config;
  const table: NamedShape[] = [];
  const base = channels[0] as number;
  const embedding = 4 * base;
  const add = (name: string, weight: number[], bias = weight[0] as number) =>
    table.push({ name: `${name}.weight`, shape: weight }, { name: `${name}.bias`, shape: [bias] });

  const residual = (name: string, from: number, to: number) => {
    add(`${name}.norm1`, [from]);
    add(`${name}.conv1`, [to, from, 3, 3]);
    add(`${name}.time_emb_proj`, [to, embedding]);
    add(`${name}.norm2`, [to]);
    add(`${name}.conv2`, [to, to, 3, 3]);
    if (from !== to) add(`${name}.conv_shortcut`, [to, from, 1, 1]);
  };
  const attend = (name: string, c: number) => {
    add(`${name}.group_norm`, [c]);
    for (const layer of ['to_q', 'to_k', 'to_v', 'to_out.0']) add(`${name}.${layer}`, [c, c]);
  };

  add('conv_in', [base, inChannels, 3, 3]);
  add('time_embedding.linear_1', [embedding, base]);
  add('time_embedding.linear_2', [embedding, embedding]);
  if (numClasses > 0) table.push({ name: 'class_embedding.weight', shape: [numClasses, embedding] });

  const skips = [base];
  let current = base;
  for (const [level, c] of channels.entries()) {
    for (let layer = 0; layer < layersPerBlock; layer++) {
      residual(`down_blocks.${level}.resnets.${layer}`, current, c);
      if (attention[level]) attend(`down_blocks.${level}.attentions.${layer}`, c);
      current = c;
      skips.push(c);
    }
    if (level < channels.length - 1) {
      add(`down_blocks.${level}.downsamplers.0.conv`, [c, c, 3, 3]);
      skips.push(c);
    }
  }
  residual('mid_block.resnets.0', current, current);
  attend('mid_block.attentions.0', current);
  residual('mid_block.resnets.1', current, current);
  for (const [block, c] of channels.toReversed().entries()) {
    const level = channels.length - 1 - block;
    for (let layer = 0; layer <= layersPerBlock; layer++) {
      residual(`up_blocks.${block}.resnets.${layer}`, current + (skips.pop() as number), c);
      if (attention[level]) attend(`up_blocks.${block}.attentions.${layer}`, c);
      current = c;
    }
    if (level > 0) add(`up_blocks.${block}.upsamplers.0.conv`, [c, c, 3, 3]);
  }
  add('conv_norm_out', [base]);
  add('conv_out', [inChannels, base, 3, 3]);
  return table;
};

export const countParameters = (table: NamedShape[]): number => table.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
