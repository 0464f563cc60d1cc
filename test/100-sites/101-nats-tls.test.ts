/** The wire over NATS holds the contract: TCP with TLS, through a line that can be cut. */
import test from 'ava';
import { wireContract } from '../contracts/wire.ts';
import { natsRig, noServer } from '../support/nats.ts';

if (noServer) test.skip('tests with a real server', () => {});
else wireContract('NATS over TLS', () => natsRig('tls'));
