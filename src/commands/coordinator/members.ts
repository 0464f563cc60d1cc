/** Who belongs to a federation: inviting and revoking sites; and how a running one stands. */
import { z } from 'zod';
import { PhoenixError } from '../../errors.ts';
import { exists, readJson, writeWhole } from '../../files.ts';
import { inviteSite, revokeSite } from '../../net/credentials.ts';
import { type FederationView, federationView } from '../../net/page/view.ts';
import { jsonRules } from '../../run/folder.ts';
import { type InviteOptions, parseOptions, type RevokeOptions, type StatusOptions } from '../options/index.ts';
import { bookOf, places, readFederation } from './folder.ts';

export type Invited = {
  /** The invitation: a secret file, mode 0600. */
  file: string;
  site: string;
  /** Where the site will look for the server. */
  servers: string[];
  days: number;
};

/**
 * Makes an invitation for a site, also while the coordinator runs. No server is needed.
 * @throws PhoenixError ERR_PHOENIX_RUN for a folder that holds no federation, ERR_PHOENIX_ARGUMENT for a file that is there already
 */
export async function invite(options: InviteOptions): Promise<Invited> {
  const { federation: dir, site, days, out } = parseOptions('invite', options);
  const file = out ?? `${site}.phoenix`;
  if (await exists(file))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${file} is there already: name another file (--out), or remove it.`);
  await readFederation(dir);
  let text = '';
  let servers: string[] = [];
  await bookOf(dir).update((before) => {
    const made = inviteSite(before, site, { days });
    text = `${JSON.stringify(made.invitation, null, 1)}\n`;
    servers = made.invitation.servers;
    return made.federation;
  });
  await writeWhole(file, text, undefined, { mode: 0o600 });
  return { file, site, servers, days };
}

/** Takes all rights of a site away. A running coordinator cuts it off within seconds. @throws PhoenixError as `invite` */
export async function revoke(options: RevokeOptions): Promise<{ site: string }> {
  const { federation: dir, site } = parseOptions('revoke', options);
  await bookOf(dir).update((before) => revokeSite(before, site));
  return { site };
}

const runningSchema = z.looseObject({ schema: z.literal(1), page: z.url().max(500), pid: z.int().min(1) });

/**
 * How a running federation stands, asked of its page.
 * @throws PhoenixError ERR_PHOENIX_RUN for a folder that holds no federation, ERR_PHOENIX_NETWORK if its coordinator does not run
 */
export async function status(options: StatusOptions): Promise<FederationView> {
  const { federation: dir } = parseOptions('status', options);
  await readFederation(dir);
  const path = places.coordinator(dir);
  const stopped = new PhoenixError(
    'ERR_PHOENIX_NETWORK',
    `No coordinator of ${dir} runs on this machine: start it with phoenix coordinator ${dir}.`,
  );
  if (!(await exists(path))) throw stopped;
  const { page } = await readJson(path, runningSchema, jsonRules);
  const answer = await fetch(new URL('state.json', page), { signal: AbortSignal.timeout(10_000) }).catch(() => undefined);
  if (!answer?.ok) throw stopped;
  return federationView.parse(await answer.json());
}
