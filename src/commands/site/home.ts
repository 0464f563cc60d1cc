/** Where a site of this machine lies: its key, its rules, what it was given, what it has sent, and a folder for each run. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { z } from 'zod';
import { PhoenixError } from '../../errors.ts';
import { exists, hasCode, io, type JsonRules, makeFolder, readJson, writeWhole } from '../../files.ts';
import { clientId } from '../../fl/protocol.ts';
import { type SiteCredentials, serverUrl, siteCredentials } from '../../net/credentials.ts';
import { defaultPolicy, type Policy, parsePolicy } from '../../net/policy.ts';

/** What a site was given, so that it goes on with that the next time: config.json. */
const siteConfig = z.strictObject({
  schema: z.literal(1),
  data: z.string().min(1),
  device: z.enum(['auto', 'cpu', 'cuda']),
  threads: z.int().min(1).max(1024).optional(),
  features: z.string().min(1).optional(),
  servers: z.array(serverUrl).min(1).max(32).optional(),
  /** The public key of the invitation that the site has enrolled with. */
  invitation: z.string().max(80).optional(),
});
export type SiteConfig = z.infer<typeof siteConfig>;

/** A site that asks for its rights, or has asked and not heard: enrolling.json. */
const enrolling = z.strictObject({ invitation: z.string().max(80), credentials: siteCredentials });
export type Enrolling = z.infer<typeof enrolling>;

const rules = (advice: string): JsonRules => ({ code: 'ERR_PHOENIX_RUN', maxBytes: 100_000, advice, version: 1 });
const CONFIG_RULES = rules('Remove it and give --data again.');
const SECRET_RULES = rules('Restore it from a copy, or ask the operator for a new invitation.');

/** The folder of one site. */
export type Home = {
  dir: string;
  federation: string;
  site: string;
  /** The path of a file in it. */
  path(...names: string[]): string;
};

/** The folder of all sites of this machine. */
export const homeBase = (given: string | undefined): string => resolve(given ?? process.env.PHOENIX_HOME ?? join(homedir(), '.phoenix'));

export function homeOf(base: string, federation: string, site: string): Home {
  const dir = join(base, federation, site);
  return { dir, federation, site, path: (...names) => join(dir, ...names) };
}

/** The names of the folders in a folder; none where there is no folder. */
async function foldersIn(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch((error) => {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  });
  return entries.flatMap((entry) => (entry.isDirectory() && clientId.safeParse(entry.name).success ? [entry.name] : [])).sort();
}

/** All sites of this machine. A folder is one of a site if it holds what the site was given. */
async function homesIn(base: string): Promise<Home[]> {
  const found: Home[] = [];
  for (const federation of await io(base, () => foldersIn(base), { action: 'read' }))
    for (const site of await foldersIn(join(base, federation))) {
      const home = homeOf(base, federation, site);
      if (await exists(home.path('config.json'))) found.push(home);
    }
  return found;
}

/**
 * The site that a name means. @param name of the site, its federation, or FEDERATION/SITE. @default the only site of this machine
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a name that none or several have
 */
export async function findHome(base: string, name: string | undefined): Promise<Home> {
  const homes = await homesIn(base);
  const nameOf = ({ federation, site }: Home) => `${federation}/${site}`;
  const matches = homes.filter((home) => name === undefined || [home.site, home.federation, nameOf(home)].includes(name));
  if (matches.length === 1) return matches[0]!;
  const known = homes.map(nameOf).join(', ');
  const refuse = (why: string): never => {
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', why);
  };
  if (homes.length === 0)
    return refuse(`There is no site in ${base}. A new site begins with its invitation: phoenix site FILE.phoenix --data PATH.`);
  if (matches.length === 0) return refuse(`There is no site ${JSON.stringify(name)} in ${base}; there are ${known}.`);
  return refuse(
    `${name === undefined ? 'Several sites are' : `${JSON.stringify(name)} is the name of several`} in ${base}: name one of ${known}.`,
  );
}

/** @throws PhoenixError ERR_PHOENIX_RUN for a damaged file */
export async function readConfig(home: Home): Promise<SiteConfig | undefined> {
  const path = home.path('config.json');
  return (await exists(path)) ? readJson(path, siteConfig, CONFIG_RULES) : undefined;
}

export async function writeConfig(home: Home, config: SiteConfig): Promise<void> {
  await makeFolder(home.dir);
  await writeWhole(home.path('config.json'), asJson(siteConfig.parse(config)));
}

/**
 * A file of secrets; undefined if it is not there.
 * @throws PhoenixError ERR_PHOENIX_REFUSED for one that others may read, ERR_PHOENIX_RUN for a damaged one
 */
async function readSecret<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  if (!(await exists(path))) return undefined;
  const { mode } = await io(path, () => stat(path), { action: 'read' });
  if (process.platform !== 'win32' && (mode & 0o077) !== 0)
    throw new PhoenixError(
      'ERR_PHOENIX_REFUSED',
      `${path} holds a secret key, and other users of this machine may read or write it. Type: chmod 600 ${path}. If others could have read it, ask for a new invitation.`,
    );
  return readJson(path, schema, SECRET_RULES);
}

const writeSecret = (path: string, value: object) => writeWhole(path, asJson(value), undefined, { mode: 0o600 });

export const readCredentials = (home: Home) => readSecret(home.path('credentials.json'), siteCredentials);
export const writeCredentials = (home: Home, credentials: SiteCredentials) => writeSecret(home.path('credentials.json'), credentials);
export const readEnrolling = (home: Home) => readSecret(home.path('enrolling.json'), enrolling);
export const writeEnrolling = (home: Home, value: Enrolling) => writeSecret(home.path('enrolling.json'), value);

/** Writes site.json with the defaults, unless there is one: what stands there is never changed. */
export async function makePolicy(home: Home): Promise<void> {
  const path = home.path('site.json');
  if (!(await exists(path))) await writeWhole(path, asJson(defaultPolicy));
}

/**
 * The rules of the site as they are now: site.json.
 * @throws PhoenixError ERR_PHOENIX_CONFIG for rules that cannot be kept, ERR_PHOENIX_IO where there are none
 */
export async function readPolicy(home: Home): Promise<Policy> {
  const path = home.path('site.json');
  return parsePolicy(path, await io(path, () => readFile(path, 'utf8'), { action: 'read' }));
}

/** Makes the folder of a run. */
export async function runFolder(home: Home, run: string): Promise<string> {
  const dir = home.path('runs', run);
  await io(dir, () => makeFolder(dir));
  return dir;
}

export const asJson = (value: object) => `${JSON.stringify(value, null, 2)}\n`;

/** Whether a text names an invitation, not a site. */
export const isInvitation = (text: string | undefined): text is string => text !== undefined && basename(text).endsWith('.phoenix');
