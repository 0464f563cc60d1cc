/** The weights of a checkpoint: vectors to tensors under the parameters' names, and back. */
import type { Kind } from '../../arguments.ts';
import type { ParameterEntry } from '../../bindings/native.ts';
import type { Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';
import type { UNetConfig } from '../model/unet.ts';
import type { NoiseOptions, NoiseSettings } from '../noise.ts';
import {
  type Dtype,
  openSafetensors,
  quote,
  type SafetensorsFile,
  type StoredTensor,
  showShape,
  type TensorSource,
} from './safetensors.ts';

/** What a checkpoint is made of. `table` is the Session's, and params and ema are vectors laid out by it. */
export type CheckpointContent = {
  params: Vector;
  ema?: Vector;
  table: ParameterEntry[];
  unet: UNetConfig;
  noise: NoiseOptions;
  /** Names of the classes of a class-conditional model, one each. */
  classNames?: string[];
  /** Further strings to keep with it; the names format, phoenix, weights, unet_config, scheduler_config and class_names are taken. */
  metadata?: Record<string, string>;
};

/** The same, as arguments are checked. */
export const contentKind: Kind = { params: 'object', table: 'list', unet: 'object', noise: 'object' };

export type Checkpoint = {
  unet: UNetConfig;
  /** The noise schedule, what the network predicts, and how the model is to be sampled. */
  noise: NoiseSettings;
  /** Names of the classes that the model is conditioned on; absent where its files do not name them, and without classes. */
  classNames?: string[];
  /** What of its files is not honoured, in sentences: unknown fields, and options of samplers that are not here. */
  warnings: string[];
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
export type Weights = { file: string; named: (stored: string) => string | undefined };

/** The tensors of a vector, each under its parameter's name with a prefix. */
export function tensorSources(vector: Vector, table: ParameterEntry[], prefix: string): TensorSource[] {
  return table.map((entry) => ({
    name: prefix + entry.name,
    dtype: 'F32',
    shape: entry.shape,
    bytes: () => vector.exportTensors(entry.count * 4, copyEntry(entry)),
  }));
}

/** The six numbers of one tensor at the start of a buffer: see NativeVector.importTensors. */
function copyEntry({ offset, count, shape }: ParameterEntry): Float64Array {
  const [k, c, r, s] = shape as [number, number, number, number];
  return shape.length === 4 ? Float64Array.of(offset, count, 0, k, c, r * s) : Float64Array.of(offset, count, 0, count, 1, 1);
}

type Parts = Pick<Checkpoint, 'unet' | 'noise' | 'classNames' | 'warnings' | 'metadata'> & { params: Weights; ema: Weights | undefined };

/** Opens the weights once, so that a pickle or a damaged file is refused before a model is built for it. */
export async function checkpoint({ unet, noise, classNames, warnings, metadata, params, ema }: Parts): Promise<Checkpoint> {
  for (const { file } of ema === undefined ? [params] : [params, ema]) await (await openSafetensors(file)).close();
  return {
    unet,
    noise,
    classNames,
    warnings,
    metadata,
    hasEma: ema !== undefined,
    load: async (paramsVector, emaVector, table) => {
      const length = table.reduce((most, entry) => Math.max(most, entry.offset + entry.count), 0);
      for (const vector of [paramsVector, emaVector]) {
        if (vector !== undefined && vector.length < length)
          throw new PhoenixError('ERR_PHOENIX_SHAPE', `The table names ${length} parameters, but the vector has ${vector.length}.`);
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
}

type FloatDtype = Extract<Dtype, 'F64' | 'F32' | 'F16' | 'BF16'>;
type Match = { entry: ParameterEntry; tensor: StoredTensor; dtype: FloatDtype };

const isFloat = (dtype: Dtype): dtype is FloatDtype => ['F64', 'F32', 'F16', 'BF16'].includes(dtype);

/** Each parameter's tensor. @throws PhoenixError ERR_PHOENIX_CHECKPOINT unless the file's tensors are exactly those of the table */
function matchTensors({ file, named }: Weights, tensors: Map<string, StoredTensor>, table: ParameterEntry[]): Match[] {
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
}

/** Attention's older names in diffusers: query, key, value and proj_attn. */
const legacyName = (name: string): string =>
  name.replace(
    /(\.attentions\.\d+\.)(to_q|to_k|to_v|to_out\.0)\./,
    (_, path: string, layer: keyof typeof legacyLayers) => `${path}${legacyLayers[layer]}.`,
  );

const legacyLayers = { to_q: 'query', to_k: 'key', to_v: 'value', 'to_out.0': 'proj_attn' };

/** Equal shapes, or attention's [c,c] stored as a 1x1 convolution [c,c,1,1]. */
function fits(shape: number[], { name, shape: wanted }: ParameterEntry): boolean {
  const same = (a: number[], b: number[]) => a.length === b.length && a.every((side, i) => side === b[i]);
  return same(shape, wanted) || (name.includes('.attentions.') && wanted.length === 2 && same(shape, [...wanted, 1, 1]));
}

/** A checkpoint that cannot be used. `what`: a clause that says why. */
export function refused(where: string, what: string, cause?: unknown): PhoenixError {
  return new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${where} cannot be used: ${what}.`, { cause });
}
