/** One client's part of a round: receive the model, train it on the client's own images, find out what was asked, encode the update. */
import { createHash } from 'node:crypto';
import { type Images, type Session, writePixels } from '../../bindings/session.ts';
import type { CreateVector, Vector } from '../../bindings/vector.ts';
import { evaluation, MAX_EVAL_IMAGES } from '../../ddpm/held-out.ts';
import { trainLocal } from '../../ddpm/train.ts';
import { PhoenixError } from '../../errors.ts';
import { streamKey } from '../../rng.ts';
import { type ClientId, checkHead, type Fit, report as reportSchema, type Task } from '../protocol.ts';
import type { Blob, ClientStep } from '../transport.ts';
import { decodeVector, encodeVector } from '../wire/codec.ts';
import type { BinsParcel, SharedParcel } from '../wire/parcel.ts';
import { type ParameterSplit, splitParameters } from './personal.ts';
import { answerProbe, type ProbeTools } from './probe.ts';
import type { ClientState, Staged, Update } from './state.ts';

/** Images of one evaluation pass; fixed, since the noise that an image gets depends on its place in a batch. */
const EVAL_BATCH = 32;
/**
 * Vectors that a training makes: the model received, the parameters that it began with, the residual; and one more, since a device gives
 * disposed memory back only after the work that uses it has ended.
 */
const TRAINING_VECTORS = 4;

/** What a client trains with. See ClientOptions. */
export type Workshop = {
  id: ClientId;
  session: Session;
  images: Images;
  train: Int32Array;
  heldOut: Int32Array;
  classes?: Int32Array;
  sharedFrom: number;
  probing?: ProbeTools;
  seed: number | bigint;
  secret(): Promise<bigint>;
  stream(id: ClientId, round: number): bigint;
  createVector: CreateVector;
};

export type LocalRound = {
  round: number;
  task: Task;
  blobs: Blob[];
  /** The parcels that the task refers to. */
  shared?: SharedParcel;
  bins?: BinsParcel;
  onProgress?(step: ClientStep): void;
  signal?: AbortSignal;
};

/** The name of a task: the same for the same fit of the same model. */
export function taskName(task: Task): string {
  return createHash('sha256').update(JSON.stringify(task)).digest('hex');
}

/**
 * Trains one round from the kept state and stages what it makes of that.
 * @throws PhoenixError ERR_PHOENIX_MESSAGE for a model or bins that do not fit, and what the Session throws
 */
export async function trainRound(shop: Workshop, state: ClientState, asked: LocalRound): Promise<Staged['report']> {
  const { id, session, images, train, classes, stream, createVector } = shop;
  const { round, task, shared, bins, onProgress, signal } = asked;
  const { fit } = task;
  const before = createVector(session.parameterCount);
  const made = new Set<Vector | undefined>([before]);
  let kept: Vector | undefined;
  try {
    // Receive: the model's parameters, around the client's own personal ones.
    const split = await receiveModel(shop, state, task, asked.blobs);
    await before.copy(session.params, 0, before.length);
    const stepsBehind = await restoreMoments(shop, state, fit.optimizer);
    const indices = shared ? await mixIn(shop, shared) : train;

    // Train, and judge the model before and after.
    const key = streamKey(shop.seed, 'eval', id);
    const held = evaluation({ session, images, heldOut: shop.heldOut, most: MAX_EVAL_IMAGES, classes, batch: EVAL_BATCH, key });
    const evalLoss = await held.loss(signal);
    const started = performance.now();
    const trained = await trainLocal({
      session,
      images,
      indices,
      classes,
      hyper: fit.hyper,
      length: fit.length,
      position: { globalStep: fit.globalStep, adamStep: stepsBehind, firstStep: 0 },
      fall: fit.fall,
      key: stream(id, round),
      anchor: before,
      onStep: onProgress && ((step) => onProgress({ ...step, client: id, round })),
      signal,
    });
    const seconds = (performance.now() - started) / 1000;
    const evalLossLocal = await held.loss(signal);
    const answers =
      fit.probe && (await answerProbe(fit.probe, { ...shop, tools: shop.probing!, round, evalLossLocal, shared, bins, signal }));

    // Encode the update, and report its norm as the server will decode it.
    await before.subtract(session.params, before);
    const delta = split ? await gathered(createVector, before, split.shared, split.sharedCount) : before;
    made.add(delta);
    const asVector = task.model.blob.startsWith('local:') && hasRoom(shop, TRAINING_VECTORS);
    const { compress = 'none' } = fit;
    const { update, norm, residual } = await encodeUpdate(shop, state, { delta, compress, asVector });
    made.add(residual);
    if (update.blob.vector) kept = delta;

    // Report, and stage what the next round begins with.
    const report = checkHead(reportSchema, 'report', {
      examples: indices.length,
      shared: shared?.count,
      images: trained.images,
      steps: trained.steps,
      loss: trained.loss,
      evalLoss,
      evalLossLocal,
      evalImages: held.count,
      deltaNorm: norm,
      ...answers,
      seconds,
    });
    const personal = split && (await gathered(createVector, session.params, split.personal, split.personalCount));
    made.add(personal);
    const moments = fit.optimizer === 'keep' && { 'adam-m': session.adamM, 'adam-v': session.adamV };
    const vectors = { ...moments, ...(residual && { residual }), ...(personal && { personal }) };
    const adamStep = moments ? trained.adamStep : undefined;
    await state.stage(round, taskName(task), { vectors, adamStep, report, update });
    return report;
  } catch (error) {
    kept = undefined;
    throw error;
  } finally {
    for (const vector of made) if (vector !== kept) vector?.dispose();
  }
}

