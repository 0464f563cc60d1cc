/** The readers of the page's stream of server-sent events: each is sent the fragments that differ from what it has. */
import type { ServerResponse } from 'node:http';
import { titleOf } from './document.ts';
import { type Fragments, fragmentsOf } from './fragments.ts';
import type { FederationView } from './view.ts';

/** Most readers at once, and most bytes that wait for a slow one before it is cut off: its browser comes again. */
export const MAX_READERS = 64;
const MAX_WAITING = 4_000_000;
/** Milliseconds between two updates, and between two signs of life. */
const PAUSE = 250;
const ALIVE = 15_000;

export type Stream = {
  /** Takes a response as a reader, if there is room for one. */
  open(response: ServerResponse, headers: Record<string, string>): boolean;
  changed(): void;
  close(): void;
};

export function createStream(view: () => FederationView): Stream {
  const readers = new Map<ServerResponse, { parts: Map<string, string>; rows: string }>();
  let pending: NodeJS.Timeout | undefined;

  function send(response: ServerResponse, now: FederationView, { parts, rows }: Fragments): void {
    const known = readers.get(response);
    const changed = [...parts].filter(([id, part]) => known?.parts.get(id) !== part);
    const order = rows.join();
    if (changed.length === 0 && order === known?.rows) return;
    const message = { time: Date.now(), title: `Phoenix: ${titleOf(now)}`, parts: changed, ...(order !== known?.rows && { rows }) };
    readers.set(response, { parts, rows: order });
    response.write(`data: ${JSON.stringify(message)}\n\n`);
    if (response.writableLength > MAX_WAITING) response.destroy();
  }

  function update(): void {
    pending = undefined;
    if (readers.size === 0) return;
    try {
      const now = view();
      const fragments = fragmentsOf(now);
      for (const response of [...readers.keys()]) send(response, now, fragments);
    } catch {
      // The coordinator goes on. Browsers come again, and are told by status 500 that the page could not be made.
      for (const response of readers.keys()) response.end();
    }
  }

  const alive = setInterval(() => {
    for (const response of readers.keys()) response.write(': alive\n\n');
  }, ALIVE);
  alive.unref();

  return {
    open(response, headers) {
      if (readers.size >= MAX_READERS) return false;
      const now = view();
      const fragments = fragmentsOf(now);
      response.writeHead(200, { ...headers, 'Content-Type': 'text/event-stream; charset=utf-8' });
      response.on('close', () => readers.delete(response));
      response.on('error', () => response.destroy());
      send(response, now, fragments);
      return true;
    },
    changed() {
      pending ??= setTimeout(update, PAUSE).unref();
    },
    close() {
      clearTimeout(pending);
      clearInterval(alive);
      for (const response of readers.keys()) response.end();
    },
  };
}
