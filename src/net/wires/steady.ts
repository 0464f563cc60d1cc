/** A connection that comes back: a new one is made whenever it is lost, until it is closed or the login is refused. */
import type { NatsConnection } from '@nats-io/nats-core';
import { ConnectError, type DialOptions, dial, explainConnection } from './dial.ts';

/** Longest wait between two tries, in milliseconds. */
const LONGEST_PAUSE = 5000;

export type Steady = {
  /** The connection; undefined while there is none. */
  current(): NatsConnection | undefined;
  /** Resolves at the first connection. @throws ConnectError of the first try */
  first: Promise<void>;
  /** Makes a new connection, with what `options` gives now. */
  renew(): void;
  close(): Promise<void>;
};

export type SteadyOptions = {
  /** Asked before each try: credentials and servers may change. */
  options(): DialOptions;
  /** Called with each new connection before anybody uses it. */
  onConnection?(connection: NatsConnection): void;
  /** Called when the connection is lost or a try fails (with why), and when it is back. `refused`: it is not tried again. */
  onLink?(link: { connected: boolean; why?: string }, refused?: ConnectError): void;
};

/** Why a connection ended that there was. */
function lossOf(why: unknown, connection: NatsConnection, { token }: DialOptions): ConnectError {
  const server = connection.getServer();
  const explained = explainConnection(why ?? new Error('it ended'), server, token);
  return explained.step === 'login'
    ? explained
    : new ConnectError('server', `The connection to ${server} was lost: a new one is made.`, why);
}

export function steady({ options, onConnection, onLink }: SteadyOptions): Steady {
  let connection: NatsConnection | undefined;
  let closed = false;
  let renewing = false;
  let stopPause = () => {};
  let settled: { resolve(): void; reject(error: unknown): void };
  const first = new Promise<void>((resolve, reject) => {
    settled = { resolve, reject };
  });
  // Whoever does not ask for it does without.
  first.catch(() => undefined);

  const pauseFor = (milliseconds: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      stopPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  const failed = (error: ConnectError): boolean => {
    settled.reject(error);
    const isRefused = error.step === 'login';
    onLink?.({ connected: false, why: error.message }, isRefused ? error : undefined);
    return isRefused;
  };
  /** Holds one connection until it ends. Gives why it ended. */
  const hold = async (made: NatsConnection): Promise<unknown> => {
    connection = made;
    onConnection?.(made);
    settled.resolve();
    onLink?.({ connected: true });
    const why = await made.closed();
    connection = undefined;
    return why;
  };
  const run = async () => {
    for (let pause = 250; !closed; ) {
      const given = options();
      try {
        const made = await dial(given);
        pause = 250;
        if (closed) return void (await made.close());
        const why = await hold(made);
        if (closed) return;
        if (renewing) {
          renewing = false;
          onLink?.({ connected: false, why: 'the credentials were renewed' });
          continue;
        }
        if (failed(lossOf(why, made, given))) return;
      } catch (error) {
        if (closed || failed(explainConnection(error, given.servers[0]!, given.token))) return;
      }
      // Sites that lost the same server do not come back in the same moment.
      await pauseFor(pause * (0.5 + Math.random() / 2));
      pause = Math.min(2 * pause, LONGEST_PAUSE);
    }
  };
  void run();
  return {
    current: () => (connection && !connection.isClosed() ? connection : undefined),
    first,
    renew() {
      if (!connection) return;
      renewing = true;
      connection.close().catch(() => undefined);
    },
    async close() {
      closed = true;
      stopPause();
      settled.reject(new ConnectError('server', 'The connection was closed.'));
      await connection?.close().catch(() => undefined);
    },
  };
}
