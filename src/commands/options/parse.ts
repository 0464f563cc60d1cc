/** Options as they are given, by a command line or a program, become settings: checked, with every default filled in. */
import type { z } from 'zod';
import { schedulers } from '../../ddpm/schedulers/index.ts';
import { PhoenixError } from '../../errors.ts';
import { checkNeeds, type Party } from '../../fl/server/needs.ts';
import { filterNeeds } from '../../fl/strategies/filter.ts';
import { strategies } from '../../fl/strategies/index.ts';
import { names } from './kinds.ts';
import { methods } from './methods.ts';
import { flagOf, type Placed, required } from './option.ts';
import { type Command, isGroup, optionsOf, type Settings } from './tables.ts';

/** Wrong usage: parseOptions throws it before anything is read or written. */
export class OptionError extends PhoenixError {}

/** Options that are not checked yet, those of a group in an object of their own. Numbers may be text. */
export type RawOptions = Record<string, unknown>;

const isObject = (value: unknown): value is RawOptions => typeof value === 'object' && value !== null && !Array.isArray(value);

const withoutUndefined = (group: RawOptions) => Object.fromEntries(Object.entries(group).filter(([, value]) => value !== undefined));

/** One layer of options over another: the later value wins, groups are merged option by option, undefined counts as absent. */
export function mergeOptions(command: Command, ...layers: RawOptions[]): RawOptions {
  const merged: RawOptions = {};
  for (const layer of layers)
    for (const [key, value] of Object.entries(layer)) {
      if (isGroup(command, key) && isObject(value)) {
        const before = merged[key];
        merged[key] = { ...(isObject(before) ? before : {}), ...withoutUndefined(value) };
      } else if (value !== undefined) merged[key] = value;
    }
  return merged;
}

/**
 * Checks options and fills in defaults. A value of undefined counts as absent.
 * @throws OptionError ERR_PHOENIX_ARGUMENT naming an unknown option and the valid ones, or the option, the value and what is valid;
 * ERR_PHOENIX_CONFIG for options that contradict each other
 */
export function parseOptions<C extends Command>(command: C, raw: object): Settings<C> {
  if (!isObject(raw)) throw new OptionError('ERR_PHOENIX_ARGUMENT', `${command} takes an object of options, not ${show(raw)}.`);
  checkNames(command, raw);
  const given = command === 'federate' ? withMethod(raw) : raw;
  const settings: RawOptions = {};
  for (const place of optionsOf(command)) {
    const [key, inner] = place.path as [string, string?];
    if (inner === undefined) settings[key] = parseOption(place, given[key]);
    else {
      settings[key] ??= {};
      (settings[key] as RawOptions)[inner] = parseOption(place, (given[key] as RawOptions | undefined)?.[inner]);
    }
  }
  if (command === 'federate') checkFederate(settings as Settings<'federate'>);
  if (command === 'coordinator') checkCoordinator(settings as Settings<'coordinator'>);
  if (command === 'federate' || command === 'train') checkResume(settings as Settings<'federate' | 'train'>);
  if (command === 'sample' || command === 'finetune') checkAssumed(settings as Settings<'sample' | 'finetune'>);
  if (command === 'sample') checkSampler(settings as Settings<'sample'>);
  return settings as Settings<C>;
}

/** Options of federate over the values of the method that they name. */
function withMethod(raw: RawOptions): RawOptions {
  const name = String(raw.method);
  return Object.hasOwn(methods, name) ? mergeOptions('federate', methods[name as keyof typeof methods], raw) : raw;
}

