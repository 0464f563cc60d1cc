// Federated training over a folder of one's own images: one sub-folder a class, any size (they are resized to 32×32).
// Run in a checkout: node --import=tsx examples/own-images.ts FOLDER [ROUNDS] [IMAGES PER ROUND AND CLIENT]
import { federate, openDataset, PhoenixError } from 'phoenix';

const [folder, rounds = '5', images = '512'] = process.argv.slice(2);
if (!folder) throw new Error('usage: own-images.ts FOLDER [ROUNDS] [IMAGES PER ROUND AND CLIENT]');

const stop = new AbortController();
process.once('SIGINT', () => stop.abort());

try {
  const data = await openDataset(folder, { size: 32 });
  console.log(`${data.count} images in ${data.classNames.length} classes: ${data.classNames.join(', ')}`);
  const { report } = await federate(
    {
      data,
      clients: 4,
      partition: 'dirichlet:0.5',
      preset: 'tiny',
      classConditional: true,
      rounds: Number(rounds),
      localImages: Number(images),
      out: 'own-images-run',
      resume: true, // start it again after an interruption and it goes on, bit for bit
    },
    {
      signal: stop.signal,
      onStep: ({ client, images: done, imagesPlanned, imagesPerSecond }) =>
        console.log(`${client?.id}: ${done} of ${imagesPlanned} images, ${Math.round(imagesPerSecond)} per second`),
    },
  );
  console.log(report);
} catch (error) {
  if (!(error instanceof PhoenixError)) throw error;
  console.error(`${error.code}: ${error.message}`);
  process.exitCode = 1;
}
