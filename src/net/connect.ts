/** Wires over NATS for those who hold credentials, and how a site gets its own. */
import type { Msg, NatsConnection } from '@nats-io/nats-core';
import type { z } from 'zod';
import { PhoenixError } from '../errors.ts';
import {
  answer,
  coordinatorToken,
  enrolRequest,
  enrolSite,
  type Federation,
  type Invitation,
  publicKey,
  renewSite,
  type SiteCredentials,
  validity,
} from './credentials.ts';
import { readToken } from './jwt.ts';
import { ENROL, inboxOf, RENEW, siteOf, tokenOf } from './subjects.ts';
import type { CoordinatorWire, SiteWire } from './wire.ts';
import { dial } from './wires/dial.ts';
import { coordinatorEnd, siteEnd } from './wires/ends.ts';
import { natsLine } from './wires/nats.ts';

/** Longest and shortest time after which a site looks again whether its token should be renewed, in milliseconds. */
const LOOK_EVERY = 3_600_000;
const LOOK_AGAIN = 1000;
/** How long the coordinator may take to answer, in milliseconds. */
const ANSWER_WITHIN = 20_000;
/** Largest answer or request that is read, in bytes. */
const MAX_TEXT = 65_536;

/** Where the coordinator keeps its federation. */
export type Book = {
  read(): Promise<Federation>;
  /** Replaces it by what `change` makes of it, on disk before this resolves; one change at a time. */
  update(change: (federation: Federation) => Federation): Promise<void>;
};

export type CoordinatorOptions = {
  book: Book;
  /** Where the coordinator finds the server: the engine's URL, or those of a cluster. */
  servers: string[];
  /** Called after an enrolment that revoked an older key, so that the server learns of it: Engine.reload. */
  reload?(federation: Federation): Promise<void>;
  /** Called when a site has enrolled, or an invitation was refused and why. */
  onEnrolment?(outcome: { site?: string; refused?: string }): void;
  /** Most bytes of blobs that one site may store: twice the largest update. @default 1 GiB */
  uploadBytes?: number;
  /** Whether to go on without a connection and wait for one; else the first failure rejects. @default false */
  patient?: boolean;
};

/** The JSON of a message as a value of a schema; undefined for anything else. */
function parse<T>(bytes: Uint8Array, schema: z.ZodType<T>): T | undefined {
  if (bytes.length > MAX_TEXT) return undefined;
  try {
    return schema.parse(JSON.parse(Buffer.from(bytes).toString()));
  } catch {
    return undefined;
  }
}

/** Answers invitations and sites that ask for tokens. */
function serveTokens(connection: NatsConnection, { book, reload, onEnrolment }: CoordinatorOptions): void {
  const reply = (message: Msg, given: z.infer<typeof answer>) => void message.respond(JSON.stringify(given));
  const enrol = async (message: Msg) => {
    const by = message.subject.slice(ENROL.length + 1);
    const request = parse(message.data, enrolRequest);
    if (!request) return reply(message, { refused: 'This is no request of Phoenix.' });
    let outcome: ReturnType<typeof enrolSite> | undefined;
    await book.update((federation) => {
      outcome = enrolSite(federation, by, request.key);
      return outcome.federation;
    });
    if (!outcome) return;
    if (outcome.reload) await reload?.(outcome.federation);
    const { answer: given } = outcome;
    const site = Object.entries(outcome.federation.sites).find(([, { invitation }]) => invitation?.key === by)?.[0];
    onEnrolment?.({ site, ...('refused' in given && given) });
    reply(message, given);
  };
  const renew = async (message: Msg) => {
    const site = siteOf(message.subject.slice(RENEW.length + 1));
    if (site !== undefined) reply(message, renewSite(await book.read(), site));
  };
  const serve = (subject: string, work: (message: Msg) => Promise<void>) =>
    connection.subscribe(subject, {
      callback(error, message) {
        if (error) return;
        work(message).catch((failure) => onEnrolment?.({ refused: `The request could not be answered: ${(failure as Error).message}` }));
      },
    });
  serve(`${ENROL}.*`, enrol);
  serve(`${RENEW}.*`, renew);
}

/**
 * The coordinator's wire; it also answers invitations and renews tokens.
 * @throws ConnectError if there is no connection, unless it is patient
 */
