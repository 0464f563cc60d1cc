/** A federation: the state that it begins with, and rounds until enough are done. */

import { isDeepStrictEqual } from 'node:util';
import { checkArguments } from '../arguments.ts';
import type { Session } from '../bindings/session.ts';
import type { CreateVector, Vector } from '../bindings/vector.ts';
import { withCallbacks } from '../callbacks.ts';
import { PhoenixError } from '../errors.ts';
import { streamKey } from '../rng.ts';
import type { Hello, RoundRecord } from './protocol.ts';
import { type RoundIo, runRound } from './round.ts';
import { type ServerStep, serverSteps, startMoments } from './server/server-step.ts';
import type { FederationState } from './state.ts';
import { memoryStore } from './store.ts';
import type { Strategy } from './strategy.ts';

export type InitialStateOptions = {
  /** Gives the initial parameters; its own vectors are not kept, so clients may train in it. */
  session: Session;
  seed: number | bigint;
  strategy: Strategy;
  /** @default add with lr 1 */
  serverStep?: ServerStep;
  /** @default session.createVector */
  createVector?: CreateVector;
};

/**
 * The state before round 1: parameters drawn from the stream (seed, 'init'), the EMA equal to them. Its vectors are the caller's to
 * dispose.
 */
export async function initialState(options: InitialStateOptions): Promise<FederationState> {
  checkArguments('initialState', { options }, { options: { session: { init: 'function' }, seed: 'key', strategy: { init: 'function' } } });
  const { session, seed, strategy, serverStep = serverSteps.add, createVector = session.createVector } = options;
  await session.init(streamKey(seed, 'init'));
  const copy = async (): Promise<Vector> => {
    const vector = createVector(session.parameterCount);
    await vector.copy(session.params, 0, vector.length);
    return vector;
  };
  const params = await copy();
  const ema = await copy();
  const serverMoments = await startMoments(serverStep, params.length, createVector);
  return { round: 0, globalStep: 0, images: 0, params, ema, serverMoments, strategy: strategy.init(), profiles: {}, work: 1 };
}

export type FederationOptions = RoundIo & {
  /** Rounds in all: from `state.round` on, those that are missing are run. */
  rounds: number;
  /**
   * After each round, with the new state; awaited, so that a run may be committed here. Its failure ends the federation. Clients learn
   * after it that the round is over.
   */
  onRound?(state: FederationState, record: RoundRecord): Promise<void> | void;
};

/**
 * Runs rounds until `rounds` are done and returns the last state. The vectors are those of the state given, changed in place; after an
 * error or abort they are those of the last whole round.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for rounds that are no integer ≥ 0, ERR_PHOENIX_CONFIG for clients whose classes have other
 * names, and what runRound throws
 */
export function runFederation(state: FederationState, options: FederationOptions): Promise<FederationState> {
  checkArguments('runFederation', { state, options }, { state: 'object', options: 'object' });
  return withCallbacks('runFederation', options, (guarded) => runRounds(state, guarded));
}

async function runRounds(state: FederationState, { rounds, onRound, ...options }: FederationOptions): Promise<FederationState> {
  if (!Number.isSafeInteger(rounds) || rounds < 0)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `rounds must be an integer of at least 0, not ${rounds}.`);
  checkClasses(options.transport.clients);
  const io = { ...options, store: options.store ?? memoryStore() };
  while (state.round < rounds) {
    io.signal?.throwIfAborted();
    const next = await runRound(state, io);
    state = next.state;
    await onRound?.(state, next.record);
    await next.finish();
  }
  return state;
}

/** A class is a number to all clients, so it must be the same class to all of them. */
function checkClasses(clients: readonly Hello[]): void {
  const first = clients.find(({ classNames }) => classNames);
  for (const { id, classNames } of clients) {
    if (!first?.classNames || !classNames || isDeepStrictEqual(classNames, first.classNames)) continue;
    const at = classNames.findIndex((name, i) => name !== first.classNames![i]);
    const place = at < 0 ? classNames.length : at;
    const [own, other] = [classNames[place], first.classNames[place]].map((name) =>
      name === undefined ? 'not there' : JSON.stringify(name),
    );
    throw new PhoenixError(
      'ERR_PHOENIX_CONFIG',
      `Class ${place} of client ${id} is ${own}, and of client ${first.id} ${other}. Give all clients the labels of one list of classes (matchClasses).`,
    );
  }
}
