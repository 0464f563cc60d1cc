/**
 * A client: receives a task, trains on its own images, answers with a report and keeps the delta until it is asked for. What outlives a
 * call lies in the Store; the Session is only borrowed, so many clients may share one, one after the other.
 */
import { randomBytes } from 'node:crypto';
import type { Images, Session } from '../../bindings/session.ts';
import type { Vector } from '../../bindings/vector.ts';
import { evaluation, MAX_EVAL_IMAGES } from '../../ddpm/held-out.ts';
import { trainLocal } from '../../ddpm/train.ts';
import { PhoenixError } from '../../errors.ts';
import { streamKey } from '../../rng.ts';
import type { ClientId, ClientInfo, ClientStep, Fit, HandedOver, Parcel, Report, Store, VectorMessage } from '../types.ts';
import { clientId, encodeMessage } from '../wire/message.ts';
import { decodeParcel, type ParcelLimits } from '../wire/parcel.ts';
import {
  type CreateVector,
  decodeTask,
  decodeUpdate,
  encodeUpdate,
  getBytes,
  handOverUpdate,
  openMessage,
  setBytes,
} from '../wire/vector.ts';
import { type ParameterSplit, splitParameters } from './personal.ts';
import { answerProbe, type ProbeTools } from './probe.ts';

/** Images of one evaluation pass; fixed, since the noise that an image gets depends on its place in a batch. */
const EVAL_BATCH = 32;
/** Bytes of shared images that are written at once, on the JS thread. */
const PIECE_BYTES = 4 << 20;
/** Vectors that a training makes: what it received, what it began with, the residual; and one, since memory is given back with a delay. */
const TRAINING_VECTORS = 4;

export type ClientOptions = {
  /** 1 to 128 characters, no slash; unique in the federation. */
  id: ClientId;
  /** The client trains in this Session's vectors and leaves its own model there. */
  session: Session;
  images: Images;
  /** Positions in `images` that the client trains on, at least one. */
  train: Int32Array;
  /** Positions held out, for `evalLoss`; at most 128 of them, evenly spaced, are used. May be empty. */
  heldOut: Int32Array;
  /** Class of every image of `images`, for a class-conditional model; those of received shared images are written into it. */
  classes?: Int32Array;
  /** Classes that the model is conditioned on; needed with `classes` to receive shared images. @default 0 */
  classCount?: number;
  /** Shared images received go into `images` from this position to its end, before each training. @default no room for any */
  sharedFrom?: number;
  /** What the client needs to answer probes. @default none: a task with a probe is refused */
  probing?: ProbeTools;
  /**
   * Keeps `<id>/delta`, the encoded update not sent yet (one to be handed over stays with the client); with `optimizer: 'keep'` `<id>/adam-m`, `-v`
   * and `-step`; with a lossy compression `<id>/residual`, what the updates sent so far left out, and `<id>/residual-next`, the same once this round's
   * update is sent too; with personal layers `<id>/personal`, their float32 values in the order of the vector; `<id>/shared` and `<id>/bins`, the
   * parcels received; `<id>/secret`, the key of its noise.
   */
  store: Store;
  /** Of what may be known: training, held-out noise, samples of probes. */
  seed: number | bigint;
  /** 64 bits, the key of the noise on histograms, which hides nothing from who knows it. @default drawn at random when first needed, and kept in the Store */
  secret?: bigint;
  /** The stream of a round's training. @default streamKey(seed, 'train', id, round) */
  stream?(id: ClientId, round: number): bigint;
  /** @default session.createVector */
  createVector?: CreateVector;
};

