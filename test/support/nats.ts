/** A federation with a real nats-server, and lines that can be cut. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Book } from '../../src/net/connect.ts';
import { connectCoordinator, connectSite } from '../../src/net/connect.ts';
import {
  beginEnrolment,
  coordinatorToken,
  enrolSite,
  type Federation,
  inviteSite,
  newFederation,
  publicKey,
  type SiteCredentials,
} from '../../src/net/credentials.ts';
import { type Engine, type EngineOptions, findServer, startEngine } from '../../src/net/engine.ts';
import type { CoordinatorWire, SiteWire } from '../../src/net/wire.ts';
import { dial } from '../../src/net/wires/dial.ts';

/** Why the tests of this chapter cannot run here; undefined where they can. */
export const noServer: string | undefined = await findServer().then(
  () => undefined,
  (error: Error) => error.message,
);
if (noServer) console.error(`SKIPPED: tests with a real server. ${noServer}`);

/** Ports that are free now. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => net.createServer());
  await Promise.all(servers.map((server) => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))));
  const ports = servers.map((server) => (server.address() as net.AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** A book in memory. */
export function memoryBook(federation: Federation): Book & { now: Federation } {
  const book = {
    now: federation,
    read: async () => book.now,
    async update(change: (before: Federation) => Federation) {
      book.now = change(book.now);
    },
  };
  return book;
}

/** A line to a port of this machine that can be cut. */
export async function relay(target: number) {
  const sockets = new Set<net.Socket>();
  let open = true;
  let passed = 0;
  let passedEnough: { bytes: number; resolve(): void } | undefined;
  const server = net.createServer((socket) => {
    if (!open) return socket.destroy();
    const other = net.connect(target, '127.0.0.1');
    for (const [one, its] of [
      [socket, other],
      [other, socket],
    ] as const) {
      sockets.add(one);
      one.on('data', (bytes) => {
        passed += bytes.length;
        if (passedEnough && passed >= passedEnough.bytes) passedEnough.resolve();
      });
      one.pipe(its);
      one.on('error', () => its.destroy());
      one.on('close', () => {
        sockets.delete(one);
        its.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as net.AddressInfo).port,
    cut() {
      open = false;
      for (const socket of sockets) socket.destroy();
    },
    mend() {
      open = true;
    },
    /** Resolves once this many more bytes have passed, both ways together. */
    passes: (bytes: number) =>
      new Promise<void>((resolve) => {
        passedEnough = { bytes: passed + bytes, resolve };
      }),
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

/** An HTTP proxy that connects to what it is asked for. `status`: what it answers instead. */
export async function connectProxy(status?: number) {
  const asked: string[] = [];
  const sockets = new Set<net.Socket>();
  const server = createServer((_, response) => response.writeHead(405).end());
  server.on('connect', (request, socket: net.Socket, head) => {
    asked.push(request.url ?? '');
    if (status) return socket.end(`HTTP/1.1 ${status} No\r\n\r\n`);
    const [host, port] = (request.url ?? '').split(':');
    const other = net.connect(Number(port), host);
    for (const one of [socket, other]) sockets.add(one);
    other.on('connect', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      other.write(head);
      other.pipe(socket);
      socket.pipe(other);
    });
    other.on('error', () => socket.destroy());
    other.on('close', () => socket.destroy());
    socket.on('error', () => other.destroy());
    socket.on('close', () => other.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    asked,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

export type Rig = Awaited<ReturnType<typeof natsRig>>;

/** A federation and its server. `protocol`: how wires reach it. */
export async function natsRig(protocol: 'tls' | 'wss' = 'tls', options: Partial<EngineOptions> & { uploadBytes?: number } = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-nats-'));
  const [port, webSocketPort] = (await freePorts(2)) as [number, number];
  const book = memoryBook(
    newFederation({ name: 'lung', servers: [`${protocol}://127.0.0.1:${protocol === 'tls' ? port : webSocketPort}`] }),
  );
  const troubles: string[] = [];
  const start = () =>
    startEngine({
      folder,
      federation: book.now,
      port,
      webSocketPort,
      host: '127.0.0.1',
      onTrouble: (line) => {
        troubles.push(line);
        if (process.env.TRACE) console.error((performance.now() / 1000).toFixed(2), line.slice(0, 100));
      },
      ...options,
    });
  let engine: Engine = await start();
  const relays = new Map<CoordinatorWire | SiteWire, Awaited<ReturnType<typeof relay>>>();
  const credentials = new Map<string, SiteCredentials>();
  const reach = async <W extends CoordinatorWire | SiteWire>(connect: (server: string) => Promise<W>): Promise<W> => {
    const line = await relay(protocol === 'tls' ? port : webSocketPort);
    const wire = await connect(`${protocol}://127.0.0.1:${line.port}`);
    relays.set(wire, line);
    return wire;
  };
  const rig = {
    folder,
    book,
    port,
    webSocketPort,
    troubles,
    engine: () => engine,
    coordinator: () =>
      reach((server) =>
        connectCoordinator({
          book,
          servers: [server],
          reload: (federation) => engine.reload(federation),
          uploadBytes: options.uploadBytes,
        }),
      ),
    /** Credentials of a site that is enrolled. */
    credentials(site: string): SiteCredentials {
      const before = credentials.get(site);
      if (before) return before;
      const { federation, invitation } = inviteSite(book.now, site);
      const begun = beginEnrolment(invitation);
      const outcome = enrolSite(federation, publicKey(invitation.seed), publicKey(begun.seed));
      if (!('token' in outcome.answer)) throw new Error(outcome.answer.refused);
      book.now = outcome.federation;
      const made = { ...begun, token: outcome.answer.token };
      credentials.set(site, made);
      return made;
    },
    site: (site: string) => reach((server) => connectSite({ credentials: rig.credentials(site), save: async () => {}, servers: [server] })),
    relayOf: (wire: CoordinatorWire | SiteWire) => relays.get(wire)!,
    async cut(wire: CoordinatorWire | SiteWire) {
      relays.get(wire)!.cut();
    },
    async mend(wire: CoordinatorWire | SiteWire) {
      relays.get(wire)!.mend();
    },
    async lose() {
      await engine.stop();
      await rm(join(folder, 'store'), { recursive: true });
      engine = await start();
    },
    /** A connection of the coordinator without a wire. */
    bare: () =>
      dial({
        servers: [engine.url],
        certificate: book.now.tls!.certificate,
        token: coordinatorToken(book.now),
        seed: book.now.seeds.coordinator,
        inbox: '_INBOX_bare',
      }),
    async tamper(name: string, piece: number) {
      const connection = await rig.bare();
      const subject = `px.b.${name.slice(7)}.${piece}`;
      const { data } = await connection.request(`$JS.API.DIRECT.GET.PX_DOWN.${subject}`);
      data[0]! ^= 1;
      await connection.request(subject, data);
      await connection.close();
    },
    async close() {
      for (const line of relays.values()) line.close();
      await engine.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
  return rig;
}
