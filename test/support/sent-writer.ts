/** A program that appends to a sent.jsonl and kills itself at a point: `sent-writer.ts FILE LINES KILL`, KILL counting points from 1. */
import { openSentLog } from '../../src/net/sent-log.ts';

const [path, lines, kill] = process.argv.slice(2);
let points = 0;
const log = await openSentLog(path!, {
  point() {
    if (++points === Number(kill)) process.kill(process.pid, 'SIGKILL');
  },
});
for (let round = 1; round <= Number(lines); round++)
  await log.append({ run: 'lung', round, kind: 'upload', bytes: round, sha256: 'ab'.repeat(32), line: 'allow.upload: true' });
