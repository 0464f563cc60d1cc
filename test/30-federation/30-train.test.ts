import test from 'ava';
import { atStart, type Hyper, type Length, plannedSteps, rateAt } from '../../src/ddpm/fit.ts';
import { toPixels } from '../../src/ddpm/sample.ts';
import { type StepProgress, type TrainLocalOptions, trainLocal } from '../../src/ddpm/train.ts';
import { fakeImages, fakeSession } from '../support/fake-session.ts';
import { near } from '../support/near.ts';
import { testHyper } from '../support/plain-fit.ts';

const hyper = testHyper({ lr: 0.05 });

const indices = Int32Array.from({ length: 10 }, (_, i) => 100 + i);

async function run(length: Length, change: Partial<Hyper> = {}, more: Partial<TrainLocalOptions> = {}) {
  const session = fakeSession();
  const common = { images: fakeImages(200), indices, key: 7n, position: atStart };
  const trained = await trainLocal({ session, ...common, length, hyper: { ...hyper, ...change }, ...more });
  const drawn = session.calls.flatMap((call) => Array.from(call.indices));
  return { session, trained, drawn, params: await session.params.toBytes(0, 6) };
}

const sorted = (values: Iterable<number>) => [...values].sort((a, b) => a - b);

test('an epoch is ceil(n/B) full batches that wrap around one permutation, a fresh one each epoch', async (t) => {
  const { trained, drawn } = await run({ epochs: 3 });
  t.is(trained.steps, 9);
  t.is(trained.images, 36);
  t.is(trained.losses.length, 9);
  const epochs = [0, 12, 24].map((at) => drawn.slice(at, at + 12));
  for (const epoch of epochs) {
    t.deepEqual(sorted(epoch.slice(0, 10)), [...indices], 'each image once');
    t.deepEqual(epoch.slice(10), epoch.slice(0, 2), 'then it wraps');
  }
  t.notDeepEqual(epochs[0], epochs[1]);
  t.notDeepEqual(epochs[1], epochs[2]);
});

test('fewer images than a batch wrap several times', async (t) => {
  const { trained, drawn } = await run({ epochs: 2 }, { batch: 8 }, { indices: Int32Array.of(5, 6, 7) });
  t.is(trained.steps, 2);
  t.deepEqual(sorted(drawn.slice(0, 3)), [5, 6, 7]);
  t.deepEqual(drawn.slice(3, 8), [...drawn.slice(0, 3), ...drawn.slice(0, 2)]);
});

test('localImages draws full batches over one permutation after the other', async (t) => {
  const { trained, drawn } = await run({ localImages: 25 });
  t.is(trained.steps, 7);
  t.is(drawn.length, 28);
  t.deepEqual(sorted(drawn.slice(0, 10)), [...indices]);
  t.deepEqual(sorted(drawn.slice(10, 20)), [...indices]);
  t.notDeepEqual(drawn.slice(0, 10), drawn.slice(10, 20));
});

test('equal keys give equal bytes, other keys other orders', async (t) => {
  const [a, b, c] = [await run({ epochs: 1 }), await run({ epochs: 1 }), await run({ epochs: 1 }, {}, { key: 8n })];
  t.deepEqual(a.params, b.params);
  t.notDeepEqual(a.drawn, c.drawn);
});

test('every step has its own number, whatever calls it is grouped in, and firstStep goes on where a loop ended', async (t) => {
  const whole = await run({ epochs: 4 }, { warmupSteps: 40 }, { position: { ...atStart, globalStep: 30 } });
  let step = 0;
  for (const call of whole.session.calls) {
    t.deepEqual([call.firstStep, call.globalStep, call.adamStep], [step, 30 + step, step]);
    step += call.steps;
  }
  t.is(step, 12);
  t.true(whole.session.calls.length < 12, 'short steps are grouped');

  const session = fakeSession();
  const images = fakeImages(200);
  const two = { session, images, indices, key: 7n, hyper: { ...hyper, warmupSteps: 40 }, length: { epochs: 2 } };
  const first = await trainLocal({ ...two, position: { ...atStart, globalStep: 30 } });
  t.is(first.adamStep, 6);
  await trainLocal({ ...two, position: { firstStep: 6, adamStep: first.adamStep, globalStep: 36 } });
  t.deepEqual(await session.params.toBytes(0, 6), whole.params);
});

test('the rate falls by half a cosine over the last share of a run', (t) => {
  const table: [progress: number, share: number, rate: number][] = [
    [0, 0.5, 1],
    [0.5, 0.5, 1],
    [0.625, 0.5, (1 + Math.SQRT1_2) / 2],
    [0.75, 0.5, 0.5],
    [0.875, 0.5, (1 - Math.SQRT1_2) / 2],
    [1, 0.5, 0],
    [0.5, 1, 0.5],
    [0.9, 0.2, 0.5],
    [1, 0.2, 0],
  ];
  for (const [progress, share, rate] of table) near(t, rateAt(progress, share), rate, 1e-12);
});

