/**
 * Whole steps of a U-Net on a GPU, many per call, so that what is timed is the replay of a recorded step, alone and in turn with PyTorch.
 */
import { createImages, createNativeSession, type Precision } from '../src/bindings/session.ts';
import { plainHyper } from '../src/ddpm/fit.ts';
import { unetModel } from '../src/ddpm/model/unet.ts';
import { noise as noiseOf } from '../src/ddpm/noise.ts';
import { makeTable } from '../src/ddpm/schedulers/index.ts';
import { PhoenixError } from '../src/errors.ts';
import { streamKey } from '../src/rng.ts';
import { countFlops } from './flops.ts';
import { type Ceiling, type GpuState, gpuState } from './gpu-machine.ts';
import { type ModelName, models } from './models.ts';
import { type Interpreter, openPeer } from './peer.ts';
import { type Summary, summarise } from './quiet.ts';
import { figure, milliseconds, table } from './table.ts';

export const modes = ['eager', 'graph', 'compile'] as const;
/** Of the peer: see bench/peers/pytorch_cuda.py. */
export type Mode = (typeof modes)[number];

export type GpuRow = { model: ModelName; batch: number; denoise: number[]; precision: Precision };

export type GpuStepResult = {
  model: ModelName;
  job: GpuJob['job'];
  batch: number;
  /** 'Phoenix', or the peer's name. */
  engine: string;
  settings: string;
  /** One training step, or one evaluation of the network with the sampler's update. */
  step: Summary;
  /** Steps a repetition. */
  steps: number;
  imagesPerSecond: number;
  tflops: number;
  /** tflops / the ceiling in bf16. */
  share: number;
  /** Phoenix's: bytes that its Session and images hold. The peer's: torch.cuda.max_memory_allocated. Of training; null for denoising. */
  memoryBytes: number | null;
  /** Of a peer's row: Phoenix in turn with it, and the peer's time / Phoenix's. */
  phoenixInTurn?: Summary;
  ratio?: number;
};

export type GpuUNetOptions = {
  ceiling: Ceiling;
  reps: number;
  emulated: boolean;
  onResult(result: GpuStepResult): void;
};

const IMAGES = 4096;
const LEARNING_RATE = 2e-4;
const EMA_DECAY = 0.9999;
const REPETITION_SECONDS = 0.4;

/** Does that many steps. */
type Job = (steps: number) => Promise<{ seconds: number; memoryBytes?: number; settings?: string }>;
type Side = { job: Job; steps: number };

/** A model on the GPU, opened once for all its rows of the table. */
export type Ours = ReturnType<typeof openOurs> extends Promise<infer T> ? T : never;

export async function openOurs({ model, batch, precision }: GpuRow) {
  const { unet } = models[model];
  const { height, width, inChannels: channels } = unet;
  const noise = noiseOf();
  const session = createNativeSession({ model: unetModel(unet), noise, device: 'cuda', precision });
  await session.init(streamKey(0, 'bench'));
  const pixels = Uint8Array.from({ length: IMAGES * height * width * channels }, (_, i) => Math.imul(i, 0x9e3779b1) >>> 24);
  const images = await createImages({ pixels, count: IMAGES, height, width, channels }, session);
  const key = streamKey(0, 'bench', model);
  let done = 0;
  const memoryBytes = () => Object.values(session.memory()).reduce((sum, bytes) => sum + bytes, 0) + images.bytes;

  const timed = async (work: () => Promise<unknown>) => {
    const started = performance.now();
    await work();
    return (performance.now() - started) / 1000;
  };
  const train: Job = async (steps) => {
    const indices = Int32Array.from({ length: steps * batch }, (_, i) => Math.imul(done * batch + i, 0x9e3779b1) >>> 20);
    const at = done;
    done += steps;
    const hyper = { ...plainHyper, batch, lr: LEARNING_RATE, emaDecay: EMA_DECAY };
    const options = { indices, steps, hyper, key, firstStep: at, globalStep: at, adamStep: at };
    const seconds = await timed(() => session.train(images, options));
    return { seconds, memoryBytes: memoryBytes() };
  };
  const denoise =
    (count: number): Job =>
    async (steps) => {
      const table = makeTable('ddim', noise, steps);
      const draw = { count, batch: count, table, clip: true, key, firstImage: 0, weights: session.params };
      return { seconds: await timed(() => session.sample(draw)) };
    };
  return {
    parameters: session.parameterCount,
    train,
    denoise,
    dispose() {
      images.dispose();
      session.dispose();
    },
  };
}

/** Warms up (the first steps also plan memory and record) and chooses how many steps a repetition takes. */
async function side(job: Job, emulated: boolean): Promise<Side> {
  const first = await job(3);
  if (emulated || first.seconds > 4) return { job, steps: 3 };
  const { seconds } = await job(5);
  return { job, steps: Math.min(250, Math.max(3, Math.round(REPETITION_SECONDS / (seconds / 5)))) };
}

/** Repetitions of each side in turn, one of each at least. */
async function inTurn(sides: Side[], reps: number, until: number) {
  const seconds: number[][] = sides.map(() => []);
  let last: Awaited<ReturnType<Job>> = { seconds: 0 };
  for (let i = 0; i < reps && (i === 0 || performance.now() < until); i++)
    for (const [at, { job, steps }] of sides.entries()) {
      last = await job(steps);
      seconds[at]!.push(last.seconds / steps);
    }
  return { summaries: seconds.map((each) => summarise(each.map((value) => ({ seconds: value, quiet: true })))), last };
}

export type GpuJob = { job: 'train' | 'denoise'; batch: number };

