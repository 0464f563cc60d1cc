/**
 * site.json: a site's own rules. Every request is judged by them at the site, before anything is read; what they do not allow is refused
 * with the line that says so. No request can change them.
 */
import { z } from 'zod';
import { parseJson } from '../files.ts';
import { formatBytes } from '../report/units.ts';

const atLeastOne = z.int().min(1);
const noLimit = <T extends z.ZodType>(schema: T) => schema.nullable().default(null as never);

/** 'HH:MM-HH:MM', local time, the end excluded; past midnight if the end comes first. */
const timeWindow = z
  .string()
  .regex(/^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$/, 'a window is written HH:MM-HH:MM, such as 22:00-06:00')
  .refine((text) => text.slice(0, 5) !== text.slice(6), 'a window must not end when it begins; for the whole day write 00:00-24:00');

const allowed = (byDefault: boolean, about: string) => z.boolean().default(byDefault).describe(about);

/** What a site may be asked for. What is sent is said in each line. */
const allow = z.strictObject({
  train: allowed(true, 'Train on the images of this site; sends a report: counts, losses, the norm of the update, seconds.'),
  upload: allowed(true, 'Send the update of a round: parameters after training minus before.'),
  parcel: allowed(true, 'Keep what the coordinator gives: public shared images, centres of bins. Sends nothing.'),
  publish: allowed(true, 'Keep the model of the run as a file, with a page that describes it. Sends nothing.'),
  finish: allowed(true, 'Drop what was kept for a round that is over. Sends nothing.'),
  statistic: allowed(true, 'Send one score of the model after training: precision, loss or a Fréchet distance.'),
  vendi: allowed(true, 'Send the Vendi score (variety) of samples of the model after training.'),
  histogram: allowed(
    false,
    'Send how many images of this site, or samples of its model, lie in each bin. The coordinator chooses the bins, and a bin may hold a single image.',
  ),
  points: allowed(false, 'Send centres of clusters of images of this site in feature space.'),
  specialise: allowed(true, 'Train the model further on this site alone, and send it.'),
  samples: allowed(false, 'Send images drawn from the model of this site. They may resemble its own images.'),
  evaluate: allowed(true, 'Score a model on held-out images of this site; sends means over them.'),
  perImage: allowed(false, 'Send a value for each held-out image when a model is scored.'),
  secureAggregation: allowed(true, 'Take part in secure aggregation: exchange keys and shares of secrets.'),
});

/** The fields of site.json in their order, each with its default and one line of explanation. */
export const policySchema = z.strictObject({
  schema: z.literal(1).default(1).describe('Version of this file.'),
  smallestCohort: atLeastOne.default(2).describe('Fewest sites in a round that this site takes part in, itself included.'),
  rounds: noLimit(atLeastOne).describe('Most rounds in a run that this site trains in. null: no limit.'),
  megabytesSent: noLimit(z.number().positive()).describe('Most megabytes (10^6 bytes) that leave this site in a run. null: no limit.'),
  trainingHours: noLimit(z.number().positive()).describe('Hours of training in a run, after which none is begun. null: no limit.'),
  hoursOfDay: z
    .array(timeWindow)
    .max(24)
    .default([])
    .describe('When work may begin, in local time, such as ["22:00-06:00"]. []: at any time.'),
  threads: noLimit(atLeastOne.max(1024)).describe('Most threads that work uses. null: as many as Phoenix chooses.'),
  memoryMegabytes: noLimit(z.number().positive()).describe(
    'Most memory that training may need, in megabytes (10^6 bytes). null: no limit.',
  ),
  allow: allow.prefault({}).describe('What this site may be asked for.'),
});
export type Policy = z.infer<typeof policySchema>;
type Allow = keyof Policy['allow'];

/** The rules of a site whose administrator has changed nothing: nothing that sends images, points, or values of single images. */
export const defaultPolicy: Policy = policySchema.parse({});

/**
 * The text of a site.json as a policy; fields that are absent have their defaults. `where` names the file in errors.
 * @throws PhoenixError ERR_PHOENIX_CONFIG for a field that is not known or does not fit: a rule that cannot be kept is not passed over
 */
