/**
 * What a client keeps between rounds, in two layers: *base*, as of the last round that is over, and *staged*, what the round being done
 * would make of it. A task that is asked again is answered again; another task of the same round starts from base; a later round makes
 * staged the base. So a message that comes twice, late or not at all changes nothing.
 *
 * Entries of the Store: `<id>/kept` (JSON: which entries make up each layer), `<id>/<what>-<round>` (float32 values), `<id>/update` (the
 * blob of the staged round's update).
 */
import { z } from 'zod';
import { getBytes, setBytes, type Vector } from '../../bindings/vector.ts';
import { PhoenixError } from '../../errors.ts';
import { type ClientId, report, update, type VectorHead } from '../protocol.ts';
import type { Store } from '../store.ts';
import type { Blob } from '../transport.ts';

/** Adam's moments; what compression left out of the updates sent so far; the personal parameters in the order of the vector. */
const kinds = ['adam-m', 'adam-v', 'residual', 'personal'] as const;
export type KeptVector = (typeof kinds)[number];

/** Each kept vector's entry of the Store, and Adam's steps behind the moments. */
const layer = z.object({
  round: z.int().min(0),
  entries: z.partialRecord(z.enum(kinds), z.string()),
  adamStep: z.int().min(0).optional(),
});
const kept = z.object({
  base: layer,
  staged: layer
    .extend({
      /** The task's name, and the answer to it. */
      task: z.string(),
      report,
      /** The reply to `upload`, and the bytes of its blob. */
      update: update.extend({ bytes: z.int().min(0) }),
      /** Whether the update was asked for: only then the residual counts. */
      uploaded: z.boolean(),
    })
    .optional(),
});
type Kept = z.infer<typeof kept>;

/** An encoded update: the head of the reply to `upload`, and its blob. */
export type Update = { head: VectorHead; blob: Blob };

/** What a round makes of the kept state. */
export type Staged = {
  vectors: Partial<Record<KeptVector, Vector>>;
  adamStep?: number;
  report: z.infer<typeof report>;
  /** The reply to `upload`. A blob that is a vector stays in memory, and belongs to the kept state from then on. */
  update: Update;
};

export type ClientState = {
  /**
   * Begins a task of a round. Returns its report if it has been done already.
   * @throws PhoenixError ERR_PHOENIX_MESSAGE for a round before that of the kept state
   */
  begin(round: number, task: string): Promise<z.infer<typeof report> | undefined>;
  /** Sets a vector from base, if it is kept. @throws PhoenixError ERR_PHOENIX_RUN if its entry is damaged */
  restore(what: KeptVector, into: Vector): Promise<boolean>;
  /** Adam's steps behind the kept moments; undefined without any. */
  adamStep(): Promise<number | undefined>;
  stage(round: number, task: string, staged: Staged): Promise<void>;
  /** The update of the staged round. @throws PhoenixError ERR_PHOENIX_MESSAGE if the client has none of that round */
  takeUpdate(round: number): Promise<Update>;
  /** The round is over: staged becomes base, unless it is of a later round. */
  finish(round: number): Promise<void>;
};

function damaged(id: ClientId, key: string, why: string): PhoenixError {
  return new PhoenixError('ERR_PHOENIX_RUN', `The kept state ${key} of client ${id} ${why}: it is damaged or of another model.`);
}

function parseKept(id: ClientId, bytes: Uint8Array | undefined): Kept {
  if (!bytes) return { base: { round: 0, entries: {} } };
  try {
    return kept.parse(JSON.parse(new TextDecoder().decode(bytes)));
  } catch {
    throw damaged(id, `${id}/kept`, 'cannot be read');
  }
}

/** The Store's entry of a kept vector as it was last trained; undefined if there is none. `bytes`: those of `<id>/kept`. */
export function keptEntry(id: ClientId, what: KeptVector, bytes: Uint8Array | undefined): string | undefined {
  const { base, staged } = parseKept(id, bytes);
  return staged?.entries[what] ?? base.entries[what];
}

/** Where a client's state lies. */
type Place = {
  id: ClientId;
  store: Store;
  updates: Store;
  /** The staged update's blob, if it is a vector of this process. */
  handedOver?: Blob;
};

const indexKey = ({ id }: Place) => `${id}/kept`;
const updateKey = ({ id }: Place) => `${id}/update`;

async function readIndex(place: Place): Promise<Kept> {
  return parseKept(place.id, await place.store.get(indexKey(place)));
}

