/**
 * What a folder of images holds: its splits, sites and classes, and what is left out of it. Only names are read here.
 *
 * Folders named as splits are splits, in any case: `train` or `training`; `val`, `valid`, `validation` or `dev`; `test` or `testing`. Below
 * them, or in a folder without splits, lie images, CLASS/images or SITE/CLASS/images.
 */
import { readdir, realpath, stat } from 'node:fs/promises';
import { extname, join, relative } from 'node:path';
import { PhoenixError } from '../../errors.ts';
import { hasCode, ioError } from '../../files.ts';
import { naturalOrder } from './classes.ts';
import type { Split } from './reader.ts';
import type { DatasetNotes } from './types.ts';

export const extensions = ['.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.webp', '.avif', '.gif', '.tif', '.tiff'];
/** Images that sharp does not decode: an error names them, since passing them over would train on a part of the data unnoticed. */
const undecodable = ['.bmp', '.heic', '.heif', '.jp2', '.jxl', '.pgm', '.ppm'];
/** Folders and files of operating systems, beside those whose names begin with a dot. */
const junk = new Set(['__MACOSX', '@eaDir', 'Thumbs.db', 'desktop.ini', 'lost+found']);

/** How deep folders are looked into, to count what is left out. */
const MAX_DEPTH = 8;
const MAX_EXAMPLES = 3;

const splitNames: Record<string, Split | 'validation'> = {
  ...{ train: 'train', training: 'train', test: 'test', testing: 'test' },
  ...{ val: 'validation', valid: 'validation', validation: 'validation', dev: 'validation' },
};

/** A folder, with all that lies below it. */
type Branch = {
  name: string;
  path: string;
  images: string[];
  /** Files of other kinds, and what is no regular file though it is named like an image. */
  others: string[];
  odd: string[];
  branches: Branch[];
  /** Whether Phoenix wrote it: a run, or an experiment. Then nothing below it is read. */
  isOutput: boolean;
};

export type Tree = DatasetNotes & {
  /** Paths of the images, in order, and the folder that they lie in. */
  root: string;
  files: string[];
  labels?: Int32Array;
  classNames: string[];
  sites?: Int32Array;
  siteNames?: string[];
};

const refuse = (message: string) => new PhoenixError('ERR_PHOENIX_DATA', message);

/** Whether images lie in a folder or near below it, or its sub-folders are splits. */
export async function holdsImages(path: string): Promise<boolean> {
  const top = await look(path, '', 0, [], 4);
  return top.isOutput || imagesBelow(top) > 0 || (top.branches.length > 0 && top.branches.every(({ name }) => splitOf(name)));
}

/**
 * Finds the images of one split.
 * @throws PhoenixError ERR_PHOENIX_DATA for a folder without images of that split, or whose meaning is not clear; ERR_PHOENIX_IO
 */
export async function findImages(path: string, split: Split, signal?: AbortSignal): Promise<Tree> {
  const top = await look(path, '', 0, [], MAX_DEPTH, signal);
  if (top.isOutput)
    throw refuse(`${path} was written by Phoenix: it holds a run or an experiment, not data. Pass the folder of the images.`);
  const notes: DatasetNotes = { leftOut: [], warnings: [] };
  const splits = splitsOf(top, notes);
  if (!splits && split === 'test') {
    throw refuse(`${path} has no test images: an image folder has them in a sub-folder test beside train.`);
  }
  const branch = splits ? chooseSplit(path, splits, split, notes) : top;
  const outputs = branchesOf(branch).filter(({ isOutput }) => isOutput);
  leaveOut(notes, path, outputs.length === 1 ? 'folder that Phoenix wrote' : 'folders that Phoenix wrote', outputs);
  const tree = arrange(branch, path, splits ?? [top]);
  notes.warnings.push(...tree.warnings);
  const used = new Set(tree.files);
  const all = branchesOf(branch).flatMap(({ path: at, images }) => images.map((name) => join(at, name)));
  leaveOut(
    notes,
    path,
    'deeper down',
    all.filter((file) => !used.has(file)),
  );
  const below = branchesOf(branch).flatMap(({ path: at, others }) => others.map((name) => join(at, name)));
  leaveOut(notes, path, `of unknown kind${endings(below)}`, below);
  const odd = branchesOf(branch).flatMap(({ path: at, odd }) => odd.map((name) => join(at, name)));
  leaveOut(notes, path, odd.length === 1 ? 'that is no regular file' : 'that are no regular files', odd);
  if (splits) {
    const siteNames = tree.siteNames && sorted(new Set(splits.flatMap((each) => (each.branches.some(isClassed) ? namesOf(each) : []))));
    const at = siteNames && tree.sites?.map((site) => siteNames.indexOf(tree.siteNames![site]!));
    if (siteNames) return { ...tree, ...notes, siteNames, sites: at };
  }
  return { ...tree, ...notes };
}

