/**
 * The safetensors format, read and written: u64 little-endian length of a JSON header, the header, and the tensors' bytes without gaps.
 * The header maps names to {dtype, shape, data_offsets: [begin, end] relative to the data}; `__metadata__` maps strings to strings.
 * Files come from elsewhere: every length is checked against the file's size before anything is allocated.
 */
import type { FileHandle } from 'node:fs/promises';
import { open, stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { PhoenixError } from '../../errors.ts';
import { io, writeWhole } from '../../files.ts';
import { strangerOf } from '../stranger.ts';

const itemBytes = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U8: 1, BOOL: 1 };

export type Dtype = keyof typeof itemBytes;

/** One tensor of a file; `begin` and `end` are byte offsets from the start of the data. */
export type StoredTensor = { dtype: Dtype; shape: number[]; begin: number; end: number };

export type SafetensorsFile = {
  /** In the order of their bytes. */
  tensors: Map<string, StoredTensor>;
  metadata: Record<string, string>;
  /** All bytes of one tensor. */
  read(name: string): Promise<Uint8Array>;
  /** Bytes [begin, end) of the data, 0 ≤ begin ≤ end ≤ dataBytes. */
  readRange(begin: number, end: number): Promise<Uint8Array>;
  dataBytes: number;
  close(): Promise<void>;
};

/** A tensor to be written; `bytes` is asked for when its turn comes, and must give product(shape)·itemsize little-endian bytes. */
export type TensorSource = { name: string; dtype: Dtype; shape: number[]; bytes: () => Promise<Uint8Array> };

/** The format allows 100 MB; a tenth of that holds every U-Net, and what JSON makes of it in memory stays small. */
const MAX_HEADER_BYTES = 10_000_000;
/** Bytes by which files of other kinds are told. */
const HEAD_BYTES = 256;
const pickles = ['.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle'];

