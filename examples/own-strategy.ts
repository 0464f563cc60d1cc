// A strategy of one's own: how much each client counts is decided from the reports alone, before any update has moved.
// This one trusts a client less the worse the received model fits its held-out images, so that no client pulls the model away from the
// others.
// Run in a checkout: node --import=tsx examples/own-strategy.ts [ROUNDS] [IMAGES]
import { federate, type Strategy } from 'phoenix';

const [rounds = '4', images = '1000'] = process.argv.slice(2);

const calm: Strategy<{ rounds: number }> = {
  name: 'calm',
  init: () => ({ rounds: 0 }),
  weigh(reports, state) {
    const raw = reports.map(({ examples, evalLoss }) => examples / (1e-3 + (evalLoss ?? 1)));
    const total = raw.reduce((a, b) => a + b, 0);
    return {
      weights: reports.map(({ client }, i) => ({ client, weight: (raw[i] as number) / total })),
      state: { rounds: state.rounds + 1 },
      notes: [`heaviest client: ${reports[raw.indexOf(Math.max(...raw))]?.client}`],
    };
  },
};

const { records } = await federate({
  data: `synthetic:${images}`,
  clients: 5,
  partition: 'dirichlet:0.3',
  preset: 'tiny',
  rounds: Number(rounds),
  strategy: calm,
  seed: 1,
});
for (const { round, loss, notes } of records) console.log(`round ${round}: loss ${loss?.toFixed(3)}; ${notes.join('; ')}`);
