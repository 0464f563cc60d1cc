/** The assertion of nearness itself: what it lets pass, and what it says when it does not. */
import test, { type ExecutionContext } from 'ava';
import { near, type Tolerance } from '../support/near.ts';

/** What `near` says of the values; undefined if they are near. */
function said(actual: number | ArrayLike<number> | undefined, expected: number | ArrayLike<number>, tolerance: Tolerance, about?: string) {
  let message: string | undefined;
  const t = {
    pass() {},
    fail(text: string) {
      message = text;
    },
  };
  near(t as unknown as ExecutionContext, actual, expected, tolerance, about);
  return message;
}

test('values within the tolerance pass, at its edge too', (t) => {
  t.is(said(1.5, 1, 0.5), undefined);
  t.is(said(90, 100, { relative: 0.1 }), undefined);
  t.is(said(0.01, 0, { relative: 0.1, absolute: 0.01 }), undefined);
  t.is(said([1, 2], Float32Array.of(1, 2), 0), undefined);
  t.is(said([3, 4.5], [3, 4], { norm: 0.1 }), undefined);
  t.is(said(Infinity, Infinity, 0), undefined);
});

test('a failure names index, values, difference and tolerance', (t) => {
  t.is(said(1.5, 1, 0.25), 'actual 1.5, expected 1, difference 0.5, tolerance 0.25');
  t.is(said(1.5, 1, 0.25, 'loss'), 'loss: actual 1.5, expected 1, difference 0.5, tolerance 0.25');
  t.is(said([1, 5, 9], [1, 4, 1], { relative: 0.125 }), 'index 1 of 3: actual 5, expected 4, difference 1, tolerance 0.5');
  t.is(
    said([3, 5], [3, 4], { norm: 0.1 }),
    'norm of the difference 1, tolerance 0.5 (0.1 of the expected norm); the largest difference is at index 1 of 2: actual 5, expected 4',
  );
});

test('NaN, other lengths and nothing at all are never near', (t) => {
  for (const tolerance of [Infinity, { relative: 1 }, { norm: 1 }]) t.truthy(said([NaN], [1], tolerance));
  t.truthy(said(NaN, NaN, 1));
  t.truthy(said(1, NaN, 1));
  t.truthy(said(Infinity, -Infinity, 1));
  t.regex(said([1, 2], [1], 1)!, /2 values, expected 1/);
  t.truthy(said(undefined, 1, 1));
  t.truthy(said(1, [1], 1));
  t.truthy(said([1], 1, 1));
});
