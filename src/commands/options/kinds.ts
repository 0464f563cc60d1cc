/** The types that options have: numbers in a range, choices, texts with a grammar of their own, objects that only a program can give. */
import { z } from 'zod';
import type { Dataset } from '../../ddpm/data/types.ts';
import type { FeatureSource } from '../../ddpm/metrics/sources.ts';
import { parsePartition } from '../../fl/partition/index.ts';
import { parsePersonal } from '../../fl/site/personal.ts';
import { parseThreshold } from '../../fl/strategies/filter.ts';
import { strategies } from '../../fl/strategies/index.ts';
import type { Strategy } from '../../fl/strategy.ts';
import { parseCompression } from '../../fl/wire/codec.ts';

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

const range = (min: number, max: number) => (max === Number.MAX_SAFE_INTEGER || max === Infinity ? `≥ ${min}` : `in ${min}..${max}`);

export const integer = (min: number, max: number = Number.MAX_SAFE_INTEGER): Kind<number> => ({
  schema: z.preprocess(fromText, z.number().int().min(min).max(max)),
  valid: `a whole number ${range(min, max)}`,
  placeholder: 'n',
});

export const number = (min: number, max: number = Infinity): Kind<number> => ({
  schema: z.preprocess(fromText, z.number().min(min).max(max)),
  valid: `a number ${range(min, max)}`,
  placeholder: 'x',
});

export const above0 = (max: number): Kind<number> => ({
  schema: z.preprocess(fromText, z.number().gt(0).max(max)),
  valid: `a number above 0, at most ${max}`,
  placeholder: 'x',
});

export const below1: Kind<number> = {
  schema: z.preprocess(fromText, z.number().min(0).lt(1)),
  valid: 'a number in [0, 1)',
  placeholder: 'x',
};

export const text = (placeholder: string): Kind<string> => ({
  schema: z
    .string()
    .min(1)
    .refine((value) => !value.includes('\0')),
  valid: 'a text that is not empty',
  placeholder,
});

export const choice = <const T extends string>(names: readonly T[]): Kind<T> => ({
  schema: z.enum(names) as unknown as z.ZodType<T>,
  valid: `one of ${names.join(', ')}`,
  placeholder: 'name',
  choices: names,
});

export const flag: Kind<boolean> = { schema: z.boolean(), valid: 'true or false' };

/** The names in a registry. */
export const names = <R extends object>(registry: R) => Object.keys(registry) as Extract<keyof R, string>[];

const isStrategy = (value: unknown): value is Strategy => {
  const strategy = value as Strategy | null;
  return (
    typeof strategy === 'object' &&
    typeof strategy?.name === 'string' &&
    typeof strategy.init === 'function' &&
    typeof strategy.weigh === 'function'
  );
};

export const strategyKind: Kind<string | Strategy> = {
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
const parsed = (parse: (value: string) => unknown, valid: string, placeholder: string): Kind<string> => ({
  schema: z.string().superRefine((value, context) => {
    try {
      parse(value);
    } catch (error) {
      context.addIssue({ code: 'custom', message: (error as Error).message });
    }
  }),
  valid,
  placeholder,
  explains: true,
});

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
