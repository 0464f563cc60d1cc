/**
 * What a coordinator and a site say over a wire: *want*, *has* and *beat*, one schema each, and how they are signed. A want instructs: it
 * is strict. A has and a beat inform: unknown fields are left out.
 *
 * What travels is 64 bytes of Ed25519 signature and the value as JSON in UTF-8. Signed are its kind, the site it is for or from, and its
 * bytes, so a value proves that the owner of the key has once said it to or as this site, and that nobody has changed it. The server
 * between the two need not be trusted with what is said. It can still keep values back, and show old ones again:
 *
 * - An old want. Wants are numbered, and a site obeys none that is not newer than the newest it has seen. It remembers that in memory, in
 *   its last has, and in the Store that it is given. Only a site that begins without such a Store can be shown an old want in place of the
 *   newest: it is asked again what it was asked before, and its Client refuses a round that is over.
 * - An old has. Answers belong to a run and name their request by the hash of its bytes, and a failure says which attempt it belongs to:
 *   what was once the answer still is. A coordinator ignores a has that has seen an older want than another one did. A coordinator that
 *   begins can be shown an old one: it waits, as if nothing had come.
 * - An old beat: a site that is gone seems to be there, and a round may wait for it. Keeping values back delays rounds as well.
 *
 * No value can be passed off as one of another run, another site, or the other direction.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';
import { explain, hello, readInstruction } from '../fl/protocol.ts';
import { MAX_HEAD } from '../fl/wire/message.ts';
import { MAX_BEAT, MAX_VALUE } from './wire.ts';

/** Most requests that are open at a site at once. */
const MAX_REQUESTS = 256;
/** Largest spec of a run in bytes. */
export const MAX_SPEC = 2 ** 20;

const count = z.int().min(0);
const positive = z.int().min(1);
/** Numbers of wants; the bound leaves room to count on. */
const counter = z
  .int()
  .min(0)
  .max(2 ** 48);
/** Text of the other side for people: its control characters do not reach a terminal. */
const words = (most: number) =>
  z
    .string()
    .max(most)
    .transform((text) => text.replace(/\p{Cc}+/gu, ' '));
/** A version as npm has it; it is shown in a command to type. */
const version = z
  .string()
  .max(64)
  .regex(/^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/, 'a version is like 1.2.3');
const runName = z
  .string()
  .min(1)
  .max(128)
  .regex(/^\P{Cc}+$/u, 'a name has no control characters');
const hash = z.string().regex(/^[0-9a-f]{64}$/);
const sha256 = z.string().regex(/^sha256:[0-9a-f]{64}$/);

/** A request that is open: the encoded head of a message (see fl/wire/message.ts). `attempt`: how often it failed before. */
const openRequest = z.strictObject({ head: z.string().max(MAX_HEAD), attempt: count });
export type OpenRequest = z.infer<typeof openRequest>;

/**
 * What is wanted of a site. `open`: answers to the requests. `idle`: nothing more for now, and `text` says why ("distilling, about 40
 * min"). `refused`: the site may not take part.
 */
export const want = z.strictObject({
  protocol: positive,
  phoenix: version,
  /** Paths of fields that a reader may leave out if it does not know them. */
  optional: z.array(z.string().max(200)).max(64).default([]),
  /** One more than the want before, over all runs. */
  counter: counter.min(1),
  is: z.enum(['open', 'idle', 'refused']),
  /** For programs: a word, such as `revoked`. */
  reason: words(64).optional(),
  /** For people. */
  text: words(2000).optional(),
  /** The run that goes on. `spec`: the blob that says what the site must know to take part. */
  run: z
    .strictObject({
      name: runName,
      spec: z.strictObject({ name: sha256, length: count.max(MAX_SPEC) }).optional(),
      requests: z.array(openRequest).max(MAX_REQUESTS),
    })
    .optional(),
});
export type Want = z.infer<typeof want>;
/** A want without what is the same in all, and its number. */
export type WantBody = Pick<Want, 'is' | 'reason' | 'text' | 'run'>;

const ofRequest = {
  /** The name of the request, see hashName. */
  request: hash,
  attempt: count,
};
/** `reply`: the encoded head of the answer, which names its blobs. `refused`: the line of the site's policy that forbids the request. */
export const answer = z.discriminatedUnion('is', [
  z.object({ ...ofRequest, is: z.literal('reply'), head: z.string().max(MAX_HEAD) }),
  z.object({ ...ofRequest, is: z.literal('failed'), reason: words(4000) }),
  z.object({ ...ofRequest, is: z.literal('refused'), line: words(1000), reason: words(4000) }),
]);
export type SiteAnswer = z.infer<typeof answer>;

/** What a site has. */
export const has = z.object({
  protocol: positive,
  phoenix: version,
  addon: words(100).optional(),
  device: words(200).optional(),
  /** The number of the newest want that the site has looked at, and the SHA-256 of its bytes in hex. */
  seen: counter,
  sawName: hash.optional(),
  /** What the site says of its data before there is a run; the schema is that of its reader. */
  about: z.record(z.string().max(64), z.unknown()).optional(),
  /** The run that it takes part in, the spec that it has accepted, and how it introduces itself there. */
  run: runName.optional(),
  spec: sha256.optional(),
  hello: hello.optional(),
  /** Why it cannot do what is wanted. */
  problem: words(4000).optional(),
  answers: z.array(answer).max(MAX_REQUESTS).default([]),
});
export type Has = z.infer<typeof has>;

