/** phoenix demo: simulated clients, or real sites on this machine. */
import { demoSites } from '../commands/demo.ts';
import { type DemoOptions, demoOptions, type FederateOptions, mergeOptions, type RawOptions } from '../commands/options/index.ts';
import { formatBytes, formatCount } from '../report/units.ts';
import type { Terminal } from './terminal.ts';
import { runFederate, runTraining } from './training.ts';

export async function runDemo({ sites, ...options }: RawOptions, terminal: Terminal): Promise<void> {
  if (sites === undefined) return runFederate('demo', mergeOptions('federate', demoOptions, options) as FederateOptions, terminal);
  const { progress, json, text } = terminal;
  let sent: Awaited<ReturnType<typeof demoSites>>['sent'] = [];
  await runTraining(
    'demo',
    async (events) => {
      const result = await demoSites({ ...options, sites } as DemoOptions, {
        ...events,
        onReady(event) {
          json({ event: 'ready', ...event });
          progress.note(`page     ${event.page}`);
          progress.note(`server   nats-server ${event.version}; the sites are processes of their own and reach it at ${event.servers[0]}`);
        },
      });
      sent = result.sent;
      return result;
    },
    terminal,
    () => 'a new demo; this one is not continued',
  );
  json({ event: 'sent', sites: sent });
  for (const { site, path, kinds } of sent) {
    const parts = kinds.map(({ kind, messages, bytes }) => `${kind} ${formatCount(messages)}× ${formatBytes(bytes)}`);
    text(`${site} sent ${parts.join(', ')}: ${path}`);
  }
}
