/** The options of the commands of a federation of real sites: coordinator, invite, status and what steers it. */
import { clientId } from '../../fl/protocol.ts';
import { model, range } from './common.ts';
import { learning, partition, rounds } from './federate.ts';
import { above0, flag, integer, type Kind, number, text } from './kinds.ts';
import { headed, option, required } from './option.ts';
import { aggregation, serverStep } from './server.ts';

const nameKind: Kind<string> = {
  schema: clientId,
  valid: 'a name of 1 to 128 characters without a slash, which does not begin with a dot',
  placeholder: 'name',
};

const federation = option({ kind: text('dir'), default: required, positional: true, help: 'folder of the federation' });

export const coordinatorTable = {
  ...headed('Federation', {
    federation,
    run: option({ kind: nameKind, default: 'run-1', help: 'name of the run: a new name begins another run with the same sites' }),
    sites: option({
      kind: integer(1, 10_000),
      default: undefined,
      defaultText: 'all that were invited, at least 2',
      unit: 'sites',
      help: 'sites that must be there before the run begins',
    }),
    yes: option({ kind: flag, default: false, help: 'begin the run without asking whether its spec is right' }),
  }),
  ...headed('Network', {
    host: option({
      kind: text('name'),
      default: undefined,
      defaultText: 'localhost, or as before',
      help: 'name or address by which sites reach this machine; written into invitations',
    }),
    port: option({ kind: integer(1, 65_535), default: 8443, help: 'port of WebSocket over TLS, the only one that sites need' }),
    tcpPort: option({ kind: integer(1, 65_535), default: 4223, help: 'port of TCP with TLS, for this machine and its network' }),
    natsServer: option({
      kind: text('file'),
      default: undefined,
      defaultText: 'the one on PATH or where installers put it',
      help: 'the nats-server to start, 2.9 or newer',
    }),
    stay: option({
      kind: flag,
      default: false,
      help: 'keep server and page up after the end of the run, until phoenix stop or Ctrl-C',
    }),
    pagePort: option({ kind: integer(0, 65_535), default: 7777, help: 'port of the live page on this machine; 0 = a free one' }),
  }),
  ...headed('Waiting', {
    quorum: option({
      kind: above0(1),
      default: 2 / 3,
      defaultText: 'two thirds',
      help: 'share of the selected sites without which a round is not averaged, but tried again',
    }),
    grace: option({
      kind: number(0, 1e9),
      default: undefined,
      defaultText: 'wait for all that are alive',
      unit: 'seconds',
      help: 'how long the others are waited for once the quorum has answered',
    }),
    deadline: option({
      kind: number(0, 1e9),
      default: undefined,
      defaultText: 'none',
      unit: 'seconds',
      help: 'longest wait for the answers of a round',
    }),
    roundSeconds: option({
      kind: above0(1e9),
      default: undefined,
      defaultText: 'none: every site trains as much as planned',
      unit: 'seconds',
      help: 'longest local training: a site that was slower in its last three trains on fewer images, at least one batch; turns --normalise on',
    }),
    lostAfter: option({
      kind: above0(1e9),
      default: 600,
      unit: 'seconds',
      help: 'a site that was not heard of for this long is lost',
    }),
  }),
  ...headed('Images', {
    size: option({
      kind: integer(4, 1024),
      default: undefined,
      defaultText: 'as the images of the sites, if all have one size',
      unit: 'pixels',
      help: 'sites scale their images to squares of this side, and crop what sticks out',
    }),
    range,
  }),
  ...headed('Shared set', {
    sharedData: option({
      kind: text('path'),
      default: undefined,
      defaultText: 'none',
      mayChange: true,
      help: 'images that are public, a dataset as for federate: every site receives a part of them and trains on it as well',
    }),
    shareAlpha: option({
      kind: above0(1),
      default: 0.5,
      help: 'share of --shared-data that each site receives, at random',
    }),
  }),
  ...model,
  ...headed('Clients', { fraction: partition.fraction, personal: partition.personal }),
  ...rounds,
  ...aggregation,
  ...serverStep,
  ...learning,
  ...headed('Compression', {
    compress: {
      updates: option({ ...learning.compress.updates, default: 'int8' }),
      tasks: option({ ...learning.compress.tasks, default: 'bf16' }),
    },
  }),
  ...headed('Published model', {
    publishEvery: option({
      kind: integer(0, 1_000_000),
      default: 0,
      defaultText: '0, only at the end',
      unit: 'rounds',
      mayChange: true,
      help: 'give the model to all sites every so many rounds, and at the end of the run',
    }),
    licence: option({
      kind: text('file'),
      default: undefined,
      defaultText: 'none',
      mayChange: true,
      help: 'text of a licence, which goes to the sites with the model, on the page that describes it',
    }),
  }),
  ...headed('Run folder', {
    keep: option({
      kind: integer(1),
      default: 2,
      unit: 'checkpoints',
      mayChange: true,
      help: 'how many of the newest checkpoints to keep',
    }),
    stealLock: option({
      kind: flag,
      default: false,
      help: 'take the federation although its lock names a process that cannot be looked up: only where that one has ended',
    }),
  }),
};

const site = option({ kind: nameKind, default: required, positional: true, help: 'name of the site' });

export const inviteTable = headed('Federation', {
  federation,
  site,
  days: option({ kind: above0(366), default: 7, unit: 'days', help: 'how long the invitation can be used' }),
  out: option({
    kind: text('file'),
    default: undefined,
    defaultText: 'SITE.phoenix in this folder',
    help: 'the file to write; give it to the site over a channel that others do not read',
  }),
});

export const revokeTable = headed('Federation', { federation, site });

export const statusTable = headed('Federation', { federation });

export const pauseTable = headed('Federation', { federation });
export const resumeTable = headed('Federation', { federation });
export const stopTable = headed('Federation', { federation });
