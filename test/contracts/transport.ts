/**
 * What holds for every transport: one outcome for each client asked, whatever it is asked; and a federation that ends with the same bytes
 * over a bad line.
 */
import test from 'ava';
import { PhoenixError } from '../../src/errors.ts';
import { type Failure, PROTOCOL } from '../../src/fl/protocol.ts';
import type { Answer, AnswerOptions, Client } from '../../src/fl/site/client.ts';
import { isFailure, type Message, type Reply, type Request, type Transport } from '../../src/fl/transport.ts';
import { blobOf } from '../../src/fl/wire/message.ts';
import { fakeFederation, type Ground } from '../support/fake-federation.ts';
import { fakeImages } from '../support/fake-session.ts';
import { testFit } from '../support/plain-fit.ts';

type Answering = (request: Message, options: AnswerOptions) => Promise<Answer>;
const clientOf = (id: string, answer: Answering): Client => ({
  hello: { protocol: PROTOCOL, id, examples: 1, capabilities: ['echo/1'] },
  answer: (request, options = {}) => answer(request, options),
});
const echo: Answering = async ({ head, blobs }) => ({ head: { heard: head }, blobs });

async function outcomesOf(outcomes: AsyncIterable<Reply | Failure>): Promise<(Reply | Failure)[]> {
  const all = [];
  for await (const outcome of outcomes) all.push(outcome);
  return all.sort((a, b) => (a.client < b.client ? -1 : 1));
}

type Make = (clients: Client[], options: { carriesVectors?: boolean }) => Transport | Promise<Transport>;

