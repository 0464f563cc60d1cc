/** Signatures by the system's library are those of nkeys, by which servers check logins. */
import { createUser, fromPublic } from '@nats-io/nkeys';
import test from 'ava';
import { keyOf, seedOf, signerOf, verifierOf } from '../../src/net/jwt.ts';

test('what is signed here is what nkeys signs, and each accepts the other', (t) => {
  for (let i = 0; i < 4; i++) {
    const user = createUser();
    const [seed, name] = [seedOf(user), user.getPublicKey()];
    const bytes = Uint8Array.from({ length: 100 * i }, (_, at) => at * (i + 1));
    const signature = signerOf(seed).sign(bytes);
    t.deepEqual(Uint8Array.from(signature), Uint8Array.from(keyOf(seed).sign(bytes)));
    t.true(fromPublic(name).verify(bytes, Uint8Array.from(signature)));
    for (const { verify } of [verifierOf(name), signerOf(seed)]) {
      t.true(verify(bytes, signature));
      t.false(verify(Uint8Array.of(...bytes, 1), signature));
      t.false(
        verify(
          bytes,
          signature.map((byte, at) => (at === 3 ? byte ^ 1 : byte)),
        ),
      );
      for (const length of [0, 63, 65]) t.false(verify(bytes, new Uint8Array(length)));
    }
    t.false(verifierOf(createUser().getPublicKey()).verify(bytes, signature));
  }
  t.throws(() => verifierOf('UABC'));
});
