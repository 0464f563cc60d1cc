/**
 * The tokens by which a nats-server knows an operator, an account and its users: JSON in base64url, signed with Ed25519. Format: version 2
 * of github.com/nats-io/jwt.
 */
import { createHash, createPrivateKey, createPublicKey, sign as signBytes, verify as verifyBytes } from 'node:crypto';
import { fromPublic, fromSeed, type KeyPair } from '@nats-io/nkeys';
import { z } from 'zod';

/** What a user may publish and hear. */
export type Rights = { publish: string[]; subscribe: string[] };

/** Seconds since 1970. */
export const seconds = (date: Date = new Date()) => Math.floor(date.getTime() / 1000);

const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');

type Claims = { name: string; subject: string; issued?: number; expires?: number; nats: object };

function sign({ name, subject, issued = seconds(), expires, nats }: Claims, issuer: KeyPair): string {
  const claims = { iat: issued, iss: issuer.getPublicKey(), name, sub: subject, ...(expires && { exp: expires }), nats };
  const jti = createHash('sha256').update(JSON.stringify(claims)).digest('base64url');
  const text = `${part({ typ: 'JWT', alg: 'ed25519-nkey' })}.${part({ jti, ...claims })}`;
  return `${text}.${Buffer.from(issuer.sign(Buffer.from(text))).toString('base64url')}`;
}

/** No limit, in the words of a token. */
const ANY = -1;

/** @param issued seconds since 1970: the same gives the same token, since a server does not take another one while it runs */
export function operatorToken(operator: KeyPair, systemAccount: string, issued: number): string {
  const nats = { type: 'operator', version: 2, system_account: systemAccount };
  return sign({ name: 'phoenix', subject: operator.getPublicKey(), issued, nats }, operator);
}

export type AccountOptions = {
  name: string;
  /** Whether it may store: the system account of a server must not. */
  stores: boolean;
  /** Users whose tokens count no more if they were issued at this time or before, in seconds since 1970. */
  revoked?: Record<string, number>;
};

/** @param account its public key */
export function accountToken(account: string, operator: KeyPair, { name, stores, revoked = {} }: AccountOptions): string {
  const store = stores ? { mem_storage: ANY, disk_storage: ANY, streams: ANY, consumer: ANY } : {};
  const limits = { ...store, subs: ANY, data: ANY, payload: ANY, imports: ANY, exports: ANY, conn: ANY, leaf: ANY, wildcards: true };
  return sign({ name, subject: account, nats: { type: 'account', version: 2, limits, revocations: revoked } }, operator);
}

export type UserOptions = {
  name: string;
  rights: Rights;
  /** Seconds since 1970; absent: never. */
  expires?: number;
  /** Most subscriptions of a connection. @default any */
  subscriptions?: number;
  /** Largest message in bytes. @default any */
  payload?: number;
};

/** @param user its public key */
export function userToken(
  user: string,
  account: KeyPair,
  { name, rights, expires, subscriptions = ANY, payload = ANY }: UserOptions,
): string {
  const allowed = { pub: { allow: rights.publish }, sub: { allow: rights.subscribe } };
  const nats = { type: 'user', version: 2, ...allowed, subs: subscriptions, data: ANY, payload };
  return sign({ name, subject: user, expires, nats }, account);
}

const claims = z.object({ sub: z.string(), iss: z.string(), iat: z.int(), exp: z.int().optional() });

/** What a token says of its subject and its time, if its signature is that of its issuer; undefined for anything else. */
export function readToken(token: string): z.infer<typeof claims> | undefined {
  const [header, body, signature, ...more] = token.split('.');
  if (!header || !body || !signature || more.length > 0) return undefined;
  try {
    const read = claims.parse(JSON.parse(Buffer.from(body, 'base64url').toString()));
    const signed = fromPublic(read.iss).verify(Buffer.from(`${header}.${body}`), Buffer.from(signature, 'base64url'));
    return signed ? read : undefined;
  } catch {
    return undefined;
  }
}

/** A key pair from its seed. */
export const keyOf = (seed: string): KeyPair => fromSeed(Buffer.from(seed));
/** The seed of a key pair, which is the secret. */
export const seedOf = (key: KeyPair): string => Buffer.from(key.getSeed()).toString();
/** What Ed25519 keys begin with as DER: a private one (PKCS #8), and a public one (SPKI). */
const PRIVATE = Buffer.from('302e020100300506032b657004220420', 'hex');
const PUBLIC = Buffer.from('302a300506032b6570032100', 'hex');
const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

/** The 32 bytes of a key in the text of nkeys, which was checked: behind `skip` bytes of prefix. */
function rawKey(text: string, skip: number): Buffer {
  const bits = Array.from(text, (letter) => BASE32.indexOf(letter).toString(2).padStart(5, '0')).join('');
  return Buffer.from(Array.from({ length: 32 }, (_, i) => Number.parseInt(bits.slice(8 * (skip + i), 8 * (skip + i + 1)), 2)));
}

/** What checks signatures of a public key; it tells by its value. A hundred times as fast as nkeys, which is JavaScript. */
export function verifierOf(key: string): { verify(bytes: Uint8Array, signature: Uint8Array): boolean } {
  const publicKey = createPublicKey({
    key: Buffer.concat([PUBLIC, rawKey(fromPublic(key).getPublicKey(), 1)]),
    format: 'der',
    type: 'spki',
  });
  return { verify: (bytes, signature) => signature.length === 64 && verifyBytes(null, bytes, publicKey, signature) };
}

/** What signs with the key of a seed, and checks its signatures; as fast. */
export function signerOf(seed: string): ReturnType<typeof verifierOf> & { sign(bytes: Uint8Array): Uint8Array } {
  const pair = keyOf(seed);
  const key = createPrivateKey({ key: Buffer.concat([PRIVATE, rawKey(seedOf(pair), 2)]), format: 'der', type: 'pkcs8' });
  return { ...verifierOf(pair.getPublicKey()), sign: (bytes) => signBytes(null, bytes, key) };
}
