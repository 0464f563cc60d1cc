/**
 * sent.jsonl of a site: a line for each message that left it, written and on the disk before the message goes. Each line holds the hash of
 * the one before it and its own, so that no line can be changed, removed or moved without a break that readSentLog finds. Whole lines cut
 * off at the end are found by whoever has noted a later hash; a forger who computes all hashes anew is found the same way.
 */
import { createHash } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { z } from 'zod';
import { PhoenixError } from '../errors.ts';
import { io, type Point, statusOf, syncFolder, syncHandle } from '../files.ts';
import { explain } from '../fl/protocol.ts';

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** What is known of a message that leaves. */
const sent = z.strictObject({
  /** Empty for what is said before there is a run. */
  run: z.string().max(200),
  round: z.int().min(0),
  /** Kind of the request that it answers, or what it is besides: 'hello'. */
  kind: z.string().min(1).max(64),
  /** Length, its blobs included, and hash of its content. */
  bytes: z.int().min(0),
  sha256,
  /** The lines of site.json that allowed it, as judgePolicy says. */
  line: z.string().max(1000),
});
export type Sent = z.infer<typeof sent>;

const entry = z.strictObject({ time: z.iso.datetime(), ...sent.shape, previous: sha256, hash: sha256 });
/** A line of sent.jsonl. `time`: UTC. `previous`: hash of the line before it, zeros in the first. `hash`: sha256 of the line without it. */
export type SentEntry = z.infer<typeof entry>;

/** What has left a site in one run: messages, bytes, and rounds in which something left. */
export type SentTotals = { messages: number; bytes: number; rounds: number };

export type SentLog = {
  entries: SentEntry[];
  /** By run. */
  totals: Map<string, SentTotals>;
  /** Hash of the last line: note it elsewhere to find later whether lines were cut off. */
  head: string;
  /** Bytes up to the end of the last whole line that is right. */
  bytes: number;
  /** The last line is not whole: the process was stopped while it wrote it. Nothing was sent for it. */
  unfinished: boolean;
  /** The first line that is not as it was written, from 1. What follows it is not read. */
  broken?: { line: number; why: string };
};

const FIRST = '0'.repeat(64);

/** The text of a line without its end, and its hash. */
function lineText(values: Omit<SentEntry, 'hash'>): { text: string; hash: string } {
  const body = JSON.stringify(values);
  const hash = createHash('sha256').update(body).digest('hex');
  return { text: `${body.slice(0, -1)},"hash":"${hash}"}`, hash };
}

/** A line as an entry, or why it is none that follows `previous`. */
function readLine(text: string, previous: string): SentEntry | { why: string } {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return { why: 'it is not JSON' };
  }
  const checked = entry.safeParse(json);
  if (!checked.success) return { why: explain(checked.error) };
  const { hash, ...values } = checked.data;
  if (values.previous !== previous) return { why: 'it does not follow the line before it: lines were removed, added or moved' };
  const content = text.slice(0, text.lastIndexOf(',"hash":'));
  const isAsWritten = createHash('sha256').update(`${content}}`).digest('hex') === hash && text === `${content},"hash":"${hash}"}`;
  if (!isAsWritten) return { why: 'it was changed: its hash is another' };
  return checked.data;
}

/** Counts what leaves, by run. */
function tally() {
  const totals = new Map<string, SentTotals>();
  const rounds = new Set<string>();
  return {
    add({ run, round, bytes }: SentEntry): void {
      const total = totals.get(run) ?? { messages: 0, bytes: 0, rounds: 0 };
      const key = JSON.stringify([run, round]);
      const isNew = rounds.size < rounds.add(key).size;
      totals.set(run, { messages: total.messages + 1, bytes: total.bytes + bytes, rounds: total.rounds + (isNew && round > 0 ? 1 : 0) });
    },
    totals,
  };
}