/** @throws OptionError for a name that is no option, saying where the option of that flag is if there is one */
function checkNames(command: Command, raw: RawOptions): void {
  const places = optionsOf(command);
  const refuse = (name: string, valid: Placed[]) => {
    const moved = places.find((place) => camel(flagOf(place)) === name);
    const hint = moved ? `It is ${moved.path.join('.')} (${flagOf(moved)} on the command line). ` : '';
    const elsewhere = command === 'coordinator' ? ofSimulation(name) : undefined;
    if (elsewhere) throw new OptionError('ERR_PHOENIX_ARGUMENT', `coordinator has no option "${name}". ${elsewhere}`);
    const names = valid.map(({ path }) => path.join('.')).join(', ');
    throw new OptionError('ERR_PHOENIX_ARGUMENT', `${command} has no option "${name}". ${hint}Valid options: ${names}.`);
  };
  for (const [key, value] of Object.entries(raw)) {
    const own = places.filter(({ path }) => path[0] === key);
    if (own.length === 0) refuse(key, places);
    if (!isGroup(command, key) || value === undefined) continue;
    if (!isObject(value)) {
      const fields = own.map(({ path }) => path[1]).join(', ');
      const moved = own.find((place) => camel(flagOf(place)) === key);
      const hint = moved ? ` The value of ${flagOf(moved)} is ${moved.path.join('.')}.` : '';
      throw new OptionError('ERR_PHOENIX_ARGUMENT', `option ${key} must be an object with ${fields}, not ${show(value)}.${hint}`);
    }
    for (const inner of Object.keys(value)) if (!own.some(({ path }) => path[1] === inner)) refuse(`${key}.${inner}`, own);
  }
}

/** Why the coordinator of real sites lacks an option of the simulation, by its name or flag; undefined for what is none. */
export function ofSimulation(name: string): string | undefined {
  const found = optionsOf('federate').find((place) => [place.path.join('.'), place.path[0], flagOf(place)].includes(name));
  const has = found && optionsOf('coordinator').some(({ path }) => path.join('.') === found.path.join('.'));
  if (!found || has) return undefined;
  if (found.path[0] === 'sharing')
    return 'It shares images of the clients of a simulation. Real sites keep theirs: no request exists by which one leaves. Give images that are public with sharedData (--shared-data PATH).';
  if (['clients', 'partition', 'limit', 'data'].includes(found.path[0]!))
    return 'It divides the data of a simulation over its clients. Real sites have images of their own: each names them with phoenix site --data PATH.';
  return 'It is an option of the simulation, phoenix federate.';
}

/** The name that a flag had as an option of its own: --share-beta → shareBeta. */
const camel = (flag: string) => flag.slice(2).replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

function parseOption(place: Placed, raw: unknown): unknown {
  const { entry } = place;
  const name = nameOf(place);
  const unit = entry.unit ? ` (${entry.unit})` : '';
  if (raw === undefined) {
    if (entry.default !== required) return entry.default;
    throw new OptionError('ERR_PHOENIX_ARGUMENT', `${name} is missing: it must be ${entry.kind.valid}${unit}.`);
  }
  const parsed = (entry.kind.schema as z.ZodType).safeParse(raw);
  if (parsed.success) return parsed.data;
  const inexact = Number.isInteger(Number(raw)) && Math.abs(Number(raw)) > Number.MAX_SAFE_INTEGER;
  const limit = inexact ? ` Above ${Number.MAX_SAFE_INTEGER} (2^53 − 1) whole numbers are not exact.` : '';
  const custom = entry.kind.explains && parsed.error.issues.find((issue) => issue.code === 'custom');
  throw new OptionError(
    'ERR_PHOENIX_ARGUMENT',
    `${name} must be ${entry.kind.valid}${unit}, not ${show(raw)}.${limit}${custom ? ` ${custom.message}` : ''}`,
  );
}

/** 'option sharing.beta (--share-beta)'; the flag is left out where it says nothing more. */
function nameOf(place: Placed): string {
  const name = place.path.join('.');
  const flag = flagOf(place);
  return place.entry.positional || flag === `--${name}` ? `option ${name}` : `option ${name} (${flag})`;
}

function show(value: unknown): string {
  const kind = Array.isArray(value) ? 'a list' : 'an object';
  const shown = typeof value === 'string' ? JSON.stringify(value) : typeof value === 'object' && value !== null ? kind : String(value);
  return shown.length > 80 ? `${shown.slice(0, 80)}…` : shown;
}

