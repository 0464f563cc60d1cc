// Samplers as tables: each against the formulas of its paper, and all against data whose best denoiser is known in closed form.
import test from 'ava';
import { type Noise, noise } from '../../src/ddpm/noise.ts';
import { makeTable, type SchedulerName, type SchedulerOptions, type Step, schedulers } from '../../src/ddpm/schedulers/index.ts';
import { near } from '../support/near.ts';

const linear = noise();
const cosine = noise({ kind: 'cosine' });
const variants: [SchedulerName, SchedulerOptions][] = [
  ['ddpm', {}],
  ['ddpm', { variance: 'small' }],
  ['ddim', {}],
  ['ddim', { eta: 0.5, spacing: 'trailing' }],
  ['ddim', { eta: 1 }],
  ['dpm-solver', {}],
  ['dpm-solver', { spacing: 'leading' }],
];
const label = ([name, options]: [SchedulerName, SchedulerOptions]) => `${name} ${JSON.stringify(options)}`;
const equal = { relative: 1e-12, absolute: 1e-12 };

/** Some draws of no particular distribution: what a loop and its table share. */
const draw = (i: number) => 1.5 * Math.sin(12.9898 * i + 0.5);

/** The noise that the best network predicts for data that are -1 or 1, half and half: E[x0|x] = tanh(alpha·x/sigma²). */
const predictNoise = (x: number, alphaBar: number): number =>
  (x - Math.sqrt(alphaBar) * Math.tanh((Math.sqrt(alphaBar) * x) / (1 - alphaBar))) / Math.sqrt(1 - alphaBar);

const runTable = (steps: Step[], start: number): number => {
  let x = start;
  let before = 0;
  for (const [i, { alpha, sigma, cx, c0, c1, cz }] of steps.entries()) {
    const x0 = (x - sigma * predictNoise(x, alpha * alpha)) / alpha;
    x = cx * x + c0 * x0 + c1 * before + cz * draw(i);
    before = x0;
  }
  return x;
};

for (const [kind, schedule] of [
  ['linear', linear],
  ['cosine', cosine],
] as const) {
  for (const variance of ['large', 'small'] as const) {
    test(`ddpm, ${variance} variance, ${kind}: the loop of Ho et al., algorithm 2`, (t) => {
      for (const start of [-1.3, 0.2, 0.9]) {
        let x = start;
        for (let i = 0; i < 1000; i++) {
          const time = 999 - i;
          const beta = schedule.betas[time] as number;
          const alphaBar = schedule.alphaBar[time] as number;
          const alphaBarBefore = time > 0 ? (schedule.alphaBar[time - 1] as number) : 1;
          const spread = variance === 'large' ? beta : (beta * (1 - alphaBarBefore)) / (1 - alphaBar);
          x =
            (x - (beta / Math.sqrt(1 - alphaBar)) * predictNoise(x, alphaBar)) / Math.sqrt(1 - beta) +
            (time > 0 ? Math.sqrt(spread) * draw(i) : 0);
        }
        const result = runTable(schedulers.ddpm(schedule, 1000, { variance }), start);
        near(t, result, x, equal);
      }
    });
  }

  for (const eta of [0, 0.5, 1]) {
    for (const steps of [1, 8, 50, 1000]) {
      test(`ddim, eta ${eta}, ${steps} steps, ${kind}: the loop of Song et al., equation 12`, (t) => {
        let x = 0.7;
        for (let i = 0; i < steps; i++) {
          const time = steps === 1 ? 999 : ((steps - 1 - i) * 1000) / steps;
          const alphaBar = schedule.alphaBar[time] as number;
          const alphaBarNext = i + 1 < steps ? (schedule.alphaBar[time - 1000 / steps] as number) : 1;
          const sigma = eta * Math.sqrt((1 - alphaBarNext) / (1 - alphaBar)) * Math.sqrt(1 - alphaBar / alphaBarNext);
          const eps = predictNoise(x, alphaBar);
          x =
            Math.sqrt(alphaBarNext) * ((x - Math.sqrt(1 - alphaBar) * eps) / Math.sqrt(alphaBar)) +
            Math.sqrt(1 - alphaBarNext - sigma ** 2) * eps +
            sigma * draw(i);
        }
        const result = runTable(schedulers.ddim(schedule, steps, { eta }), 0.7);
        near(t, result, x, equal);
      });
    }
  }

  for (const steps of [1, 2, 20, 100]) {
    test(`dpm-solver, ${steps} steps, ${kind}: the loop of Lu et al., algorithm 2`, (t) => {
      const times = Array.from({ length: steps }, (_, i) => 1000 - (i * 1000) / steps - 1);
      const alpha = (time: number) => Math.sqrt(schedule.alphaBar[time] as number);
      const sigma = (time: number) => Math.sqrt(1 - (schedule.alphaBar[time] as number));
      const lambda = (time: number) => Math.log(alpha(time) / sigma(time));
      const denoise = (x: number, time: number) => (x - sigma(time) * predictNoise(x, alpha(time) ** 2)) / alpha(time);
      let x = -0.4;
      let buffer: number | undefined;
      for (let i = 1; i < steps; i++) {
        const [from, to] = [times[i - 1] as number, times[i] as number];
        const h = lambda(to) - lambda(from);
        const x0 = denoise(x, from);
        let d = x0;
        if (buffer !== undefined) {
          const r = (lambda(from) - lambda(times[i - 2] as number)) / h;
          d = (1 + 1 / (2 * r)) * x0 - (1 / (2 * r)) * buffer;
        }
        x = (sigma(to) / sigma(from)) * x - alpha(to) * (Math.exp(-h) - 1) * d;
        buffer = x0;
      }
      x = denoise(x, times[steps - 1] as number);
      const result = runTable(schedulers['dpm-solver'](schedule, steps), -0.4);
      near(t, result, x, equal);
    });
  }
}

