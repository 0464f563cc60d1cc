// Ten clients with two classes each train one model on the built-in shapes; then sixteen images are drawn from it.
// Run in a checkout: node --import=tsx examples/quick-start.ts [ROUNDS] [IMAGES]
import { writeFile } from 'node:fs/promises';
import { federate, imageGrid, sample } from 'phoenix';

const [rounds = '6', images = '2000'] = process.argv.slice(2);

const run = await federate(
  { data: `synthetic:${images}`, clients: 10, partition: 'shards:2', preset: 'tiny', rounds: Number(rounds), epochs: 4, seed: 1 },
  { onRound: ({ round, loss, evalLoss }) => console.log(`round ${round}: loss ${loss?.toFixed(3)}, held out ${evalLoss?.toFixed(3)}`) },
);
const drawn = await sample({ source: run.dir, n: 16, steps: 25 });
await writeFile('quick-start.png', await imageGrid(drawn));
console.log(`quick-start.png, ${run.report}`);