test('a falling training takes the rate of each stair, the same however its steps are grouped', async (t) => {
  const fall = { share: 0.5, from: 0.25, to: 1 };
  // More steps than stairs.
  const { session, params, trained } = await run({ localImages: 120 * hyper.batch }, {}, { fall });
  t.is(trained.steps, 120);
  const rates = session.calls.flatMap(({ steps, hyper: { lr } }) => Array<number>(steps).fill(Number(lr) / hyper.lr));
  const expected = Array.from({ length: 120 }, (_, step) => {
    const over = 2 * (0.25 + 0.75 * ((Math.floor((step * 64) / 120) + 0.5) / 64)) - 1;
    return over <= 0 ? 1 : (1 + Math.cos(Math.PI * over)) / 2;
  });
  near(t, rates, expected, 1e-12);
  t.true(rates[0] === 1 && rates.at(-1)! < 0.001);

  const single = fakeSession();
  let adamStep = 0;
  for (let step = 0; step < 120; step++) {
    const lr = hyper.lr * expected[step]!;
    const position = { firstStep: step, globalStep: step, adamStep };
    const one = { session: single, images: fakeImages(200), indices, key: 7n, length: { localImages: hyper.batch } };
    ({ adamStep } = await trainLocal({ ...one, hyper: { ...hyper, lr }, position }));
  }
  near(
    t,
    await single.params.toBytes(0, 6).then((bytes) => [...new Float32Array(bytes.buffer)]),
    [...new Float32Array(params.buffer)],
    1e-6,
  );
});

test('a fall that is none is refused', async (t) => {
  const bad = [
    { share: 0, from: 0, to: 1 },
    { share: 1.5, from: 0, to: 1 },
    { share: 0.5, from: 0.6, to: 0.5 },
    { share: 0.5, from: 0, to: 2 },
  ];
  for (const fall of bad)
    await t.throwsAsync(run({ epochs: 1 }, {}, { fall }), { code: 'ERR_PHOENIX_ARGUMENT', message: /fall of the learning rate is/ });
});

test('progress reaches the last step, and its losses are those returned', async (t) => {
  const session = fakeSession();
  const events: StepProgress[] = [];
  const trained = await trainLocal({
    session,
    images: fakeImages(200),
    indices,
    key: 7n,
    hyper,
    length: { epochs: 5 },
    position: atStart,
    onStep: (event) => events.push(event),
  });
  t.is(events.at(-1)!.step, 15);
  t.true(events.every((event, i) => event.steps === 15 && event.imagesPerSecond > 0 && event.step > (events[i - 1]?.step ?? 0)));
  const total = events.reduce((sum, event, i) => sum + event.loss * (event.step - (events[i - 1]?.step ?? 0)), 0);
  near(t, total / 15, trained.loss, 1e-12);
});

test('an abort stops with its reason and lets no further call begin', async (t) => {
  const session = fakeSession();
  const controller = new AbortController();
  const reason = new Error('enough');
  let last = 0;
  const running = trainLocal({
    session,
    images: fakeImages(200),
    indices,
    key: 7n,
    hyper,
    length: { epochs: 100 },
    position: atStart,
    onStep({ step }) {
      last = step;
      if (step >= 3) controller.abort(reason);
    },
    signal: controller.signal,
  });
  t.is(await t.throwsAsync(running), reason);
  t.is(
    session.calls.reduce((sum, call) => sum + call.steps, 0),
    last,
  );
  t.true(last < 100);
});

test('hyper-parameters, a length, images or an anchor out of range are refused', async (t) => {
  const refuse = (run: Promise<unknown>, message: RegExp) => t.throwsAsync(run, { code: 'ERR_PHOENIX_ARGUMENT', message });
  const once = { epochs: 1 };
  await refuse(run({ epochs: 1, localImages: 10 }), /exactly one/);
  await refuse(run({} as Length), /exactly one/);
  await refuse(run({ epochs: 0 }), /epochs/);
  await refuse(run(once, { batch: 1.5 }), /batch is 1\.5/);
  for (const [name, value] of Object.entries({ lr: -1, beta1: 1, beta2: -0.1, clip: Number.NaN, flip: 1, emaDecay: 1, warmupSteps: 0.5 }))
    await refuse(run(once, { [name]: value }), new RegExp(`${name} is ${value}`));
  await refuse(run(once, { momentum: 1 } as Partial<Hyper>), /momentum/);
  await refuse(run(once, {}, { indices: new Int32Array(0) }), /examples/);
  await refuse(run(once, {}, { indices: Int32Array.of(200) }), /0\.\.199/);
  await refuse(run(once, {}, { indices: Int32Array.of(-1) }), /Image -1/);
  await refuse(run(once, { mu: 0.1 }), /anchor/);
});

test('planned steps are the steps that are made', async (t) => {
  for (const length of [{ epochs: 3 }, { localImages: 25 }])
    for (const batch of [4, 16, 5]) t.is((await run(length, { batch })).trained.steps, plannedSteps(10, batch, length));
});

test('pixels are rounded and clamped', (t) => {
  t.deepEqual([...toPixels(Float32Array.of(-2, -1, 0, 0.5, 1, 9))], [0, 0, 128, 191, 255, 255]);
});
