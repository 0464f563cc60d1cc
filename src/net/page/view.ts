/**
 * What the coordinator's page, `phoenix status` and the metrics show: one value, which the coordinator keeps. Names and reasons come from
 * sites: reading a view cleans them, and drops what the schema does not name.
 */
import { z } from 'zod';
import { clientId, decision, roundRecord } from '../../fl/protocol.ts';

/** What is never shown, whatever text it got into: seeds of keys, signed tokens, private keys, and passwords in addresses. */
const SECRETS: [RegExp, string][] = [
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g, '(private key)'],
  [/\bS[A-Z][A-Z2-7]{56}\b/g, '(seed)'],
  [/\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*/g, '(token)'],
  [/:\/\/[^\s/@]+@/g, '://'],
  [/([?&](?:token|password|secret)=)[^\s&#]+/gi, '$1…'],
];

/** Characters that control a terminal or the direction of text, or are not there to be seen. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]+/gu;

/** Characters that are looked at, and shown. */
const LOOKED_AT = 2000;
const SHOWN = 500;

/** Text from elsewhere as it may be shown: on one line, without secrets, of at most 500 characters. */
export function cleanText(text: string): string {
  // A word that is cut may be the beginning of a secret, which nothing recognises.
  const whole = text.length <= LOOKED_AT ? text : text.slice(0, LOOKED_AT).split(/\s/).slice(0, -1).join(' ');
  const open = SECRETS.reduce((shown, [pattern, instead]) => shown.replace(pattern, instead), whole);
  const line = [...open.replace(UNSEEN, ' ')];
  return line.length > SHOWN ? `${line.slice(0, SHOWN - 1).join('')}…` : line.join('');
}

const text = z.string().transform(cleanText);
const count = z.int().min(0);
const notNegative = z.number().min(0);
/** Milliseconds since 1970, by the coordinator's clock. */
const instant = z.number();

/** What a site is doing, with the words for it. */
export const siteStates = {
  invited: 'not enrolled yet',
  offline: 'not connected',
  idle: 'idle',
  fetching: 'fetching',
  training: 'training',
  waiting: 'trained',
  uploading: 'uploading',
  working: 'working',
  paused: 'paused',
  refused: 'refused',
  lost: 'lost',
  revoked: 'revoked',
  left: 'left',
} as const;
export type SiteState = keyof typeof siteStates;

/** What the operator can tell the coordinator, with the words for it. */
export const verbs = { pause: 'Pause', resume: 'Resume', finish: 'Finish', stop: 'Stop' } as const;
export type Verb = keyof typeof verbs;

export const siteView = z.object({
  id: clientId.transform(cleanText),
  state: z.enum(Object.keys(siteStates) as [SiteState, ...SiteState[]]),
  /** Whether it takes part in the round that is running. */
  selected: z.boolean(),
  /** Of what it is doing: steps of training, or bytes of a transfer. */
  progress: z.object({ done: notNegative, of: notNegative, unit: z.enum(['steps', 'bytes']) }).optional(),
  imagesPerSecond: notNegative.optional(),
  /** Mean loss of its last steps. */
  loss: z.number().optional(),
  /** When its last sign of life came. */
  heartbeat: instant.optional(),
  /** Milliseconds. */
  roundTrip: notNegative.optional(),
  bytesUp: count,
  bytesDown: count,
  /** Images that it trains on. */
  examples: count.optional(),
  /** Version of Phoenix, and what it computes on. */
  version: text.optional(),
  device: text.optional(),
  /** When its credentials expire. */
  credentialsUntil: instant.optional(),
  /** Weight of its update in the last round, 0 to 1. */
  weight: z.number().min(0).max(1).optional(),
  /** Its last failure, or what it refused, and what to do about it. */
  trouble: z.object({ kind: z.enum(['failure', 'refusal']), round: count.optional(), text, advice: text.optional() }).optional(),
});
export type SiteView = z.infer<typeof siteView>;

export const federationView = z.object({
  /** When this view was made. */
  time: instant,
  federation: text,
  run: text.optional(),
  /** Version of Phoenix. */
  version: text,
  state: z.enum(['waiting', 'running', 'paused', 'finishing', 'done', 'stopped', 'failed']),
  /** The round that is running, or the last one; 0 before the first. */
  round: count,
  rounds: count.optional(),
  /** What the round waits for: 'the reports', of which sites, and until when at most. */
  waiting: z.object({ what: text, sites: z.array(text), until: instant.optional() }).optional(),
  /** Work of the server itself and how far it is. */
  serverWork: text.optional(),
  /** The server between coordinator and sites. */
  engine: z.object({ connected: z.boolean(), why: text.optional() }),
  bytesUp: count,
  bytesDown: count,
  /** In the order in which they are shown. */
  sites: z.array(siteView),
  /** Rounds done, in order. */
  history: z.array(roundRecord.pick({ round: true, loss: true, evalLoss: true, bytesUp: true, bytesDown: true, seconds: true })),
  /** Weights of the last rounds, by site. */
  weights: z.array(z.object({ round: count, sites: z.array(z.object({ id: text, weight: z.number().min(0).max(1) })) })),
  /** What the filter decided, in order. */
  decisions: z.array(decision.extend({ client: clientId.transform(cleanText), reason: text, round: count })),
  /** The round of the newest sample grid. */
  samples: z.object({ round: count }).optional(),
  /** What the coordinator can be told now on the page. @default nothing */
  verbs: z.array(z.enum(Object.keys(verbs) as [Verb, ...Verb[]])).optional(),
  /** In order; the page shows the last 200. */
  events: z.array(z.object({ time: instant, level: z.enum(['info', 'warning', 'error']), text })),
});
export type FederationView = z.infer<typeof federationView>;

/** States in which a site is of no use to the round, so that somebody should look. */
export const troubledStates: readonly SiteState[] = ['refused', 'lost', 'revoked'];

/** Seconds without a heartbeat, of one every five, after which it is shown as missing. */
export const HEARTBEAT_LATE = 20;
/** Days of credentials left from which on the page warns. */
export const CREDENTIALS_SOON = 30;

export function daysLeft(site: SiteView, now: number): number | undefined {
  return site.credentialsUntil === undefined ? undefined : Math.floor((site.credentialsUntil - now) / 86_400_000);
}

/** Names in a sentence, the first three of them: 'a, b and 4 others'. */
function nameSome(names: string[]): string {
  const shown = names.length > 4 ? [...names.slice(0, 3), `${names.length - 3} others`] : names;
  return shown.length < 2 ? shown.join('') : `${shown.slice(0, -1).join(', ')} and ${shown.at(-1)}`;
}

/** What is going on, in a sentence; until when is not in it. */
export function describeState({ state, round, rounds, waiting, serverWork }: FederationView): string {
  const planned = rounds === undefined ? '' : ` of ${rounds}`;
  const states = {
    waiting: 'Before the first round',
    running: `Round ${round}${planned}`,
    paused: `Paused after round ${round}${planned}`,
    finishing: `Finishing: round ${round}${planned}`,
    done: `Done after ${round} rounds`,
    stopped: `Stopped after round ${round}${planned}`,
    failed: `Failed in round ${round}${planned}`,
  };
  const names = waiting && waiting.sites.length > 0 ? ` of ${nameSome(waiting.sites)}` : '';
  const what = serverWork ?? (waiting && `waiting for ${waiting.what}${names}`);
  return what ? `${states[state]}: ${what}` : states[state];
}

/** How many sites are in which state, the most first: '5 sites: 4 training, 1 lost.' */
export function describeSites(sites: SiteView[]): string {
  if (sites.length === 0) return 'No site has been invited yet.';
  const counts = new Map<string, number>();
  for (const { state } of sites) counts.set(siteStates[state], (counts.get(siteStates[state]) ?? 0) + 1);
  const states = [...counts].sort(([, a], [, b]) => b - a).map(([name, many]) => `${many} ${name}`);
  return `${sites.length} ${sites.length === 1 ? 'site' : 'sites'}: ${states.join(', ')}.`;
}
