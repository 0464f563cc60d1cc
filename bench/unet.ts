/** Whole steps of a U-Net: training (noising, forward, loss, backward, clipping, Adam) and denoising (DDIM), beside PyTorch in turn. */
import { createImages } from '../src/bindings/session.ts';
import { plainHyper } from '../src/ddpm/fit.ts';
import { unetModel } from '../src/ddpm/model/unet.ts';
import { noise as noiseOf } from '../src/ddpm/noise.ts';
import { makeTable } from '../src/ddpm/schedulers/index.ts';
import { createSession } from '../src/ddpm/session.ts';
import { PhoenixError } from '../src/errors.ts';
import { streamKey } from '../src/rng.ts';
import { type ModelName, models } from './models.ts';
import { type Interpreter, type Job, type Peer, type PeerRequest, startPeer } from './peer.ts';
import { inTurn, type Summary, summarise, type Timed, type Watch } from './quiet.ts';
import { counted, figure, milliseconds, table } from './table.ts';

/** Evaluations of the network in one timed denoising call. */
const ROWS = 2;
const IMAGES = 256;
const LEARNING_RATE = 2e-4;
const CLIP = 1;

export type UNetResult = {
  model: ModelName;
  batch: number;
  job: Job;
  /** 'Phoenix', or the peer's name. */
  engine: string;
  settings: string;
  parameters: number;
  /** One training step, or one evaluation of the network in denoising. */
  step: Summary;
  imagesPerSecond: number;
  /** Peer's time / Phoenix's time; absent for Phoenix. */
  ratio?: number;
  /** Most memory of the model, its optimizer and activations in training; null for denoising and where it is not known. */
  memoryBytes: number | null;
};

export type UNetOptions = {
  models: ModelName[];
  batch?: number;
  threads: number;
  reps: number;
  quick: boolean;
  interpreters: Interpreter[];
  watch: Watch;
  /** Progress, and what went wrong with a peer. */
  say(line: string): void;
};

/**
 * Training and denoising of each model.
 * @throws PhoenixError ERR_PHOENIX_SHAPE if a peer's network has another number of parameters: then nothing could be compared
 */
export async function benchUNet(options: UNetOptions): Promise<UNetResult[]> {
  const results: UNetResult[] = [];
  for (const model of options.models) {
    for (const batch of options.batch === undefined ? models[model].batches : [options.batch])
      results.push(...(await benchModel(model, batch, options)));
  }
  return results;
}

async function benchModel(model: ModelName, batch: number, options: UNetOptions): Promise<UNetResult[]> {
  const { threads, reps, watch, say } = options;
  const ours = await startOurs(model, batch, threads);
  const peers: Peer[] = [];
  try {
    say(`${model} b${batch}: Phoenix, ${ours.parameters} parameters, ${ours.isa}, ${threads} thread${threads > 1 ? 's' : ''}`);
    for (const interpreter of options.interpreters) {
      const { unet } = models[model];
      const alphaBar = Array.from(noiseOf().alphaBar);
      const trials = options.quick ? 1 : 2;
      const peer = await startPeer(interpreter, {
        unet,
        batch,
        threads,
        lr: LEARNING_RATE,
        clip: CLIP,
        alphaBar,
        rows: ROWS,
        trials,
      } satisfies PeerRequest).catch((error: Error) => say(`  skipped: ${error.message}`));
      if (!peer) continue;
      peers.push(peer);
      const { train, denoise } = peer.settings;
      say(`${model} b${batch}: ${interpreter.name}, ${peer.parameters} parameters; fastest settings: train ${train}, denoise ${denoise}`);
      if (peer.parameters !== ours.parameters) {
        throw new PhoenixError(
          'ERR_PHOENIX_SHAPE',
          `${model}: Phoenix has ${ours.parameters} parameters, ${interpreter.name} ${peer.parameters}: bench/peers/unet.py is another network.`,
        );
      }
    }

    const results: UNetResult[] = [];
    for (const job of ['train', 'denoise'] as const) {
      const steps = job === 'train' ? 1 : ROWS;
      const perStep = (timed: Timed): Timed => ({ ...timed, seconds: timed.seconds / steps });
      let memory: (number | null)[] = [];
      const sides = [
        async () => perStep(await ours.run(job)),
        ...peers.map((peer, i) => async () => {
          const { seconds, cpuSeconds, memoryBytes } = await peer.run(job);
          memory[i + 1] = memoryBytes;
          return perStep({ seconds, childCpuSeconds: cpuSeconds });
        }),
      ];
      for (const side of sides) await side();
      memory = [];
      const summaries = (await inTurn(watch, reps, sides)).map(summarise);
      memory[0] = ours.memoryBytes();
      const best = summaries[0]!.medianSeconds;
      for (const [i, step] of summaries.entries()) {
        const peer = peers[i - 1];
        results.push({
          model,
          batch,
          job,
          engine: peer?.interpreter.name ?? 'Phoenix',
          settings: peer?.settings[job] ?? ours.isa,
          parameters: ours.parameters,
          step,
          imagesPerSecond: batch / step.medianSeconds,
          ratio: peer && step.medianSeconds / best,
          memoryBytes: job === 'train' ? (memory[i] ?? null) : null,
        });
      }
    }
    return results;
  } finally {
    for (const peer of peers) peer.close();
    ours.dispose();
  }
}

