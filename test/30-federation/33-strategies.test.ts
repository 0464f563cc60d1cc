import test from 'ava';
import type { Report } from '../../src/fl/protocol.ts';
import { checkStrategy } from '../../src/fl/strategies/contract.ts';
import { strategies } from '../../src/fl/strategies/index.ts';
import type { Strategy } from '../../src/fl/strategy.ts';

for (const [name, make] of Object.entries(strategies)) {
  test(`${name} keeps the contract of a strategy`, (t) => {
    const strategy = make();
    t.is(strategy.name, name);
    t.notThrows(() => checkStrategy(strategy));
  });
}

const equal = (reports: Report[]) => reports.map(({ client }) => ({ client, weight: 1 / reports.length }));

test("a strategy of one's own passes, with state and zero weights too", (t) => {
  const lowestHalf: Strategy<{ rounds: number }> = {
    name: 'lowest-half',
    init: () => ({ rounds: 0 }),
    weigh(reports, { rounds }) {
      const median = reports.map((report) => report.loss!).sort((a, b) => a - b)[Math.floor((reports.length - 1) / 2)]!;
      const kept = reports.filter((report) => report.loss! <= median);
      return {
        weights: reports.map((report) => ({ client: report.client, weight: report.loss! <= median ? 1 / kept.length : 0 })),
        state: { rounds: rounds + 1 },
        notes: [`${reports.length - kept.length} clients left out`],
      };
    },
  };
  t.notThrows(() => checkStrategy(lowestHalf as Strategy));
});

const broken: Record<string, { weigh: Strategy['weigh']; init?: () => unknown; message: RegExp }> = {
  'negative weights': {
    weigh: (reports, state) => ({ weights: reports.map(({ client }, i) => ({ client, weight: i === 0 ? 2 - reports.length : 1 })), state }),
    message: /at least 0|order/,
  },
  NaN: { weigh: (reports, state) => ({ weights: reports.map(({ client }) => ({ client, weight: NaN })), state }), message: /finite/ },
  'a sum of 2': {
    weigh: (reports, state) => ({ weights: equal(reports).map(({ client, weight }) => ({ client, weight: 2 * weight })), state }),
    message: /sum to 1/,
  },
  'a client left out': { weigh: (reports, state) => ({ weights: equal(reports.slice(0, -1)), state }), message: /leave out|sum/ },
  'a stranger': { weigh: (_, state) => ({ weights: [{ client: 'nobody', weight: 1 }], state }), message: /nobody/ },
  'a client twice': {
    weigh: (reports, state) => ({
      weights: [...equal(reports), ...equal(reports)].map(({ client, weight }) => ({ client, weight: weight / 2 })),
      state,
    }),
    message: /once/,
  },
  'the first one counts most': {
    weigh: (reports, state) => ({
      weights: reports.map(({ client }, i) => ({ client, weight: (2 * (reports.length - i)) / (reports.length * (reports.length + 1)) })),
      state,
    }),
    message: /order/,
  },
  'the name counts': {
    weigh: (reports, state) => ({
      weights: reports.map(({ client }) => ({ client, weight: Number(client === [...reports.map((report) => report.client)].sort()[0]) })),
      state,
    }),
    message: /equal reports/,
  },
  'reports are changed': {
    weigh(reports, state) {
      reports.reverse();
      return { weights: equal(reports), state };
    },
    message: /as they are/,
  },
  'state that is no JSON': { weigh: (reports) => ({ weights: equal(reports), state: new Map([['a', 1]]) }), message: /JSON/ },
  'state that is undefined': { weigh: (reports, state) => ({ weights: equal(reports), state }), init: () => undefined, message: /JSON/ },
};

for (const [name, { weigh, init = () => null, message }] of Object.entries(broken)) {
  test(`the contract catches: ${name}`, (t) => {
    t.throws(() => checkStrategy({ name: 'broken', init, weigh }), { code: 'ERR_PHOENIX_ARGUMENT', message });
  });
}
