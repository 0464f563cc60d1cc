/**
 * A client: answers what it is asked, trains on its own images, and keeps its update until it is asked for. What outlives a call lies in
 * the Store; the Session is only borrowed, so many clients may share one, one after the other.
 */

import { randomBytes } from 'node:crypto';
import { checkArguments } from '../../arguments.ts';
import type { Images, Session } from '../../bindings/session.ts';
import type { CreateVector } from '../../bindings/vector.ts';
import { withCallbacks } from '../../callbacks.ts';
import { PhoenixError } from '../../errors.ts';
import { streamKey } from '../../rng.ts';
import { type ClientId, clientId, finish, type Hello, PROTOCOL, parcel, readInstruction, task, upload } from '../protocol.ts';
import type { Store } from '../store.ts';
import type { Blob, ClientStep, Message } from '../transport.ts';
import { packMessage, unpackMessage } from '../wire/message.ts';
import { decodeParcel, type Parcel, type ParcelLimits } from '../wire/parcel.ts';
import { taskName, trainRound, type Workshop } from './local-round.ts';
import type { ProbeTools } from './probe.ts';
import { clientState } from './state.ts';

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
  /** Names of these classes. Where clients say them, a federation of clients that count their classes differently is refused. */
  classNames?: string[];
  /** Shared images received go into `images` from this position to its end, before each training. @default no room for any */
  sharedFrom?: number;
  /** What the client needs to answer probes. @default none: it is not asked for any */
  probing?: ProbeTools;
  /**
   * Keeps what the client has from one round to the next (see state.ts), the parcels received (`<id>/shared`, `<id>/bins`), and
   * `<id>/secret`.
   */
  store: Store;
  /** Keeps the update until its round is over. @default store */
  updates?: Store;
  /** Of what may be known: training, held-out noise, samples of probes. */
  seed: number | bigint;
  /**
   * 64 bits, the key of the noise on histograms; it hides nothing from those who know it. @default drawn at random when first needed, and
   * kept in the Store
   */
  secret?: bigint;
  /** The stream of a round's training. @default streamKey(seed, 'train', id, round) */
  stream?(id: ClientId, round: number): bigint;
  /** @default session.createVector */
  createVector?: CreateVector;
};

export type AnswerOptions = { onProgress?(step: ClientStep): void; signal?: AbortSignal };
export type Answer = { head: object; blobs: Blob[] };

export type Client = {
  hello: Hello;
  /**
   * Answers one request. `train`: trains and reports; the same task again is answered again without training. `upload`: the update of that
   * round, as often as it is asked. `parcel`: keeps it. `finish`: the round is over.
   * @throws PhoenixError ERR_PHOENIX_MESSAGE for a request that is unknown, does not fit, or is of a round that is over
   */
  answer(request: Message, options?: AnswerOptions): Promise<Answer>;
};

const DONE: Answer = { head: {}, blobs: [] };

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for options that make no client */
function checkOptions(options: ClientOptions): void {
  checkArguments(
    'createClient',
    { options },
    { options: { session: 'object', images: 'object', train: 'numbers', heldOut: 'numbers', store: 'object' } },
  );
  const { id, train } = options;
  const checkedId = clientId.safeParse(id);
  if (!checkedId.success)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${JSON.stringify(id)} cannot be a client's id: ${checkedId.error.issues[0]!.message}.`);
  if (train.length === 0)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Client ${id} has no images to train on: give it some or leave it out.`);
}

/** @throws PhoenixError ERR_PHOENIX_ARGUMENT for an id that names no Store entry, or a client without images */
export function createClient(options: ClientOptions): Client {
  checkOptions(options);
  const { id, session, images, train, classes, classCount = 0, classNames, store, seed, probing, sharedFrom = images.count } = options;
  const { stream = (client: ClientId, round: number) => streamKey(seed, 'train', client, round), createVector = session.createVector } =
    options;
  const state = clientState(id, store, options.updates);
  const shop: Workshop = { ...options, sharedFrom, stream, createVector, secret: () => secretOf(options) };
  const limits: ParcelLimits = {
    room: images.count - sharedFrom,
    imageBytes: images.bytes / images.count,
    classes: classes && classCount,
  };

  /** The parcel of this version, which the client has received before; undefined if none is asked for. */
  async function parcelOf<W extends Parcel['what']>(what: W, version: number | undefined): Promise<(Parcel & { what: W }) | undefined> {
    if (version === undefined) return undefined;
    const bytes = await store.get(`${id}/${what}`);
    const kept = bytes && unpackMessage(bytes);
    const received = kept && (await decodeParcel(readInstruction(parcel, kept), kept.blobs, limits));
    if (received?.what === what && received.version === version) return received as Parcel & { what: W };
    const name = what === 'bins' ? 'bins' : 'shared images';
    const has = received ? `those of round ${received.version}` : 'none';
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Client ${id} was asked to use the ${name} of round ${version}, but has ${has}.`);
  }

  const verbs: Record<string, (request: Message, options: AnswerOptions) => Promise<Answer>> = {
    async parcel(request) {
      const head = readInstruction(parcel, request);
      await decodeParcel(head, request.blobs, limits);
      await store.set(`${id}/${head.what}`, await packMessage(request));
      return DONE;
    },

    async train(request, { onProgress, signal }) {
      const { round, blobs } = request;
      const asked = readInstruction(task, request);
      const done = await state.begin(round, taskName(asked));
      if (done) return { head: done, blobs: [] };
      const { shared, probe } = asked.fit;
      if (probe && !probing)
        throw new PhoenixError(
          'ERR_PHOENIX_MESSAGE',
          `Client ${id} was asked for statistics, but has no means to compute them: pass probing to createClient.`,
        );
      const parcels = { shared: await parcelOf('shared', shared), bins: await parcelOf('bins', probe?.bins) };
      return { head: await trainRound(shop, state, { round, task: asked, blobs, ...parcels, onProgress, signal }), blobs: [] };
    },

    async upload(request) {
      const [field] = Object.keys(readInstruction(upload, request).manifest);
      if (field !== undefined)
        throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Client ${id} was asked for an update with ${field}, which it does not know.`);
      const { head, blob } = await state.takeUpdate(request.round);
      return { head, blobs: [blob] };
    },

    async finish(request) {
      readInstruction(finish, request);
      await state.finish(request.round);
      return DONE;
    },
  };

  return {
    hello: { protocol: PROTOCOL, id, examples: train.length, capabilities: probing ? ['probe/1'] : [], ...(classNames && { classNames }) },
    async answer(request, options = {}) {
      if (Object.hasOwn(verbs, request.kind)) return withCallbacks('answer', options, (guarded) => verbs[request.kind]!(request, guarded));
      throw new PhoenixError(
        'ERR_PHOENIX_MESSAGE',
        `Client ${id} does not know the request ${request.kind}: the sender speaks protocol ${request.protocol}, this client ${PROTOCOL}.`,
      );
    },
  };
}

async function secretOf({ id, store, secret }: ClientOptions): Promise<bigint> {
  if (secret !== undefined) return secret;
  const kept = await store.get(`${id}/secret`);
  if (kept?.length === 8) return Buffer.from(kept).readBigUInt64LE();
  const drawn = randomBytes(8);
  await store.set(`${id}/secret`, drawn);
  return drawn.readBigUInt64LE();
}
