/** What has left a site, from its sent.jsonl; its rules; and how it is run as a service. */

import { readFile } from 'node:fs/promises';
import { PhoenixError } from '../../errors.ts';
import { io, remove, writeWhole } from '../../files.ts';
import { type PolicyLine, parsePolicy, policyLines } from '../../net/policy.ts';
import { readSentLog, type SentLog } from '../../net/sent-log.ts';
import { parseOptions, type SiteLogOptions } from '../options/index.ts';
import { packageInfo } from '../package-info.ts';
import { findHome, type Home, homeBase, readPolicy } from './home.ts';

export type SentOfSite = SentLog & { site: string; federation: string; path: string };

/**
 * Reads and verifies what a site has sent.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a site that is not on this machine, ERR_PHOENIX_IO
 */
export async function siteLog(options: SiteLogOptions = {}): Promise<SentOfSite> {
  const { name, home: given } = parseOptions('site log', options);
  const home = await findHome(homeBase(given), name);
  const path = home.path('sent.jsonl');
  return { ...(await readSentLog(path)), site: home.site, federation: home.federation, path };
}

/** A log whose chain is broken, as an error. */
export const brokenLog = ({ path, broken }: SentOfSite) =>
  new PhoenixError('ERR_PHOENIX_RUN', `${path} was changed at line ${broken?.line}: ${broken?.why}. What follows was not read.`);

/** The rules of a site, a line each. @throws PhoenixError as `siteLog`; ERR_PHOENIX_CONFIG for rules that cannot be kept */
export async function sitePolicy(name: string | undefined, given?: string): Promise<{ path: string; lines: PolicyLine[] }> {
  const home = await findHome(homeBase(given), name);
  return { path: home.path('site.json'), lines: policyLines(await readPolicy(home)) };
}

/**
 * Lets an editor change a copy of the rules, and takes them whole if they can be kept; else nothing is changed, and the copy stays.
 * @param edit Opens the editor on the copy, and resolves once it is closed.
 * @throws PhoenixError as `siteLog`; ERR_PHOENIX_CONFIG for rules that cannot be kept, and if site.json was changed meanwhile
 */
export async function editPolicy(
  name: string | undefined,
  given: string | undefined,
  edit: (copy: string) => Promise<void>,
): Promise<{ path: string; changed: boolean }> {
  const home = await findHome(homeBase(given), name);
  const path = home.path('site.json');
  const copy = home.path('site.edited.json');
  const read = (file: string) => io(file, () => readFile(file, 'utf8'), { action: 'read' });
  const before = await read(path);
  await writeWhole(copy, before);
  await edit(copy);
  const after = await read(copy);
  parsePolicy(copy, after);
  if ((await read(path)) !== before)
    throw new PhoenixError('ERR_PHOENIX_CONFIG', `${path} was changed meanwhile, so nothing was replaced. Your rules are in ${copy}.`);
  if (after !== before) await writeWhole(path, after);
  await remove(copy);
  return { path, changed: after !== before };
}

/** A systemd unit that runs a site of this machine, as its present user. @throws PhoenixError as `siteLog` */
export async function siteUnit(name: string | undefined, given?: string): Promise<string> {
  const base = homeBase(given);
  const home = await findHome(base, name);
  return unitOf(home, base);
}

const quoted = (text: string) => `"${text.replace(/[\\"]/g, '\\$&').replaceAll('%', '%%').replaceAll('$', '$$$$')}"`;

function unitOf({ federation, site }: Home, base: string): string {
  const { root } = packageInfo();
  const command = [process.execPath, `${root}/dist/cli.js`, 'site', `${federation}/${site}`, '--home', base].map(quoted).join(' ');
  return [
    '[Unit]',
    `Description=Phoenix: site ${site} of ${federation}`.replaceAll('%', '%%'),
    'Wants=network-online.target',
    'After=network-online.target',
    '',
    '[Service]',
    `ExecStart=${command}`,
    'Restart=on-failure',
    'RestartSec=30',
    'KillSignal=SIGTERM',
    'TimeoutStopSec=60',
    'UMask=0077',
    'NoNewPrivileges=true',
    'PrivateTmp=true',
    'ProtectSystem=strict',
    `ReadWritePaths=${quoted(base)}`,
    '',
    '[Install]',
    'WantedBy=multi-user.target',
    '',
  ].join('\n');
}
