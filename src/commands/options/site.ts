/** The options of `phoenix site` and of what is asked of a site on its own machine. */
import { machine, stealLock } from './common.ts';
import { flag, text } from './kinds.ts';
import { headed, option } from './option.ts';

const home = option({
  kind: text('dir'),
  default: undefined,
  defaultText: 'PHOENIX_HOME, else .phoenix in the home folder',
  help: 'folder of all sites of this machine; a site lies in FEDERATION/SITE there',
});

/** Which site of this machine is meant. */
const name = option({
  kind: text('name'),
  default: undefined,
  defaultText: 'the only one of this machine',
  positional: true,
  help: 'a site of this machine: its name, that of its federation, or FEDERATION/SITE',
});

const server = option({
  kind: text('urls'),
  default: undefined,
  defaultText: 'as the invitation says',
  where: 'site',
  help: 'where the server is found from here, as wss://HOST:PORT or tls://HOST:PORT, several separated by commas',
});

const data = option({
  kind: text('path'),
  default: undefined,
  defaultText: 'as it was given before',
  where: 'site',
  help: "the site's images: a dataset as for federate, read in the size and channels that the run says",
});

const asBefore = (otherwise: string) =>
  ({ default: undefined, defaultText: `as it was given before, else ${otherwise}`, where: 'site' }) as const;

export const siteTable = {
  ...headed('Site', {
    file: option({
      kind: text('file'),
      default: undefined,
      defaultText: 'the only site of this machine',
      positional: true,
      help: 'the invitation of a new site, a file that ends in .phoenix; or the name of a site of this machine',
    }),
    data,
    features: option({
      kind: text('file'),
      ...asBefore('pixels8'),
      help: 'a feature network, for runs that compare images by one',
    }),
    server,
    home,
  }),
  ...headed('Machine', {
    device: option({ kind: machine.device.kind, ...asBefore('auto'), help: machine.device.help }),
    threads: option({ kind: machine.threads.kind, ...asBefore('as many as Phoenix chooses'), unit: 'threads', help: machine.threads.help }),
  }),
  ...headed('Other', {
    dataChanged: option({
      kind: flag,
      default: false,
      where: 'site',
      help: 'the images are others than when the site joined the run: divide them anew, and drop what was kept of the run',
    }),
    stealLock: option({ ...stealLock, where: 'site' }),
    policy: option({ kind: flag, default: false, where: 'site', help: 'only show the rules of the site (site.json)' }),
    edit: option({ kind: flag, default: false, where: 'site', help: 'with --policy: change the rules in the editor that EDITOR names' }),
    unit: option({ kind: flag, default: false, where: 'site', help: 'only print a systemd unit that runs the site' }),
  }),
};

export const siteCheckTable = headed('Site', {
  file: option({ ...siteTable.file, help: 'an invitation, a file that ends in .phoenix; or the name of a site of this machine' }),
  data,
  server,
  home,
});

export const siteLogTable = headed('Site', { name, home });
export const siteStatusTable = headed('Site', { name, home });
export const siteLeaveTable = headed('Site', {
  name,
  yes: option({ kind: flag, default: false, where: 'site', help: 'leave; without it, only say what that means' }),
  home,
});
