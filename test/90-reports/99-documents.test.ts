/** What documents promise can be imported and typed, and what help calls optional is. */
import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { Command, CommanderError } from 'commander';
import ts from 'typescript';
import { commandLines } from '../../src/cli/commands.ts';
import { addOptions, collect } from '../../src/cli/options.ts';
import {
  type Command as CommandName,
  mergeOptions,
  type OptionRow,
  optionTable,
  parseOptions,
  type RawOptions,
} from '../../src/commands/options/index.ts';
import type { PhoenixError } from '../../src/errors.ts';
import * as phoenix from '../../src/index.ts';
import * as phoenixMetrics from '../../src/metrics.ts';
import * as phoenixSite from '../../src/site.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const entries: Record<string, object> = { phoenix, 'phoenix/site': phoenixSite, 'phoenix/metrics': phoenixMetrics };

type Page = { file: string; text: string };

/** The pages of the package; docs/api.md is written from what is exported, and has a test of its own. */
async function pages(): Promise<Page[]> {
  const docs = (await readdir(join(root, 'docs')))
    .filter((name) => name.endsWith('.md') && name !== 'api.md')
    .map((name) => `docs/${name}`);
  const files = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', ...docs];
  return Promise.all(files.map(async (file) => ({ file, text: await readFile(join(root, file), 'utf8') })));
}

/** The code blocks of a page in one of these languages. */
const blocks = ({ text }: Page, languages: RegExp) =>
  [...text.matchAll(/^\s*```(\w*)\n(.*?)^\s*```/gms)].filter(([, language]) => languages.test(language!)).map(([, , code]) => code!);