/**
 * Opens a file and checks its whole header. The caller closes it.
 * @throws PhoenixError ERR_PHOENIX_CHECKPOINT for a damaged file or a pickle, ERR_PHOENIX_IO when it cannot be read
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  if (pickles.includes(extname(path).toLowerCase())) throw pickleRefused(path);
  // A pipe in place of the file would be waited for.
  if (!(await io(path, () => stat(path), { action: 'read' })).isFile()) throw damaged(path, 'it is not a regular file');
  const file = await io(path, () => open(path, 'r'), { action: 'read' });
  try {
    return await readHeader(path, file);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readHeader(path: string, file: FileHandle): Promise<SafetensorsFile> {
  const status = await file.stat();
  if (status.size < 8) throw damaged(path, `it has ${status.size} bytes, too few for the header's length`);
  const start = Buffer.from(await readExactly(path, file, 0, Math.min(status.size, HEAD_BYTES)));
  const headerBytes = start.readBigUInt64LE();
  if (headerBytes > BigInt(status.size)) refuseStranger(path, start);
  if (headerBytes > BigInt(MAX_HEADER_BYTES))
    throw damaged(path, `its header claims ${headerBytes} bytes; at most ${MAX_HEADER_BYTES} are allowed`);
  if (headerBytes > BigInt(status.size - 8))
    throw damaged(
      path,
      `its header claims ${headerBytes} bytes, but the file ends ${status.size - 8} bytes after the length: it is truncated`,
    );
  const dataStart = 8 + Number(headerBytes);
  const dataBytes = status.size - dataStart;
  const { tensors, metadata } = parseHeader(path, await readExactly(path, file, 8, Number(headerBytes)), dataBytes);

  const readRange = (begin: number, end: number) => {
    if (!(Number.isInteger(begin) && Number.isInteger(end) && begin >= 0 && begin <= end && end <= dataBytes)) {
      throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Bytes ${begin}..${end} of ${path} were asked for; its data has ${dataBytes}.`);
    }
    return readExactly(path, file, dataStart + begin, end - begin);
  };
  return {
    tensors,
    metadata,
    dataBytes,
    readRange,
    read: async (name) => {
      const tensor = tensors.get(name);
      if (tensor === undefined) throw new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${path} holds no tensor ${quote(name)}.`);
      return readRange(tensor.begin, tensor.end);
    },
    close: () => file.close(),
  };
}

function parseHeader(path: string, bytes: Uint8Array, dataBytes: number): Pick<SafetensorsFile, 'tensors' | 'metadata'> {
  if (bytes[0] !== 0x7b) throw damaged(path, 'its header does not begin with {');
  let header: unknown;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    checkStructure(path, text);
    header = JSON.parse(text);
  } catch (error) {
    throw error instanceof PhoenixError ? error : damaged(path, 'its header is not JSON in UTF-8', error);
  }

  let metadata: Record<string, string> = {};
  const list: [string, StoredTensor][] = [];
  for (const [name, value] of Object.entries(header as object)) {
    if (name === '__metadata__') metadata = parseMetadata(path, value);
    else list.push([name, parseTensor(path, name, value)]);
  }
  list.sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let end = 0;
  for (const [name, tensor] of list) {
    if (tensor.begin > end) throw damaged(path, `bytes ${end}..${tensor.begin} of its data, before ${quote(name)}, belong to no tensor`);
    if (tensor.begin < end) throw damaged(path, `${quote(name)} overlaps the tensor before it by ${end - tensor.begin} bytes`);
    end = tensor.end;
  }
  if (end > dataBytes) throw damaged(path, `its tensors take ${end} bytes, but only ${dataBytes} are there: it is truncated`);
  if (end < dataBytes) throw damaged(path, `its last ${dataBytes - end} bytes belong to no tensor`);
  return { tensors: new Map(list), metadata };
}

function parseMetadata(path: string, value: unknown): Record<string, string> {
  const valid = isObject(value) && Object.values(value).every((entry) => typeof entry === 'string');
  if (!valid) throw damaged(path, '__metadata__ is not a map from strings to strings');
  return value as Record<string, string>;
}

function parseTensor(path: string, name: string, value: unknown): StoredTensor {
  const refuse = (what: string) => damaged(path, `tensor ${quote(name)}: ${what}`);
  if (!isObject(value)) throw refuse('its entry is not an object');
  const { dtype, shape, data_offsets: offsets } = value;
  const isSize = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;
  if (typeof dtype !== 'string' || !Object.hasOwn(itemBytes, dtype))
    throw refuse(`unknown dtype ${quote(dtype)}; known are ${Object.keys(itemBytes).join(', ')}`);
  if (!Array.isArray(shape) || !shape.every(isSize)) throw refuse('its shape is not a list of whole numbers from 0 on');
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    throw refuse('its data_offsets are not two whole numbers from 0 on');
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw refuse(`its data_offsets end (${end}) before they begin (${begin})`);
  const bytes = tensorBytes(dtype as Dtype, shape);
  if (bytes === undefined) throw refuse('its shape has more values than can be counted');
  if (bytes !== end - begin)
    throw refuse(`${dtype} of shape ${showShape(shape)} takes ${bytes} bytes, but its data_offsets hold ${end - begin}`);
  return { dtype: dtype as Dtype, shape, begin, end };
}

function tensorBytes(dtype: Dtype, shape: number[]): number | undefined {
  let bytes = itemBytes[dtype];
  for (const side of shape) {
    bytes *= side;
    if (!Number.isSafeInteger(bytes)) return undefined;
  }
  return bytes;
}

/**
 * What JSON.parse would let pass: a key that one object holds twice (the last would win) and depth (a header is three deep; without end, it
 * would take memory without end). Text that is no JSON gets through here and is refused by JSON.parse.
 */
function checkStructure(path: string, json: string): void {
  const scopes: Set<string>[] = [];
  for (let i = 0; i < json.length; i++) {
    const character = json[i];
    if (character === '{' || character === '[') {
      if (scopes.push(new Set()) > 3) throw damaged(path, 'its header is nested deeper than names, tensors and their lists');
    } else if (character === '}' || character === ']') {
      scopes.pop();
    } else if (character === '"') {
      const begin = i++;
      while (i < json.length && json[i] !== '"') i += json[i] === '\\' ? 2 : 1;
      let next = i + 1;
      while (' \t\r\n'.includes(json[next] ?? '"')) next++;
      if (json[next] !== ':') continue;
      const key = JSON.parse(json.slice(begin, i + 1)) as string;
      const scope = scopes.at(-1);
      if (scope?.has(key)) throw damaged(path, `its header names ${quote(key)} twice`);
      scope?.add(key);
    }
  }
}

