/** Judging requests by the rules of the site, and keeping count of what they need: what was sent, and what was trained. */
import { PhoenixError } from '../../errors.ts';
import type { Answer, AnswerOptions, Client } from '../../fl/site/client.ts';
import type { Store } from '../../fl/store.ts';
import type { Message } from '../../fl/transport.ts';
import { mostBytes } from '../../fl/wire/codec.ts';
import type { Head } from '../../fl/wire/message.ts';
import { type Leaving, leavingText, whatLeaves } from '../../net/leaving.ts';
import { judgePolicy, type Policy, type Verdict } from '../../net/policy.ts';
import { openSentLog, readSentLog, type Sent, type SentLogWriter } from '../../net/sent-log.ts';
import type { Spec } from '../../net/spec.ts';
import type { Part } from './join.ts';

/** Where the Store of a run keeps the hours of training. No client's id begins with a dot. */
const HOURS = '.site/hours';

/** sent.jsonl, and in which rounds of which runs the site has trained by it. */
export type Sends = {
  append(sent: Sent): Promise<void>;
  /** The same for what a site says of itself, unless the newest such line of the run says the same. */
  appendHello(sent: Sent): Promise<void>;
  bytes(run: string): number;
  trainedBefore(run: string, round: number): number;
};

/** @throws PhoenixError ERR_PHOENIX_RUN for a log that was changed, ERR_PHOENIX_IO */
export async function openSends(path: string): Promise<Sends> {
  const log: SentLogWriter = await openSentLog(path);
  const trained = new Map<string, Set<number>>();
  const hellos = new Map<string, string>();
  const note = ({ run, round, kind, sha256 }: Pick<Sent, 'run' | 'round' | 'kind' | 'sha256'>) => {
    if (kind === 'hello') hellos.set(run, sha256);
    if (kind === 'train') trained.set(run, (trained.get(run) ?? new Set()).add(round));
  };
  for (const entry of (await readSentLog(path)).entries) note(entry);
  const append = async (sent: Sent) => {
    await log.append(sent);
    note(sent);
  };
  return {
    append,
    async appendHello(sent) {
      if (hellos.get(sent.run) !== sent.sha256) await append(sent);
    },
    bytes: (run) => log.totals(run).bytes,
    trainedBefore: (run, round) => [...(trained.get(run) ?? [])].filter((one) => one !== round).length,
  };
}

/** What the spec says of a run as what will leave the site in it. An open run is told of a single round. */
export function leavingOf(policy: Policy, { spec, features }: { spec: Spec; features: number }): { leaving: Leaving; text: string[] } {
  const { plan, personal, parameterCount } = spec;
  const { rounds = 1, probe } = plan;
  const leaving = whatLeaves(policy, {
    ...{ parameters: parameterCount, personal: personal?.values ?? 0, compress: plan.compress, rounds, cohort: plan.cohort },
    ...(probe && {
      probe: {
        ...{ statistic: probe.statistic !== undefined, vendi: probe.vendi, histogram: probe.histogram },
        ...(probe.points && { points: { features } }),
        times: Math.ceil(rounds / probe.every),
      },
    }),
  });
  const head =
    plan.rounds === undefined
      ? `in one round of the run ${spec.run}, which has no end yet`
      : `in the ${rounds} rounds of the run ${spec.run}`;
  return { leaving, text: [`What leaves this site ${head}:`, ...leavingText(leaving)] };
}

/** Judges a request of a run that the site takes part in. */
export async function judgeRequest(
  { kind, head, round }: Head,
  { spec, store, memory }: Pick<Part, 'spec' | 'store' | 'memory'>,
  policy: Policy,
  sends: Sends,
): Promise<Verdict> {
  const { run, plan, parameterCount, personal } = spec;
  const sent = parameterCount - (personal?.values ?? 0);
  return judgePolicy(
    policy,
    { kind, head },
    {
      now: new Date(),
      cohort: plan.cohort,
      rounds: sends.trainedBefore(run, round),
      bytesSent: sends.bytes(run),
      answerBytes: kind === 'upload' ? mostBytes(plan.compress, sent) : 0,
      trainingHours: await hoursOf(store),
      memory,
    },
  );
}

/** Hours that the site has trained in the run of this Store. */
async function hoursOf(store: Store): Promise<number> {
  const hours = Number(Buffer.from((await store.get(HOURS)) ?? '').toString());
  return Number.isFinite(hours) ? hours : 0;
}

/** What may be said to the coordinator of an error: nothing of this machine's files. */
const LOCAL = ['ERR_PHOENIX_IO', 'ERR_PHOENIX_DATA', 'ERR_PHOENIX_RUN', 'ERR_PHOENIX_CHECKPOINT'];

/**
 * An error for the coordinator. What names files, images or folders of this machine stays here: `tell` gets its text.
 * @param what 'join the run', to complete "This site cannot …"
 */
export function forCoordinator(error: unknown, what: string, tell: (text: string) => void): unknown {
  if (error instanceof PhoenixError && !LOCAL.includes(error.code)) return error;
  tell(error instanceof Error ? error.message : String(error));
  const code = error instanceof PhoenixError ? error.code : 'ERR_PHOENIX_INTERNAL';
  const reason = code === 'ERR_PHOENIX_DATA' ? 'its images do not fit or cannot be read' : 'something on its machine is in the way';
  return new PhoenixError(code, `This site cannot ${what}: ${reason} (${code}). What it is stands in the messages at the site.`);
}

/** The client of a part, which counts its hours of training, and keeps what its errors say of this machine. */
export function counted({ client, store }: Pick<Part, 'client' | 'store'>, tell: (text: string) => void): Client {
  const count = async (request: Message, options?: AnswerOptions): Promise<Answer> => {
    const began = performance.now();
    let trains = false;
    const onProgress: AnswerOptions['onProgress'] = (step) => {
      trains = true;
      options?.onProgress?.(step);
    };
    try {
      return await client.answer(request, { ...options, onProgress });
    } finally {
      const hours = (performance.now() - began) / 3_600_000;
      if (trains) await store.set(HOURS, Buffer.from(String((await hoursOf(store)) + hours)));
    }
  };
  return {
    ...client,
    async answer(request, options) {
      try {
        return await count(request, options);
      } catch (error) {
        if (options?.signal?.aborted || (error instanceof PhoenixError && error.code === 'ERR_PHOENIX_DISPOSED')) throw error;
        throw forCoordinator(error, `answer ${request.kind}`, tell);
      }
    },
  };
}