export type Client = {
  info: ClientInfo;
  /** Takes a parcel message and keeps it. @throws PhoenixError ERR_PHOENIX_MESSAGE for one that does not fit */
  receive(parcel: Uint8Array): Promise<void>;
  /**
   * Task message → report message. Afterwards the update of that round can be uploaded. If the task was handed over, so is the update, and stays in
   * the device's memory until then, as long as that has room for another training.
   */
  train(task: VectorMessage, options?: { onStep?(step: ClientStep): void; signal?: AbortSignal }): Promise<Uint8Array>;
  /** The update message of the round; asked again, the same one. @throws PhoenixError ERR_PHOENIX_MESSAGE if the client has none */
  upload(round: number): Promise<VectorMessage>;
  /** The round is over: an update that was not asked for is dropped. */
  finish(round: number): Promise<void>;
};

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for an id that names no Store entry, or a client without images */
export function createClient(options: ClientOptions): Client {
  const { id, session, images, train, heldOut, classes, classCount = 0, store, seed, createVector = session.createVector } = options;
  const { sharedFrom = images.count, probing } = options;
  const stream = options.stream ?? ((client, round) => streamKey(seed, 'train', client, round));
  const checkedId = clientId.safeParse(id);
  if (!checkedId.success)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${JSON.stringify(id)} cannot be a client's id: ${checkedId.error.issues[0]!.message}.`);
  if (train.length === 0)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Client ${id} has no images to train on: give it some or leave it out.`);

  const evalKey = streamKey(seed, 'eval', id);
  const held = evaluation({ session, images, heldOut, most: MAX_EVAL_IMAGES, classes, batch: EVAL_BATCH, key: evalKey });

  const damaged = (key: string, vector: Vector, bytes: Uint8Array | undefined) =>
    new PhoenixError(
      'ERR_PHOENIX_RUN',
      `The kept state ${id}/${key} should have ${4 * vector.length} bytes, but has ${bytes?.length ?? 'none'}: it is damaged or of another model.`,
    );

  /** Sets a vector from the Store, if there is such an entry. */
  async function restore(key: string, into: Vector): Promise<boolean> {
    const bytes = await store.get(`${id}/${key}`);
    if (!bytes) return false;
    if (bytes.length !== 4 * into.length) throw damaged(key, into, bytes);
    await setBytes(bytes, into);
    return true;
  }

  async function secret(): Promise<bigint> {
    if (options.secret !== undefined) return options.secret;
    const kept = await store.get(`${id}/secret`);
    if (kept?.length === 8) return Buffer.from(kept).readBigUInt64LE();
    const drawn = randomBytes(8);
    await store.set(`${id}/secret`, drawn);
    return drawn.readBigUInt64LE();
  }

  const limits: ParcelLimits = {
    room: images.count - sharedFrom,
    imageBytes: images.bytes / images.count,
    classes: classes && classCount,
  };

  /** The parcel of this version, which the client has received before; undefined if none is asked for. */
  async function parcelOf<K extends Parcel['kind']>(kind: K, version: number | undefined): Promise<(Parcel & { kind: K }) | undefined> {
    if (version === undefined) return undefined;
    const bytes = await store.get(`${id}/${kind}`);
    const parcel = bytes && decodeParcel(bytes, limits);
    if (parcel?.kind === kind && parcel.version === version) return parcel as Parcel & { kind: K };
    const what = kind === 'bins' ? 'bins' : 'shared images';
    const has = parcel ? `those of round ${parcel.version}` : 'none';
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Client ${id} was asked to use the ${what} of round ${version}, but has ${has}.`);
  }

  /** Writes shared images behind the others; returns the positions of all that the client trains on. */
  async function mixIn({ count, pixels, classes: labels }: Parcel & { kind: 'shared' }): Promise<Int32Array> {
    for (let at = 0; at < pixels.length; at += PIECE_BYTES) {
      images.write(pixels.subarray(at, at + PIECE_BYTES), sharedFrom * limits.imageBytes + at);
      await new Promise(setImmediate);
    }
    if (labels) classes!.set(labels, sharedFrom);
    return Int32Array.from({ length: train.length + count }, (_, i) => train[i] ?? sharedFrom + i - train.length);
  }

  async function part(of: Vector, ranges: Float64Array, count: number): Promise<Vector> {
    const vector = createVector(count);
    await vector.gather(of, ranges);
    return vector;
  }

  /** Puts the task's parameters into the Session, around the client's own personal ones; at first these are as the federation began. */
  async function receiveTask(task: VectorMessage): Promise<{ round: number; fit: Fit; split?: ParameterSplit }> {
    const { personal } = openMessage(task, { kind: 'task', payloadBytes: 4 * session.parameterCount }).header.fit;
    const split = personal && splitParameters(session.parameters, personal);
    const received = createVector(split?.sharedCount ?? session.parameterCount);
    const own = split && createVector(split.personalCount);
    try {
      const { round, fit } = await decodeTask(task, received);
      if (!split || !own) await session.params.copy(received, 0, received.length);
      else {
        const kept = await restore('personal', own);
        if (!kept) await session.init(streamKey(seed, 'init'));
        await session.params.scatter(received, split.shared);
        if (kept) await session.params.scatter(own, split.personal);
      }
      return { round, fit, split };
    } finally {
      received.dispose();
      own?.dispose();
    }
  }

  async function keepPersonal({ personal, personalCount }: ParameterSplit): Promise<void> {
    const own = await part(session.params, personal, personalCount);
    await store.set(`${id}/personal`, await getBytes(own)).finally(() => own.dispose());
  }

  /** Puts the moments that the fit asks for into the Session; returns the steps that they have behind them. */
  async function restoreMoments(optimizer: Fit['optimizer']): Promise<number> {
    const step = optimizer === 'keep' ? await store.get(`${id}/adam-step`) : undefined;
    if (!step) {
      await session.adamM.fill(0);
      await session.adamV.fill(0);
      return 0;
    }
    for (const [key, moment] of [
      ['adam-m', session.adamM],
      ['adam-v', session.adamV],
    ] as const) {
      if (!(await restore(key, moment))) throw damaged(key, moment, undefined);
    }
    return Number(new TextDecoder().decode(step));
  }

  /** The step count goes first and comes last: without it the moments do not count, should this be interrupted. */
  async function keepMoments(adamStep: number): Promise<void> {
    await store.delete(`${id}/adam-step`);
    await store.set(`${id}/adam-m`, await session.adamM.toBytes(0, session.adamM.length));
    await store.set(`${id}/adam-v`, await session.adamV.toBytes(0, session.adamV.length));
    await store.set(`${id}/adam-step`, new TextEncoder().encode(String(adamStep)));
  }

  /**
   * The update message. A lossy compression sends delta + residual, so that the sum of all that is sent follows the sum of the deltas: error
   * feedback, Seide et al. 2014; Karimireddy et al. 2019, alg. 1. The residual counts once the update is asked for (see upload).
   */
  async function makeUpdate(round: number, delta: Vector, compress: string | undefined, handOver: boolean): Promise<VectorMessage> {
    await store.delete(`${id}/residual-next`);
    const message = handOver && hasRoom(TRAINING_VECTORS) ? handOverUpdate : encodeUpdate;
    if (compress === undefined || compress === 'none') return message({ client: id, round, delta });
    const residual = createVector(delta.length);
    try {
      if (await restore('residual', residual)) await delta.axpy(residual, 1);
      const update = await message({ client: id, round, delta, compress });
      await decodeUpdate(update, { client: id, round, into: residual });
      await residual.subtract(delta, residual);
      await store.set(`${id}/residual-next`, await residual.toBytes(0, residual.length));
      return update;
    } finally {
      residual.dispose();
    }
  }

  /** Whether as many vectors as the model is long can be made. */
  function hasRoom(vectors: number): boolean {
    const made: Vector[] = [];
    try {
      while (made.length < vectors) made.push(createVector(session.parameterCount));
      return true;
    } catch (error) {
      if (error instanceof PhoenixError && error.code === 'ERR_PHOENIX_MEMORY') return false;
      throw error;
    } finally {
      for (const vector of made) vector.dispose();
    }
  }

  /** The update not sent yet that is to be handed over; one in bytes lies in the Store. */
  let handedOver: HandedOver | undefined;

  function dropHandedOver(): void {
    handedOver?.vector.dispose();
    handedOver = undefined;
  }

  return {
    info: { id, examples: train.length },

    async receive(bytes) {
      const { kind } = decodeParcel(bytes, limits);
      await store.set(`${id}/${kind}`, bytes);
    },

    async train(task, { onStep, signal } = {}) {
      const before = createVector(session.parameterCount);
      let delta: Vector | undefined;
      try {
        const { round, fit, split } = await receiveTask(task);
        const { probe } = fit;
        if (probe && !probing)
          throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Client ${id} was asked for more than training, which it is not set up for.`);
        const shared = await parcelOf('shared', fit.shared);
        const bins = await parcelOf('bins', probe?.bins);
        const indices = shared ? await mixIn(shared) : train;
        await before.copy(session.params, 0, before.length);
        const adamStep = await restoreMoments(fit.optimizer);
        const evalLoss = await held.loss(signal);
        const started = performance.now();
        const trained = await trainLocal({
          session,
          images,
          indices,
          classes,
          hyper: fit.hyper,
          length: fit.length,
          position: { globalStep: fit.globalStep, adamStep, firstStep: 0 },
          key: stream(id, round),
          anchor: before,
          onStep: onStep && ((step) => onStep({ ...step, client: id, round })),
          signal,
        });
        const seconds = (performance.now() - started) / 1000;
        const evalLossLocal = await held.loss(signal);
        const answers =
          probe &&
          probing &&
          (await answerProbe(probe, {
            client: id,
            round,
            seed,
            secret,
            session,
            tools: probing,
            train,
            heldOut,
            classes,
            evalLossLocal,
            shared,
            bins,
            signal,
          }));
        await before.subtract(session.params, before);
        delta = split ? await part(before, split.shared, split.sharedCount) : before;
        const { steps, images: drawn, loss } = trained;
        const deltaNorm = Math.sqrt(await delta.dot(delta));
        const report: Report = {
          client: id,
          round,
          examples: indices.length,
          shared: shared?.count,
          images: drawn,
          steps,
          loss,
          evalLoss,
          evalLossLocal,
          evalImages: held.count,
          deltaNorm,
          ...answers,
          seconds,
        };
        const answer = encodeMessage({ kind: 'report', version: 1, report });
        if (fit.optimizer === 'keep') await keepMoments(trained.adamStep);
        if (split) await keepPersonal(split);
        const update = await makeUpdate(round, delta, fit.compress, !(task instanceof Uint8Array));
        dropHandedOver();
        if (update instanceof Uint8Array) await store.set(`${id}/delta`, update);
        else handedOver = update;
        return answer;
      } finally {
        for (const vector of [before, delta]) if (vector !== handedOver?.vector) vector?.dispose();
      }
    },

    async upload(round) {
      const update = handedOver ?? (await store.get(`${id}/delta`));
      const made = update && openMessage(update, { kind: 'update', payloadBytes: Infinity }).header.round;
      if (!update || made !== round) {
        throw new PhoenixError(
          'ERR_PHOENIX_MESSAGE',
          `Client ${id} was asked for its update of round ${round}, but has ${made === undefined ? 'none' : `that of round ${made}`}.`,
        );
      }
      const residual = await store.get(`${id}/residual-next`);
      if (residual) {
        await store.set(`${id}/residual`, residual);
        await store.delete(`${id}/residual-next`);
      }
      return update;
    },

    async finish() {
      await store.delete(`${id}/residual-next`);
      await store.delete(`${id}/delta`);
      dropHandedOver();
    },
  };
}