/**
 * Writes a file so that it is there whole or not at all: under a temporary name, one tensor after the other, then fsync and rename. The
 * header is padded with spaces to a multiple of 8 bytes. Equal tensors and metadata give equal bytes.
 * @throws PhoenixError ERR_PHOENIX_IO when it cannot be written (a full disk: what was at `path` is untouched), ERR_PHOENIX_SHAPE when a
 * source gives another number of bytes than its shape, ERR_PHOENIX_ARGUMENT for a name that ends as pickles do, two tensors of one name, or
 * too much metadata
 */
export async function writeSafetensors(path: string, sources: TensorSource[], metadata: Record<string, string> = {}): Promise<void> {
  if (pickles.includes(extname(path).toLowerCase()))
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `${path} ends as Python pickles do, which are never read here. End it in .safetensors.`);
  const header: [string, unknown][] = [['__metadata__', metadata]];
  const sizes: number[] = [];
  let end = 0;
  for (const { name, dtype, shape } of sources) {
    const bytes = tensorBytes(dtype, shape);
    if (bytes === undefined)
      throw new PhoenixError(
        'ERR_PHOENIX_SHAPE',
        `Tensor ${quote(name)} of shape ${showShape(shape)} has more values than can be counted.`,
      );
    sizes.push(bytes);
    header.push([name, { dtype, shape, data_offsets: [end, end + bytes] }]);
    end += bytes;
  }
  if (new Set(header.map(([name]) => name)).size !== header.length)
    throw new PhoenixError('ERR_PHOENIX_ARGUMENT', `Two tensors of one name cannot be written to ${path}.`);
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  if (json.length > MAX_HEADER_BYTES - 8)
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `The header of ${path} would have ${json.length} bytes; at most ${MAX_HEADER_BYTES - 8} are allowed: keep less metadata.`,
    );
  const start = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ');
  start.writeBigUInt64LE(BigInt(start.length - 8));
  json.copy(start, 8);

  async function* pieces() {
    yield start;
    for (const [i, source] of sources.entries()) {
      const bytes = await source.bytes();
      if (bytes.byteLength !== sizes[i]) {
        throw new PhoenixError(
          'ERR_PHOENIX_SHAPE',
          `Tensor ${quote(source.name)}: ${source.dtype} of shape ${showShape(source.shape)} takes ${sizes[i]} bytes, but ${bytes.byteLength} came.`,
        );
      }
      yield bytes;
    }
  }
  await writeWhole(path, pieces());
}

async function readExactly(path: string, file: FileHandle, position: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await io(path, () => file.read(bytes, done, length - done, position + done), { action: 'read' });
    if (bytesRead === 0) throw damaged(path, 'it became shorter while it was read');
    done += bytesRead;
  }
  return bytes;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

/** A shape as messages show it: [2,3]. */
export function showShape(shape: number[]): string {
  return `[${shape.join(',')}]`;
}

/** Text from a file as it may stand in a message: no control characters, and not without end. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? 'not there';
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

const damaged = (path: string, what: string, cause?: unknown) =>
  new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${path} is not a valid safetensors file: ${what}.`, { cause });

/** @throws PhoenixError ERR_PHOENIX_CHECKPOINT naming what the file is, if that can be seen */
function refuseStranger(path: string, head: Buffer): void {
  const isZip = head.toString('latin1', 0, 4) === 'PK\x03\x04';
  const isTorch = isZip && /\.pkl|archive\/|\/data\//.test(head.toString('latin1'));
  if (isTorch || (head[0] === 0x80 && (head[1] as number) <= 5)) throw pickleRefused(path);
  const stranger = strangerOf(head);
  if (stranger) throw new PhoenixError('ERR_PHOENIX_CHECKPOINT', `${path} is no safetensors file: ${stranger.what}. ${stranger.advice}`);
  if (/^(\ufeff|\xef\xbb\xbf)?\s*\{/.test(head.toString('latin1')))
    throw new PhoenixError(
      'ERR_PHOENIX_CHECKPOINT',
      `${path} is no safetensors file: it is JSON. Name the folder that holds it: a run, or a folder of diffusers.`,
    );
}

const pickleRefused = (path: string) =>
  new PhoenixError(
    'ERR_PHOENIX_CHECKPOINT',
    `${path} is a Python pickle, which can run any program when it is read, so it is not read here. Convert it where you trust it: load the model in Python and save it with safetensors (in diffusers: model.save_pretrained(folder, safe_serialization=True)), then give that folder.`,
  );
