// The noise schedule: published constants, bounds, refusals.
import test from 'ava';
import { noise } from '../../src/ddpm/noise.ts';
import { near } from '../support/near.ts';

test("the linear schedule has Ho et al.'s values", (t) => {
  const { betas, alphaBar, ...options } = noise();
  const sampling = { clip: true, variance: 'large', offset: 0, toImage: true };
  t.deepEqual(options, { kind: 'linear', steps: 1000, betaStart: 1e-4, betaEnd: 0.02, prediction: 'eps', sampling });
  const expected: [number, number][] = [
    [0, 0.9999],
    [1, 0.9997800920720721],
    [10, 0.997806572507846],
    [100, 0.8951415908975365],
    [500, 0.07779665836502389],
    [999, 4.0358297653756754e-5],
  ];
  for (const [time, value] of expected) near(t, alphaBar[time], value, { relative: 1e-13 }, `ᾱ[${time}]`);
  near(t, betas[10], 2.991991991991992e-4, { relative: 1e-14 });
  near(t, betas[999], 0.02, { relative: 1e-14 });
  const posterior = ((betas[10] as number) * (1 - (alphaBar[9] as number))) / (1 - (alphaBar[10] as number));
  near(t, posterior, 2.5846362040811443e-4, { relative: 1e-12 });
});

test("the cosine schedule has Nichol and Dhariwal's values", (t) => {
  const { betas, alphaBar } = noise({ kind: 'cosine' });
  near(t, betas[0], 4.128422482e-5, { relative: 1e-9 });
  near(t, betas[500], 0.003155691442, { relative: 1e-9 });
  t.is(betas[999], 0.999);
  const f = (u: number) => Math.cos((((u + 0.008) / 1.008) * Math.PI) / 2) ** 2;
  near(t, alphaBar[499], f(0.5) / f(0), { relative: 1e-12 }, 'ᾱ follows the squared cosine');
});

for (const kind of ['linear', 'cosine'] as const) {
  for (const steps of [1, 2, 37, 1000, 4000]) {
    test(`${kind} over ${steps} steps: ᾱ falls from below 1 and stays above 0`, (t) => {
      const { betas, alphaBar } = noise({ kind, steps });
      t.is(betas.length, steps);
      t.is(alphaBar.length, steps);
      let before = 1;
      for (const value of alphaBar) {
        t.true(value > 0 && value < before);
        before = value;
      }
    });
  }
}

test('options outside their range are refused by name and value', (t) => {
  const cases: [object, RegExp][] = [
    [{ kind: 'sigmoid' }, /kind is "sigmoid".*linear, cosine/],
    [{ steps: 0 }, /steps is 0/],
    [{ steps: 10.5 }, /steps is 10.5/],
    [{ steps: 1e9 }, /steps is 1000000000/],
    [{ betaStart: 0 }, /betaStart is 0/],
    [{ betaStart: Number.NaN }, /betaStart/],
    [{ betaStart: 0.1, betaEnd: 0.01 }, /betaEnd is 0.01/],
    [{ betaEnd: 1 }, /betaEnd is 1/],
    [{ prediction: 'score' }, /prediction is "score".*eps, x0, v/],
  ];
  for (const [options, message] of cases) t.throws(() => noise(options), { code: 'ERR_PHOENIX_CONFIG', message });
});
