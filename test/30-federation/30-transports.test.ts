/** Every transport of the registry keeps the contract. */
import { transports } from '../../src/fl/transports/index.ts';
import { transportContract } from '../contracts/transport.ts';

for (const [name, make] of Object.entries(transports)) transportContract(name, make);
