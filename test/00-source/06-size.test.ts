/** Sizes that keep the source readable. What is longer says why in the comment above it, in a sentence that begins with "Long:". */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import ts from 'typescript';

const root = fileURLToPath(new URL('../..', import.meta.url));
const MAX_FUNCTION = 80;
const MAX_FILE = 400;
const MAX_LISTING = 50;

const REASON = /\bLong: \w/;

/** Functions of a file that are too long, and the file itself if it is. */
function oversized(file: string, text: string): string[] {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const found: string[] = [];
  const lines = text.trimEnd().split('\n').length;
  const header = text.slice(0, source.getFirstToken()?.getStart(source) ?? 0);
  if (lines > MAX_FILE && !REASON.test(header)) found.push(`${file} has ${lines} lines`);
  const lineOf = (position: number) => source.getLineAndCharacterOfPosition(position).line;
  const visit = (node: ts.Node, statement: ts.Node): void => {
    const here = ts.isStatement(node) || ts.isPropertyAssignment(node) || ts.isMethodDeclaration(node) ? node : statement;
    if (ts.isFunctionLike(node) && 'body' in node && node.body) {
      const length = lineOf(node.end) - lineOf(node.getStart(source)) + 1;
      const above = text.slice(here.getFullStart(), here.getStart(source));
      if (length > MAX_FUNCTION && !REASON.test(above))
        found.push(`${file}:${lineOf(node.getStart(source)) + 1} has a function of ${length} lines`);
    }
    ts.forEachChild(node, (child) => visit(child, here));
  };
  visit(source, source);
  return found;
}

test('no function of src/ has more than 80 lines and no file more than 400, unless the comment above says why', (t) => {
  const files = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
  t.true(files.length > 50);
  t.deepEqual(
    files.sort().flatMap((name) => oversized(`src/${name}`, readFileSync(join(root, 'src', name), 'utf8'))),
    [],
  );
});

test('a long function and a long file are seen, and a reason is read', (t) => {
  const body = '  step();\n'.repeat(MAX_FUNCTION);
  const long = `function f() {\n${body}}\n`;
  t.is(oversized('a.ts', long).length, 1);
  t.is(oversized('a.ts', `const o = {\n  f() {\n${body}},\n};\n`).length, 1);
  t.is(oversized('a.ts', `const f = () => {\n${body}};\n`).length, 1);
  t.deepEqual(oversized('a.ts', `/** Long: a table of steps. */\n${long}`), []);
  t.is(oversized('a.ts', 'step();\n'.repeat(MAX_FILE + 1)).length, 1);
  t.deepEqual(oversized('a.ts', `/** Long: one table. */\n${'step();\n'.repeat(MAX_FILE)}`), []);
});

test('a listing of any folder of the project fits fifty lines', (t) => {
  const folders = ['src', 'test', 'bench', 'docs', 'examples', 'scripts'].flatMap((top) => [
    top,
    ...readdirSync(join(root, top), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name).slice(root.length)),
  ]);
  t.deepEqual(
    folders.map((folder) => [folder, readdirSync(join(root, folder)).length] as const).filter(([, length]) => length > MAX_LISTING),
    [],
  );
});