/** A sign of life. */
export const beat = z.object({
  run: runName.optional(),
  is: z.enum(['idle', 'joining', 'working']),
  /** The request that it works on, and how far its training is. */
  kind: words(64).optional(),
  round: positive.optional(),
  step: z.object({ step: count, steps: positive, loss: z.number(), imagesPerSecond: z.number().min(0) }).optional(),
  /** Free memory of the machine in bytes. */
  freeMemory: count.optional(),
  /** Bytes that went to the coordinator and came from it since the site's process began, as its wire counts them. */
  traffic: z.object({ bytesUp: count, bytesDown: count }).optional(),
});
export type Beat = z.infer<typeof beat>;

/** What of a value can be read whatever protocol its sender speaks. */
const header = z.object({ protocol: positive, phoenix: version, counter: counter.optional(), seen: counter.optional() });
export type Header = z.infer<typeof header>;

/** SHA-256 in hex: that of its encoded head is the name of a request. */
export function hashName(bytes: string | Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Signs bytes with an Ed25519 key. */
export type Signer = Verifier & { sign(bytes: Uint8Array): Uint8Array };
/** Checks Ed25519 signatures. `verify` tells by its value: it does not throw. */
export type Verifier = { verify(bytes: Uint8Array, signature: Uint8Array): boolean };

type Kind = 'want' | 'has' | 'beat';
const SIGNATURE = 64;
const most: Record<Kind, number> = { want: MAX_VALUE, has: MAX_VALUE, beat: MAX_BEAT };

/**
 * What is signed. The same key signs texts that a server chooses when it logs in: the first byte occurs in no text in UTF-8, so none of
 * those is a value of ours.
 */
function signed(kind: Kind, site: string, value: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.of(0xff), Buffer.from(`phoenix ${kind}\n${site}\n`), value]);
}

/**
 * A value with its signature. `site`: to which a want is said, or which says a has or beat.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a value that is too long
 */
export function seal(kind: Kind, site: string, value: object, key: Signer): Uint8Array {
  const bytes = Buffer.from(JSON.stringify(value));
  if (SIGNATURE + bytes.length > most[kind])
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `A ${kind} of site ${site} has ${SIGNATURE + bytes.length} bytes; at most ${most[kind]} can be said at once.`,
    );
  return Buffer.concat([key.sign(signed(kind, site, bytes)), bytes]);
}

/**
 * The plain JSON of a value.
 * @throws PhoenixError ERR_PHOENIX_REFUSED if it is too long to be read or not signed with this key for this site, ERR_PHOENIX_MESSAGE if
 * it is no JSON
 */
export function unseal(kind: Kind, site: string, bytes: Uint8Array, key: Verifier): unknown {
  const refuse = (why: string): never => {
    throw new PhoenixError('ERR_PHOENIX_REFUSED', `A ${kind} of site ${site} was ignored: ${why}.`);
  };
  if (bytes.length > most[kind]) refuse(`it has ${bytes.length} bytes, of at most ${most[kind]}`);
  if (bytes.length <= SIGNATURE) refuse(`it has only ${bytes.length} bytes`);
  const value = bytes.subarray(SIGNATURE);
  if (!key.verify(signed(kind, site, value), bytes.subarray(0, SIGNATURE))) refuse('it is not signed with the key of its sender');
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(value));
  } catch (cause) {
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `A ${kind} of site ${site} is not JSON in UTF-8.`, { cause });
  }
}

function read<T>(schema: z.ZodType<T>, what: string, value: unknown): T {
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  throw new PhoenixError('ERR_PHOENIX_MESSAGE', `A ${what} does not fit: ${explain(checked.error)}.`);
}

/** @throws PhoenixError ERR_PHOENIX_MESSAGE */
export const readHeader = (kind: Kind, value: unknown): Header => read(header, kind, value);
/** @throws PhoenixError ERR_PHOENIX_MESSAGE */
export const readHas = (value: unknown): Has => read(has, 'has', value);
/** @throws PhoenixError ERR_PHOENIX_MESSAGE */
export const readBeat = (value: unknown): Beat => read(beat, 'beat', value);

/** @throws PhoenixError ERR_PHOENIX_MESSAGE for another protocol, or a field that is not known and not optional */
export function readWant(value: unknown): Want {
  const { protocol } = readHeader('want', value);
  const { optional = [] } = read(z.object({ optional: want.shape.optional }), 'want', value);
  return readInstruction(want, { kind: 'want', head: value, protocol, optional });
}

/** Why two sides cannot speak to each other, and what to type on which of them. */
export function versionsDiffer(site: string, atSite: Header, atCoordinator: Header): string {
  const siteIsOlder = atSite.protocol < atCoordinator.protocol;
  const [where, newer] = siteIsOlder ? [`at site ${site}`, atCoordinator] : ['at the coordinator', atSite];
  return (
    `Site ${site} speaks protocol ${atSite.protocol} (Phoenix ${atSite.phoenix}), the coordinator protocol ${atCoordinator.protocol} ` +
    `(Phoenix ${atCoordinator.phoenix}). Stop Phoenix ${where} and type: npm install phoenix@${newer.phoenix}`
  );
}
