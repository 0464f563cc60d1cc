import test from 'ava';
import { toPixels } from '../../src/ddpm/sample.ts';
import { type LocalFit, plannedSteps, type StepProgress, trainLocal } from '../../src/ddpm/train.ts';
import { fakeImages, fakeSession } from '../support/fake-session.ts';
import { near } from '../support/near.ts';
import { plainFit } from '../support/plain-fit.ts';

const fit: LocalFit = {
  epochs: 1,
  batch: 4,
  lr: 0.05,
  ...plainFit,
  globalStep: 0,
};

const indices = Int32Array.from({ length: 10 }, (_, i) => 100 + i);

async function run(change: Partial<LocalFit>, more: { key?: bigint; firstStep?: number; adamStep?: number; indices?: Int32Array } = {}) {
  const session = fakeSession();
  const trained = await trainLocal({ session, images: fakeImages(200), indices, key: 7n, ...more, fit: { ...fit, ...change } });
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
  const { trained, drawn } = await run({ epochs: 2, batch: 8 }, { indices: Int32Array.of(5, 6, 7) });
  t.is(trained.steps, 2);
  t.deepEqual(sorted(drawn.slice(0, 3)), [5, 6, 7]);
  t.deepEqual(drawn.slice(3, 8), [...drawn.slice(0, 3), ...drawn.slice(0, 2)]);
});

test('localImages draws full batches over one permutation after the other', async (t) => {
  const { trained, drawn } = await run({ epochs: undefined, localImages: 25 });
  t.is(trained.steps, 7);
  t.is(drawn.length, 28);
  t.deepEqual(sorted(drawn.slice(0, 10)), [...indices]);
  t.deepEqual(sorted(drawn.slice(10, 20)), [...indices]);
  t.notDeepEqual(drawn.slice(0, 10), drawn.slice(10, 20));
});

test('equal keys give equal bytes, other keys other orders', async (t) => {
  const [a, b, c] = [await run({}), await run({}), await run({}, { key: 8n })];
  t.deepEqual(a.params, b.params);
  t.notDeepEqual(a.drawn, c.drawn);
});

test('every step has its own number, whatever calls it is grouped in, and firstStep goes on where a loop ended', async (t) => {
  const whole = await run({ epochs: 4, globalStep: 30, warmupSteps: 40 });
  let step = 0;
  for (const call of whole.session.calls) {
    t.deepEqual([call.firstStep, call.globalStep, call.adamStep], [step, 30 + step, step]);
    step += call.steps;
  }
  t.is(step, 12);
  t.true(whole.session.calls.length < 12, 'short steps are grouped');

  const session = fakeSession();
  const images = fakeImages(200);
  const two = { ...fit, epochs: 2, warmupSteps: 40 };
  const first = await trainLocal({ session, images, indices, key: 7n, fit: { ...two, globalStep: 30 } });
  t.is(first.adamStep, 6);
  await trainLocal({ session, images, indices, key: 7n, firstStep: 6, adamStep: first.adamStep, fit: { ...two, globalStep: 36 } });
  t.deepEqual(await session.params.toBytes(0, 6), whole.params);
});

test('progress reaches the last step, and its losses are those returned', async (t) => {
  const session = fakeSession();
  const events: StepProgress[] = [];
  const trained = await trainLocal({
    session,
    images: fakeImages(200),
    indices,
    key: 7n,
    fit: { ...fit, epochs: 5 },
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
    fit: { ...fit, epochs: 100 },
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

test('a fit, images or anchor out of range are refused', async (t) => {
  const refuse = (change: Partial<LocalFit>, more: Parameters<typeof run>[1], message: RegExp) =>
    t.throwsAsync(run(change, more), { code: 'ERR_PHOENIX_ARGUMENT', message });
  await refuse({ localImages: 10 }, {}, /exactly one/);
  await refuse({ epochs: undefined }, {}, /exactly one/);
  await refuse({ epochs: 0 }, {}, /epochs/);
  await refuse({ batch: 1.5 }, {}, /batch/);
  await refuse({}, { indices: new Int32Array(0) }, /examples/);
  await refuse({}, { indices: Int32Array.of(200) }, /0\.\.199/);
  await refuse({}, { indices: Int32Array.of(-1) }, /Image -1/);
  await refuse({ mu: 0.1 }, {}, /anchor/);
});

test('planned steps are the steps that are made', async (t) => {
  for (const change of [{ epochs: 3 }, { epochs: undefined, localImages: 25 }, { batch: 16 }, { batch: 5 }] as Partial<LocalFit>[]) {
    t.is((await run(change)).trained.steps, plannedSteps(10, { ...fit, ...change }));
  }
});

test('pixels are rounded and clamped', (t) => {
  t.deepEqual([...toPixels(Float32Array.of(-2, -1, 0, 0.5, 1, 9))], [0, 0, 128, 191, 255, 255]);
});