const namesOf = ({ branches }: Branch) => branches.filter(isClassed).map(({ name }) => name);
const isClassed = ({ branches }: Branch) => branches.some(({ images }) => images.length > 0);
const sorted = (names: Iterable<string>) => [...names].sort(naturalOrder);
const splitOf = (name: string): Split | 'validation' | undefined => splitNames[name.toLowerCase()];

/** Whether a folder of this name is read as a class, whatever lies beside it. */
export function namesClass(name: string): boolean {
  return !name.startsWith('.') && !junk.has(name) && splitOf(name) === undefined && !isMangled(name);
}

/** Reads a folder and those below it; links are followed, but never back to a folder that they lie in. */
async function look(path: string, name: string, depth: number, above: string[], deepest: number, signal?: AbortSignal): Promise<Branch> {
  signal?.throwIfAborted();
  const found: Branch = { name, path, images: [], others: [], odd: [], branches: [], isOutput: false };
  const entries = await readdir(path, { withFileTypes: true }).catch((cause) => {
    throw hasCode(cause, 'ENOENT') && isMangled(path) ? notUtf8(path) : ioError(path, cause, { action: 'read' });
  });
  const names = new Set(entries.map((entry) => entry.name));
  found.isOutput =
    (names.has('config.json') && (names.has('state.json') || names.has('log.jsonl'))) ||
    (names.has('experiment.json') && names.has('scores'));
  if (found.isOutput) return found;
  const here = [...above, await realpath(path)];
  for (const entry of entries) {
    if (entry.name.startsWith('.') || junk.has(entry.name)) continue;
    const at = join(path, entry.name);
    const kind = entry.isSymbolicLink() ? await stat(at).catch(() => undefined) : entry;
    const isImage = [...extensions, ...undecodable].includes(extname(entry.name).toLowerCase());
    if (kind?.isDirectory()) {
      const isLoop = entry.isSymbolicLink() && here.includes(await realpath(at));
      if (depth < deepest && !isLoop) found.branches.push(await look(at, entry.name, depth + 1, here, deepest, signal));
    } else if (kind && !kind.isFile()) found.odd.push(entry.name);
    else (isImage ? found.images : found.others).push(entry.name);
  }
  for (const names of [found.images, found.others, found.odd]) names.sort();
  found.branches.sort((a, b) => naturalOrder(a.name, b.name));
  return found;
}

/** Whether a name came from bytes that are not UTF-8: Node has put the replacement character in, and the file is not found again. */
export const isMangled = (path: string) => path.includes('\uFFFD');

export function notUtf8(path: string): PhoenixError {
  return refuse(`${path}: the name is not UTF-8, so it cannot be opened. Rename it (convmv and similar programs do it for whole folders).`);
}

/** A folder and all below it. */
const branchesOf = (branch: Branch): Branch[] => [branch, ...branch.branches.flatMap(branchesOf)];
const imagesBelow = (branch: Branch) => branchesOf(branch).reduce((sum, { images }) => sum + images.length, 0);

/** The folders of the splits; undefined if a folder has none. */
function splitsOf(top: Branch, { warnings }: DatasetNotes): Branch[] | undefined {
  const holding = top.branches.filter((branch) => imagesBelow(branch) > 0);
  const candidates = holding.length > 0 ? holding : top.branches;
  const named = candidates.filter(({ name }) => splitOf(name));
  if (top.images.length > 0 || named.length === 0) return undefined;
  if (named.length === candidates.length) return named;
  const names = named.map(({ name }) => `${name}/`).join(', ');
  const others = candidates.filter((branch) => !named.includes(branch)).map(({ name }) => `${name}/`);
  const beside = `${others.slice(0, MAX_EXAMPLES).join(', ')}${others.length > MAX_EXAMPLES ? ', …' : ''}`;
  const kinds = new Set(named.map(({ name }) => splitOf(name)));
  if (kinds.size > 1) {
    throw refuse(`${top.path} has ${names} beside ${beside}: these cannot be splits and classes at once. Put one of them elsewhere.`);
  }
  warnings.push(
    `${names} lies beside ${beside} and is read as a class of that name. If it is a split, put the others into a folder train.`,
  );
  return undefined;
}

/** The folder of the split that is wanted. Where there is none of tests, validation images stand for them. */
function chooseSplit(path: string, splits: Branch[], split: Split, { leftOut, warnings }: DatasetNotes): Branch {
  const of = (kind: Split | 'validation') => splits.filter(({ name }) => splitOf(name) === kind);
  const wanted = split === 'test' && of('test').length === 0 ? of('validation') : of(split);
  const names = splits.map(({ name }) => `${name}/`).join(', ');
  if (wanted.length === 0) throw refuse(`${path} has no ${split} images: its splits are ${names}.`);
  const [chosen, another] = wanted;
  if (another) throw refuse(`${path} has ${chosen!.name}/ and ${another.name}/, which both name the ${split} images. Keep one of them.`);
  if (split === 'test' && splitOf(chosen!.name) === 'validation')
    warnings.push(`${path} has no folder test: ${chosen!.name}/ is used as the test images.`);
  for (const other of splits) if (other !== chosen) leftOut.push({ count: imagesBelow(other), what: `in ${other.name}/`, examples: [] });
  return chosen!;
}