test('N42: every program of the documents and examples compiles, against what the package exports', async (t) => {
  t.timeout(300_000);
  const files = new Map<string, string>();
  for (const page of await pages())
    for (const [i, code] of blocks(page, /^(ts|js)$/).entries())
      if (code.includes("from 'phoenix")) files.set(join(root, `${page.file.replaceAll('/', '-')}-${i}.ts`), code);
  const examples = (await readdir(join(root, 'examples'))).filter((name) => name.endsWith('.ts'));
  t.true(files.size >= 3 && examples.length >= 3, `${files.size} programs in pages, ${examples.length} examples`);
  const { config } = ts.readConfigFile(join(root, 'tsconfig.check.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  // Against dist/, as a program that uses the package, and not strictly: programs of pages are JavaScript in spirit.
  const relaxed = { ...options, strict: false, noUnusedLocals: false };
  const host = ts.createCompilerHost(relaxed);
  const { readFile: read, fileExists, getSourceFile } = host;
  host.readFile = (path) => files.get(path) ?? read(path);
  host.fileExists = (path) => files.has(path) || fileExists(path);
  host.getSourceFile = (path, target, ...rest) =>
    files.has(path) ? ts.createSourceFile(path, files.get(path)!, target) : getSourceFile(path, target, ...rest);
  const roots = [...files.keys(), ...examples.map((name) => join(root, 'examples', name))];
  const program = ts.createProgram(roots, relaxed, host);
  for (const path of roots) {
    const file = program.getSourceFile(path)!;
    const wrong = [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
    t.deepEqual(
      wrong.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' ')),
      [],
      path,
    );
    // Values are there when a program runs, too.
    for (const statement of file.statements) {
      if (!ts.isImportDeclaration(statement) || statement.importClause?.isTypeOnly) continue;
      const { text: from } = statement.moduleSpecifier as ts.StringLiteral;
      const named = statement.importClause?.namedBindings;
      if (!from.startsWith('phoenix') || !named || !ts.isNamedImports(named)) continue;
      t.true(from in entries, `${path}: ${from}`);
      for (const { isTypeOnly, name, propertyName } of named.elements)
        if (!isTypeOnly) t.true((propertyName ?? name).text in entries[from]!, `${path}: ${(propertyName ?? name).text} of ${from}`);
    }
  }
});

test('N42: the functions that docs/metrics.md describes are exported', async (t) => {
  const text = await readFile(join(root, 'docs', 'metrics.md'), 'utf8');
  const prose = text.replaceAll(/^```.*?^```/gms, '');
  const spans = [...prose.matchAll(/`([^`]+)`/g)].map(([, span]) => span!);
  const functions = new Set(spans.flatMap((span) => /^[a-z]+[A-Z]\w*$|^[a-z]\w+(?=\()/.exec(span)?.[0] ?? []));
  // A method of what featureNetwork returns, and a name in arithmetic.
  functions.delete('run');
  t.true(functions.size > 12, [...functions].join());
  for (const name of functions) t.true(name in phoenixMetrics || name in phoenix, name);
});

// ---- command lines

/** The words of a command line as a shell takes them apart, without what comes behind a comment, pipe or redirection. */
function words(line: string): string[] {
  const found = [...line.matchAll(/(?<=^|\s)(?:"([^"]*)"|'([^']*)'|([^\s"']+))(?=\s|$)/g)].map((m) => m[1] ?? m[2] ?? m[3]!);
  const end = found.findIndex((word) => ['#', '|', '>', '&&', '||', ';'].includes(word));
  return end < 0 ? found : found.slice(0, end);
}

type Shown = { words: string[]; isWhole: boolean };

/** Command lines of phoenix that a page shows, as words behind `phoenix`: those in its blocks are whole, those in its text may be parts. */
function commandsOf(page: Page): Shown[] {
  const inBlocks = blocks(page, /^(sh|bash|console|text|)$/).flatMap((block) => block.replaceAll('\\\n', ' ').split('\n'));
  const prose = page.text.replaceAll(/^\s*```.*?^\s*```/gms, '');
  const inText = [...prose.matchAll(/`([^`]+)`/g)].map(([, code]) => code!.replaceAll(/\s+/g, ' '));
  const shown = (isWhole: boolean) => (line: string) => {
    const match = /^\s*(?:\$ )?(?:.*&& )?(?:npx (?:--no-install )?)?phoenix (.*)$/.exec(line);
    return match ? [{ words: words(match[1]!), isWhole }] : [];
  };
  return [...inBlocks.flatMap(shown(true)), ...inText.flatMap(shown(false))];
}

const nested = ({ path }: OptionRow, value: unknown) => path.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value) as RawOptions;

/** The options that a command requires, with some value. */
function neededBy(command: CommandName): RawOptions {
  const required = optionTable(command).filter((row) => row.required);
  return mergeOptions(command, ...required.map((row) => nested(row, plausible(row))));
}

/** Why a command line would be refused before anything is read; undefined if it would not. Of a part only what it has is looked at. */
function refusalOf({ words: [first, ...rest], isWhole }: Shown): string | undefined {
  if (first === '--help' || first === '--version') return undefined;
  // Some commands are of two words: site check.
  const pair = commandLines.find((each) => each.name === `${first} ${rest[0]}`);
  const [name, given] = pair ? [pair.name, rest.slice(1)] : [first, rest];
  const line = pair ?? commandLines.find((each) => each.name === name);
  if (!line) return `no command ${name}`;
  const rows = line.table ? optionTable(line.table) : [];
  const command = new Command(name).exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} });
  addOptions(command, rows, line);
  command.option('--json');
  try {
    if (!isWhole) for (const argument of command.registeredArguments) argument.required = false;
    command.parse(
      given.filter((word) => word !== '…'),
      { from: 'user' },
    );
    const options = collect(rows, command.args, command.opts());
    if (line.table) parseOptions(line.table, mergeOptions(line.table, isWhole ? {} : neededBy(line.table), line.defaults ?? {}, options));
    return undefined;
  } catch (error) {
    const code = error instanceof CommanderError ? error.code : '';
    const isNoFault = code === 'commander.helpDisplayed' || (!isWhole && code === 'commander.optionMissingArgument');
    return isNoFault ? undefined : (error as Error).message;
  }
}

