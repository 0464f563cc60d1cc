/** The transport over a wire keeps the contract of all transports. */
import { transportContract } from '../contracts/transport.ts';
import { remoteOver } from '../support/sites.ts';

transportContract('remote', (clients) => remoteOver(clients));
