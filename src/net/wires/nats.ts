/**
 * The line over NATS JetStream: values and pieces are last messages of their subjects, read by direct get; heartbeats are plain messages.
 * No consumers, no message ids. Values and heartbeats have a connection of their own, since pieces on a thin line delay what shares theirs.
 */

import { setTimeout as delay } from 'node:timers/promises';
import {
  DiscardPolicy,
  type JetStreamClient,
  type JetStreamManager,
  jetstream,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from '@nats-io/jetstream';
import { type Msg, type MsgHdrs, type NatsConnection, headers as newHeaders } from '@nats-io/nats-core';
import { PhoenixError } from '../../errors.ts';
import { ALIVE, DOWN, lastOf, MAX_MESSAGE, pieceOf, siteOf, tokenOf, upOf, VALUES } from '../subjects.ts';
import type { DialOptions } from './dial.ts';
import type { Line, Owner, Said, Stored } from './line.ts';
import { PIECE } from './line.ts';
import { type Steady, steady } from './steady.ts';

/** Connections for pieces: on a line that loses packets, one alone is slow. */
const DATA_CONNECTIONS = 4;
/** How long an answer about a value may take, in milliseconds. */
const VALUE_WITHIN = 10_000;
/** How often the connection of values is tried while nothing comes, in milliseconds. Those of pieces would wait behind pieces. */
const PING_EVERY = 5000;

/** Headers of a value: the process that said it, and how many it had said. */
const BY = 'Px-By';
const COUNT = 'Px-Count';
/** What a server adds to a message that it gives out of a stream. */
const SUBJECT = 'Nats-Subject';
const SEQUENCE = 'Nats-Sequence';

/** Codes of errors of JetStream. */
const NO_STREAM = 10059;
const WRONG_SEQUENCE = 10071;
const NAME_IN_USE = 10058;
const FOR_GOOD: Record<number, string> = {
  10077: 'the space for what this side may store is used up',
  10054: 'a message is larger than it takes',
  10028: 'the account has no room left',
};
/** Errors of the client that trying again does not mend. */
const HOPELESS = ['InvalidArgumentError', 'InvalidOperationError', 'InvalidSubjectError', 'PermissionViolationError', 'TypeError'];

export type NatsOptions = {
  /** The site whose end this is; absent: the coordinator's. */
  site?: string;
  /** Asked before each connection. */
  dial(): DialOptions;
  /** For the coordinator: most bytes of blobs that one site may store. @default 1 GiB */
  uploadBytes?: number;
  /** For the coordinator: copies of what lies at a cluster. @default 1 */
  replicas?: number;
  /** Called with each new connection for values: for requests besides the wire. */
  onConnection?(connection: NatsConnection): void;
};

export type NatsLine = Line & {
  /** Resolves at the first connection. @throws ConnectError of the first try */
  first: Promise<void>;
  /** The connection for values; undefined while there is none. */
  current(): NatsConnection | undefined;
  /** Connects anew, with new credentials. */
  renew(): void;
};

type StreamPlan = Pick<StreamConfig, 'name' | 'subjects'> & Partial<StreamConfig>;

const codeOf = (error: unknown) => (error as { code?: unknown }).code;

/** An error of the server or the client as one of a line. */
function asLineError(error: unknown): Error {
  if (error instanceof PhoenixError) return error;
  const code = codeOf(error);
  const { name, message } = error as Error;
  const forGood = typeof code === 'number' ? FOR_GOOD[code] : undefined;
  if (forGood)
    return new PhoenixError(
      'ERR_PHOENIX_NETWORK',
      `The server refuses to store this: ${forGood} (${message}). Forget what is needed no more, or have the operator raise the limit.`,
      { cause: error },
    );
  if (HOPELESS.includes(name))
    return new PhoenixError('ERR_PHOENIX_INTERNAL', `The server was asked wrongly: ${message}.`, { cause: error });
  return error as Error;
}

/** What a message says of who said it. Undefined for one that no process of Phoenix published there: servers answer to any subject. */
function saidOf(message: Msg, stored: boolean): Said | undefined {
  const found: MsgHdrs | undefined = message.headers;
  const count = Number(found?.get(COUNT));
  const speaker = found?.get(BY) ?? '';
  const passed = found?.values(SUBJECT).length ?? 0;
  if (!/^[\w-]{1,64}$/.test(speaker) || !Number.isSafeInteger(count) || count < 1 || passed !== (stored ? 1 : 0)) return undefined;
  return { value: message.data, speaker, count };
}

/** A direct get; undefined if nothing lies there. */
async function directGet(connection: NatsConnection, subject: string, timeout: number): Promise<Msg | undefined> {
  const message = await connection.request(subject, undefined, { timeout });
  const status = message.headers?.code ?? 0;
  if (status === 404) return undefined;
  if (status >= 300) throw new Error(`the server answered ${status} ${message.headers?.description}`);
  return message;
}

const noConnection = () => new Error('no connection');

/** What waits on a connection, to be told when it is lost. A promise that all wait on would keep what they waited for. */
const waiting = new WeakMap<NatsConnection, Set<() => void>>();

/** The outcome of `work`; it fails when the connection is lost, whatever the timeout. */
function whileConnected<T>(connection: NatsConnection, work: Promise<T>): Promise<T> {
  let stops = waiting.get(connection);
  if (!stops) {
    const all = new Set<() => void>();
    waiting.set(connection, all);
    connection.closed().then(() => {
      for (const stop of all) stop();
    });
    stops = all;
  }
  const mine = stops;
  return new Promise((resolve, reject) => {
    const stop = () => reject(noConnection());
    mine.add(stop);
    work.then(resolve, reject).finally(() => mine.delete(stop));
  });
}

/** Connections for pieces, made when the first piece is to travel. */
function createDataConnections(dial: () => DialOptions) {
  const all: { link: Steady; busy: number }[] = [];
  const open = () => {
    for (let i = all.length; i < DATA_CONNECTIONS; i++) all.push({ link: steady({ options: dial }), busy: 0 });
  };
  return {
    /** Does work on the least busy of them. */
    async use<T>(work: (connection: NatsConnection) => Promise<T>): Promise<T> {
      open();
      if (all.every(({ link }) => !link.current())) await Promise.any(all.map(({ link }) => link.first));
      const ready = all.filter(({ link }) => link.current());
      const chosen = ready.reduce<(typeof all)[number] | undefined>((best, one) => (best && best.busy <= one.busy ? best : one), undefined);
      const connection = chosen?.link.current();
      if (!chosen || !connection) throw noConnection();
      chosen.busy++;
      try {
        return await whileConnected(connection, work(connection));
      } finally {
        chosen.busy--;
      }
    },
    renew: () => all.forEach(({ link }) => void link.renew()),
    close: () => Promise.all(all.map(({ link }) => link.close())),
  };
}

/** The streams, which the coordinator makes, and makes again when the server lost them. */
function createStreams(replicas: number, uploadBytes: number) {
  const made = new Map<string, Promise<void>>();
  const add = async (manager: JetStreamManager, config: StreamPlan) => {
    const whole = {
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      allow_direct: true,
      max_msgs_per_subject: 1,
      num_replicas: replicas,
      ...config,
    };
    await manager.streams.add(whole).catch(async (error) => {
      if (codeOf(error) !== NAME_IN_USE) throw error;
      await manager.streams.update(config.name, whole);
    });
  };
  const once = (manager: JetStreamManager, config: StreamPlan) => {
    const before = made.get(config.name);
    if (before) return before;
    const work = add(manager, config);
    made.set(config.name, work);
    work.catch(() => made.delete(config.name));
    return work;
  };
  const value = { discard: DiscardPolicy.Old, max_msg_size: MAX_MESSAGE };
  const pieces = { discard: DiscardPolicy.New, max_msg_size: PIECE + 4096 };
  return {
    forget: (site?: string) => (site === undefined ? made.clear() : void made.delete(upOf(site).stream)),
    /** Makes what is missing: what all need, and what this site needs. */
    async ensure(manager: JetStreamManager, site?: string) {
      const up = site === undefined ? undefined : upOf(site);
      await Promise.all([
        ...Object.values(VALUES).map(({ stream, prefix }) => once(manager, { name: stream, subjects: [`${prefix}.*`], ...value })),
        once(manager, { name: DOWN.stream, subjects: [`${DOWN.prefix}.>`], ...pieces }),
      ]);
      // Last, since a site takes its own stream as a sign that the others are there.
      if (up) await once(manager, { name: up.stream, subjects: [`${up.prefix}.>`], ...pieces, max_bytes: uploadBytes });
    },
  };
}

/** The line of one end. Long: the verbs of a line, each a few lines. */
export function natsLine({ site, dial, uploadBytes = 2 ** 30, replicas = 1, onConnection }: NatsOptions): NatsLine {
  type Control = { connection: NatsConnection; js: JetStreamClient; manager: JetStreamManager };
  let control: Control | undefined;
  const streams = createStreams(replicas, uploadBytes);
  /** Sites that the coordinator has to do with: each has a stream. */
  const sites = new Set<string>();
  /** Whether the streams of this site are there, as of this connection. */
  let looked: Promise<void> | undefined;
  const links: Parameters<Line['onLink']>[0][] = [];
  const subscriptions: ((connection: NatsConnection) => void)[] = [];
  const token = site === undefined ? '*' : tokenOf(site);

  const link = steady({
    options: () => ({ ...dial(), pingEvery: PING_EVERY }),
    onConnection(connection) {
      for (const subscribe of subscriptions) subscribe(connection);
      onConnection?.(connection);
    },
    onLink(state, refused) {
      if (!state.connected) control = undefined;
      streams.forget();
      looked = undefined;
      if (state.connected) for (const of of [undefined, ...sites]) prepare(of);
      for (const listener of links) listener(state, refused);
    },
  });
  const pool = createDataConnections(dial);

  const now = async (): Promise<Control> => {
    const connection = link.current();
    if (!connection) throw noConnection();
    if (control?.connection === connection) return control;
    const manager = await jetstreamManager(connection, { checkAPI: false, timeout: VALUE_WITHIN });
    control = { connection, manager, js: jetstream(connection, { timeout: VALUE_WITHIN }) };
    return control;
  };
  /**
   * Makes sure that the streams are there: the coordinator makes them; a site looks for its own, and asks the coordinator by an empty
   * heartbeat, since a server does not answer a direct get of a stream that it has not.
   */
  const prepared = async ({ manager, connection }: Control, about?: string) => {
    if (site === undefined) {
      if (about !== undefined) sites.add(about);
      return streams.ensure(manager, about);
    }
    looked ??= manager.streams.info(upOf(site).stream).then(
      () => undefined,
      (error) => {
        if (codeOf(error) === NO_STREAM) connection.publish(`${ALIVE}.${token}`);
        throw error;
      },
    );
    await looked;
  };
  /** Does a verb once its streams are there. `about`: the site whose stream the coordinator needs. */
  const verb = async <T>(about: string | undefined, work: (control: Control) => Promise<T>): Promise<T> => {
    try {
      const ready = await now();
      await whileConnected(ready.connection, prepared(ready, about));
      return await work(ready);
    } catch (error) {
      streams.forget();
      looked = undefined;
      throw asLineError(error);
    }
  };
  /**
   * Has the streams made that all need, or that this site needs, so that sites may read and put. Tried again until the connection is lost.
   */
  const prepare = async (of?: string) => {
    if (site !== undefined) return;
    for (let connection = link.current(); connection && connection === link.current(); ) {
      const done = await verb(of, async () => true).catch(() => false);
      if (done) return;
      await delay(1000, undefined, { ref: false });
    }
  };
  const placeOf = (owner: Owner) => (owner === 'coordinator' ? DOWN : upOf(owner.site));
  const aboutOf = (owner: Owner) => (owner === 'coordinator' ? undefined : owner.site);
  const stores = new WeakMap<NatsConnection, JetStreamClient>();
  const storeOf = (connection: NatsConnection) => {
    const store = stores.get(connection) ?? jetstream(connection);
    stores.set(connection, store);
    return store;
  };
  const hashOf = (name: string) => name.slice('sha256:'.length);
  const subscribe = (subject: string, callback: (site: string, message: Msg) => void) => {
    const hear = (connection: NatsConnection) => {
      connection.subscribe(subject, {
        callback(error, message) {
          const from = error ? undefined : siteOf(message.subject.slice(message.subject.lastIndexOf('.') + 1));
          if (from !== undefined) callback(from, message);
        },
      });
    };
    subscriptions.push(hear);
    const connection = link.current();
    if (connection) hear(connection);
  };
  const subjectsOf = async ({ manager, connection }: Control, { stream }: { stream: string }, filter: string) => {
    const { state } = await whileConnected(connection, manager.streams.info(stream, { subjects_filter: filter }));
    return Object.keys(state.subjects ?? {});
  };

  if (site === undefined)
    subscribe(`${ALIVE}.*`, (from, { data }) => {
      if (data.length > 0) return;
      streams.forget(from);
      void prepare(from);
    });

  return {
    first: link.first,
    current: link.current,
    renew() {
      link.renew();
      pool.renew();
    },
    connected: () => link.current() !== undefined,
    onLink: (listener) => void links.push(listener),
    last: (kind, of) =>
      verb(of, async ({ connection }): Promise<Stored | undefined> => {
        const message = await whileConnected(connection, directGet(connection, lastOf(kind, tokenOf(of)), VALUE_WITHIN));
        if (!message) return undefined;
        const sequence = Number(message.headers?.values(SEQUENCE).at(-1));
        return { ...(saidOf(message, true) ?? { value: new Uint8Array(0), speaker: '', count: 0 }), sequence };
      }),
    say: (kind, of, { value, speaker, count }, expected) =>
      verb(of, async ({ js, connection }) => {
        const headers = newHeaders();
        headers.set(BY, speaker);
        headers.set(COUNT, String(count));
        const expect = expected === undefined ? undefined : { lastSubjectSequence: expected };
        try {
          const stored = js.publish(`${VALUES[kind].prefix}.${tokenOf(of)}`, value, { headers, expect });
          return (await whileConnected(connection, stored)).seq;
        } catch (error) {
          if (codeOf(error) === WRONG_SEQUENCE) return undefined;
          throw error;
        }
      }),
    hear(kind, listener) {
      subscribe(`${VALUES[kind].prefix}.${token}`, (from, message) => {
        const said = saidOf(message, false);
        if (said) listener(from, said);
      });
    },
    speakers: () =>
      verb(undefined, async (ready) => {
        const subjects = await subjectsOf(ready, VALUES.has, `${VALUES.has.prefix}.*`);
        return subjects.flatMap((subject) => siteOf(subject.slice(VALUES.has.prefix.length + 1)) ?? []);
      }),
    beat(of, value) {
      link.current()?.publish(`${ALIVE}.${tokenOf(of)}`, value);
    },
    hearBeats(listener) {
      subscribe(`${ALIVE}.*`, (from, { data }) => {
        if (data.length > 0) listener(from, data);
      });
    },
    pieces: (owner, name) =>
      verb(aboutOf(owner), async (ready) => {
        const prefix = `${placeOf(owner).prefix}.${hashOf(name)}`;
        const subjects = await subjectsOf(ready, placeOf(owner), `${prefix}.*`);
        return new Set(subjects.map((subject) => Number(subject.slice(prefix.length + 1))));
      }),
    store: (owner, name, piece, bytes, within) =>
      verb(aboutOf(owner), () =>
        pool.use(async (connection) => {
          const subject = `${placeOf(owner).prefix}.${hashOf(name)}.${piece}`;
          await storeOf(connection).publish(subject, bytes, { timeout: within });
        }),
      ),
    load: (owner, name, piece, within) =>
      verb(aboutOf(owner), () =>
        pool.use(async (connection) => (await directGet(connection, pieceOf(placeOf(owner), hashOf(name), piece), within))?.data),
      ),
    forget: (owner, but) =>
      verb(aboutOf(owner), async (ready) => {
        const { stream, prefix } = placeOf(owner);
        const subjects = await subjectsOf(ready, placeOf(owner), `${prefix}.>`);
        const hashes = new Set(subjects.map((subject) => subject.slice(prefix.length + 1).split('.')[0]!));
        for (const hash of hashes)
          if (!but.has(`sha256:${hash}`)) await ready.manager.streams.purge(stream, { filter: `${prefix}.${hash}.*` });
      }),
    async close() {
      await Promise.all([link.close(), pool.close()]);
    },
  };
}
