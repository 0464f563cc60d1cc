/** A whole federation on this machine: `coordinate` with a real nats-server, and sites with homes of their own, in this process. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { coordinate } from '../../src/commands/coordinator/coordinator.ts';
import { invite } from '../../src/commands/coordinator/members.ts';
import type { CoordinatorEvents } from '../../src/commands/coordinator/presence.ts';
import type { CoordinatorOptions, SiteOptions } from '../../src/commands/options/index.ts';
import { createSite, type RunningSite } from '../../src/commands/site/site.ts';
import type { Policy } from '../../src/net/policy.ts';
import type { SiteEvent } from '../../src/net/site-state.ts';
import { freePorts } from './nats.ts';

export type RigSite = RunningSite & { messages: string[]; events: SiteEvent[] };

export async function federationRig(t: ExecutionContext) {
  const folder = await mkdtemp(join(tmpdir(), 'phoenix-federation-'));
  const ending = new AbortController();
  const sites: RigSite[] = [];
  const works: Promise<unknown>[] = [];
  t.teardown(async () => {
    ending.abort(new Error('the test is over'));
    await Promise.allSettled([...sites.map((site) => site.stop()), ...works]);
    await rm(folder, { recursive: true, force: true });
  });
  const [port, tcpPort] = await freePorts(2);
  const federation = join(folder, 'lung');
  const home = join(folder, 'home');

  /** Runs the coordinator to the end of its run. `ready`: resolves when sites can reach it. */
  function start(options: Omit<CoordinatorOptions, 'federation'>, events: CoordinatorEvents = {}) {
    const messages: string[] = [];
    let isReady: (event: { page: string }) => void;
    const ready = new Promise<{ page: string }>((resolve) => {
      isReady = resolve;
    });
    const done = coordinate(
      { federation, port, tcpPort, pagePort: 0, yes: true, device: 'cpu', size: 8, preset: 'tiny', ...options } as CoordinatorOptions,
      {
        signal: ending.signal,
        onReady: (event) => isReady(event),
        onMessage: ({ text }) => void messages.push(text),
        ...events,
      },
    ).then((result) => {
      if (!result) throw new Error('nobody has told it to stop');
      return result;
    });
    works.push(done);
    done.catch(() => {});
    return { done, messages, ready: Promise.race([ready, done.then(() => Promise.reject(new Error('the run was over at once')))]) };
  }

  /** Starts a site; a new one is invited. */
  async function site(name: string, options: SiteOptions): Promise<RigSite> {
    const messages: string[] = [];
    const events: SiteEvent[] = [];
    const { file } =
      options.data === undefined ? { file: name } : await invite({ federation, site: name, out: join(folder, `${name}.phoenix`) });
    const running = await createSite(
      { home, device: 'cpu', threads: 1, ...options, file },
      { onMessage: ({ text }) => void messages.push(text), onEvent: (event) => void events.push(event) },
    );
    const made = { ...running, messages, events };
    sites.push(made);
    return made;
  }

  const dirOf = (name: string) => join(home, 'lung', name);

  /** Changes what a site may be asked for. */
  async function allow(name: string, change: Partial<Policy['allow']>): Promise<void> {
    const path = join(dirOf(name), 'site.json');
    const policy = JSON.parse(await readFile(path, 'utf8'));
    await writeFile(path, JSON.stringify({ ...policy, allow: { ...policy.allow, ...change } }));
  }

  return { folder, federation, home, start, site, allow, dirOf };
}
