/** Sites and a coordinator in this process, over wires of memory. */
import { generateKeyPairSync, sign, verify } from 'node:crypto';
import type { Client } from '../../src/fl/site/client.ts';
import type { Transport } from '../../src/fl/transport.ts';
import type { Signer } from '../../src/net/protocol.ts';
import { type RemoteOptions, remoteTransport } from '../../src/net/remote.ts';
import { runSite } from '../../src/net/site.ts';
import type { SiteOptions } from '../../src/net/site-state.ts';
import { openSites, type Sites } from '../../src/net/sites.ts';
import type { CoordinatorWire, SiteWire } from '../../src/net/wire.ts';
import { type MemoryHub, memoryHub } from '../../src/net/wires/memory.ts';

export function testKey(): Signer {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return {
    sign: (bytes) => sign(null, bytes, privateKey),
    verify: (bytes, signature) => verify(null, bytes, publicKey, signature),
  };
}

/** The keys of a federation: that of the coordinator, and one of each site that is asked for. */
export function testKeys() {
  const coordinator = testKey();
  const sites = new Map<string, Signer>();
  const site = (id: string): Signer => {
    if (!sites.has(id)) sites.set(id, testKey());
    return sites.get(id)!;
  };
  return { coordinator, site };
}
export type TestKeys = ReturnType<typeof testKeys>;

/** One client after the other: they may share a Session. */
export function inTurn(clients: Client[]): Client[] {
  let busy: Promise<unknown> = Promise.resolve();
  return clients.map((client) => ({
    ...client,
    answer(request, options) {
      const answer = busy.then(() => {
        options?.signal?.throwIfAborted();
        return client.answer(request, options);
      });
      busy = answer.catch(() => {});
      return answer;
    },
  }));
}

export type TestSite = { wire: SiteWire; stop(): Promise<void>; ended: Promise<void> };

/** A site's loop. */
export function startSite(wire: SiteWire, keys: TestKeys, client: Client, options: Partial<SiteOptions> = {}): TestSite {
  const { id } = client.hello;
  const ending = new AbortController();
  const ended = runSite(wire, {
    site: id,
    phoenix: '1.2.3',
    key: keys.site(id),
    coordinator: keys.coordinator,
    join: async () => ({ client }),
    signal: ending.signal,
    ...options,
  });
  ended.catch(() => {});
  const stop = async () => {
    ending.abort(new Error('the test is over'));
    await ended.catch(() => {});
    await wire.close();
  };
  return { wire, stop, ended };
}

export type TestCoordinator = { wire: CoordinatorWire; sites: Sites; transport: Transport; close(): Promise<void> };

/** A coordinator's transport. `expect`: the sites that it waits for before it begins. */
export async function startCoordinator(
  wire: CoordinatorWire,
  keys: TestKeys,
  expect: string[],
  options: Partial<RemoteOptions> & { onIgnored?(site: string, why: string): void; isEnrolled?(site: string): boolean } = {},
): Promise<TestCoordinator> {
  const { onIgnored, isEnrolled = () => true, ...remote } = options;
  const keyOf = (site: string) => (isEnrolled(site) ? keys.site(site) : undefined);
  const sites = await openSites(wire, { phoenix: '1.2.3', key: keys.coordinator, keyOf, onIgnored });
  const transport = await remoteTransport(sites, { run: 'run', ...remote });
  await sites.until(() => expect.every((id) => transport.clients.some((client) => client.id === id)));
  const close = async () => {
    await transport.close();
    await wire.close();
  };
  return { wire, sites, transport, close };
}

/** A transport to these clients; its end is that of all. */
export async function remoteOver(
  clients: Client[],
  hub: MemoryHub = memoryHub(),
  options: Partial<RemoteOptions> = {},
): Promise<Transport> {
  const keys = testKeys();
  const started = inTurn(clients).map((client) => startSite(hub.site(client.hello.id), keys, client));
  const coordinator = await startCoordinator(
    hub.coordinator(),
    keys,
    clients.map(({ hello }) => hello.id),
    options,
  );
  const { transport } = coordinator;
  return {
    // The getter stays one.
    ...(Object.create(null, Object.getOwnPropertyDescriptors(transport)) as Transport),
    get clients() {
      return transport.clients;
    },
    async close() {
      await Promise.all(started.map(({ stop }) => stop()));
      await coordinator.close();
    },
  };
}
