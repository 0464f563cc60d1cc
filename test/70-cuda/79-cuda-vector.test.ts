/**
 * The contract of a Vector over vectors in a GPU's memory, on the emulator or a GPU. Skipped aloud where phoenix-cuda is not built or finds
 * no device.
 */
import test from 'ava';
import { vectorContract } from '../contracts/vector.ts';
import { cuda, device, usable } from '../support/cuda.ts';

test('where vectors on CUDA run', (t) => {
  t.log(usable ? device : `no CUDA: vectors in its memory NOT checked (${device})`);
  t.pass();
});

if (usable) vectorContract('phoenix-cuda', (length) => cuda!.createVector(length));
