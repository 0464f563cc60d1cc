/** Every fault of the table has a test, and every test of this folder a fault: titles begin with the ID, as in 'C1: …'. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { FAULTS } from './faults.ts';

const folder = fileURLToPath(new URL('.', import.meta.url));
const TITLE = /^\s*(?:test|\w+)(?:\.serial)?\(\s*[`'"]([A-Z]\d+): /gm;

test('every fault of the table has a test, and every test a fault', (t) => {
  const tested = new Set(
    readdirSync(folder)
      .filter((name) => name.endsWith('.test.ts') && name !== '90-faults.test.ts')
      .flatMap((name) => [...readFileSync(`${folder}${name}`, 'utf8').matchAll(TITLE)].map(([, id]) => id)),
  );
  t.deepEqual([...tested].sort(), Object.keys(FAULTS).sort());
});
