/** A Chromium without a window, driven over two pipes by its DevTools protocol: no package is needed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';

/** Chromium or Chrome on this machine; undefined if there is none. */
export function findBrowser(): string | undefined {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
  const folders = (process.env.PATH ?? '').split(delimiter);
  const paths = folders.flatMap((folder) => names.map((name) => join(folder, name)));
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

type Result = Record<string, unknown>;
type Waiting = { resolve(result: Result): void; reject(error: Error): void };

export type Tab = {
  goto(url: string): Promise<void>;
  /** The value of an expression in the page; a promise is waited for. */
  evaluate<T>(expression: string): Promise<T>;
  /** Resolves once the expression is true; it is asked for at every change of the page. */
  until(expression: string): Promise<void>;
  resize(width: number, height: number, options?: { dark?: boolean }): Promise<void>;
  /** A PNG of what is seen, or of the whole page. */
  screenshot(whole?: boolean): Promise<Buffer>;
  /** What the page has complained of: exceptions, breaches of its policy, failed loads. */
  complaints: string[];
};

export type Browser = { open(): Promise<Tab>; close(): Promise<void> };

function connect(child: ChildProcess) {
  const [, , , toBrowser, fromBrowser] = child.stdio as unknown as [unknown, unknown, unknown, Writable, Readable];
  const waiting = new Map<number, Waiting>();
  const listeners = new Set<(method: string, params: Result, session?: string) => void>();
  let last = 0;
  let rest = '';
  fromBrowser.setEncoding('utf8');
  fromBrowser.on('data', (chunk: string) => {
    const messages = (rest + chunk).split('\0');
    rest = messages.pop()!;
    for (const text of messages) {
      const { id, result, error, method, params, sessionId } = JSON.parse(text);
      if (id === undefined) for (const listener of listeners) listener(method, params, sessionId);
      else if (error) waiting.get(id)?.reject(new Error(error.message));
      else waiting.get(id)?.resolve(result);
      waiting.delete(id);
    }
  });
  child.on('exit', () => {
    for (const { reject } of waiting.values()) reject(new Error('the browser has ended'));
  });
  const call = (method: string, params: object = {}, sessionId?: string) =>
    new Promise<Result>((resolve, reject) => {
      waiting.set(++last, { resolve, reject });
      toBrowser.write(`${JSON.stringify({ id: last, method, params, sessionId })}\0`);
    });
  return { call, listeners };
}

/** Starts a browser with a profile of its own, which goes when it is closed. */
export async function startBrowser(path: string): Promise<Browser> {
  const profile = await mkdtemp(join(tmpdir(), 'phoenix-browser-'));
  const flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--hide-scrollbars'];
  const child = spawn(path, [...flags, '--remote-debugging-pipe', `--user-data-dir=${profile}`, 'about:blank'], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
  });
  const { call, listeners } = connect(child);

  async function open(): Promise<Tab> {
    const { targetId } = await call('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = (await call('Target.attachToTarget', { targetId, flatten: true })) as { sessionId: string };
    const ask = (method: string, params?: object) => call(method, params, sessionId);
    const complaints: string[] = [];
    listeners.add((method, params, session) => {
      if (session !== sessionId) return;
      if (method === 'Runtime.exceptionThrown') complaints.push(JSON.stringify(params));
      const entry = params.entry as { level?: string; text?: string; url?: string } | undefined;
      if (method === 'Log.entryAdded' && entry?.level === 'error') complaints.push(`${entry.text} ${entry.url ?? ''}`);
    });
    for (const domain of ['Page', 'Runtime', 'Log']) await ask(`${domain}.enable`);

    async function evaluate<T>(expression: string): Promise<T> {
      const answer = await ask('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
      if (answer.exceptionDetails) throw new Error(JSON.stringify(answer.exceptionDetails));
      return (answer.result as { value: T }).value;
    }
    return {
      complaints,
      evaluate,
      async goto(url) {
        const loaded = new Promise<void>((resolve) => {
          const listener = (method: string, _: Result, session?: string) => {
            if (method !== 'Page.loadEventFired' || session !== sessionId) return;
            listeners.delete(listener);
            resolve();
          };
          listeners.add(listener);
        });
        const { errorText } = await ask('Page.navigate', { url });
        if (errorText) throw new Error(`${url}: ${errorText}`);
        await loaded;
      },
      until: (expression) =>
        evaluate(`new Promise((resolve) => {
          const look = () => { if (${expression}) { watch.disconnect(); resolve(); } };
          const watch = new MutationObserver(look);
          watch.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
          look();
        })`),
      async resize(width, height, { dark = false } = {}) {
        await ask('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 });
        await ask('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }] });
      },
      async screenshot(whole = true) {
        const { data } = await ask('Page.captureScreenshot', { captureBeyondViewport: whole });
        return Buffer.from(data as string, 'base64');
      },
    };
  }

  return {
    open,
    async close() {
      const ended = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined;
      child.kill('SIGKILL');
      await ended;
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
