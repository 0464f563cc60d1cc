/** The transports by name. Each is held to the contract of test/contracts/transport.ts. */
import { memoryTransport } from './memory.ts';

export const transports = { memory: memoryTransport };
