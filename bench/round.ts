/** Whole federated rounds in one process: what the federation costs on top of its clients' training. */
import { createImages } from '../src/bindings/session.ts';
import { openDataset } from '../src/ddpm/data/index.ts';
import { plainHyper } from '../src/ddpm/fit.ts';
import { presets } from '../src/ddpm/model/presets.ts';
import { unetModel } from '../src/ddpm/model/unet.ts';
import { createSession } from '../src/ddpm/session.ts';
import { initialState } from '../src/fl/federation.ts';
import { partitioner } from '../src/fl/partition/index.ts';
import { runRound } from '../src/fl/round.ts';
import { createClient } from '../src/fl/site/client.ts';
import { memoryStore } from '../src/fl/store.ts';
import { fedavg } from '../src/fl/strategies/fedavg.ts';
import { memoryTransport } from '../src/fl/transports/memory.ts';
import { type ModelName, models } from './models.ts';
import { median, type Repetition, type Summary, summarise, type Watch } from './quiet.ts';
import { counted, figure, milliseconds, table } from './table.ts';

const CLIENTS = 4;
const SEED = 1;

export type RoundResult = {
  /** Of the model: 'small28'. */
  model: ModelName;
  clients: number;
  /** Optimizer steps and images of a round, all clients together. */
  steps: number;
  images: number;
  round: Summary;
  imagesPerSecond: number;
  /** Median over the rounds of the share of time that is not local training: encoding, decoding, adding up, server step. */
  federationShare: number;
  bytesUp: number;
  bytesDown: number;
};

export type RoundOptions = {
  device: 'cpu' | 'cuda';
  model: ModelName;
  threads?: number;
  reps: number;
  stepsAClient: number;
  watch: Watch;
  /** performance.now() when time is up: no repetition begins after it but the first. @default never */
  until?: number;
};

/** Rounds of four clients on synthetic images, batch 32 (tiny8: 2), nothing held out. */
export async function benchRound(options: RoundOptions): Promise<RoundResult> {
  const { device, model, threads, reps, stepsAClient, watch, until = Infinity } = options;
  const { unet } = models[model];
  const batch = models[model].gpu.train;
  const { training } = presets.small;
  const dataset = await openDataset(`synthetic:${CLIENTS * batch * stepsAClient}`, {
    size: unet.width,
    channels: unet.inChannels as 1 | 3,
  });
  using session = createSession({ model: unetModel(unet), threads, device });
  using images = await createImages(dataset, session);
  const strategy = fedavg();
  let state = await initialState({ session, seed: SEED, strategy });
  const none = new Int32Array(0);
  const shares = partitioner('iid').split({ count: dataset.count, clients: CLIENTS, seed: SEED });
  const store = memoryStore();
  const transport = memoryTransport(
    shares.map((train, i) => createClient({ id: `client-${i + 1}`, session, images, train, heldOut: none, store, seed: SEED })),
    { carriesVectors: device === 'cuda' },
  );
  const hyper = { ...plainHyper, batch, lr: training.lr, clip: training.clip };
  const fit = { hyper, length: { epochs: 1 }, optimizer: 'reset' } as const;
  try {
    const shareOf: number[] = [];
    const repetitions: Repetition[] = [];
    let last: Awaited<ReturnType<typeof runRound>> | undefined;
    for (let i = 0; i <= reps && (i < 2 || performance.now() < until); i++) {
      const repetition = await watch.repetition(async () => {
        last = await runRound(state, { transport, strategy, fit, seed: SEED, createVector: session.createVector });
        return { seconds: last.record.seconds };
      });
      state = last!.state;
      if (i === 0) continue; // the first round also plans memory
      const training = last!.record.clients.reduce((sum, { seconds = 0 }) => sum + seconds, 0);
      shareOf.push(1 - training / repetition.seconds);
      repetitions.push(repetition);
    }
    const { record } = last!;
    const round = summarise(repetitions);
    return {
      model,
      clients: CLIENTS,
      steps: record.clients.reduce((sum, { steps }) => sum + steps, 0),
      images: record.images,
      round,
      imagesPerSecond: record.images / round.medianSeconds,
      federationShare: median(shareOf.toSorted((a, b) => a - b)),
      bytesUp: record.bytesUp,
      bytesDown: record.bytesDown,
    };
  } finally {
    for (const vector of [state.params, state.ema, ...state.serverMoments]) vector.dispose();
  }
}

export const roundTable = ({
  model,
  clients,
  steps,
  images,
  round,
  imagesPerSecond,
  federationShare,
  bytesUp,
  bytesDown,
}: RoundResult): string =>
  table(
    ['round', '>ms', '>min', '>max', '>repetitions', '>images/s', '>not training', '>MB up', '>MB down'],
    [
      [
        `${model}, ${clients} clients, ${steps} steps, ${images} images`,
        milliseconds(round.medianSeconds),
        milliseconds(round.minSeconds),
        milliseconds(round.maxSeconds),
        counted(round),
        figure(imagesPerSecond),
        `${(100 * federationShare).toFixed(1)} %`,
        figure(bytesUp / 1e6),
        figure(bytesDown / 1e6),
      ],
    ],
  );
