/** FedAvg, McMahan et al. 2017, alg. 1: clients count by the images they train on. */
import type { Strategy } from '../strategy.ts';

/** Weights: examples of a client that answered / examples of all that answered. It keeps no state. */
export function fedavg(): Strategy<null> {
  return {
    name: 'fedavg',
    init: () => null,
    weigh(reports, state) {
      const total = reports.reduce((sum, report) => sum + report.examples, 0);
      return { weights: reports.map(({ client, examples }) => ({ client, weight: examples / total })), state };
    },
  };
}
