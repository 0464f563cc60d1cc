/**
 * A cheap training over a run folder: some numbers that each round mixes, clients with kept state, files of every kind. As a program it
 * stops itself where it is told to: `fake-run.ts stops ROUNDS DIR:POINT …` leaves every folder at its point and kills the process, and
 * `fake-run.ts rounds ROUNDS DIR` prints one line per round.
 */
import { open, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { Run } from '../../src/run/commit.ts';
import type { RunConfig } from '../../src/run/config.ts';
import { startRun } from '../../src/run/start.ts';

export const fakeConfig: RunConfig = {
  schema: 2,
  kind: 'federate',
  options: { data: 'numbers', preset: 'none', seed: 0, rounds: 3, lr: 0.001, partition: 'iid', threads: 2 },
  data: { name: 'numbers', fingerprint: 'f00d', count: 1, height: 1, width: 1, channels: 1, classNames: [] },
  unet: {},
  noise: {},
  fit: {},
  length: {},
  parameterCount: 1,
  clients: [],
  build: { backend: 'fake', isa: 'portable' },
};

export type FakeOptions = {
  rounds: number;
  resume?: boolean;
  keep?: number;
  config?: RunConfig;
  /** Numbers in the model, 8 bytes each. */
  size?: number;
  /** The round whose commit is held; more rounds than `rounds` then go on from it. */
  holdAt?: number;
  fault?(point: string): void | Promise<void>;
  onRound?(round: number): void;
};

/** Writes in two pieces, so that a fault can lie between them. */
async function write(path: string, bytes: Uint8Array, fault: FakeOptions['fault']): Promise<void> {
  const handle = await open(path, 'w');
  try {
    await handle.writeFile(bytes.subarray(0, bytes.length / 2));
    await fault?.(`inside ${path}`);
    await handle.writeFile(bytes.subarray(bytes.length / 2));
  } finally {
    await handle.close();
  }
}

const bytesOf = (values: Float64Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
const valuesOf = (bytes: Uint8Array) => new Float64Array(new Uint8Array(bytes).buffer);

/** Runs to `rounds`, from the beginning or from the last commit. */
export async function fakeRun(dir: string, options: FakeOptions): Promise<void> {
  const { rounds, resume = false, keep = 2, config = fakeConfig, size = 500, holdAt, fault, onRound } = options;
  const mayChange = ['options.rounds', 'options.threads'];
  const length = { options: ['options.rounds'], isLonger: ({ total }: { total: number }) => rounds > total };
  const run = await startRun(dir, config, { resume, keep, initial: { sum: 0 }, mayChange, length, fault });
  try {
    let model = Float64Array.from({ length: size }, (_, i) => Math.sin(i));
    let moments = new Float64Array(size);
    if (run.round > 0) {
      model = valuesOf(await readFile(run.file('checkpoint')!));
      moments = valuesOf(await readFile(run.file('moments')!));
    }
    while (run.round < rounds) {
      if (run.round === holdAt) await run.hold({ unit: 'rounds', total: rounds });
      for (const client of ['a', 'b/..', 'c']) await trainClient(run, client, model, moments);
      const { sum } = run.state as { sum: number };
      const round = run.round + 1;
      await run.stage('checkpoint', (path) => write(path, bytesOf(model), fault));
      await run.stage('moments', (path) => write(path, bytesOf(moments), fault));
      if (round % 2 === 0) await run.stage('samples', (path) => write(path, bytesOf(model).subarray(0, 100), fault));
      await run.commit({ sum: sum + model[0]! }, { round, loss: model[1] });
      onRound?.(round);
    }
  } finally {
    await run.close();
  }
}

async function trainClient(run: Run, client: string, model: Float64Array, moments: Float64Array): Promise<void> {
  const kept = await run.store.get(`${client}/kept`);
  const own = kept ? valuesOf(kept) : new Float64Array(model.length);
  for (let i = 0; i < model.length; i++) {
    own[i] = 0.9 * own[i]! + Math.cos(model[i]! + run.round);
    moments[i]! += own[i]!;
    model[i]! += 0.1 * own[i]! - 0.01 * moments[i]!;
  }
  await run.store.set(`${client}/kept`, bytesOf(own));
  await run.store.set(`${client}/delta`, bytesOf(own));
  await run.store.delete(`${client}/delta`);
}

/** Stops for good at the n-th point, as a process does that is killed there; resolves when it has, or when the run ended before. */
function stopAt(dir: string, rounds: number, n: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let points = 0;
    const fault = () => {
      points++;
      if (points < n) return;
      resolve();
      return new Promise<void>(() => {});
    };
    fakeRun(dir, { rounds, resume: true, fault }).then(resolve, reject);
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [mode, rounds, ...targets] = process.argv.slice(2);
  if (mode === 'stops') {
    for (const target of targets) {
      const at = target.lastIndexOf(':');
      await stopAt(target.slice(0, at), Number(rounds), Number(target.slice(at + 1)));
    }
    process.kill(process.pid, 'SIGKILL');
  } else {
    await fakeRun(targets[0]!, { rounds: Number(rounds), resume: true, onRound: (round) => process.stdout.write(`${round}\n`) });
  }
}
