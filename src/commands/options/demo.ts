/** The options of `phoenix demo`: those of federate, and how many real sites there are in place of simulated clients. */
import { federateTable } from './federate.ts';
import { integer } from './kinds.ts';
import { headed, option } from './option.ts';

export const demoTable = {
  ...headed('Sites', {
    sites: option({
      kind: integer(2, 10),
      default: undefined,
      defaultText: 'none: clients are simulated in one process',
      unit: 'sites',
      where: 'simulation',
      help: 'sites as processes of their own on this machine, over a real nats-server, as between hospitals; goes with --rounds, --epochs, --limit, --seed, --samples, --sample-steps and --out',
    }),
  }),
  ...federateTable,
};
