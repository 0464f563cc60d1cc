/** A federation whose sites are those of `phoenix site`, with homes on the disk, over wires of memory. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import type { SiteOptions } from '../../src/commands/options/index.ts';
import { type RunningSite, type SiteEvents, startSite } from '../../src/commands/site/site.ts';
import { openDataset } from '../../src/ddpm/data/index.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { createSession } from '../../src/ddpm/session.ts';
import { PhoenixError } from '../../src/errors.ts';
import { initialState, runFederation } from '../../src/fl/federation.ts';
import type { RoundRecord } from '../../src/fl/protocol.ts';
import { fedavg } from '../../src/fl/strategies/fedavg.ts';
import type { Transport } from '../../src/fl/transport.ts';
import { enrolSite, type Federation, inviteSite, newFederation, publicKey } from '../../src/net/credentials.ts';
import { signerOf, verifierOf } from '../../src/net/jwt.ts';
import { remoteTransport } from '../../src/net/remote.ts';
import type { SiteEvent } from '../../src/net/site-state.ts';
import { openSites } from '../../src/net/sites.ts';
import { encodeSpec, type Spec } from '../../src/net/spec.ts';
import { memoryHub } from '../../src/net/wires/memory.ts';
import { testFit } from './plain-fit.ts';

export const tinyNetwork = unetConfig({
  ...{ height: 8, width: 8, inChannels: 1, blockOutChannels: [8, 16], layersPerBlock: 1 },
  ...{ attention: [false, true], normGroups: 4, numClasses: 10 },
});
export const tinyFit = testFit({ epochs: 1 }, { flip: true });
export const ROUNDS = 3;

const { classNames } = await openDataset('synthetic:10');

/** A spec for the built-in shapes at 8×8 in gray. */
export async function tinySpec(change: Partial<Spec> = {}): Promise<Spec> {
  using session = createSession({ model: unetModel(tinyNetwork), device: 'cpu' });
  const { kind, steps, betaStart, betaEnd, prediction } = noise();
  return {
    ...{ schema: 1, federation: 'lung', run: 'first', seed: 5 },
    data: { height: 8, width: 8, channels: 1, classNames },
    unet: tinyNetwork,
    noise: { kind, steps, betaStart, betaEnd, prediction },
    parameterCount: session.parameterCount,
    capabilities: [],
    plan: { rounds: ROUNDS, compress: 'none', cohort: 2 },
    ...change,
  };
}

export type Heard = { events: SiteEvent[]; messages: string[] };

/** A site of the rig with what it has told. `until`: resolves at the first event that fits. */
export type RigSite = RunningSite & Heard & { until(fits: (event: SiteEvent) => boolean): Promise<SiteEvent> };

export async function siteRig(t: ExecutionContext) {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-site-'));
  const closing: (() => Promise<unknown>)[] = [];
  t.teardown(async () => {
    for (const close of closing.reverse()) await close().catch(() => {});
    await rm(folder, { recursive: true, force: true });
  });
  const hub = memoryHub();
  let federation: Federation = newFederation({ name: 'lung', servers: ['tls://127.0.0.1:1'] });
  const home = join(folder, 'home');
  const enrolments: string[] = [];

  /** Writes an invitation, and returns its path. */
  async function invite(site: string): Promise<string> {
    const made = inviteSite(federation, site);
    federation = made.federation;
    const path = join(folder, `${site}.phoenix`);
    await writeFile(path, JSON.stringify(made.invitation));
    return path;
  }

  async function start(options: SiteOptions, onEvent?: (event: SiteEvent) => void, more: SiteEvents = {}): Promise<RigSite> {
    const events: SiteEvent[] = [];
    const messages: string[] = [];
    let listeners: ((event: SiteEvent) => void)[] = [];
    const running = await startSite(
      { home, device: 'cpu', ...options },
      {
        onEvent(event) {
          events.push(event);
          for (const listener of listeners) listener(event);
          onEvent?.(event);
        },
        onMessage: ({ text }) => void messages.push(text),
        ...more,
      },
      {
        async enrol(invitation, credentials) {
          const outcome = enrolSite(federation, publicKey(invitation.seed), publicKey(credentials.seed));
          enrolments.push(publicKey(credentials.seed));
          federation = outcome.federation;
          if ('refused' in outcome.answer) throw new PhoenixError('ERR_PHOENIX_REFUSED', outcome.answer.refused);
          return { ...credentials, token: outcome.answer.token };
        },
        connect: async ({ credentials }) => hub.site(credentials.site),
      },
    );
    closing.push(running.stop);
    const until = (fits: (event: SiteEvent) => boolean) =>
      new Promise<SiteEvent>((resolve) => {
        const found = events.find(fits);
        if (found) return resolve(found);
        const listener = (event: SiteEvent) => {
          if (!fits(event)) return;
          listeners = listeners.filter((one) => one !== listener);
          resolve(event);
        };
        listeners.push(listener);
      });
    return { ...running, events, messages, until };
  }

  /** The coordinator's transport of a run. `expect`: the sites that it waits for. */
  async function coordinate(spec: Spec, expect: string[]) {
    const wire = hub.coordinator();
    const sites = await openSites(wire, {
      phoenix: '1.2.3',
      key: signerOf(federation.seeds.coordinator),
      keyOf: (site) => (federation.sites[site]?.key ? verifierOf(federation.sites[site].key) : undefined),
    });
    const transport = await remoteTransport(sites, { run: spec.run, spec: encodeSpec(spec) });
    await sites.until(() => expect.every((id) => transport.clients.some((client) => client.id === id)));
    closing.push(async () => {
      await transport.close();
      await wire.close();
    });
    return { transport, sites };
  }

  return { folder, home, invite, start, coordinate, enrolments, dirOf: (site: string) => join(home, 'lung', site) };
}

/** Runs a federation of the tiny network; its last parameters as bytes, and what each round was. */
export async function federateTiny(transport: Transport, spec: Spec, rounds = ROUNDS): Promise<{ bytes: Buffer; records: RoundRecord[] }> {
  using session = createSession({ model: unetModel(spec.unet), noise: noise(spec.noise), device: 'cpu', threads: 1 });
  const strategy = fedavg();
  const begun = await initialState({ session, seed: spec.seed, strategy });
  const records: RoundRecord[] = [];
  const state = await runFederation(begun, {
    ...{ transport, strategy, rounds, seed: spec.seed, parameters: session.parameters, createVector: session.createVector },
    fit: { ...tinyFit, personal: spec.personal?.patterns },
    onRound: (_, record) => void records.push(record),
  });
  return { bytes: Buffer.from(await state.params.toBytes(0, state.params.length)), records };
}