for (const variant of variants) {
  const [name, options] = variant;
  const make = (schedule: Noise, steps: number) => schedulers[name](schedule, steps, options);

  test(`${label(variant)}: times fall from noise to image, and the last step is x = x̂0 without noise`, (t) => {
    for (const schedule of [linear, cosine, noise({ steps: 7 })]) {
      for (const steps of [1, 2, 3, 7, 50, 600, 1000].filter((n) => n <= schedule.steps && n >= (options.spacing === 'leading' ? 2 : 1))) {
        const rows = make(schedule, steps);
        t.is(rows.length, steps);
        let before = schedule.steps;
        for (const row of rows) {
          t.true(Number.isInteger(row.t) && row.t >= 0 && row.t < before);
          before = row.t;
          t.true(Object.values(row).every(Number.isFinite));
          near(t, row.alpha ** 2, schedule.alphaBar[row.t] as number, { relative: 1e-14, absolute: 1e-14 });
          near(t, row.alpha ** 2 + row.sigma ** 2, 1, { relative: 1e-14, absolute: 1e-14 });
          t.true(row.cz >= 0);
        }
        const { cx, c0, c1, cz } = rows.at(-1) as Step;
        t.deepEqual([cx, c0, c1 + 0, cz], [0, 1, 0, 0]);
        t.is(rows[0]?.c1 === 0, true);
      }
    }
  });

  test(`${label(variant)}: exact when all data are one image`, (t) => {
    for (const schedule of [linear, cosine]) {
      const rows = make(schedule, 25);
      for (const [i, { alpha, sigma, cx, c0, c1, cz }] of rows.entries()) {
        const next = rows[i + 1] ?? { alpha: 1, sigma: 0 };
        near(t, cx * alpha + c0 + c1, next.alpha, equal);
        const tooWide = name === 'ddpm' && options.variance !== 'small' && next.sigma > 0;
        if (!tooWide) near(t, (cx * sigma) ** 2 + cz ** 2, next.sigma ** 2, equal);
      }
    }
  });
}

test('ddpm with the large variance is exact for data that are noise already', (t) => {
  for (const steps of [1000, 250, 9]) {
    let variance = 1;
    for (const { alpha, cx, c0, cz } of schedulers.ddpm(linear, steps).slice(0, -1)) {
      variance = (cx + c0 * alpha) ** 2 * variance + cz ** 2;
      near(t, variance, 1, equal);
    }
  }
});

/**
 * What a table makes of z ~ N(0,1) when the data are N(mean, deviation²) and x̂0 the best denoiser,
 * E[x0|x] = mean + alpha·deviation²/(alpha²·deviation² + sigma²)·(x - alpha·mean): everything is affine in z, so the result is exact.
 */
const gaussianResult = (rows: Step[], mean: number, deviation: number) => {
  let x = { center: 0, slope: 1, drawn: 0 };
  let before = { center: 0, slope: 0 };
  for (const { alpha, sigma, cx, c0, c1, cz } of rows) {
    const gain = (alpha * deviation ** 2) / (alpha ** 2 * deviation ** 2 + sigma ** 2);
    const x0 = { center: mean + gain * (x.center - alpha * mean), slope: gain * x.slope };
    x = {
      center: cx * x.center + c0 * x0.center + c1 * before.center,
      slope: cx * x.slope + c0 * x0.slope + c1 * before.slope,
      drawn: (cx + c0 * gain) ** 2 * x.drawn + cz ** 2,
    };
    before = x0;
  }
  return { mean: x.center, deviation: Math.sqrt(x.slope ** 2 + x.drawn), slope: x.slope };
};