function contradiction(message: string): never {
  throw new OptionError('ERR_PHOENIX_CONFIG', message);
}

/** What options need of each other is declared by the strategies, the filter and the shared set, and compared in fl/server/needs.ts. */
function checkLearning(
  {
    epochs,
    localImages,
    personal,
    filter,
    strategy,
    diversity,
    normalise,
  }: Pick<Settings<'federate'>, 'epochs' | 'localImages' | 'personal' | 'filter' | 'strategy' | 'diversity' | 'normalise'>,
  sharedSet: 'none' | 'synthetic' | 'real',
): void {
  if (epochs !== undefined && localImages !== undefined)
    contradiction('Both epochs and localImages (--local-images) are given: a round has one length, so leave one of them out.');
  const parties: Party[] = [];
  if (sharedSet === 'synthetic') parties.push({ name: 'sharing.source synthetic (--share-source)', needs: { wholeModel: true } });
  if (filter.kind !== 'none')
    parties.push({
      name: `filter.by ${filter.by} (--filter-by)`,
      needs: filterNeeds({ kind: filter.kind, statistic: filter.by, guard: filter.guard }),
    });
  if (strategy === 'diversity')
    parties.push({ name: `diversity.target ${diversity.target} (--diversity-target)`, needs: strategies.diversity(diversity).needs ?? {} });
  else if (typeof strategy !== 'string') parties.push({ name: `strategy ${strategy.name}`, needs: strategy.needs ?? {} });
  const ruleOf = typeof strategy === 'string' ? strategies[strategy]({ ...diversity }) : strategy;
  if (normalise) parties.push({ name: 'normalise (--normalise, --round-seconds)', needs: { weightedMean: true } });
  try {
    checkNeeds(parties, { weightedMean: ruleOf.combine === undefined, sharedSet, wholeModel: personal === 'none' });
  } catch (error) {
    throw error instanceof PhoenixError ? new OptionError('ERR_PHOENIX_CONFIG', error.message) : error;
  }
}

function checkCoordinator(settings: Settings<'coordinator'>): void {
  const normalise = settings.normalise || settings.roundSeconds !== undefined;
  checkLearning({ ...settings, normalise }, settings.sharedData === undefined ? 'none' : 'real');
}

function checkFederate(settings: Settings<'federate'>): void {
  const { sharing } = settings;
  checkLearning(settings, sharing.beta > 0 ? sharing.source : 'none');
  if (sharing.beta > 0 && sharing.source === 'real' && !sharing.consent)
    contradiction(
      `Real training images would become public to all clients (sharing.beta ${sharing.beta}, sharing.source real), which takes consent: sharing.consent (--share-real). Without it, share none (--share-beta 0) or images of the global model (--share-source synthetic).`,
    );
}

function checkResume({ resume, out }: Settings<'federate' | 'train'>): void {
  if (resume && out === undefined) contradiction('resume needs out (--out DIR): the folder of the run to continue.');
}

function checkAssumed({ schedule, prediction }: Settings<'sample' | 'finetune'>): void {
  if ((schedule === undefined) !== (prediction === undefined))
    contradiction('schedule and prediction go together (--schedule, --prediction): give both, or none where the model says them.');
}

/** @throws OptionError for options that contradict each other, or that the chosen sampler does not have */
function checkSampler(settings: Settings<'sample'>): void {
  const { scheduler, grid, out, stealLock } = settings;
  if (grid !== undefined && out !== undefined)
    contradiction('grid is one file for all images, and out a folder with a file for each (--grid, --out): give one of them.');
  if (stealLock && out === undefined) contradiction('stealLock (--steal-lock) goes with out (--out): only a folder has a lock.');
  for (const name of ['eta', 'variance'] as const) {
    if (settings[name] === undefined || schedulers[scheduler].options.includes(name)) continue;
    const others = names(schedulers).filter((other) => schedulers[other].options.includes(name));
    contradiction(
      `${name} (--${name}) is an option of ${others.join(', ')}, and the scheduler is ${scheduler}: leave it out, or change the scheduler.`,
    );
  }
}