export function parsePolicy(where: string, text: string): Policy {
  return parseJson(where, text, policySchema, {
    code: 'ERR_PHOENIX_CONFIG',
    maxBytes: 100_000,
    verdict: 'cannot be used',
    advice: 'Correct it: phoenix site --policy shows every field.',
    version: 1,
  });
}

/** A line of site.json: its path, its value as JSON, and what it means. */
export type PolicyLine = { path: string; value: string; about: string };

/** Every line of a policy in the order of the file; those of `allow` by their paths. */
export function policyLines(policy: Policy): PolicyLine[] {
  const lines = (schema: z.ZodObject, values: Record<string, unknown>, prefix: string): PolicyLine[] =>
    Object.entries(schema.shape).flatMap(([name, field]) => {
      if (name === 'allow') return lines(allow, policy.allow, 'allow.');
      return [{ path: prefix + name, value: JSON.stringify(values[name]), about: (field as z.ZodType).description ?? '' }];
    });
  return lines(policySchema, policy, '');
}

/** A path with its value, as refusals and sent.jsonl name a line: 'allow.points: false'. */
export function lineOf(policy: Policy, path: string): string {
  const value = path.split('.').reduce<unknown>((inner, key) => (inner as Record<string, unknown>)[key], policy);
  return `${path}: ${JSON.stringify(value)}`;
}

/** What a request means to a site: the line that allows it; whether it begins work; whether that is training; whether it sends anything. */
type Kind = { line: Allow; works?: boolean; trains?: boolean; sends?: boolean };

const KINDS: Record<string, Kind> = {
  train: { line: 'train', works: true, trains: true, sends: true },
  upload: { line: 'upload', sends: true },
  parcel: { line: 'parcel' },
  publish: { line: 'publish' },
  finish: { line: 'finish' },
  specialise: { line: 'specialise', works: true, trains: true, sends: true },
  samples: { line: 'samples', works: true, sends: true },
  evaluate: { line: 'evaluate', works: true, sends: true },
  keys: { line: 'secureAggregation', sends: true },
  shares: { line: 'secureAggregation', sends: true },
  consistency: { line: 'secureAggregation', sends: true },
  unmask: { line: 'secureAggregation', sends: true },
};

/** Words for what is asked, in refusals. */
const ASKED: Record<Allow, string> = {
  train: 'training',
  upload: 'an update',
  parcel: 'keeping what the coordinator gives',
  publish: 'keeping the model of the run',
  finish: 'dropping what was kept for a round',
  statistic: 'a score of its model',
  vendi: 'the variety of samples of its model',
  histogram: 'a histogram',
  points: 'centres of clusters of its images',
  specialise: 'a model trained on this site alone',
  samples: 'images drawn from its model',
  evaluate: 'scoring a model on its held-out images',
  perImage: 'values of single images',
  secureAggregation: 'secure aggregation',
};

/** A request as it came: only its kind and head are looked at, and the head has not been checked yet. */
export type JudgedRequest = { kind: string; head: object };

/** What a request is judged with. */
export type PolicyContext = {
  /** The time, for the hours of the day in its local time zone. */
  now: Date;
  /** Sites in this round, as the coordinator says; it is not proved. Absent if it does not say. */
  cohort?: number;
  /** Rounds of this run that the site has trained in before this one. */
  rounds: number;
  /** Bytes that have left the site in this run, by sent.jsonl. */
  bytesSent: number;
  /** Bytes that the answer has, as far as known. @default 0 */
  answerBytes?: number;
  /** Hours that the site has trained in this run. */
  trainingHours: number;
  /** Bytes of memory that the work needs, as far as known. @default 0 */
  memory?: number;
};

/**
 * What the rules say of a request: allowed, and by which lines; or refused, by which line, and in words that may be shown to the
 * coordinator. `again`: when the line will no longer refuse it, where time alone changes that.
 */
export type Verdict = { allowed: true; line: string } | { allowed: false; line: string; words: string; again?: Date };

/** Whether a value that came is asked for: anything but absent, false and null. What is no value of its schema is refused there. */
const isAsked = (value: unknown) => value !== undefined && value !== null && value !== false;
const field = (value: unknown, key: string): unknown =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, key) ? (value as Record<string, unknown>)[key] : undefined;