async function writeIndex(place: Place, index: Kept): Promise<void> {
  const isEmpty = !index.staged && Object.keys(index.base.entries).length === 0;
  if (isEmpty) await place.store.delete(indexKey(place));
  else await place.store.set(indexKey(place), new TextEncoder().encode(JSON.stringify(index)));
}

/** Leaves the staged layer out, or makes it the base. The index is written before entries are deleted that it no longer names. */
async function settle(place: Place, { base, staged }: Kept, accept: boolean): Promise<void> {
  if (!staged) return;
  const { residual, ...others } = staged.entries;
  const taken = { ...others, ...(residual !== undefined && staged.uploaded && { residual }) };
  const next: Kept['base'] = accept
    ? { round: staged.round, entries: { ...base.entries, ...taken }, adamStep: staged.adamStep ?? base.adamStep }
    : base;
  await writeIndex(place, { base: next });
  place.handedOver?.vector?.dispose();
  place.handedOver = undefined;
  await place.updates.delete(updateKey(place));
  const named = new Set(Object.values(next.entries));
  for (const key of [...Object.values(base.entries), ...Object.values(staged.entries)]) if (!named.has(key)) await place.store.delete(key);
}

/** The blob of the staged update, read when it is needed; undefined if it was a vector of another process. */
function stagedBlob(place: Place, { blob: name, bytes: length }: NonNullable<Kept['staged']>['update']): Blob | undefined {
  if (name.startsWith('local:')) return place.handedOver?.name === name ? place.handedOver : undefined;
  const read = async () => {
    const bytes = await place.updates.get(updateKey(place));
    if (!bytes) throw damaged(place.id, updateKey(place), 'is gone');
    return bytes;
  };
  return { name, length, read };
}

/** `updates`: keeps the blob of the staged update, which is needed until its round is over. */
export function clientState(id: ClientId, store: Store, updates: Store = store): ClientState {
  const place: Place = { id, store, updates };
  const refuse = (why: string): never => {
    throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Client ${id} was asked ${why}.`);
  };
  return {
    async begin(round, task) {
      const index = await readIndex(place);
      const { base, staged } = index;
      const newest = Math.max(base.round, staged?.round ?? 0);
      if (round < newest || (round === base.round && newest > 0))
        refuse(`to train in round ${round}, but has trained in round ${newest} already: for a new federation give it a new Store`);
      if (staged?.round === round && staged.task === task && stagedBlob(place, staged.update)) return staged.report;
      await settle(place, index, staged !== undefined && staged.round < round);
      return undefined;
    },

    async restore(what, into) {
      const key = (await readIndex(place)).base.entries[what];
      if (key === undefined) return false;
      const bytes = await store.get(key);
      if (bytes?.length !== 4 * into.length)
        throw damaged(id, key, `should have ${4 * into.length} bytes, but has ${bytes?.length ?? 'none'}`);
      await setBytes(bytes, into);
      return true;
    },

    async adamStep() {
      return (await readIndex(place)).base.adamStep;
    },

    async stage(round, task, { vectors, adamStep, report: answer, update: { head, blob } }) {
      const { base } = await readIndex(place);
      const entries: Kept['base']['entries'] = {};
      for (const [what, vector] of Object.entries(vectors) as [KeptVector, Vector][]) {
        entries[what] = `${id}/${what}-${round}`;
        await store.set(entries[what], await getBytes(vector));
      }
      if (!blob.vector) await updates.set(updateKey(place), await blob.read());
      const update = { ...head, bytes: blob.length };
      await writeIndex(place, { base, staged: { round, entries, adamStep, task, report: answer, update, uploaded: false } });
      if (blob.vector) place.handedOver = blob;
    },

    async takeUpdate(round) {
      const index = await readIndex(place);
      const { staged } = index;
      const blob = staged && stagedBlob(place, staged.update);
      if (!staged || !blob || staged.round !== round)
        return refuse(`for its update of round ${round}, but has ${staged ? `that of round ${staged.round}` : 'none'}`);
      if (!staged.uploaded) await writeIndex(place, { ...index, staged: { ...staged, uploaded: true } });
      const { bytes: _, ...head } = staged.update;
      return { head, blob };
    },

    async finish(round) {
      const index = await readIndex(place);
      if (index.staged && index.staged.round <= round) await settle(place, index, true);
    },
  };
}
