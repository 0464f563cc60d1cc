/** A site leaves its federation: its key is destroyed. */
import { exists, io, remove } from '../../files.ts';
import { readSentLog } from '../../net/sent-log.ts';
import { formatBytes } from '../../report/units.ts';
import { takeLock } from '../../run/lock.ts';
import { parseOptions, type SiteLeaveOptions } from '../options/index.ts';
import { findHome, homeBase } from './home.ts';

export type Leave = {
  site: string;
  federation: string;
  home: string;
  /** Whether the key is gone now; else nothing was done. */
  left: boolean;
  /** What stays, here and at the coordinator, a sentence each. */
  remains: string[];
};

/**
 * Says what remains of a site that leaves, and with `yes` removes its key and its rights from this machine: it cannot come back without a
 * new invitation. The coordinator is not told: ask its operator to revoke the site.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a site that is not on this machine, ERR_PHOENIX_RUN for one that is running, ERR_PHOENIX_IO
 */
export async function leaveSite(options: SiteLeaveOptions = {}): Promise<Leave> {
  const { name, home: given, yes } = parseOptions('site leave', options);
  const home = await findHome(homeBase(given), name);
  const { site, federation, dir } = home;
  const { totals } = await readSentLog(home.path('sent.jsonl'));
  const remains = [
    ...[...totals].flatMap(([run, { bytes, rounds }]) =>
      rounds === 0
        ? []
        : `What ${rounds} rounds of the run ${run} have learnt from this site, ${formatBytes(bytes)} sent, is part of its model and cannot be taken out.`,
    ),
    'The server keeps the last values and blobs of this site until its operator revokes it: phoenix revoke FEDERATION SITE.',
    `The images are untouched, and ${dir} keeps what the site has learnt for itself (runs), its rules and sent.jsonl: remove the folder if you need them no more.`,
  ];
  if (yes)
    await io(dir, async () => {
      const lock = await takeLock(dir);
      try {
        for (const file of ['credentials.json', 'enrolling.json']) if (await exists(home.path(file))) await remove(home.path(file));
      } finally {
        await lock.release();
      }
    });
  return { site, federation, home: dir, left: yes, remains };
}
