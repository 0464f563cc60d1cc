/**
 * A site of `phoenix demo --sites` in a process of its own: it stops when the demo tells it to, or has ended.
 * Arguments: invitation, images, folder of the sites.
 */
import { createSite } from './site/site.ts';

/** What it tells the demo. */
export type FromSite = { ready: true } | { failed: string };

const [file, data, home] = process.argv.slice(2);
const tell = (message: FromSite) => new Promise<void>((resolve) => process.send!(message, () => resolve()));
const stopping = new AbortController();
const stop = () => stopping.abort(new Error('the demo is over'));
process.on('disconnect', stop);
process.on('SIGTERM', stop);
process.on('SIGINT', stop);
if (!process.connected) stop();

try {
  const site = await createSite({ file, data, home, device: 'cpu', threads: 1 }, { signal: stopping.signal });
  await tell({ ready: true });
  await site.ended;
} catch (error) {
  if (!stopping.signal.aborted) {
    process.exitCode = 1;
    await tell({ failed: error instanceof Error ? error.message : String(error) });
  }
}
if (process.connected) process.disconnect();
