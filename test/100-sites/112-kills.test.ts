/** Whoever is killed, and wherever: the bytes are those of a federation that nobody disturbs. */
import test, { type ExecutionContext } from 'ava';
import { rng } from '../../src/rng.ts';
import { disturbed, type Ended, type Fault, type FaultPoint, undisturbed } from '../support/killed-federation.ts';

const ROUNDS = 3;
const plain = await undisturbed(ROUNDS);
const nameOf = ({ who, what }: FaultPoint) => `${who === 'coordinator' ? who : 'site'}: ${what}`;

/** A training is done again only where its site was killed before all of it was in the Store. */
function isAsPlain(t: ExecutionContext, { bytes, trainings, killedInTraining, records }: Ended, expected: Ended, what: string): void {
  t.deepEqual(bytes, expected.bytes, what);
  t.is(trainings, expected.trainings + killedInTraining, `${what}: trainings`);
  t.deepEqual(
    records.flatMap(({ failures }) => failures),
    [],
    what,
  );
}

test('sites over a wire give the bytes of clients in one process', async (t) => {
  const result = await disturbed(ROUNDS, () => undefined);
  isAsPlain(t, result, plain, 'sites');
  t.is(result.trainings, 3 * ROUNDS);
  const weights = ({ records }: Ended) => records.map(({ clients }) => clients.map(({ client, weight }) => [client, weight]));
  t.deepEqual(weights(result), weights(plain));
});

/** The first and the last time that a point of each name is passed in two rounds. */
async function placesOf(): Promise<Map<number, string>> {
  const passed: string[] = [];
  await disturbed(2, (point) => void passed.push(nameOf(point)));
  const ends = [...new Set(passed)].flatMap((name) => [passed.indexOf(name), passed.lastIndexOf(name)]);
  return new Map(ends.map((n) => [n, passed[n]!]));
}
const places = await placesOf();
const two = await undisturbed(2);

const words: Record<Fault, string> = {
  kill: 'a kill of whoever passes it',
  cut: 'a connection that is cut',
  lose: 'a server that loses its whole store',
};
for (const what of ['kill', 'cut', 'lose'] as const) {
  test(`before and after every verb of the wire, every write of a Store and the commit: ${words[what]}`, async (t) => {
    t.true(places.size > 30, 'there are points');
    for (const [place, name] of places) {
      let passed = 0;
      const result = await disturbed(2, () => (passed++ === place ? what : undefined));
      isAsPlain(t, result, two, `${what} at point ${place} (${name})`);
    }
  });
}

test('many kills, and a server that forgets now and then', async (t) => {
  let kills = 0;
  let again = 0;
  for (let seed = 1; seed <= 6; seed++) {
    const draw = rng(seed, 'kills');
    const fault = (): Fault | undefined => {
      const number = draw.int(1000);
      return number < 18 ? 'kill' : number < 22 ? 'lose' : number < 25 ? 'cut' : undefined;
    };
    const result = await disturbed(ROUNDS, fault);
    isAsPlain(t, result, plain, `seed ${seed}`);
    kills += result.kills;
    again += result.killedInTraining;
  }
  t.log(`${kills} kills, ${again} trainings done again`);
  t.true(kills >= 60, `${kills} kills`);
});