/** The lines of `allow` that a request needs. Without bins, a histogram is answered with points to make bins of. */
function linesNeeded({ kind, head }: JudgedRequest, { line }: Kind): Allow[] {
  if (kind === 'evaluate') return isAsked(field(head, 'perImage')) ? [line, 'perImage'] : [line];
  if (kind !== 'train') return [line];
  const probe = field(field(head, 'fit'), 'probe');
  const parts = (['statistic', 'vendi', 'histogram'] as const).filter((part) => isAsked(field(probe, part)));
  const wantsPoints = parts.includes('histogram') && !isAsked(field(probe, 'bins'));
  return [line, ...parts, ...(wantsPoints ? (['points'] as const) : [])];
}

/** Judges a request by the rules of the site. Pure: the same arguments give the same verdict. */
export function judgePolicy(policy: Policy, request: JudgedRequest, context: PolicyContext): Verdict {
  const refuse = (path: string, why: string, again?: Date): Verdict => {
    const line = lineOf(policy, path);
    return { allowed: false, line, words: `This site refuses ${request.kind}: ${why} (site.json, ${line}).`, ...(again && { again }) };
  };
  if (!Object.hasOwn(KINDS, request.kind))
    return {
      allowed: false,
      line: 'allow',
      words: `This site refuses ${JSON.stringify(request.kind.slice(0, 64))}: no line of its site.json allows such requests.`,
    };
  const kind = KINDS[request.kind]!;
  const needed = linesNeeded(request, kind);
  const denied = needed.find((name) => !policy.allow[name]);
  if (denied) return refuse(`allow.${denied}`, `it does not allow ${ASKED[denied]}`);

  const { smallestCohort, rounds, megabytesSent, trainingHours, hoursOfDay, memoryMegabytes } = policy;
  const { cohort, answerBytes = 0, memory = 0 } = context;
  if (kind.sends && (cohort ?? 1) < smallestCohort)
    return refuse('smallestCohort', `${cohort ?? 'an unknown number of'} sites take part in this round`);
  if (kind.trains && rounds !== null && context.rounds >= rounds)
    return refuse('rounds', `it has trained in ${context.rounds} rounds of this run`);
  if (kind.sends && megabytesSent !== null && context.bytesSent + answerBytes > megabytesSent * 1e6)
    return refuse('megabytesSent', `${formatBytes(context.bytesSent + answerBytes)} would have left it in this run`);
  if (kind.trains && trainingHours !== null && context.trainingHours >= trainingHours)
    return refuse('trainingHours', `it has trained for ${context.trainingHours.toFixed(1)} hours in this run`);
  if (kind.works && memoryMegabytes !== null && memory > memoryMegabytes * 1e6)
    return refuse('memoryMegabytes', `the work needs ${Math.ceil(memory / 1e6)} MB of memory`);
  if (kind.works && hoursOfDay.length > 0 && !isOpen(hoursOfDay, context.now))
    return refuse('hoursOfDay', 'work begins only in these hours', nextOpening(hoursOfDay, context.now));
  return { allowed: true, line: needed.map((name) => lineOf(policy, `allow.${name}`)).join(', ') };
}

const minutesOf = (text: string) => Number(text.slice(0, 2)) * 60 + Number(text.slice(3, 5));

/** Whether one of the windows holds this minute of the local day. */
function isOpen(windows: string[], now: Date): boolean {
  const minute = now.getHours() * 60 + now.getMinutes();
  return windows.some((text) => {
    const [from, to] = [minutesOf(text), minutesOf(text.slice(6))];
    return from < to ? from <= minute && minute < to : minute >= from || minute < to;
  });
}

/** When the next window begins. A time that the local clock skips, as in spring, is an hour later. */
function nextOpening(windows: string[], now: Date): Date {
  const openings = windows.flatMap((text) =>
    [0, 1].map((days) => {
      const from = minutesOf(text);
      return new Date(now.getFullYear(), now.getMonth(), now.getDate() + days, Math.floor(from / 60), from % 60);
    }),
  );
  return openings.filter((opening) => opening > now).sort((a, b) => a.getTime() - b.getTime())[0]!;
}
