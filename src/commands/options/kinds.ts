/** The types that options have: numbers in a range, choices, texts with a grammar of their own, objects that only a program can give. */
import { z } from 'zod';
import { parseRange, RANGE } from '../../ddpm/data/range.ts';
import type { Dataset } from '../../ddpm/data/types.ts';
import type { FeatureSource } from '../../ddpm/metrics/sources.ts';
import { parsePartition } from '../../fl/partition/index.ts';
import { parsePersonal } from '../../fl/site/personal.ts';
import { parseThreshold } from '../../fl/strategies/filter.ts';
import { strategies } from '../../fl/strategies/index.ts';
import type { Strategy } from '../../fl/strategy.ts';
import { parseCompression } from '../../fl/wire/codec.ts';
import { endsAs, type Format } from '../../outputs.ts';

/** A type of option: how it is checked and what a help text calls it. Numbers may come as text, as a command line gives them. */
export type Kind<T> = {
  schema: z.ZodType<T>;
  /** What is valid, to complete "must be …". */
  valid: string;
  /** What stands for the value in a help text; absent for a flag. */
  placeholder?: string;
  choices?: readonly string[];
  /** Whether a refusal has a message of its own, that names what is valid. */
  explains?: true;
};

const fromText = (value: unknown) => (typeof value === 'string' && value.trim() !== '' ? Number(value) : value);

/** The limits of a number, as its schema says them. */
type Limits = { type?: string; minimum?: number; maximum?: number; exclusiveMinimum?: number; exclusiveMaximum?: number };

/** Says in words what a schema of a number takes. */
function describeNumber(schema: z.ZodNumber): string {
  const { type, minimum, maximum, exclusiveMinimum, exclusiveMaximum } = z.toJSONSchema(schema) as Limits;
  const what = type === 'integer' ? 'a whole number' : 'a number';
  const most = maximum === undefined || maximum === Number.MAX_SAFE_INTEGER ? undefined : maximum;
  if (exclusiveMinimum !== undefined) return `${what} above ${exclusiveMinimum}${most === undefined ? '' : `, at most ${most}`}`;
  if (exclusiveMaximum !== undefined) return `${what} in [${minimum}, ${exclusiveMaximum})`;
  return most === undefined ? `${what} ≥ ${minimum}` : `${what} in ${minimum}..${most}`;
}

/** A number within the limits of a schema. The schema is the one place where they stand: here, or where the number is used. */
export function numeric(schema: z.ZodNumber): Kind<number> {
  const valid = describeNumber(schema);
  return { schema: z.preprocess(fromText, schema), valid, placeholder: valid.startsWith('a whole') ? 'n' : 'x' };
}

export function integer(min: number, max: number = Number.MAX_SAFE_INTEGER): Kind<number> {
  return numeric(z.int().min(min).max(max));
}

export function number(min: number, max?: number): Kind<number> {
  return numeric(max === undefined ? z.number().min(min) : z.number().min(min).max(max));
}

export function above0(max: number): Kind<number> {
  return numeric(z.number().gt(0).max(max));
}

export function text(placeholder: string): Kind<string> {
  const schema = z
    .string()
    .min(1)
    .refine((value) => !value.includes('\0'));
  return { schema, valid: 'a text that is not empty', placeholder };
}

/** The path of a file that is written: its ending must be one of the format's. */
export function outputKind(format: Format): Kind<string> {
  const [ending] = format.endings;
  const schema = text('').schema.refine((path) => endsAs(format, path));
  return { schema, valid: `the path of a ${format.name}, which ends in ${ending}`, placeholder: `file${ending}` };
}

export function choice<const T extends string>(names: readonly T[]): Kind<T> {
  return { schema: z.enum(names) as unknown as z.ZodType<T>, valid: `one of ${names.join(', ')}`, placeholder: 'name', choices: names };
}

/** A number, or a word in its place. */
export function orWord<const W extends string>(kind: Kind<number>, word: W): Kind<number | W> {
  return { ...kind, schema: z.union([z.literal(word), kind.schema]), valid: `${kind.valid}, or ${word}` };
}

/** CPU threads; 0, as a command line says it, leaves the number to Phoenix, and so does undefined. */
export const threadsKind: Kind<number | undefined> = {
  ...integer(0, 1024),
  schema: integer(0, 1024).schema.transform((count) => (count === 0 ? undefined : count)),
};

export const flag: Kind<boolean> = { schema: z.boolean(), valid: 'true or false' };

/** The names in a registry. */
export function names<R extends object>(registry: R) {
  return Object.keys(registry) as Extract<keyof R, string>[];
}

/** A class by its name, or by its number where no name is one. */
export const classKind: Kind<string | number> = {
  schema: z.union([text('name').schema, z.int().min(0)]),
  valid: 'the name of a class',
  placeholder: 'name',
};

const isStrategy = (value: unknown): value is Strategy => {
  const strategy = value as Strategy | null;
  return (
    typeof strategy === 'object' &&
    typeof strategy?.name === 'string' &&
    typeof strategy.init === 'function' &&
    typeof strategy.weigh === 'function'
  );
};

export const strategyKind: Kind<keyof typeof strategies | Strategy> = {
  schema: z.union([z.enum(names(strategies)), z.custom<Strategy>(isStrategy)]),
  valid: `one of ${names(strategies).join(', ')}, or an object {name, init, weigh}`,
  placeholder: 'name',
  choices: names(strategies),
};

const isDataset = (value: unknown): value is Dataset => {
  const dataset = value as Dataset | null;
  return (
    typeof dataset === 'object' &&
    dataset?.pixels instanceof Uint8Array &&
    typeof dataset.fingerprint === 'string' &&
    Array.isArray(dataset.classNames)
  );
};

export const dataKind: Kind<string | Dataset> = {
  schema: z.union([text('path').schema, z.custom<Dataset>(isDataset)]),
  valid: 'the path of a dataset, "synthetic", or a Dataset',
  placeholder: 'path',
};

/** A text that `parse` takes; where it throws, its error says what is valid. */
function parsed(parse: (value: string) => unknown, valid: string, placeholder: string): Kind<string> {
  const schema = z.string().superRefine((value, context) => {
    try {
      parse(value);
    } catch (error) {
      context.addIssue({ code: 'custom', message: (error as Error).message });
    }
  });
  return { schema, valid, placeholder, explains: true };
}

export const rangeKind = parsed(parseRange, RANGE, 'low,high');
export const partitionKind = parsed(parsePartition, 'a partition', 'name[:x]');
export const compressionKind = parsed(parseCompression, 'a compression', 'name[:x]');
export const personalKind = parsed(parsePersonal, 'none, a preset or patterns', 'patterns');
export const thresholdKind = parsed(parseThreshold, 'a threshold', 'x');

const isFeatures = (value: unknown): value is FeatureSource => {
  const features = value as FeatureSource | null;
  return typeof features === 'object' && typeof features?.name === 'string' && typeof features.extract === 'function';
};

export const featuresKind: Kind<string | FeatureSource> = {
  schema: z.union([text('name').schema, z.custom<FeatureSource>(isFeatures)]),
  valid: 'pixels8, the path of a feature network, or an object {name, fingerprint, extract}',
  placeholder: 'name',
};
