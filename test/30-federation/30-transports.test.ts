/** Every transport of the registry keeps the contract. */
import test from 'ava';
import { PhoenixError } from '../../src/errors.ts';
import { PROTOCOL } from '../../src/fl/protocol.ts';
import { transports } from '../../src/fl/transports/index.ts';
import { memoryTransport } from '../../src/fl/transports/memory.ts';
import { transportContract } from '../contracts/transport.ts';

for (const [name, make] of Object.entries(transports)) transportContract(name, make);

test('memory: trouble that a client has with the machine that all share is no failure of the client', async (t) => {
  const full = () => Promise.reject(new PhoenixError('ERR_PHOENIX_IO', 'the disk is full'));
  const transport = memoryTransport([{ hello: { protocol: PROTOCOL, id: 'a', examples: 1, capabilities: [] }, answer: full }]);
  const asked = async () => {
    for await (const _ of transport.ask(['a'], () => ({ kind: 'train', head: {} }), { round: 1 }));
  };
  await t.throwsAsync(asked, { code: 'ERR_PHOENIX_IO' });
});
