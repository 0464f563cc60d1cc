/** What Phoenix exports: every change of it shows in docs/api.md. */
import { readFile } from 'node:fs/promises';
import test from 'ava';

type Report = { apiReport(): string; reportPath: string };
const { apiReport, reportPath } = (await import(new URL('../../scripts/api-report.mjs', import.meta.url).href)) as Report;

test('docs/api.md is what the entry points export; if a change is meant: node scripts/api-report.mjs', async (t) => {
  t.timeout(300_000);
  const [written, now] = [await readFile(reportPath, 'utf8'), apiReport()].map((text) => text.split('\n'));
  t.deepEqual(written, now, 'the API has changed: write docs/api.md anew with node scripts/api-report.mjs, and read its diff');
  t.true(now!.includes('function federate(options: FederateOptions, events?: RunEvents): Promise<RunResult>;'));
});

test('each entry point of the package has a section of docs/api.md', async (t) => {
  const { exports } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')) as { exports: object };
  const names = Object.keys(exports).filter((name) => name !== './package.json');
  const sections = (await readFile(reportPath, 'utf8')).match(/^## .*/gm);
  t.deepEqual(
    sections,
    names.map((name) => `## phoenix${name.slice(1)}`),
  );
});