async function gathered(createVector: CreateVector, from: Vector, ranges: Float64Array, count: number): Promise<Vector> {
  const vector = createVector(count);
  await vector.gather(from, ranges);
  return vector;
}

/** Puts the task's parameters into the Session, around the client's own personal ones; those begin as the federation began. */
async function receiveModel(
  { session, seed, createVector }: Workshop,
  state: ClientState,
  { fit: { personal }, model }: Task,
  blobs: Blob[],
): Promise<ParameterSplit | undefined> {
  const split = personal && splitParameters(session.parameters, personal);
  const received = createVector(split?.sharedCount ?? session.parameterCount);
  const own = split && createVector(split.personalCount);
  try {
    await decodeVector(model, blobs, received);
    if (!split || !own) await session.params.copy(received, 0, received.length);
    else {
      const kept = await state.restore('personal', own);
      if (!kept) await session.init(streamKey(seed, 'init'));
      await session.params.scatter(received, split.shared);
      if (kept) await session.params.scatter(own, split.personal);
    }
    return split;
  } finally {
    received.dispose();
    own?.dispose();
  }
}

/** Puts the moments that the fit asks for into the Session; returns the steps that they have behind them. */
async function restoreMoments({ id, session }: Workshop, state: ClientState, optimizer: Fit['optimizer']): Promise<number> {
  const step = optimizer === 'keep' ? await state.adamStep() : undefined;
  if (step === undefined) {
    await session.adamM.fill(0);
    await session.adamV.fill(0);
    return 0;
  }
  const restored = (await state.restore('adam-m', session.adamM)) && (await state.restore('adam-v', session.adamV));
  if (!restored) throw new PhoenixError('ERR_PHOENIX_RUN', `Client ${id} has lost the moments that it kept: begin a new run.`);
  return step;
}

/** Writes shared images behind the others; returns the positions of all that the client trains on. */
async function mixIn({ images, train, classes, sharedFrom }: Workshop, shared: SharedParcel): Promise<Int32Array> {
  const { count, pixels, classes: labels } = shared;
  const first = sharedFrom * (images.bytes / images.count);
  await writePixels(images, pixels, first);
  if (labels) classes!.set(labels, sharedFrom);
  return Int32Array.from({ length: train.length + count }, (_, i) => train[i] ?? sharedFrom + i - train.length);
}

/**
 * The reply to `upload`, and ‖update‖₂ as the server will decode it. A lossy compression sends delta + residual, so that the sum of all
 * that is sent follows the sum of the deltas: error feedback, Seide et al. 2014; Karimireddy et al. 2019, alg. 1. `residual`: what this
 * update leaves out.
 */
async function encodeUpdate(
  { createVector }: Workshop,
  state: ClientState,
  { delta, compress, asVector }: { delta: Vector; compress: string; asVector: boolean },
): Promise<{ update: Update; norm: number; residual?: Vector }> {
  if (compress === 'none') {
    const update = await encodeVector(delta, { compress, asVector });
    return { update, norm: Math.sqrt(await delta.dot(delta)) };
  }
  const residual = createVector(delta.length);
  try {
    if (await state.restore('residual', residual)) await delta.axpy(residual, 1);
    const update = await encodeVector(delta, { compress, asVector });
    await decodeVector(update.head, [update.blob], residual);
    const norm = Math.sqrt(await residual.dot(residual));
    await residual.subtract(delta, residual);
    return { update, norm, residual };
  } catch (error) {
    residual.dispose();
    throw error;
  }
}

/** Whether as many vectors as the model is long can be made. */
function hasRoom({ session, createVector }: Workshop, vectors: number): boolean {
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