/** The images of a folder, with what its sub-folders mean. */
function arrange(root: Branch, path: string, every: Branch[]): Tree {
  const holding = root.branches.filter(({ images }) => images.length > 0);
  const tree = { root: root.path, leftOut: [], warnings: [] };
  if (holding.length > 0 && root.images.length > 0) {
    const found = `${root.images.length} images beside sub-folders with images (${root.images[0]}, ${holding[0]!.name}/)`;
    throw refuse(`${root.path} has ${found}: put all into sub-folders, one per class, or none.`);
  }
  if (root.images.length > 0) return { ...tree, files: root.images.map((name) => join(root.path, name)), classNames: [] };
  if (holding.length > 0) {
    const lost = root.branches.filter((branch) => !holding.includes(branch) && imagesBelow(branch) > 0).map(({ name }) => `${name}/`);
    const warnings = lost.length > 0 ? [`${lost.join(', ')} have images only deeper down, so they are no classes and are left out.`] : [];
    return { ...tree, warnings, ...classesOf(holding) };
  }
  const sites = root.branches.filter(isClassed);
  if (sites.length === 0) {
    const deeper = imagesBelow(root);
    if (deeper > 0) throw refuse(`${root.path} has ${deeper} images, but all of them lie deeper than SITE/CLASS/. Move them up.`);
    throw refuse(`${root.path} has no images: expected ${extensions.join(' ')} in it or in one sub-folder per class.`);
  }
  requireSites(path, every);
  return { ...tree, ...sitesOf(sites) };
}

function classesOf(folders: Branch[]): Pick<Tree, 'files' | 'labels' | 'classNames'> {
  const files = folders.flatMap(({ path, images }) => images.map((name) => join(path, name)));
  const labels = folders.flatMap(({ images }, label) => images.map(() => label));
  return { files, labels: Int32Array.from(labels), classNames: folders.map(({ name }) => name) };
}

/**
 * SITE/CLASS/images: sites share classes, and there are at least two. Anything else may as well be CLASS/images/… or classes with a folder
 * for each recording.
 */
function requireSites(path: string, splits: Branch[]): void {
  const classes = new Map<string, Set<string>>();
  let example = '';
  for (const site of splits.flatMap(({ branches }) => branches.filter(isClassed)))
    for (const branch of site.branches.filter(({ images }) => images.length > 0)) {
      classes.set(site.name, (classes.get(site.name) ?? new Set()).add(branch.name));
      example ||= relative(path, branch.path);
    }
  const all = [...classes.values()].flatMap((names) => [...names]);
  const distinct = new Set(all).size;
  const isShared = classes.size === 1 || distinct < all.length;
  if (isShared && distinct > 1) return;
  const found = isShared ? 'all images lie in folders of one name' : 'no two of these folders have sub-folders of one name';
  const advice = 'For classes, move the images up by one folder.';
  throw refuse(`${path} has images two folders down (${example}/), which is read as SITE/CLASS/, but ${found}. ${advice}`);
}

function sitesOf(folders: Branch[]): Pick<Tree, 'files' | 'labels' | 'classNames' | 'sites' | 'siteNames'> {
  const parts = folders.map(({ branches }) => branches.filter(({ images }) => images.length > 0));
  const classNames = sorted(new Set(parts.flat().map(({ name }) => name)));
  const files = parts.flat().flatMap((branch) => branch.images.map((name) => join(branch.path, name)));
  const labels = parts.flat().flatMap(({ name, images }) => images.map(() => classNames.indexOf(name)));
  const sites = parts.flatMap((classes, site) => classes.flatMap(({ images }) => images.map(() => site)));
  return {
    files,
    classNames,
    labels: Int32Array.from(labels),
    sites: Int32Array.from(sites),
    siteNames: folders.map(({ name }) => name),
  };
}

/** ' (.dcm 3, .txt 1)' */
export function endings(files: string[]): string {
  const counts = new Map<string, number>();
  for (const file of files) {
    const ending = extname(file).toLowerCase() || 'no ending';
    counts.set(ending, (counts.get(ending) ?? 0) + 1);
  }
  const shown = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1)).slice(0, MAX_EXAMPLES);
  const list = shown.map(([ending, count]) => `${ending} ${count}`).join(', ');
  return list === '' ? '' : ` (${list}${counts.size > shown.length ? ', …' : ''})`;
}

function leaveOut({ leftOut }: DatasetNotes, path: string, what: string, found: (string | Branch)[]): void {
  if (found.length === 0) return;
  const examples = found.slice(0, MAX_EXAMPLES).map((entry) => relative(path, typeof entry === 'string' ? entry : entry.path));
  leftOut.push({ count: found.length, what, examples });
}
