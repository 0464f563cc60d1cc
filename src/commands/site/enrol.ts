/** How a site gets the rights for its key: its invitation once, then the credentials that it keeps. */
import { readFile, stat } from 'node:fs/promises';
import { PhoenixError } from '../../errors.ts';
import { io, remove } from '../../files.ts';
import { enrol } from '../../net/connect.ts';
import { beginEnrolment, type Invitation, publicKey, readInvitation, type SiteCredentials } from '../../net/credentials.ts';
import {
  type Home,
  readConfig,
  readCredentials,
  readEnrolling,
  type SiteConfig,
  writeConfig,
  writeCredentials,
  writeEnrolling,
} from './home.ts';

/** Largest file that is read as an invitation, in bytes. */
const MAX_INVITATION = 65_536;

/** @throws PhoenixError ERR_PHOENIX_REFUSED for a file that is no invitation, or one that has expired; ERR_PHOENIX_IO */
export async function openInvitation(path: string): Promise<Invitation> {
  const read = async () => {
    const { size } = await stat(path);
    if (size > MAX_INVITATION)
      throw new PhoenixError('ERR_PHOENIX_REFUSED', `${path} is no invitation: it has ${size} bytes, of at most ${MAX_INVITATION}.`);
    return readFile(path, 'utf8');
  };
  return readInvitation(path, await io(path, read, { action: 'read' }));
}

/**
 * The credentials of a site. With an invitation that it has not enrolled with yet, it enrols; the key is on the disk before it is used, so
 * that what was broken off goes on with the same key.
 * @throws PhoenixError ERR_PHOENIX_REFUSED or ERR_PHOENIX_NETWORK as `enrol` does, ERR_PHOENIX_ARGUMENT for a site that is not enrolled
 */
export async function credentialsOf(
  home: Home,
  config: SiteConfig,
  invitation: Invitation | undefined,
  ask: typeof enrol = enrol,
): Promise<SiteCredentials> {
  const credentials = await readCredentials(home);
  const key = invitation && publicKey(invitation.seed);
  if (credentials?.token && (key === undefined || key === config.invitation)) return credentials;
  if (!invitation || key === undefined)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `The site ${home.site} of ${home.federation} has no rights yet: start it with its invitation, phoenix site FILE.phoenix.`,
    );
  const begun = await readEnrolling(home);
  const enrolling = begun?.invitation === key ? begun : { invitation: key, credentials: beginEnrolment(invitation) };
  if (enrolling !== begun) await writeEnrolling(home, enrolling);
  const enrolled = await ask({ ...invitation, servers: config.servers ?? invitation.servers }, enrolling.credentials);
  await writeCredentials(home, enrolled);
  await writeConfig(home, { ...((await readConfig(home)) ?? config), invitation: key });
  await remove(home.path('enrolling.json'));
  return enrolled;
}