export const jobsOf = (row: GpuRow): GpuJob[] => [
  { job: 'train', batch: row.batch },
  ...row.denoise.map((batch) => ({ job: 'denoise' as const, batch })),
];

function rates(row: GpuRow, job: GpuJob['job'], batch: number, step: Summary, ceiling: Ceiling) {
  const { forward, training } = countFlops(models[row.model].unet);
  const tflops = ((job === 'train' ? training : forward) * batch) / step.medianSeconds / 1e12;
  return { imagesPerSecond: batch / step.medianSeconds, tflops, share: tflops / ceiling.tflops };
}

/** Phoenix alone. Returns the clocks while it trains. */
export async function benchOurs(
  ours: Ours,
  row: GpuRow,
  { job, batch }: GpuJob,
  until: number,
  options: GpuUNetOptions,
): Promise<GpuState> {
  const { ceiling, reps, emulated, onResult } = options;
  let state: GpuState = null;
  const phoenix = await side(job === 'train' ? ours.train : ours.denoise(batch), emulated);
  if (job === 'train' && !emulated) [, state] = await Promise.all([phoenix.job(phoenix.steps), gpuState()]);
  const { summaries, last } = await inTurn([phoenix], reps, until);
  const step = summaries[0]!;
  onResult({
    model: row.model,
    job,
    batch,
    engine: 'Phoenix',
    settings: row.precision,
    step,
    steps: phoenix.steps,
    ...rates(row, job, batch, step, ceiling),
    memoryBytes: last.memoryBytes ?? null,
  });
  return state;
}

/**
 * One mode of the peer in turn with Phoenix; the peer is given up when time is up.
 * @throws PhoenixError ERR_PHOENIX_SHAPE if its network has another number of parameters, ERR_PHOENIX_INTERNAL with its last words
 */
export async function benchPeer(
  ours: Ours,
  row: GpuRow,
  interpreter: Interpreter,
  mode: Mode,
  until: number,
  options: GpuUNetOptions,
): Promise<void> {
  const { ceiling, reps, emulated, onResult } = options;
  const peer = openPeer(interpreter, 'pytorch_cuda.py');
  const ask = (message: object) => peer.ask(message, Math.max(1000, until - performance.now()));
  try {
    const alphaBar = Array.from(noiseOf().alphaBar);
    const { unet } = models[row.model];
    const request = { unet, mode, batch: row.batch, lr: LEARNING_RATE, clip: 1, emaDecay: EMA_DECAY, alphaBar };
    const { parameters, settings } = (await ask(request)) as { parameters: number; settings: string };
    if (parameters !== ours.parameters)
      throw new PhoenixError(
        'ERR_PHOENIX_SHAPE',
        `${row.model}: Phoenix has ${ours.parameters} parameters, ${interpreter.name} ${parameters}: bench/peers/unet.py is another network.`,
      );
    for (const { job, batch } of jobsOf(row)) {
      const theirs = await side(async (steps) => (await ask({ job, batch, steps })) as Awaited<ReturnType<Job>>, emulated);
      const phoenix = await side(job === 'train' ? ours.train : ours.denoise(batch), emulated);
      const { summaries, last } = await inTurn([phoenix, theirs], reps, until);
      const [phoenixInTurn, step] = [summaries[0]!, summaries[1]!];
      onResult({
        model: row.model,
        job,
        batch,
        engine: interpreter.name,
        settings: `${last.settings}; ${job === 'train' ? settings : 'weights in bf16, channels_last, SDPA'}`,
        step,
        steps: theirs.steps,
        ...rates(row, job, batch, step, ceiling),
        memoryBytes: job === 'train' ? (last.memoryBytes ?? null) : null,
        phoenixInTurn,
        ratio: step.medianSeconds / phoenixInTurn.medianSeconds,
      });
    }
  } finally {
    peer.close();
  }
}

/** What PyTorch reaches in a product and a copy on the same card. */
export async function peerCeiling(interpreter: Interpreter, until: number): Promise<Ceiling> {
  const peer = openPeer(interpreter, 'pytorch_cuda.py');
  const ask = (message: object) => peer.ask(message, Math.max(1000, until - performance.now()));
  try {
    const alphaBar = Array.from(noiseOf().alphaBar);
    await ask({ unet: models.tiny8.unet, mode: 'eager', batch: 1, lr: LEARNING_RATE, clip: 1, emaDecay: EMA_DECAY, alphaBar });
    const { tflops, gbytesPerSecond } = (await ask({ job: 'ceiling' })) as Pick<Ceiling, 'tflops' | 'gbytesPerSecond'>;
    return { tflops, gbytesPerSecond, from: { tflops: interpreter.name, gbytesPerSecond: interpreter.name } };
  } finally {
    peer.close();
  }
}

export function gpuStepTable(results: GpuStepResult[], as = table): string {
  return as(
    [
      'model',
      'step',
      'engine',
      '>ms',
      '>min',
      '>max',
      '>reps',
      '>images/s',
      '>TFLOP/s',
      '>of ceiling',
      '>memory MB',
      '>Phoenix is',
      'settings',
    ],
    results.map(({ model, batch, job, engine, settings, step, steps, imagesPerSecond, tflops, share, memoryBytes, ratio }) => [
      `${model} b${batch}`,
      job,
      engine,
      milliseconds(step.medianSeconds),
      milliseconds(step.minSeconds),
      milliseconds(step.maxSeconds),
      `${step.repetitions} x ${steps}`,
      figure(imagesPerSecond),
      figure(tflops),
      `${(100 * share).toFixed(1)} %`,
      memoryBytes === null ? '' : figure(memoryBytes / 1e6),
      ratio === undefined ? '' : `${ratio.toFixed(2)} x`,
      settings,
    ]),
  );
}