test('N42: every command line that documents and help texts show is one', async (t) => {
  let count = 0;
  const refused: string[] = [];
  for (const page of await pages())
    for (const shown of commandsOf(page)) {
      // A word in capitals stands for every command.
      const wrong = shown.words[0] === 'COMMAND' ? undefined : refusalOf(shown);
      if (wrong) refused.push(`${page.file}: phoenix ${shown.words.join(' ')}: ${wrong}`);
      count++;
    }
  t.deepEqual(refused, []);
  for (const { name, examples } of commandLines)
    for (const [, line] of examples) {
      const [program, ...found] = words(line);
      t.deepEqual([program, ...found.slice(0, name.split(' ').length)], ['phoenix', ...name.split(' ')], line);
      t.is(refusalOf({ words: found, isWhole: true }), undefined, line);
      count++;
    }
  t.true(count > 40, `${count} command lines`);
  // The test can fail.
  const whole = (text: string) => refusalOf({ words: words(text), isWhole: true })!;
  t.regex(whole('sample run --images 4'), /unknown option '--images'/);
  t.regex(whole('federate --data x --partition sites'), /partition/);
  t.regex(whole('federate --rounds 4'), /data is missing/);
  t.regex(refusalOf({ words: words('federate --rounds 0'), isWhole: false })!, /rounds must be/);
  t.regex(whole('evaluate run'), /no command/);
  t.deepEqual(words('sample DIR --client \'*\' --grid "a b.png" # text'), ['sample', 'DIR', '--client', '*', '--grid', 'a b.png']);
});

/** Options of other programs that pages and sources name: npm, nvidia-smi, docker, and the scripts of this package. */
const FOREIGN =
  '--query-gpu --format --budget --build --fix --import --quick --peer --no-peers --help --version --model --reps --tables --patience --json --only ' +
  '--name --restart --init --read-only --tmpfs --cap-drop --security-opt --health-cmd --health-interval --health-start-period';

test('N42: every option that a page or a message of the product names is one of a command', async (t) => {
  const rows = commandLines.flatMap(({ table }) => (table ? optionTable(table) : []));
  const flags = new Set([
    ...rows.flatMap(({ flag, negatable }) => (negatable ? [flag, flag.replace('--', '--no-')] : [flag])),
    ...FOREIGN.split(' '),
  ]);
  const sources = (await readdir(join(root, 'src'), { recursive: true })).filter((name) => name.endsWith('.ts') && !name.startsWith('net'));
  const texts = await Promise.all(sources.map(async (name) => ({ file: name, text: await readFile(join(root, 'src', name), 'utf8') })));
  const strange = [...(await pages()), ...texts].flatMap(({ file, text }) =>
    [...text.matchAll(/(?<![\w-]|var\()--[a-z][a-z0-9]*(?:-[a-z0-9]+)*\b(?![:-])/g)]
      .filter(([flag]) => !flags.has(flag))
      .map(([flag]) => `${file}: ${flag}`),
  );
  t.deepEqual(strange, []);
});

// ---- what help calls optional

/** A value that an option takes by itself. */
function plausible({ name, choices, placeholder, default: usual }: OptionRow): unknown {
  const texts: Record<string, string> = {
    range: '0,4095',
    partition: 'iid',
    personal: 'head',
    'compress.updates': 'int8',
    'filter.threshold': '2',
    features: 'pixels8',
  };
  if (placeholder === undefined) return true;
  if (texts[name] !== undefined) return texts[name];
  if (choices) return choices.at(-1);
  if (placeholder.startsWith('file')) return placeholder.replace('file', 'x');
  if (placeholder === 'n' || placeholder === 'x') return usual ?? (placeholder === 'n' ? 8 : 0.5);
  return 'x';
}

/** What an option that may be left out cannot be given without, for its help to say. */
const companions: Record<string, Record<string, string>> = {
  federate: { method: '--share-real', resume: '--out' },
  train: { resume: '--out' },
  finetune: { schedule: '--prediction', prediction: '--schedule' },
  sample: { schedule: '--prediction', prediction: '--schedule', variance: 'ddpm', stealLock: '--out' },
};

test('N42: every option with a default can be left out, and given alone, unless its help names what it goes with', (t) => {
  const commands = commandLines.flatMap(({ table }) => (table ? [table] : []));
  for (const command of new Set<CommandName>(commands)) {
    const rows = optionTable(command);
    const needed = neededBy(command);
    t.notThrows(() => parseOptions(command, needed), `${command} with what is required alone`);
    for (const row of rows) {
      if (row.required) {
        const without = Object.fromEntries(Object.entries(needed).filter(([key]) => key !== row.path[0]));
        t.throws(() => parseOptions(command, without), { message: new RegExp(`${row.name}.* is missing`) }, `${command} ${row.name}`);
        continue;
      }
      // Without a default, help names none, so that nobody takes it for one that may be left out by mistake.
      t.true(row.defaultText !== undefined || row.default === false, `${command} ${row.flag}`);
      const alone = mergeOptions(command, needed, nested(row, plausible(row)));
      const companion = companions[command]?.[row.name];
      if (companion === undefined) {
        t.notThrows(() => parseOptions(command, alone), `${command} ${row.flag}`);
        continue;
      }
      t.true((t.throws(() => parseOptions(command, alone)) as PhoenixError).message.includes(companion), `${command} ${row.flag}`);
      t.true(`${row.help} ${row.defaultText}`.includes(companion), `help of ${command} ${row.flag} names ${companion}`);
    }
  }
});

async function temporary(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'phoenix-documents-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

function run(cwd: string, args: string[]): Promise<{ code: number | null; said: string }> {
  const tsx = import.meta.resolve('tsx');
  const child = spawn(process.execPath, [`--import=${tsx}`, join(root, 'src/cli.ts'), ...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (text) => {
      said += text;
    });
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, said })));
}

