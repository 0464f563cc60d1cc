/** phoenix site, and what is asked of a site on its own machine. */

import { spawn } from 'node:child_process';
import {
  OptionError,
  type RawOptions,
  type SiteCheckOptions,
  type SiteLeaveOptions,
  type SiteLogOptions,
  type SiteOptions,
  type SiteStatusOptions,
} from '../commands/options/index.ts';
import { checkSite } from '../commands/site/check.ts';
import { leaveSite } from '../commands/site/leave.ts';
import { brokenLog, editPolicy, siteLog, sitePolicy, siteUnit } from '../commands/site/log.ts';
import { createSite } from '../commands/site/site.ts';
import { notHealthy, siteStatus } from '../commands/site/status.ts';
import { PhoenixError } from '../errors.ts';
import type { SiteEvent } from '../net/site-state.ts';
import { formatBytes, formatCount } from '../report/units.ts';
import type { CommandLine } from './command-line.ts';
import { noting, reading, Stopped, type Terminal, warn } from './terminal.ts';

async function runSiteCommand({ policy, edit, unit, ...options }: RawOptions, terminal: Terminal): Promise<void> {
  const { json, text } = terminal;
  const [file, home] = [options.file, options.home] as (string | undefined)[];
  if (edit && !policy) throw new OptionError('ERR_PHOENIX_CONFIG', 'edit goes with policy: phoenix site --policy --edit.');
  if (policy && edit) {
    const { path, changed } = await editPolicy(file, home, openEditor);
    json({ path, changed });
    text(changed ? `${path} has the new rules; they count from the next request on.` : `${path} is as it was.`);
  } else if (policy) {
    const { path, lines } = await sitePolicy(file, home);
    json({ path, lines });
    text(path);
    for (const { path: line, value, about } of lines) text(`  ${line}: ${value}\n      ${about}`);
  } else if (unit) {
    const content = await siteUnit(file, home);
    json({ unit: content });
    text(content.trimEnd());
  } else await runService(options as SiteOptions, terminal);
}

/** Opens the editor of the user on a file, and waits until it is closed. */
async function openEditor(path: string): Promise<void> {
  const [program, ...given] = (process.env.VISUAL || process.env.EDITOR || 'vi').split(' ').filter(Boolean);
  const refuse = (why: string) =>
    new PhoenixError(
      'ERR_PHOENIX_IO',
      `The editor ${program} ${why}, so nothing was replaced. Name one in EDITOR, or edit site.json yourself.`,
    );
  await new Promise<void>((resolve, reject) => {
    const editor = spawn(program!, [...given, path], { stdio: ['inherit', process.stderr, 'inherit'] });
    editor.once('error', (error) => reject(refuse(`cannot be started (${error.message})`)));
    editor.once('exit', (code) => (code === 0 ? resolve() : reject(refuse(`ended with ${code ?? 'a signal'}`))));
  });
}

/** Runs a site until it is stopped; it says what it does on one row. */
async function runService(options: SiteOptions, terminal: Terminal): Promise<void> {
  const { progress, signal, json } = terminal;
  const row = shower(terminal);
  try {
    const site = await createSite(options, {
      signal,
      onRead: reading(progress),
      onMessage: noting(terminal),
      onEvent(event) {
        if (event.type !== 'step') json({ event: 'site', ...event });
        row(event);
      },
    });
    json({ event: 'start', federation: site.federation, site: site.site, home: site.home });
    progress.note(`site ${site.site} of ${site.federation}, in ${site.home}; Ctrl-C stops it`);
    await site.ended;
  } catch (error) {
    progress.stop();
    if (!(error instanceof Stopped)) throw error;
  }
  progress.stop();
  json({ event: 'done' });
  warn('Stopped. Go on with: phoenix site');
}

/**
 * Shows what happens to a person: training on the row, the rest above it; what stands in the way of a connection once, not with each try.
 */
function shower({ progress }: Terminal): (event: SiteEvent) => void {
  let link = '';
  return (event) => {
    if (event.type === 'step') {
      const { round, step, steps, loss, imagesPerSecond } = event.step;
      progress.update({ done: step, total: steps, label: `round ${round}`, stage: `round ${round}`, loss, imagesPerSecond });
      return;
    }
    const line = lineOf(event);
    const isSaid = event.type === 'link' && line === link;
    if (event.type === 'link') link = line ?? '';
    if (line && !isSaid) progress.note(line);
  };
}

