/**
 * What a client keeps between rounds, in two layers: *base*, as of the last round that is over, and *staged*, what the round being done would make of it. A
 * task that is asked again is answered again; another task of the same round starts from base; a later round makes staged the base. So a message that
 * comes twice, late or not at all changes nothing.
 *
 * Entries of the Store: `<id>/kept` (JSON: which entries make up each layer), `<id>/<what>-<round>` (float32 values), `<id>/update` (the blob of the staged
 * round's update).
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

/** `updates`: keeps the blob of the staged update, which is needed until its round is over. */
export function clientState(id: ClientId, store: Store, updates: Store = store): ClientState {
  const indexKey = `${id}/kept`;
  const updateKey = `${id}/update`;
  /** The staged update, if it is a vector of this process. */
  let handedOver: Blob | undefined;

  const read = async () => parseKept(id, await store.get(indexKey));

  async function write(index: Kept): Promise<void> {
    const isEmpty = !index.staged && Object.keys(index.base.entries).length === 0;
    if (isEmpty) await store.delete(indexKey);
    else await store.set(indexKey, new TextEncoder().encode(JSON.stringify(index)));
  }

  async function dropUpdate(): Promise<void> {
    handedOver?.vector?.dispose();
    handedOver = undefined;
    await updates.delete(updateKey);
  }

  /** Leaves the staged layer out, or makes it the base. The index is written before entries go that it no longer names. */
  async function settle({ base, staged }: Kept, accept: boolean): Promise<Kept> {
    if (!staged) return { base };
    const { residual, ...others } = staged.entries;
    const taken = accept ? { ...others, ...(residual !== undefined && staged.uploaded && { residual }) } : {};
    const settled: Kept = {
      base: accept ? { round: staged.round, entries: { ...base.entries, ...taken }, adamStep: staged.adamStep ?? base.adamStep } : base,
    };
    await write(settled);
    await dropUpdate();
    const named = new Set(Object.values(settled.base.entries));
    for (const key of [...Object.values(base.entries), ...Object.values(staged.entries)]) if (!named.has(key)) await store.delete(key);
    return settled;
  }

  /** The blob of the staged update, read when it is needed; undefined if it was a vector of another process. */
  function blobOf({ blob: name, bytes: length }: NonNullable<Kept['staged']>['update']): Blob | undefined {
    if (name.startsWith('local:')) return handedOver?.name === name ? handedOver : undefined;
    const read = async () => {
      const bytes = await updates.get(updateKey);
      if (!bytes) throw damaged(id, updateKey, 'is gone');
      return bytes;
    };
    return { name, length, read };
  }

  return {
    async begin(round, task) {
      const index = await read();
      const { base, staged } = index;
      const newest = Math.max(base.round, staged?.round ?? 0);
      if (round < newest || (round === base.round && newest > 0)) {
        throw new PhoenixError(
          'ERR_PHOENIX_MESSAGE',
          `Client ${id} was asked to train in round ${round}, but has trained in round ${newest} already. For a new federation give it a new Store.`,
        );
      }
      if (staged?.round === round && staged.task === task && blobOf(staged.update)) return staged.report;
      await settle(index, staged !== undefined && staged.round < round);
      return undefined;
    },

    async restore(what, into) {
      const key = (await read()).base.entries[what];
      if (key === undefined) return false;
      const bytes = await store.get(key);
      if (bytes?.length !== 4 * into.length)
        throw damaged(id, key, `should have ${4 * into.length} bytes, but has ${bytes?.length ?? 'none'}`);
      await setBytes(bytes, into);
      return true;
    },

    async adamStep() {
      return (await read()).base.adamStep;
    },

    async stage(round, task, { vectors, adamStep, report: answer, update: { head, blob } }) {
      const { base } = await read();
      const entries: Kept['base']['entries'] = {};
      for (const [what, vector] of Object.entries(vectors) as [KeptVector, Vector][]) {
        entries[what] = `${id}/${what}-${round}`;
        await store.set(entries[what], await getBytes(vector));
      }
      if (!blob.vector) await updates.set(updateKey, await blob.read());
      const update = { ...head, bytes: blob.length };
      await write({ base, staged: { round, entries, adamStep, task, report: answer, update, uploaded: false } });
      if (blob.vector) handedOver = blob;
    },

    async takeUpdate(round) {
      const index = await read();
      const { staged } = index;
      const blob = staged && blobOf(staged.update);
      if (!staged || !blob || staged.round !== round) {
        const has = staged ? `that of round ${staged.round}` : 'none';
        throw new PhoenixError('ERR_PHOENIX_MESSAGE', `Client ${id} was asked for its update of round ${round}, but has ${has}.`);
      }
      if (!staged.uploaded) await write({ ...index, staged: { ...staged, uploaded: true } });
      const { bytes: _, ...head } = staged.update;
      return { head, blob };
    },

    async finish(round) {
      const index = await read();
      if (index.staged && index.staged.round <= round) await settle(index, true);
    },
  };
}
