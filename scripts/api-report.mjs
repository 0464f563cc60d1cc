/**
 * `node scripts/api-report.mjs`: writes docs/api.md, every name that the entry points export with its declaration, as the compiler sees it.
 * A test compares the file, so that a change of the API shows in a diff.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const root = fileURLToPath(new URL('..', import.meta.url));
export const reportPath = join(root, 'docs', 'api.md');

/** What is imported, and from which file it comes. */
const entries = [
  ['phoenix', 'src/index.ts'],
  ['phoenix/site', 'src/site.ts'],
  ['phoenix/metrics', 'src/metrics.ts'],
];

/** The program of the declarations that `tsc` would write, kept in memory. */
function declarations() {
  const config = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile).config;
  const { options, fileNames } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const emitted = new Map();
  const parsed = new Map();
  const host = ts.createCompilerHost(options);
  const { readFile, fileExists, getSourceFile } = host;
  host.readFile = (path) => emitted.get(path) ?? readFile(path);
  host.fileExists = (path) => emitted.has(path) || fileExists(path);
  // Both programs read the same libraries: each file is parsed once.
  host.getSourceFile = (path, target, ...rest) => {
    const read = () => (emitted.has(path) ? ts.createSourceFile(path, emitted.get(path), target) : getSourceFile(path, target, ...rest));
    if (!parsed.has(path)) parsed.set(path, read());
    return parsed.get(path);
  };
  const source = ts.createProgram(fileNames, { ...options, emitDeclarationOnly: true, sourceMap: false }, host);
  source.emit(undefined, (path, text) => emitted.set(path, text));
  const roots = entries.map(([, file]) => join(options.outDir, file.replace(/^src\//, '').replace(/\.ts$/, '.d.ts')));
  return { program: ts.createProgram(roots, { ...options, rootDir: undefined }, host), roots };
}

const printer = ts.createPrinter({ removeComments: true, newLine: ts.NewLineKind.LineFeed });

const { NoTruncation, InTypeAlias, MultilineObjectLiterals } = ts.NodeBuilderFlags;

/**
 * A type in words that a caller knows: names without their files, choices in the order of the alphabet. `flags`: InTypeAlias also opens
 * aliases.
 */
function typeText(checker, type, declaration, flags = 0) {
  const node = checker.typeToTypeNode(type, declaration, NoTruncation | MultilineObjectLiterals | flags);
  return printer
    .printNode(ts.EmitHint.Unspecified, node, declaration.getSourceFile())
    .replaceAll(/import\("[^"]+"\)\./g, '')
    .replaceAll(/"[^"]*"(?: \| "[^"]*")+/g, (choices) => choices.split(' | ').sort().join(' | '))
    .replaceAll(/(\?: [^;{]*) \| undefined;/g, '$1;');
}

/** A computed type as the object that it comes to. */
function expanded(checker, declaration, flags = 0) {
  const properties = checker.getPropertiesOfType(checker.getTypeAtLocation(declaration)).map((property) => {
    const of = checker.getTypeOfSymbolAtLocation(property, declaration);
    const optional = Boolean(property.flags & ts.SymbolFlags.Optional);
    const text = typeText(checker, optional ? checker.getNonNullableType(of) : of, declaration, flags).replaceAll('readonly ', '');
    return `${property.name}${optional ? '?' : ''}: ${text};`;
  });
  const known = properties.filter((text) => !text.startsWith('__@'));
  return `{\n${known.sort().join('\n').replaceAll(/^/gm, '    ')}\n}`;
}

/** One declaration as text, without what a caller does not see. */
function declared(checker, name, declaration) {
  if (ts.isInterfaceDeclaration(declaration) && declaration.members.length === 0 && declaration.heritageClauses)
    return `interface ${name} ${expanded(checker, declaration, InTypeAlias)}`;
  const statement = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
  const text = printer.printNode(ts.EmitHint.Unspecified, statement, declaration.getSourceFile()).replace(/^export (declare )?/, '');
  // What a schema or a native object comes to, in place of types that are not exported.
  if (!ts.isTypeAliasDeclaration(declaration) || !/\bz\.infer<|\bOmit<Native/.test(text)) return text;
  const type = checker.getTypeAtLocation(declaration);
  const isObject = type.flags & (ts.TypeFlags.Object | ts.TypeFlags.Intersection);
  return `type ${name} = ${isObject ? expanded(checker, declaration) : typeText(checker, type, declaration, InTypeAlias)};`;
}

/** The declarations of one entry point, types after values, each by name. */
function sectionOf(checker, file) {
  const found = checker.getExportsOfModule(checker.getSymbolAtLocation(file)).map((symbol) => {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
    const isValue = Boolean(target.flags & ts.SymbolFlags.Value);
    const texts = (target.declarations ?? []).map((declaration) => declared(checker, symbol.name, declaration));
    const renamed = target.name === symbol.name ? '' : `// ${target.name}, exported as ${symbol.name}\n`;
    return { name: symbol.name, isValue, text: renamed + texts.join('\n') };
  });
  const byName = (a, b) => (a.name < b.name ? -1 : 1);
  const [values, types] = [true, false].map((isValue) => found.filter((entry) => entry.isValue === isValue).sort(byName));
  return [...values, ...types].map(({ text }) => text).join('\n\n');
}

/** docs/api.md as the sources have it. */
export function apiReport() {
  const { program, roots } = declarations();
  const checker = program.getTypeChecker();
  const sections = entries.map(([name], i) => {
    const file = program.getSourceFile(roots[i]);
    if (!file) throw new Error(`there are no declarations of ${name}: does \`npx tsc -p tsconfig.json\` pass?`);
    return `## ${name}\n\n\`\`\`ts\n${sectionOf(checker, file)}\n\`\`\`\n`;
  });
  return `# API\n\nReference. Every name that Phoenix exports, with its type. Written by \`node scripts/api-report.mjs\`;\ndo not edit it by hand.\n\n${sections.join('\n')}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const before = readFileSync(reportPath, { encoding: 'utf8', flag: 'a+' });
  const now = apiReport();
  writeFileSync(reportPath, now);
  console.log(before === now ? `${reportPath} is up to date.` : `${reportPath} is written.`);
}