for (const options of [{}, { variance: 'small' }, { eta: 1 }] as SchedulerOptions[]) {
  const name: SchedulerName = options.eta === undefined ? 'ddpm' : 'ddim';
  test(`${name} ${JSON.stringify(options)}: a thousand steps give a Gaussian's mean and deviation`, (t) => {
    for (const [mean, deviation] of [
      [0.3, 0.5],
      [-0.6, 0.25],
      [0, 1],
    ] as const) {
      const result = gaussianResult(schedulers[name](linear, 1000, options), mean, deviation);
      near(t, result.mean, mean, { relative: 1e-4, absolute: 1e-4 }, 'mean');
      near(t, result.deviation, deviation, { relative: 0.02 }, 'deviation');
    }
  });
}

/**
 * Error of a deterministic sampler against the probability-flow ODE, whose solution for Gaussian data keeps
 * (x - alpha·mean)/√(alpha²·deviation² + sigma²) as it was at the start.
 */
const odeError = (name: SchedulerName, steps: number, spacing: 'leading' | 'trailing') => {
  const [mean, deviation] = [0.3, 0.5];
  const rows = schedulers[name](linear, steps, { spacing });
  const { alpha, sigma } = rows[0] as Step;
  const scale = deviation / Math.sqrt(alpha ** 2 * deviation ** 2 + sigma ** 2);
  const result = gaussianResult(rows, mean, deviation);
  return Math.max(Math.abs(result.slope - scale), Math.abs(result.mean - (mean - scale * alpha * mean)));
};

test('ddim without noise solves the probability-flow ODE to first order', (t) => {
  t.true(odeError('ddim', 1000, 'leading') < 2e-3);
  for (const steps of [25, 50, 100]) {
    const gain = odeError('ddim', steps, 'leading') / odeError('ddim', 2 * steps, 'leading');
    t.true(gain > 1.7 && gain < 2.3, `twice ${steps} steps divide the error by ${gain}`);
  }
});

test('dpm-solver solves the probability-flow ODE with fewer steps', (t) => {
  for (const steps of [20, 50, 100]) {
    const [dpm, ddim] = [odeError('dpm-solver', steps, 'trailing'), odeError('ddim', steps, 'trailing')];
    t.true(dpm < ddim / 3, `${steps} steps: ${dpm} against ${ddim}`);
  }
  t.true(odeError('dpm-solver', 1000, 'leading') < 1e-3);
});

test('samplers that are the same in special cases have the same tables', (t) => {
  const same = (a: Step[], b: Step[]) => {
    for (const [i, row] of a.entries()) {
      for (const key of ['t', 'alpha', 'sigma', 'cx', 'c0', 'c1', 'cz'] as const)
        near(t, row[key], (b[i] as Step)[key], equal, `row ${i}: ${key}`);
    }
  };
  same(schedulers.ddim(linear, 40, { eta: 1 }), schedulers.ddpm(linear, 40, { variance: 'small' }));
  same(schedulers['dpm-solver'](cosine, 2), schedulers.ddim(cosine, 2, { spacing: 'trailing' }));
});

test('times are those of diffusers where steps divide T', (t) => {
  const times = (options: SchedulerOptions, steps: number) => schedulers.ddim(linear, steps, options).map((row) => row.t);
  t.deepEqual(times({}, 5), [800, 600, 400, 200, 0]);
  t.deepEqual(times({ spacing: 'trailing' }, 5), [999, 799, 599, 399, 199]);
  t.deepEqual(times({}, 3), [666, 333, 0]);
  t.is(times({}, 600)[0], 998);
});

test('makeTable gives rows of seven numbers', (t) => {
  const table = makeTable('ddim', linear, 50, { eta: 0.3 });
  t.is(table.length, 350);
  const row = schedulers.ddim(linear, 50, { eta: 0.3 })[7] as Step;
  t.deepEqual([...table.subarray(49, 56)], [row.t, row.alpha, row.sigma, row.cx, row.c0, row.c1, row.cz]);
});

test('what no sampler can do is refused', (t) => {
  const refused = (name: string, steps: number, options: object, message: RegExp) =>
    t.throws(() => makeTable(name as SchedulerName, linear, steps, options), { code: 'ERR_PHOENIX_ARGUMENT', message });
  refused('euler', 10, {}, /ddpm, ddim, dpm-solver, not "euler"/);
  refused('toString', 10, {}, /toString/);
  for (const name of Object.keys(schedulers)) {
    for (const steps of [0, -1, 2.5, 1001, Number.NaN]) refused(name, steps, {}, /steps must be a whole number from 1 to/);
    refused(name, 10, { spacing: 'even' }, /spacing must be leading, trailing or linspace, not "even"/);
  }
  for (const eta of [-0.1, 1.1, Number.NaN]) refused('ddim', 10, { eta }, /eta must be a number from 0/);
  refused('ddpm', 10, { variance: 'learned' }, /variance must be large or small, not "learned"/);
});
