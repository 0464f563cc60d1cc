/** PyTorch as a peer: finds the interpreters that have it and drives a script of bench/peers, a child process that steps when told to. */
import { type ChildProcessWithoutNullStreams, execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { PhoenixError } from '../src/errors.ts';

const script = (name: string) => fileURLToPath(new URL(`peers/${name}`, import.meta.url));
/** Longest wait for one answer: the slowest is the first, after every setting was tried. */
const ANSWER_MS = 15 * 60_000;

export type Interpreter = {
  /** 'PyTorch 2.4.0' */
  name: string;
  executable: string;
  version: string;
  /** Kernel library, widest instructions and BLAS as PyTorch says, and the BLAS that was loaded where that is a library of its own. */
  build: string;
  /** The system's plain reference BLAS does its matrix products, several times slower than OpenBLAS would. */
  slowBlas: boolean;
  /** 'CUDA 13.0, cuDNN 91002' where it can use a GPU; else null. */
  cuda: string | null;
};

export type Job = 'train' | 'denoise';

export type PeerRequest = {
  unet: object;
  batch: number;
  threads: number;
  lr: number;
  clip: number;
  alphaBar: number[];
  /** Network evaluations of a 'denoise' job. */
  rows: number;
  /** Timed repetitions of each setting before the fastest is chosen. */
  trials: number;
};

export type Peer = {
  interpreter: Interpreter;
  parameters: number;
  /** Memory layout and kind of attention that were fastest. */
  settings: Record<Job, string>;
  /** `memoryBytes`: most resident memory so far, beyond that of an imported PyTorch; null where the system does not say. */
  run(job: Job): Promise<{ seconds: number; cpuSeconds: number; memoryBytes: number | null }>;
  close(): void;
};

const probe = `
import json, re, sys, torch
text = torch.__config__.show()
found = [re.search(pattern, text) for pattern in (r"MKL-DNN v\\S+", r"CPU capability usage: \\S+", r"BLAS_INFO=\\w+")]
build = [match.group() for match in found if match]
try:
    build += sorted(set(re.findall(r"[^/ ]+/lib(?:open)?blas[^/ ]*$", open("/proc/self/maps").read(), re.M)))
except OSError:
    pass
cuda = "CUDA %s, cuDNN %s" % (torch.version.cuda, torch.backends.cudnn.version()) if torch.cuda.is_available() else None
print(json.dumps([sys.executable, torch.__version__, ", ".join(build), cuda]))
`;

/**
 * Interpreters with PyTorch among PHOENIX_PYTHON, python3 and /usr/bin/python3; `skipped` says why the others are none. One with a slow
 * BLAS is no measure beside one without, and left out too.
 */
export async function findInterpreters(): Promise<{ found: Interpreter[]; skipped: string[] }> {
  const candidates = [process.env.PHOENIX_PYTHON, 'python3', '/usr/bin/python3'].filter((candidate) => candidate !== undefined);
  const found: Interpreter[] = [];
  const skipped: string[] = [];
  for (const candidate of new Set(candidates)) {
    try {
      const { stdout } = await promisify(execFile)(candidate, ['-c', probe], { timeout: 120_000 });
      const [executable, version, build, cuda] = JSON.parse(stdout) as [string, string, string, string | null];
      if (!found.some((known) => known.executable === executable))
        found.push({ name: `PyTorch ${version}`, executable, version, build, slowBlas: / blas\/libblas/.test(build), cuda });
    } catch (error) {
      const { code, stderr = '' } = error as { code?: string | number; stderr?: string };
      skipped.push(`${candidate}: ${code === 'ENOENT' ? 'not on this machine' : stderr.trim().split('\n').at(-1) || `exit code ${code}`}`);
    }
  }
  const fair = found.filter(({ slowBlas }) => !slowBlas);
  if (fair.length === 0) return { found, skipped };
  for (const { name, executable } of found.filter(({ slowBlas }) => slowBlas)) {
    skipped.push(`${executable}: ${name} does its matrix products by the reference BLAS; install libopenblas0-pthread to compare with it`);
  }
  return { found: fair, skipped };
}

/**
 * How the peer's thread pools are set up. With OpenBLAS beside OpenMP, two pools that both wait by spinning take cores from each other;
 * one OpenBLAS thread is faster.
 */
export const peerEnvironment = (threads: number): Record<string, string> => ({
  OMP_NUM_THREADS: String(threads),
  OPENBLAS_NUM_THREADS: '1',
});

/** Starts a peer and waits until it has chosen its settings. @throws PhoenixError ERR_PHOENIX_INTERNAL with the peer's last words */
export async function startPeer(interpreter: Interpreter, request: PeerRequest): Promise<Peer> {
  const { ask, close } = openPeer(interpreter, 'pytorch.py', peerEnvironment(request.threads));
  try {
    const { parameters, settings } = (await ask(request)) as Pick<Peer, 'parameters' | 'settings'>;
    return {
      interpreter,
      parameters,
      settings,
      run: async (job) => (await ask({ job })) as Awaited<ReturnType<Peer['run']>>,
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

/**
 * Starts a script of bench/peers. `ask` writes one line of JSON and reads one. @throws PhoenixError ERR_PHOENIX_INTERNAL, from `ask`, with
 * the peer's last words
 */
export function openPeer(interpreter: Interpreter, name: string, environment: Record<string, string> = {}) {
  const child = spawn(interpreter.executable, [script(name)], { env: { ...process.env, ...environment } });
  const close = () => {
    child.kill();
    for (const stream of child.stdio) stream?.destroy(); // its own children may hold them open
  };
  return { ask: conversation(child, interpreter.name), close };
}

/** One line of JSON out, one in. */
function conversation(child: ChildProcessWithoutNullStreams, name: string) {
  let lastWords = '';
  child.stderr.on('data', (text: Buffer) => {
    lastWords = (lastWords + text).slice(-2000);
  });
  child.stdin.on('error', () => {}); // a dead peer is seen by its missing answer
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const failed = (reason: string) => new PhoenixError('ERR_PHOENIX_INTERNAL', `${name} as a peer: ${reason}. ${lastWords.trim()}`);
  const started = new Promise<never>((_, reject) => child.once('error', (error) => reject(failed(error.message))));
  started.catch(() => {});
  const closed = new Promise((resolve) => child.once('close', resolve));

  return async (message: object, patienceMs = ANSWER_MS): Promise<unknown> => {
    child.stdin.write(`${JSON.stringify(message)}\n`);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(failed(`no answer within ${(patienceMs / 1000).toFixed(0)} s`)), patienceMs);
    });
    try {
      const { value, done } = await Promise.race([lines.next(), started, late]);
      if (done) {
        await closed; // its last words come by another pipe
        throw failed('it ended');
      }
      return JSON.parse(value);
    } finally {
      clearTimeout(timer);
    }
  };
}