export function transportContract(name: string, make: Make): void {
  test(`${name}: what is asked arrives as it was, of any kind, and so does the answer`, async (t) => {
    const transport = await make([clientOf('a', echo), clientOf('b', echo)], {});
    t.deepEqual(transport.clients, [
      { protocol: PROTOCOL, id: 'a', examples: 1, capabilities: ['echo/1'] },
      { protocol: PROTOCOL, id: 'b', examples: 1, capabilities: ['echo/1'] },
    ]);
    const blob = await blobOf(Uint8Array.of(1, 2, 3));
    const head = { text: 'Grüße ✓', number: 1e-17, list: [null, { deep: true }] };
    const asked = transport.ask(['a', 'b'], (id) => ({ kind: `kind of ${id}`, head, blobs: [blob] }), { round: 7 });
    for (const outcome of (await outcomesOf(asked)) as Reply[]) {
      t.deepEqual(outcome.head, { heard: head });
      t.is(outcome.blobs[0]!.name, blob.name);
      t.deepEqual(await (outcome.blobs[0] as { read(): Promise<Uint8Array> }).read(), Uint8Array.of(1, 2, 3));
    }
    await transport.close();
  });

  test(`${name}: a client that throws, or cannot be asked, is a Failure; the others answer`, async (t) => {
    let asked = 0;
    const transport = await make(
      [
        clientOf('a', () => Promise.reject(new Error('no power'))),
        clientOf('b', echo),
        clientOf('c', async () => {
          asked++;
          return { head: {}, blobs: [] };
        }),
      ],
      {},
    );
    const request = (id: string): Request => {
      if (id === 'c') throw new PhoenixError('ERR_PHOENIX_MESSAGE', 'c lacks what it needs');
      return { kind: 'train', head: {} };
    };
    const outcomes = await outcomesOf(transport.ask(['a', 'b', 'c'], request, { round: 3 }));
    t.like(outcomes[0], { client: 'a', round: 3, stage: 'train', reason: 'no power' });
    t.false(isFailure(outcomes[1]!));
    t.like(outcomes[2], { client: 'c', round: 3, reason: 'c lacks what it needs' });
    t.is(asked, 0);
    await t.throwsAsync(async () => outcomesOf(transport.ask(['nobody'], request, { round: 3 })), { code: 'ERR_PHOENIX_ARGUMENT' });
    await transport.close();
  });

  test(`${name}: trouble of this machine is no client's failure`, async (t) => {
    const transport = await make([clientOf('a', echo)], {});
    const full = () => Promise.reject(new PhoenixError('ERR_PHOENIX_IO', 'the disk is full'));
    await t.throwsAsync(outcomesOf(transport.ask(['a'], full, { round: 1 })), { code: 'ERR_PHOENIX_IO' });
    await transport.close();
  });

  test(`${name}: leaving the loop cancels what is outstanding; an abort rejects with its reason`, async (t) => {
    const started: string[] = [];
    const running: Promise<unknown>[] = [];
    const patient = (id: string) =>
      clientOf(id, async (_, { signal }) => {
        started.push(id);
        if (id === 'a') return { head: {}, blobs: [] };
        signal!.throwIfAborted();
        await new Promise((_, reject) => signal!.addEventListener('abort', () => reject(signal!.reason), { once: true }));
        return { head: {}, blobs: [] };
      });
    const transport = await make(
      ['a', 'b', 'c'].map((id) => {
        const client = patient(id);
        return {
          ...client,
          answer(request, options) {
            const answer = client.answer(request, options);
            running.push(answer.catch(() => {}));
            return answer;
          },
        } as Client;
      }),
      {},
    );
    const iterator = transport.ask(['a', 'b', 'c'], () => ({ kind: 'train', head: {} }), { round: 1 })[Symbol.asyncIterator]();
    t.is((await iterator.next()).value.client, 'a');
    const pending = iterator.next();
    pending.catch(() => {});
    await iterator.return!();
    // Nothing goes on: without that, this waits for ever.
    await Promise.all(running);
    t.deepEqual(started.slice(0, 1), ['a']);

    const controller = new AbortController();
    const reason = new Error('stop');
    const asked = outcomesOf(transport.ask(['b'], () => ({ kind: 'train', head: {} }), { round: 1, signal: controller.signal }));
    setImmediate(() => controller.abort(reason));
    t.is(await t.throwsAsync(asked), reason);
    await transport.close();
  });

  test(`${name}: steps come through, and bytes are counted with their blobs`, async (t) => {
    const step = { client: 'a', round: 2, step: 1, steps: 4, loss: 0.5, imagesPerSecond: 10 };
    const transport = await make(
      [
        clientOf('a', async (request, { onProgress }) => {
          onProgress?.(step);
          return echo(request, {});
        }),
      ],
      {},
    );
    const steps: unknown[] = [];
    const blob = await blobOf(new Uint8Array(100_000));
    const asked = transport.ask(['a'], () => ({ kind: 'train', head: {}, blobs: [blob] }), { round: 2, onProgress: (s) => steps.push(s) });
    const [reply] = (await outcomesOf(asked)) as Reply[];
    await (reply!.blobs[0] as { read(): Promise<Uint8Array> }).read();
    t.deepEqual(steps, [step]);
    const { bytesUp, bytesDown } = transport.traffic();
    const isOnce = (bytes: number) => bytes > 100_000 && bytes < 105_000;
    t.true(isOnce(bytesDown) && isOnce(bytesUp), `${bytesUp} up, ${bytesDown} down`);
    await transport.close();
  });

  const ground: Ground = {
    parameters: 6,
    images: fakeImages(1000).count,
    sizes: [10, 15, 20],
    heldOut: 3,
    options: { fit: { ...testFit({ epochs: 2 }, { lr: 0.05 }), optimizer: 'keep', compress: 'int8' } },
  };
  /** Clients whose messages take this way. `sessions`: how often one was trained. */
  const over = async (wrap: (client: Client) => Client, carriesVectors = false, reorder = false) => {
    const w = await fakeFederation(ground, {
      carriesVectors,
      wrap,
      transport: async (clients, options) => {
        const transport = await make(clients, options);
        if (!reorder) return transport;
        return {
          ...transport,
          ask: (ids, request, options) =>
            (async function* () {
              yield* (await outcomesOf(transport.ask([...ids].reverse(), request, options))).reverse();
            })(),
        };
      },
    });
    const { params, ema } = await w.run(4);
    await w.transport.close();
    const bytes = await Promise.all([params, ema].map((vector) => vector.toBytes(0, vector.length)));
    return {
      bytes,
      trainings: w.session.calls.filter(({ firstStep }) => firstStep === 0).length,
      failures: w.records.flatMap((record) => record.failures),
    };
  };
  const twice = (client: Client): Client => ({
    ...client,
    async answer(request, options) {
      await client.answer(request, options);
      return client.answer(request, options);
    },
  });
  /** Every request is followed, one round later, by its repetition. */
  const late = (client: Client): Client => {
    const old = new Map<string, Message>();
    return {
      ...client,
      async answer(request, options) {
        const answer = await client.answer(request, options);
        const before = old.get(request.kind);
        old.set(request.kind, request);
        if (before) await client.answer(before, options).catch((error) => error);
        return request.kind === 'train' ? client.answer(request, options) : answer;
      },
    };
  };

  for (const carriesVectors of [false, true]) {
    const how = carriesVectors ? 'as vectors' : 'as bytes';
    test(`${name}: the same seed gives the same bytes ${how}, though messages come twice, late, or in another order`, async (t) => {
      const plain = await over((client) => client);
      t.is(plain.trainings, 12);
      const ways = {
        plain: [(client: Client) => client, false],
        twice: [twice, false],
        late: [late, false],
        reordered: [(client: Client) => client, true],
      } as const;
      for (const [way, [wrap, reorder]] of Object.entries(ways)) {
        const { bytes, trainings, failures } = await over(wrap, carriesVectors, reorder);
        t.deepEqual(bytes, plain.bytes, way);
        t.is(trainings, 12, `${way}: nothing is trained twice`);
        t.deepEqual(failures, [], way);
      }
    });
  }

  test(`${name}: a lost report or update costs its round, no later one`, async (t) => {
    const losing =
      (kind: string, round: number) =>
      (client: Client): Client => ({
        ...client,
        async answer(request, options) {
          const answer = await client.answer(request, options);
          if (request.kind === kind && request.round === round && client.hello.id === 'b') throw new Error('the line was cut');
          return answer;
        },
      });
    for (const kind of ['train', 'upload', 'finish']) {
      const { failures } = await over(losing(kind, 2));
      t.deepEqual(failures, kind === 'finish' ? [] : [{ client: 'b', round: 2, stage: kind, reason: 'the line was cut' }], kind);
    }
    const plain = await over((client) => client);
    t.deepEqual((await over(losing('finish', 2))).bytes, plain.bytes, 'the next task says that the round is over');
  });
}
