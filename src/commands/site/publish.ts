/** A site keeps the model of a run: the global parameters as they came, around its own personal layers, as a file to draw from. */
import type { Session } from '../../bindings/session.ts';
import { setBytes } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';
import { publish, readInstruction } from '../../fl/protocol.ts';
import type { Client } from '../../fl/site/client.ts';
import { splitParameters } from '../../fl/site/personal.ts';
import { keptEntry } from '../../fl/site/state.ts';
import type { Store } from '../../fl/store.ts';
import type { Message } from '../../fl/transport.ts';
import { decodeVector } from '../../fl/wire/codec.ts';
import { readBlob } from '../../fl/wire/message.ts';
import type { Spec } from '../../net/spec.ts';
import { MAX_CARD, writePublished } from '../published.ts';

export type Keeping = {
  spec: Spec;
  /** Its parameters are written: a training sets them before it begins. */
  session: Session;
  /** Where the client keeps its personal layers. */
  store: Store;
  /** The folder of models of this run. */
  dir: string;
  /** Called with the path of each model that was kept. */
  kept(round: number, checkpoint: string): void;
};

/** The client, which also answers `publish`: it keeps the model and its page, and sends nothing back. */
export function keepingModels(client: Client, keeping: Keeping): Client {
  return {
    ...client,
    async answer(request, options) {
      if (request.kind !== 'publish') return client.answer(request, options);
      keeping.kept(request.round, await keepModel(client.hello.id, request, keeping));
      return { head: {}, blobs: [] };
    },
  };
}

/** @throws PhoenixError ERR_PHOENIX_MESSAGE for a model that does not fit, or without own personal layers to put into it */
async function keepModel(id: string, request: Message, { spec, session, store, dir }: Keeping): Promise<string> {
  const { model, card, steps, images } = readInstruction(publish, request);
  const split = spec.personal && splitParameters(session.parameters, spec.personal.patterns);
  const kept = split && keptEntry(id, 'personal', await store.get(`${id}/kept`));
  if (split && kept === undefined)
    throw new PhoenixError(
      'ERR_PHOENIX_MESSAGE',
      `Site ${id} has trained no personal layers in the run ${spec.run}: its model would be without.`,
    );
  const page = await readBlob(
    request.blobs.find(({ name }) => name === card),
    MAX_CARD,
  );
  const received = session.createVector(split?.sharedCount ?? session.parameterCount);
  const own = split && session.createVector(split.personalCount);
  try {
    await decodeVector(model, request.blobs, received);
    if (!split || !own) await session.params.copy(received, 0, received.length);
    else {
      const bytes = await store.get(kept!);
      if (bytes?.length !== 4 * own.length)
        throw new PhoenixError(
          'ERR_PHOENIX_RUN',
          `The personal layers of site ${id} are damaged: they have ${bytes?.length ?? 'no'} bytes.`,
        );
      await setBytes(bytes, own);
      await session.params.scatter(received, split.shared);
      await session.params.scatter(own, split.personal);
    }
    const { parameters: table, params: weights } = session;
    return await writePublished(dir, { round: request.round, steps, images, card: page, weights, table, spec });
  } finally {
    received.dispose();
    own?.dispose();
  }
}
