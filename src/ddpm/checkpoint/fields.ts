/** What the configuration files of diffusers have in common: JSON as Python writes it, and fields that are honoured, refused or named. */
import { readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { io, type JsonRules, parseJson } from '../../files.ts';
import { strangerOf } from '../stranger.ts';
import { quote } from './safetensors.ts';
import { refused } from './weights.ts';

export const diffusersVersion = '0.31.0';

/** How a configuration that is not JSON is refused. */
export const configRules: JsonRules = {
  code: 'ERR_PHOENIX_CHECKPOINT',
  maxBytes: 1_000_000,
  verdict: 'cannot be used',
  advice: 'Save the model again.',
};

/** The JSON in a configuration file. Python writes numbers that JSON does not have (-Infinity): they are read as texts. */
export async function readConfig(path: string): Promise<unknown> {
  const read = async () => {
    const status = await stat(path);
    const { size } = status;
    if (!status.isFile()) throw refused(path, 'it is not a regular file');
    if (size > configRules.maxBytes) throw refused(path, `it has ${size} bytes; at most ${configRules.maxBytes} are read`);
    return readFile(path);
  };
  const bytes = await io(path, read, { action: 'read' });
  const stranger = strangerOf(bytes.subarray(0, 256));
  if (stranger) throw refused(path, `${stranger.what}. ${stranger.advice.replace(/\.$/, '')}`);
  if ([0xfeff, 0xfffe].includes(bytes.length < 2 ? 0 : bytes.readUInt16BE(0))) throw refused(path, 'it is UTF-16 text. Save it as UTF-8');
  return parseConfig(path, bytes.toString('utf8'));
}

export function parseConfig(where: string, text: string): unknown {
  return parseJson(where, text.replace(/([:[,]\s*)(-?Infinity|NaN)(?=\s*[,}\]])/g, '$1"$2"'), z.unknown(), configRules);
}

/** A whole number of things, at least one. */
export const count = z.int().min(1).max(1_000_000);

/** @throws PhoenixError ERR_PHOENIX_CHECKPOINT naming the first field that is not supported, with its value */
export function parseFields<Fields extends z.ZodType>(where: string, schema: Fields, json: unknown): z.output<Fields> {
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

/** What `make` refuses, as a checkpoint that cannot be used. */
export function asCheckpointError<T>(where: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw refused(where, (error as Error).message.replace(/\.$/, ''), error);
  }
}

/** Names fields that are not known, but for those that say who wrote the file (_class_name). */
export function warnOfUnknown(where: string, json: unknown, known: readonly string[], warnings: string[]): void {
  const unknown = Object.keys(json as object).filter((field) => !field.startsWith('_') && !known.includes(field));
  if (unknown.length === 0) return;
  const shown = unknown.slice(0, 10).map((field) => `${quote(field)} (${quote((json as Record<string, unknown>)[field])})`);
  const more = unknown.length > shown.length ? ` and ${unknown.length - shown.length} more` : '';
  warnings.push(`${where} has fields that are not known here, and are ignored: ${shown.join(', ')}${more}.`);
}

const namesSchema = z.array(z.string().min(1).max(1000));

/** Names of classes, one for each. @throws PhoenixError ERR_PHOENIX_CHECKPOINT for another number, or no list of names */
export function checkedNames(where: string, names: unknown, classes: number): string[] {
  const parsed = namesSchema.safeParse(names);
  if (parsed.success && parsed.data.length === classes) return parsed.data;
  const found = parsed.success ? `${parsed.data.length} names` : quote(names);
  throw refused(where, `the model has ${classes} classes, and their names are ${found}`);
}