test('N42: every command does its work with what its help requires alone', async (t) => {
  t.timeout(600_000);
  const cwd = await temporary(t);
  const { pngs } = await import('../support/odd-images.ts');
  const { writeFile, mkdir } = await import('node:fs/promises');
  for (const [name, bytes] of Object.entries({ ...(await pngs('photos/a', 6)), ...(await pngs('photos/b', 6, 7)) })) {
    await mkdir(dirname(join(cwd, name)), { recursive: true });
    await writeFile(join(cwd, name), bytes);
  }
  /** Required options by their names in help. */
  const values: Record<string, Record<string, string>> = {
    train: { data: 'photos' },
    federate: { data: 'photos' },
    sample: { source: 'runs/train-1' },
    finetune: { source: 'runs/train-1', data: 'photos', checkpoint: 'tuned.safetensors' },
    report: { dir: 'runs/train-1' },
    inspect: { data: 'photos' },
  };
  for (const [command, given] of Object.entries(values)) {
    const rows = optionTable(command as CommandName).filter(({ required }) => required);
    t.deepEqual(rows.map(({ name }) => name).sort(), Object.keys(given).sort(), command);
    const args = [command, ...rows.flatMap(({ positional, flag, name }) => (positional ? [given[name]!] : [flag, given[name]!]))];
    const { code, said } = await run(cwd, command === 'sample' ? [...args, '--grid', 'grid.png'] : args);
    t.is(code, 0, `${args.join(' ')}: ${said}`);
  }
  // Each place for samples may be left out where the other is given, as help says; not both.
  const neither = await run(cwd, ['sample', 'runs/train-1']);
  t.is(neither.code, 2);
  t.regex(neither.said, /--out DIR .* or --grid FILE\.png/);
  for (const [name, other] of [
    ['grid', '--out'],
    ['out', '--grid'],
  ])
    t.is(optionTable('sample').find((row) => row.name === name)!.defaultText, `none, where ${other} is given`);
  t.is((await run(cwd, ['sample', 'runs/train-1', '--out', 'drawn'])).code, 0);
});
