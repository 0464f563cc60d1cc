/** The request that a run finish: a file in its folder, which the training looks for before each round. */
import { join } from 'node:path';
import { z } from 'zod';
import { exists, readJson, remove, writeWhole } from '../files.ts';
import { jsonRules, runIo, runIoOptions } from './folder.ts';

const NAME = 'finish.json';

/** `over`: rounds that the fall of the learning rate takes. */
const requestSchema = z.strictObject({ schema: z.literal(1), over: z.int().min(1).max(1_000_000) });

export function askToFinish(dir: string, over: number): Promise<void> {
  return runIo(dir, () => writeWhole(join(dir, NAME), `${JSON.stringify({ schema: 1, over })}\n`, undefined, runIoOptions));
}

/** The rounds of the fall that was asked for; undefined if none was. @throws PhoenixError ERR_PHOENIX_RUN for a file that is no request */
export async function finishAsked(dir: string): Promise<number | undefined> {
  const path = join(dir, NAME);
  if (!(await exists(path))) return undefined;
  return (await readJson(path, requestSchema, { ...jsonRules, maxBytes: 4096, advice: `Remove it, and ask again.` })).over;
}

export function forgetFinish(dir: string): Promise<void> {
  return runIo(dir, () => remove(join(dir, NAME)));
}