function lineOf(event: SiteEvent): string | undefined {
  switch (event.type) {
    case 'joined':
      return `takes part in the run ${event.run}`;
    case 'answered':
      return event.kind === 'finish' ? `round ${event.round} is done` : undefined;
    case 'declined':
      return `refused: ${event.reason}`;
    case 'failed':
      return `failed: ${event.kind} of round ${event.round}: ${event.reason}`;
    case 'dropped':
      return `no longer wanted: ${event.kind} of round ${event.round}`;
    case 'idle':
      return event.text ?? 'nothing to do for now';
    case 'refused':
      return `the coordinator refuses this site: ${event.text ?? event.reason ?? 'it does not say why'}`;
    case 'problem':
      return `warning: ${event.text}`;
    case 'ignored':
      return `warning: a message was ignored: ${event.why}`;
    case 'link':
      return event.link.connected
        ? 'connected'
        : `no connection${event.link.why ? `: ${event.link.why.replace(/\.$/, '')}` : ''}; trying again`;
    default:
      return undefined;
  }
}

async function runCheck(options: SiteCheckOptions, { json, text }: Terminal): Promise<void> {
  const checks = await checkSite(options);
  json({ ok: checks.every(({ ok }) => ok), checks });
  for (const { step, ok, text: what } of checks) text(`${ok ? 'ok    ' : 'FAILED'} ${step.padEnd(10)} ${what}`);
  const failed = checks.find(({ ok }) => !ok);
  if (failed) throw new PhoenixError('ERR_PHOENIX_NETWORK', `The step ${failed.step} fails: ${failed.text}`);
}

async function runLog(options: SiteLogOptions, { json, text }: Terminal): Promise<void> {
  const log = await siteLog(options);
  const { path, entries, totals, head, broken, unfinished } = log;
  json({ path, entries, totals: Object.fromEntries(totals), head, broken, unfinished });
  for (const { time, run, round, kind, bytes, line } of entries)
    text(`${time}  ${run || '(no run yet)'}  round ${round}  ${kind.padEnd(8)} ${formatBytes(bytes)}  ${line}`);
  for (const [run, { messages, bytes, rounds }] of totals)
    text(`${run || 'before any run'}: ${formatCount(messages)} messages with ${formatBytes(bytes)} in ${formatCount(rounds)} rounds`);
  if (broken) throw brokenLog(log);
  text(`all ${formatCount(entries.length)} lines are as they were written; the last hash is ${head}`);
}

async function runStatus(options: SiteStatusOptions, { json, text }: Terminal): Promise<void> {
  const health = await siteStatus(options);
  json(health);
  if (!health.healthy) throw notHealthy(health);
  const { run, round, work } = health.status!;
  const doing = run === undefined ? 'no run goes on' : `run ${run}${round ? `, round ${round}` : ''}${work ? `, ${work}` : ''}`;
  text(`site ${health.site} of ${health.federation}: registered and accepted, ${doing}`);
}

async function runLeave(options: SiteLeaveOptions, { json, text }: Terminal): Promise<void> {
  const leave = await leaveSite(options);
  json(leave);
  const { site, federation, left, remains } = leave;
  text(
    left
      ? `The key of ${site} is destroyed: it has left ${federation}.`
      : `If ${site} leaves ${federation}, its key is destroyed. What remains:`,
  );
  for (const line of remains) text(`  ${line}`);
  if (!left) text('To leave: phoenix site leave --yes.');
}

export const siteLines: readonly CommandLine[] = [
  {
    name: 'site',
    description: 'Runs a site: it trains on its own images for a coordinator, as far as its own rules allow.',
    table: 'site',
    examples: [
      ['a new site, by its invitation', 'phoenix site hospital-a.phoenix --data /data/images'],
      ['later', 'phoenix site'],
      ['its rules', 'phoenix site --policy'],
      ['as a service', 'phoenix site --unit > /etc/systemd/system/phoenix-site.service'],
    ],
    run: runSiteCommand,
  },
  {
    name: 'site check',
    description: 'Looks at each step between this machine and the coordinator, and at disk, device and data.',
    table: 'site check',
    examples: [['before the site is started', 'phoenix site check hospital-a.phoenix --data /data/images']],
    run: (options, terminal) => runCheck(options as SiteCheckOptions, terminal),
  },
  {
    name: 'site log',
    description: 'Shows what has left the site, and verifies that its log is as it was written.',
    table: 'site log',
    examples: [['of the only site of this machine', 'phoenix site log']],
    run: (options, terminal) => runLog(options as SiteLogOptions, terminal),
  },
  {
    name: 'site status',
    description: 'A health check: its exit code is 0 if the site runs, is registered, and is accepted by its coordinator.',
    table: 'site status',
    examples: [['for a container', 'phoenix site status --json']],
    run: (options, terminal) => runStatus(options as SiteStatusOptions, terminal),
  },
  {
    name: 'site leave',
    description: 'Leaves a federation: says what remains, and with --yes destroys the key of the site.',
    table: 'site leave',
    examples: [['for good', 'phoenix site leave lung --yes']],
    run: (options, terminal) => runLeave(options as SiteLeaveOptions, terminal),
  },
];
