/** phoenix coordinator, invite, revoke and status, and what is told to a running coordinator. */
import { createInterface } from 'node:readline/promises';
import { coordinate } from '../commands/coordinator/coordinator.ts';
import { invite, revoke, status } from '../commands/coordinator/members.ts';
import { give } from '../commands/coordinator/orders.ts';
import type { CoordinatorOptions, InviteOptions, OrderOptions, RevokeOptions, StatusOptions } from '../commands/options/index.ts';
import { statusTable } from '../net/page/table.ts';
import type { Verb } from '../net/page/view.ts';
import type { Terminal } from './terminal.ts';
import { runTraining } from './training.ts';

export function runCoordinator(options: CoordinatorOptions, terminal: Terminal): Promise<void> {
  const { progress, json } = terminal;
  const work = (events: Parameters<Parameters<typeof runTraining>[1]>[0]) =>
    coordinate(options, {
      ...events,
      onReady(event) {
        json({ event: 'ready', ...event });
        progress.note(`page     ${event.page}`);
        progress.note(`sites    reach it at ${event.servers.join(' or ')} (nats-server ${event.version})`);
      },
      onConfirm: ask,
    });
  return runTraining('coordinator', work, terminal, () => `phoenix coordinator ${options.federation} with the same options`);
}

/** Asks on a terminal; where there is none, a run is begun with --yes alone. */
async function ask(): Promise<boolean> {
  if (!process.stdin.isTTY) return false;
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^(y|yes|)$/i.test((await terminal.question('Begin this run? [Y/n] ')).trim());
  } finally {
    terminal.close();
  }
}

export async function runInvite(options: InviteOptions, { json, text }: Terminal): Promise<void> {
  const made = await invite(options);
  json(made);
  text(`${made.file} invites ${made.site} for ${made.days} days. It is a secret, and serves once. At the site:`);
  text(`  phoenix site ${made.file} --data PATH`);
  text(`The site reaches the coordinator at ${made.servers.join(' or ')}.`);
}

export async function runRevoke(options: RevokeOptions, { json, text }: Terminal): Promise<void> {
  const { site } = await revoke(options);
  json({ site });
  text(`${site} has no rights any more. A running coordinator cuts it off within seconds.`);
}

export async function runStatus(options: StatusOptions, { json, text }: Terminal): Promise<void> {
  const view = await status(options);
  json(view);
  text(statusTable(view));
}

export async function runOrder(verb: Verb, options: OrderOptions, { json, text }: Terminal): Promise<void> {
  const said = await give(verb, options);
  json({ verb, text: said });
  text(said);
}