/** Reads and verifies a sent.jsonl; no file is an empty log. @throws PhoenixError ERR_PHOENIX_IO */
export async function readSentLog(path: string): Promise<SentLog> {
  const content = await io(path, async () => ((await statusOf(path)) ? readFile(path) : Buffer.alloc(0)), { action: 'read' });
  const whole = content.lastIndexOf(10) + 1;
  const lines = content.subarray(0, whole).toString('utf8').split('\n').slice(0, -1);
  const { add, totals } = tally();
  const log: SentLog = { entries: [], totals, head: FIRST, bytes: 0, unfinished: whole < content.length };
  for (const [index, text] of lines.entries()) {
    const read = readLine(text, log.head);
    if ('why' in read) {
      log.broken = { line: index + 1, why: read.why };
      break;
    }
    log.entries.push(read);
    add(read);
    log.head = read.hash;
    log.bytes += Buffer.byteLength(text) + 1;
  }
  return log;
}

export type SentLogWriter = {
  /**
   * Writes a line, and brings it to the disk. The message may be sent when it resolves. Calls are carried out in their order.
   * @throws PhoenixError ERR_PHOENIX_ARGUMENT for what is no line, ERR_PHOENIX_IO, ERR_PHOENIX_RUN if another program has changed the file
   */
  append(message: Sent): Promise<SentEntry>;
  /** What has left in a run so far. */
  totals(run: string): SentTotals;
  /** Hash of the last line. */
  head(): string;
};

export type SentLogOptions = {
  /** @default the system's clock */
  clock?: () => Date;
  /** For tests: called before every operation that changes the disk. */
  point?: Point;
};

/**
 * Opens a sent.jsonl to go on with it, or begins one. A line that was being written when the process was stopped is cut off.
 * @throws PhoenixError ERR_PHOENIX_RUN for a log whose chain is broken, ERR_PHOENIX_IO
 */
export async function openSentLog(
  path: string,
  { clock = () => new Date(), point = () => {} }: SentLogOptions = {},
): Promise<SentLogWriter> {
  const found = await readSentLog(path);
  if (found.broken)
    throw new PhoenixError(
      'ERR_PHOENIX_RUN',
      `${path} is damaged at line ${found.broken.line}: ${found.broken.why}. Keep it as evidence under another name; a new one is begun then.`,
    );
  const name = basename(path);
  const { add, totals } = tally();
  found.entries.forEach(add);
  let { head, bytes, unfinished } = found;
  let last: Promise<unknown> = Promise.resolve();

  async function write(message: Sent): Promise<SentEntry> {
    const { text, hash } = lineText({ time: clock().toISOString(), ...message, previous: head });
    const isNew = !(await statusOf(path));
    const handle = await open(path, 'a', 0o600);
    try {
      const { size } = await handle.stat();
      if (!unfinished && size !== bytes)
        throw new PhoenixError('ERR_PHOENIX_RUN', `${path} had ${bytes} bytes and has ${size}: another program writes it. Stop that one.`);
      await point(`append ${name}`);
      if (unfinished) await handle.truncate(bytes);
      unfinished = true;
      await handle.writeFile(`${text}\n`);
      await point(`fsync ${name}`);
      await syncHandle(handle);
    } finally {
      await handle.close();
    }
    if (isNew) await syncFolder(dirname(path));
    const written: SentEntry = { ...JSON.parse(text), hash };
    unfinished = false;
    head = hash;
    bytes += Buffer.byteLength(text) + 1;
    add(written);
    return written;
  }

  return {
    append(message) {
      const checked = sent.safeParse(message);
      if (!checked.success)
        return Promise.reject(new PhoenixError('ERR_PHOENIX_ARGUMENT', `No line of ${name} can be made: ${explain(checked.error)}.`));
      const next = last.then(() =>
        io(path, () => write(checked.data), { action: 'write', whenFull: 'make room; nothing is sent until then' }),
      );
      last = next.catch(() => undefined);
      return next;
    },
    totals: (run) => totals.get(run) ?? { messages: 0, bytes: 0, rounds: 0 },
    head: () => head,
  };
}