export async function connectCoordinator(options: CoordinatorOptions): Promise<CoordinatorWire> {
  const { book, servers, uploadBytes, patient = false } = options;
  const federation = await book.read();
  const token = coordinatorToken(federation);
  const line = natsLine({
    dial: () => ({
      servers,
      certificate: federation.tls?.certificate,
      token,
      seed: federation.seeds.coordinator,
      inbox: inboxOf('coordinator'),
    }),
    uploadBytes,
    replicas: federation.replicas,
    onConnection: (connection) => serveTokens(connection, options),
  });
  const wire = coordinatorEnd(line);
  await (patient ? undefined : line.first.catch((error) => closing(wire, error)));
  return wire;
}

/** Ends a wire that could not be connected. */
async function closing(wire: { close(): Promise<void> }, error: unknown): Promise<never> {
  await wire.close();
  throw error;
}

/**
 * Gets the rights of a site for its own key. May be repeated with the same key, and then gives the same rights again.
 * @returns the credentials with their token: to be written before they are used
 * @throws ConnectError; PhoenixError ERR_PHOENIX_REFUSED if the invitation was used, replaced or revoked, ERR_PHOENIX_NETWORK if the
 * coordinator does not answer
 */
export async function enrol(invitation: Invitation, credentials: SiteCredentials): Promise<SiteCredentials> {
  const by = publicKey(invitation.seed);
  const { servers, certificate, token, seed } = invitation;
  const connection = await dial({ servers, certificate, token, seed, inbox: inboxOf(by) });
  try {
    const key = publicKey(credentials.seed);
    const message = await connection.request(`${ENROL}.${by}`, JSON.stringify({ key }), { timeout: ANSWER_WITHIN }).catch((cause) => {
      throw new PhoenixError('ERR_PHOENIX_NETWORK', 'The server is there, but no coordinator answers: is it running? Try again then.', {
        cause,
      });
    });
    return accept(credentials, message.data);
  } finally {
    await connection.close();
  }
}

/** The credentials with the token that an answer holds. */
function accept(credentials: SiteCredentials, bytes: Uint8Array): SiteCredentials {
  const given = parse(bytes, answer);
  if (!given)
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', 'The coordinator answered something else than a token: do both run the same version?');
  if ('refused' in given) throw new PhoenixError('ERR_PHOENIX_REFUSED', given.refused);
  if (readToken(given.token)?.sub !== publicKey(credentials.seed))
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', 'The coordinator answered with a token for another key.');
  return { ...credentials, token: given.token };
}

export type SiteOptions = {
  credentials: SiteCredentials;
  /** Writes credentials whose token was renewed, before they are used. */
  save(credentials: SiteCredentials): Promise<void>;
  /** Instead of those in the credentials. */
  servers?: string[];
  /** Whether to go on without a connection and wait for one; else the first failure rejects. @default false */
  patient?: boolean;
};

/**
 * A site's wire. While it is connected, its token is renewed long before it expires.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for credentials without a token; ConnectError if there is no connection, unless it is patient
 */
export async function connectSite({ credentials, save, servers, patient = false }: SiteOptions): Promise<SiteWire> {
  let now = credentials;
  if (!now.token) throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `The site ${now.site} is not enrolled yet: its invitation comes first.`);
  const subject = tokenOf(now.site);
  let looking: NodeJS.Timeout | undefined;
  const look = async () => {
    const connection = line.current();
    if (connection && validity(now).renewAt <= Date.now()) {
      try {
        const message = await connection.request(`${RENEW}.${subject}`, undefined, { timeout: ANSWER_WITHIN });
        const next = accept(now, message.data);
        await save(next);
        now = next;
        line.renew();
      } catch {
        // No coordinator, or a full disk: the old token is good for long, and it is tried again.
      }
    }
    const wait = Math.min(LOOK_EVERY, Math.max(LOOK_AGAIN, validity(now).renewAt - Date.now()));
    looking = setTimeout(look, wait);
    looking.unref();
  };
  const line = natsLine({
    site: now.site,
    dial: () => ({
      servers: servers ?? now.servers,
      certificate: now.certificate,
      token: now.token!,
      seed: now.seed,
      inbox: inboxOf(subject),
    }),
  });
  void look();
  const wire = siteEnd(line, now.site);
  const close = async () => {
    clearTimeout(looking);
    await wire.close();
  };
  await (patient ? undefined : line.first.catch((error) => closing({ close }, error)));
  return { ...wire, close };
}
