/**
 * The contract of a Vector over the fast backend, the definitions in double precision, and the vectors of JavaScript that other tests use.
 */
import { addon } from '../../src/bindings/load.ts';
import { vectorContract } from '../contracts/vector.ts';
import { fakeVector } from '../support/fake-vector.ts';

vectorContract('phoenix-cpu', (length) => addon('cpu').createVector(length));
vectorContract('phoenix-ref', (length) => addon('ref').createVector(length));
vectorContract('fake', fakeVector);