async function startOurs(model: ModelName, batch: number, threads: number) {
  const { unet } = models[model];
  const { height, width, inChannels: channels } = unet;
  const noise = noiseOf();
  const session = createSession({ model: unetModel(unet), noise, threads, device: 'cpu' });
  await session.init(streamKey(0, 'bench'));
  const pixels = Uint8Array.from({ length: IMAGES * height * width * channels }, (_, i) => Math.imul(i, 0x9e3779b1) >>> 24);
  const images = await createImages({ pixels, count: IMAGES, height, width, channels });
  const table = makeTable('ddim', noise, ROWS);
  const key = streamKey(0, 'bench', model);
  let step = 0;

  const jobs: Record<Job, () => Promise<unknown>> = {
    train: () => {
      const indices = Int32Array.from({ length: batch }, (_, i) => (step * batch + i) % IMAGES);
      const at = step++;
      return session.train(images, {
        indices,
        steps: 1,
        hyper: { ...plainHyper, batch, lr: LEARNING_RATE, clip: CLIP },
        key,
        firstStep: at,
        globalStep: at,
        adamStep: at,
      });
    },
    denoise: () => session.sample({ count: batch, batch, table, clip: true, key, firstImage: 0, weights: session.params }),
  };

  return {
    parameters: session.parameterCount,
    isa: session.info.isa,
    async run(job: Job): Promise<Timed> {
      const started = performance.now();
      await jobs[job]();
      return { seconds: (performance.now() - started) / 1000 };
    },
    /** What the Session holds; its arena only grows, so this is the peak. Resident memory would count what an earlier model left behind. */
    memoryBytes: () => Object.values(session.memory()).reduce((sum, bytes) => sum + bytes, 0) + images.bytes,
    dispose() {
      images.dispose();
      session.dispose();
    },
  };
}

export function unetTable(results: UNetResult[]): string {
  return table(
    ['model', 'step', 'engine', '>ms', '>min', '>max', '>repetitions', '>images/s', '>memory MB', '>Phoenix is'],
    results.map(({ model, batch, job, engine, step, imagesPerSecond, memoryBytes, ratio }) => [
      `${model} b${batch}`,
      job,
      engine,
      milliseconds(step.medianSeconds),
      milliseconds(step.minSeconds),
      milliseconds(step.maxSeconds),
      counted(step),
      figure(imagesPerSecond),
      memoryBytes === null ? '' : figure(memoryBytes / 1e6),
      ratio === undefined ? '' : `${ratio.toFixed(2)} x`,
    ]),
  );
}
